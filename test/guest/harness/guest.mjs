// A running guest: QEMU, its console log, and the agent through which commands run in it.
//
// Commands travel over a virtio port in frames (see `agent`), several may run at once, each has a deadline that the guest enforces; a second
// deadline on this side, a little later, catches a guest that no longer answers at all. Whatever goes wrong, the console log stays in `directory`.
import { spawn } from "node:child_process";
import { once } from "node:events";
import {
  accessSync,
  appendFileSync,
  constants,
  existsSync,
  mkdirSync,
  openSync,
  readFileSync,
  rmSync,
} from "node:fs";
import { createServer } from "node:net";
import { join } from "node:path";

const BOOT_DEADLINE_MS = { kvm: 20_000, tcg: 300_000 };
const COMMAND_DEADLINE_S = 120;
const ANSWER_GRACE_MS = 30_000;

/** A command in the guest ended with another status than 0. */
export class CommandFailed extends Error {
  constructor(script, result) {
    const tail = (text) => text.trim().split("\n").slice(-15).join("\n  ");
    super(
      `guest command ended with status ${result.status}${result.status === 124 ? " (deadline)" : ""}: ${script.trim()}\n  ${tail(result.stdout)}\n  ${tail(result.stderr)}`,
    );
    this.result = result;
  }
}

/** Reads the frames that the agent sends. */
class FrameReader {
  #pending = Buffer.alloc(0);
  #frame = null;

  /** @returns {{words: string[], stdout: string, stderr: string}[]} the frames that are complete now */
  push(chunk) {
    this.#pending = Buffer.concat([this.#pending, chunk]);
    const frames = [];
    for (;;) {
      if (this.#frame === null) {
        const end = this.#pending.indexOf(10);
        if (end < 0) return frames;
        const words = this.#pending.toString("utf8", 0, end).split(" ");
        this.#pending = this.#pending.subarray(end + 1);
        this.#frame = { words, sizes: words[0] === "exit" ? [Number(words[3]), Number(words[4])] : [0, 0] };
      }
      const { words, sizes } = this.#frame;
      if (this.#pending.length < sizes[0] + sizes[1]) return frames;
      frames.push({
        words,
        stdout: this.#pending.toString("utf8", 0, sizes[0]),
        stderr: this.#pending.toString("utf8", sizes[0], sizes[0] + sizes[1]),
      });
      this.#pending = this.#pending.subarray(sizes[0] + sizes[1]);
      this.#frame = null;
    }
  }
}

/** Ways to run the guest's processor, best first, and why KVM was left out if it was. */
export function accelerators() {
  const chosen = process.env.EVENKEEL_GUEST_ACCEL;
  if (chosen) return { names: [chosen], remark: `chosen by EVENKEEL_GUEST_ACCEL` };
  try {
    accessSync("/dev/kvm", constants.R_OK | constants.W_OK);
  } catch {
    return { names: ["tcg"], remark: "no access to /dev/kvm" };
  }
  // A hypervisor may offer /dev/kvm without virtualization in hardware; an ordinary kernel then runs through its instruction emulator, far slower than QEMU's.
  if (!/^flags\s.*\b(vmx|svm)\b/m.test(readFileSync("/proc/cpuinfo", "utf8")))
    return { names: ["tcg"], remark: "/dev/kvm exists but the processor shows neither vmx nor svm" };
  return { names: ["kvm", "tcg"], remark: "" };
}

export class Guest {
  #kernel;
  #network;
  #size;
  #disks;
  #qemu = null;
  #server = null;
  #socket = null;
  #commands = new Map();
  #nextId = 1;
  #boots = 0;

  /**
   * @param {{kernel: ReturnType<import("./kernel.mjs").prepareKernel>, network: import("./network.mjs").Network, directory: string, cpus?: number, memoryMib?: number, disks?: {path: string, blockBytes: number}[]}} options  `disks`: files of this machine that outlive the guest's boots, /dev/vda and so on there
   */
  constructor({ kernel, network, directory, cpus = 2, memoryMib = 1536, disks = [] }) {
    this.#kernel = kernel;
    this.#network = network;
    this.#size = { cpus, memoryMib };
    this.#disks = disks;
    this.directory = directory;
    this.accelerator = "";
    this.release = "";
    this.bootMs = 0;
    mkdirSync(directory, { recursive: true });
  }

  /** Boots; tries the next accelerator when one does not bring the guest up in time. */
  async boot() {
    const { names } = accelerators();
    let failure = null;
    for (const name of names) {
      try {
        await this.#bootWith(name);
        return;
      } catch (error) {
        failure = error;
        await this.powerOff();
      }
    }
    throw failure;
  }

  async #bootWith(accelerator) {
    const started = Date.now();
    this.accelerator = accelerator;
    const path = join(this.directory, "agent.sock");
    rmSync(path, { force: true });
    this.#server = createServer();
    this.#server.listen(path);
    await once(this.#server, "listening");
    const connected = once(this.#server, "connection");

    this.#boots += 1;
    const log = openSync(join(this.directory, "qemu.log"), "a");
    const [command, ...args] = [
      ...this.#network.prefix,
      // QEMU goes when this process goes, however that happens.
      ...["setpriv", "--pdeathsig", "KILL", "qemu-system-x86_64"],
      ...this.#arguments(accelerator, path),
    ];
    const qemu = spawn(command, args, { stdio: ["ignore", log, log] });
    this.#qemu = qemu;
    const ended = once(qemu, "exit").then(([status, signal]) => {
      const error = new Error(`the guest ended (QEMU: ${signal ?? status}); console: ${this.consoleLog}`);
      for (const command of this.#commands.values()) command.reject(error);
      this.#commands.clear();
      if (this.#qemu === qemu) this.#qemu = null;
      throw error;
    });
    ended.catch(() => {});
    qemu.on("error", () => {});

    const deadlineMs = BOOT_DEADLINE_MS[accelerator] ?? BOOT_DEADLINE_MS.tcg;
    const ready = connected.then(([socket]) => this.#listen(socket));
    this.release = await withDeadline(
      Promise.race([ready, ended]),
      deadlineMs,
      () => `no answer from the guest in ${deadlineMs / 1000} s; console: ${this.consoleLog}`,
    );
    this.bootMs = Date.now() - started;
  }

  /** The console's log of the current boot. */
  get consoleLog() {
    return join(this.directory, `console-${this.#boots}.log`);
  }

  #arguments(accelerator, agentSocket) {
    const { cpus, memoryMib } = this.#size;
    const parameters = [
      "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off nokaslr tsc=reliable log_buf_len=8M random.trust_cpu=on",
      `evenkeel.modules=${this.#kernel.modules}`,
      `evenkeel.address=${this.#network.guestAddress}`,
      `evenkeel.gateway=${this.#network.gateway}`,
    ];
    return [
      ...(accelerator === "kvm"
        ? ["-accel", "kvm", "-cpu", "host"]
        : ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"]),
      ...[
        "-m",
        String(memoryMib),
        "-smp",
        String(cpus),
        "-display",
        "none",
        "-monitor",
        "none",
        "-nodefaults",
        "-no-reboot",
      ],
      ...["-serial", `file:${this.consoleLog}`],
      ...["-kernel", this.#kernel.vmlinuz, "-initrd", this.#kernel.initrd, "-append", parameters.join(" ")],
      ...["-virtfs", "local,path=/,mount_tag=rootfs,security_model=none,readonly=on,multidevs=remap"],
      ...[
        "-device",
        "virtio-serial-pci",
        "-chardev",
        `socket,id=agent,path=${agentSocket}`,
        "-device",
        "virtserialport,chardev=agent,name=evenkeel.agent",
      ],
      ...["-object", "rng-random,id=rng,filename=/dev/urandom", "-device", "virtio-rng-pci,rng=rng"],
      ...this.#disks.flatMap(({ path, blockBytes }, index) => [
        "-drive",
        `file=${path},format=raw,if=none,id=disk${index}`,
        "-device",
        `virtio-blk-pci,drive=disk${index},logical_block_size=${blockBytes},physical_block_size=${blockBytes}`,
      ]),
      ...this.#network.qemu,
    ];
  }

  /** Takes the agent's frames from now on; resolves with the kernel release once the agent is up. */
  #listen(socket) {
    this.#socket = socket;
    const reader = new FrameReader();
    socket.on("error", () => {});
    return new Promise((resolve) => {
      socket.on("data", (chunk) => {
        for (const { words, stdout, stderr } of reader.push(chunk)) {
          if (words[0] === "ready") resolve(words[1]);
          if (words[0] !== "exit") continue;
          const id = Number(words[1]);
          this.#commands.get(id)?.resolve({ status: Number(words[2]), stdout, stderr });
          this.#commands.delete(id);
        }
      });
    });
  }

  /**
   * Starts a shell script in the guest.
   * @param {string} script
   * @param {{deadlineS?: number, input?: string | Buffer}} [options]
   * @returns {{done: Promise<{status: number, stdout: string, stderr: string}>, stop: () => void}} `done` rejects only when the guest itself is lost
   */
  start(script, { deadlineS = COMMAND_DEADLINE_S, input = "" } = {}) {
    if (this.#qemu === null || this.#socket === null) throw new Error("the guest is not running");
    const id = this.#nextId++;
    const started = Date.now();
    const body = Buffer.from(script);
    const stdin = Buffer.from(input);
    const command = {};
    command.answered = new Promise((resolve, reject) => Object.assign(command, { resolve, reject }));
    command.answered.catch(() => {});
    this.#commands.set(id, command);
    this.#socket.write(
      Buffer.concat([Buffer.from(`run ${id} ${deadlineS} ${body.length} ${stdin.length}\n`), body, stdin]),
    );
    const done = withDeadline(
      command.answered,
      deadlineS * 1000 + ANSWER_GRACE_MS,
      () => `the guest does not answer any more; console: ${this.consoleLog}; command: ${script.trim()}`,
    );
    done
      .then(({ status }) => this.#record(started, status, script))
      .catch(() => this.#record(started, "lost", script));
    return { done, stop: () => this.#stop(id) };
  }

  /** One line per command, for a post-mortem: when it ended, how long it took, what it was. */
  #record(started, status, script) {
    const words = script.replaceAll(/\s+/g, " ").trim();
    const line = `${new Date().toISOString()} ${String(Date.now() - started).padStart(6)} ms ${status} ${words}\n`;
    appendFileSync(join(this.directory, "commands.log"), line);
  }

  #stop(id) {
    if (this.#commands.has(id)) this.#socket?.write(`stop ${id}\n`);
  }

  /** Ends all scripts that still run, and waits until they have. */
  async stopAll() {
    const running = [...this.#commands.values()].map(({ answered }) => answered.catch(() => {}));
    for (const id of this.#commands.keys()) this.#stop(id);
    await withDeadline(Promise.all(running), ANSWER_GRACE_MS, () => "scripts in the guest do not end");
  }

  /** Runs a script to its end, whatever its status. */
  async try(script, options) {
    return await this.start(script, options).done;
  }

  /** Runs a script that must succeed. @returns {Promise<string>} its standard output without the last line end */
  async run(script, options) {
    const result = await this.try(script, options);
    if (result.status !== 0) throw new CommandFailed(script, result);
    return result.stdout.replace(/\n$/, "");
  }

  /** Puts a file into the guest. */
  async upload(path, content, mode = "0644") {
    await this.run(`mkdir -p "$(dirname '${path}')" && cat > '${path}' && chmod ${mode} '${path}'`, {
      input: content,
    });
  }

  /** Repeats a script until it succeeds. */
  async waitFor(script, { deadlineS = 60, what = script } = {}) {
    await this.run(`until { ${script}\n} >/dev/null 2>&1; do sleep 0.1; done`, { deadlineS }).catch(
      (error) => {
        if (error instanceof CommandFailed) throw new Error(`not so within ${deadlineS} s: ${what}`);
        throw error;
      },
    );
  }

  /** Boots the guest anew: everything in it but the read-only root is gone. */
  async reboot() {
    await this.powerOff();
    await this.boot();
  }

  /** Ends the guest as a power cut would. */
  async powerOff() {
    const qemu = this.#qemu;
    if (qemu !== null && qemu.exitCode === null && qemu.signalCode === null) {
      qemu.kill("SIGKILL");
      await once(qemu, "exit");
    }
    this.#qemu = null;
    this.#socket?.destroy();
    this.#socket = null;
    this.#server?.close();
    this.#server = null;
  }

  /** The last lines of the console, for a failure report. */
  consoleTail(lines = 40) {
    if (!existsSync(this.consoleLog)) return "";
    return readFileSync(this.consoleLog, "utf8").trimEnd().split("\n").slice(-lines).join("\n");
  }
}

/** Rejects when `promise` takes longer than `ms`. */
export async function withDeadline(promise, ms, message) {
  let timer;
  const late = new Promise((_, reject) => {
    timer = setTimeout(() => reject(new Error(message())), ms);
  });
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}
