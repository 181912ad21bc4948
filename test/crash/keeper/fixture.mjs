// What the keeper's tests share: the test server, a running keeper, a host whose connections must never break.

import { spawn, spawnSync } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { architectureFlags, languageFlags, root } from "../../../scripts/sources.mjs";
import { until } from "../../harness/until.mjs";

export const keeperProgram = process.env.KEEL_KEEPER ?? join(root, "build/Release/keel-keeper");

/** Compiles the test server into `folder`. */
export function buildServer(folder) {
  const program = join(folder, "keeper-server");
  const files = [
    "test/crash/keeper/server.cc",
    "native/durable/keeper_protocol.cc",
    "native/base/check.cc",
  ].map((path) => join(root, path));
  const built = spawnSync(
    process.env.CXX ?? "g++",
    [...languageFlags, ...architectureFlags, "-O1", "-I", join(root, "native"), "-o", program, ...files],
    { encoding: "utf8" },
  );
  if (built.status !== 0) throw new Error(`the test server cannot be compiled:\n${built.stderr}`);
  return program;
}

export const temporaryFolder = () => mkdtempSync(join(tmpdir(), "keel-keeper-"));

/** One connection that must live as long as the test; `broken` says why it did not. */
export class Host {
  static async open(port) {
    const socket = connect({ port, host: "127.0.0.1", noDelay: true });
    const host = new Host(socket);
    await new Promise((resolve, reject) => {
      socket.once("connect", resolve);
      socket.once("error", reject);
    });
    return host;
  }

  constructor(socket) {
    this.socket = socket;
    this.broken = null;
    this.closing = false;
    this.answers = new Map();
    this.number = 0;
    let text = "";
    socket.setEncoding("utf8");
    socket.on("data", (data) => {
      text += data;
      const lines = text.split("\n");
      text = lines.pop();
      for (const line of lines) {
        const space = line.indexOf(" ");
        this.answers.set(Number(line.slice(0, space)), line.slice(space + 1));
      }
    });
    socket.on("error", (error) => {
      this.broken ??= error.code;
    });
    socket.on("close", () => {
      this.broken ??= this.closing ? null : "closed";
    });
  }

  tell(command) {
    this.socket.write(`${++this.number} ${command}\n`);
    return this.number;
  }

  /** A request may die with a server that had read it: it is sent again until somebody answers. */
  async ask(command, timeoutMs = 15_000) {
    const first = this.number + 1;
    let sent = 0;
    return until(
      `an answer to "${command}"`,
      () => {
        if (this.broken !== null) throw new Error(`the connection broke: ${this.broken}`);
        if (performance.now() - sent > 250) {
          sent = performance.now();
          this.tell(command);
        }
        for (let number = first; number <= this.number; ++number) {
          const answer = this.answers.get(number);
          if (answer !== undefined) return answer;
        }
        return null;
      },
      timeoutMs,
    );
  }

  /** The fields of "who"; `until` some of them have these values. */
  async who(expected = {}, timeoutMs = 15_000) {
    return until(
      `who is ${JSON.stringify(expected)}`,
      async () => {
        const fields = parseFields(await this.ask("who", timeoutMs));
        return Object.entries(expected).every(([key, value]) => fields[key] === String(value)) && fields;
      },
      timeoutMs,
    );
  }

  close() {
    this.closing = true;
    this.socket.destroy();
  }
}

export function parseFields(text) {
  const fields = {};
  for (const word of text.split(" ")) {
    const equals = word.indexOf("=");
    if (equals > 0) fields[word.slice(0, equals)] = decodeURIComponent(word.slice(equals + 1));
  }
  if (fields["go"] !== undefined) fields.go = parseFields(fields.go);
  return fields;
}

export function descriptorCount(pid) {
  return readdirSync(`/proc/${pid}/fd`).length;
}

export function isAlive(pid) {
  try {
    return !/^State:\s+[ZX]/m.test(readFileSync(`/proc/${pid}/status`, "utf8"));
  } catch {
    return false;
  }
}

/** CPU time of a process in clock ticks (10 ms). */
export function cpuTicks(pid) {
  const fields = readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1].split(" ");
  return Number(fields[11]) + Number(fields[12]);
}

/** The processes whose parent is `pid`. */
export function childrenOf(pid) {
  try {
    return readFileSync(`/proc/${pid}/task/${pid}/children`, "utf8")
      .trim()
      .split(" ")
      .filter(Boolean)
      .map(Number);
  } catch {
    return [];
  }
}

export class KeeperRun {
  /** `mode`: how the test server starts, see server.cc. */
  constructor(server, options = [], mode = "ok", environment = {}) {
    this.folder = temporaryFolder();
    this.server = server;
    this.setMode(mode);
    this.log = "";
    this.ended = null;
    this.process = spawn(keeperProgram, [...options, "--", server, this.folder], {
      stdio: ["ignore", "inherit", "pipe"],
      env: { ...process.env, ...environment },
    });
    this.process.stderr.setEncoding("utf8");
    this.process.stderr.on("data", (text) => {
      this.log += text;
    });
    this.exit = new Promise((resolve) => {
      this.process.on("exit", (code, signal) => {
        this.ended = { code, signal };
        resolve(this.ended);
      });
    });
    this.hosts = [];
  }

  get pid() {
    return this.process.pid;
  }

  setMode(mode) {
    writeFileSync(join(this.folder, "mode.new"), mode);
    renameSync(join(this.folder, "mode.new"), join(this.folder, "mode"));
  }

  async port() {
    return until("the server's port", () => {
      if (this.ended !== null)
        throw new Error(`the keeper ended: ${JSON.stringify(this.ended)}\n${this.log}`);
      try {
        const text = readFileSync(join(this.folder, "port"), "utf8");
        return text.endsWith("\n") ? Number(text) : null;
      } catch {
        return null;
      }
    });
  }

  async host() {
    const host = await Host.open(await this.port());
    this.hosts.push(host);
    return host;
  }

  /** How often the log has a line like this. */
  logged(pattern) {
    return [...this.log.matchAll(new RegExp(pattern, "g"))].length;
  }

  /** Waits until the log has `count` lines like this. */
  async untilLogged(pattern, count = 1, timeoutMs = 15_000) {
    await until(
      `${count} × "${pattern}" in the log:\n${this.log}`,
      () => this.logged(pattern) >= count,
      timeoutMs,
    );
  }

  async stop(signal = "SIGTERM") {
    if (this.ended === null) this.process.kill(signal);
    return this.exit;
  }

  async close() {
    for (const host of this.hosts) host.close();
    if (this.ended === null) this.process.kill("SIGKILL");
    await this.exit;
    rmSync(this.folder, { recursive: true, force: true });
  }
}
