// The server under test: the real program, started with a configuration file of its own, its state and sockets in the case's folder, on free ports.
import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { renderConfig } from "./config.mjs";
import { withDeadline } from "./guest.mjs";

const KEEL = fileURLToPath(new URL("../../../bin/keel.mjs", import.meta.url));
const READY_DEADLINE_MS = 120_000;
const STOP_DEADLINE_MS = 30_000;
const CLI_DEADLINE_MS = 60_000;

/** Two TCP ports that nobody uses where the server will listen. */
function freePorts(network) {
  const script =
    "const { createServer } = require('node:net'); const servers = [createServer(), createServer()]; const ports = [];" +
    "for (const server of servers) server.listen(0, process.argv[1], () => { ports.push(server.address().port);" +
    "if (ports.length === 2) { console.log(ports.join(' ')); for (const server of servers) server.close(); } });";
  const [command, ...args] = [...network.prefix, process.execPath, "-e", script, network.listen];
  return execFileSync(command, args, { encoding: "utf8" }).trim().split(" ").map(Number);
}

export class Server {
  #network;
  #directory;
  #configPath;
  #process = null;
  #keeper;
  #ports;

  constructor({ network, directory, keeper = false }) {
    this.#keeper = keeper;
    this.#network = network;
    this.#directory = directory;
    this.#configPath = join(directory, "keel.yaml");
    this.#ports = freePorts(network);
  }

  /** Where the guest finds this server. */
  get places() {
    const [port, discoveryPort] = this.#ports;
    return {
      io: { address: this.#network.dial, port },
      discovery: { address: this.#network.dial, port: discoveryPort },
      six: { address: this.#network.six.dial, port, guestAddress: this.#network.six.guestAddress },
    };
  }

  get pid() {
    return this.#process?.pid ?? null;
  }

  get logPath() {
    return join(this.#directory, "server.log");
  }

  get socketPath() {
    return join(this.#directory, "rpc.sock");
  }

  #writeConfig(offer) {
    const [port, discoveryPort] = this.#ports;
    const stateDirectory = join(this.#directory, "state");
    mkdirSync(stateDirectory, { recursive: true });
    const text = renderConfig(offer, {
      address: this.#network.listen,
      advertise: this.#network.dial,
      addressSix: this.#network.six.listen,
      advertiseSix: this.#network.six.dial,
      port,
      discoveryPort,
      stateDirectory,
      rpcSocket: this.socketPath,
    });
    writeFileSync(this.#configPath, text);
  }

  /** Starts the program with what `offer` says, or with what the file says already; resolves when it answers. */
  async start(offer = null) {
    if (offer !== null) this.#writeConfig(offer);
    const log = openSync(this.logPath, "a");
    const [command, ...args] = [
      ...this.#network.prefix,
      "setpriv",
      "--pdeathsig",
      "KILL",
      process.execPath,
      KEEL,
      "serve",
      "--config",
      this.#configPath,
      ...(this.#keeper ? [] : ["--no-keeper"]),
    ];
    const child = spawn(command, args, { stdio: ["ignore", log, log] });
    this.#process = child;
    const ended = once(child, "exit").then(([status, signal]) => {
      throw new Error(`the server ended before it was ready (${signal ?? status}):\n${this.logTail(20)}`);
    });
    ended.catch(() => {});
    await withDeadline(
      Promise.race([this.#untilAnswering(), ended]),
      READY_DEADLINE_MS,
      () => `the server is not ready after ${READY_DEADLINE_MS / 1000} s:\n${this.logTail(20)}`,
    );
  }

  async #untilAnswering() {
    while (this.#process !== null) {
      if (existsSync(this.socketPath) && (await answers(this.socketPath))) return;
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
  }

  /** Runs `keel ARGUMENTS` against this server. @returns {Promise<{status: number, stdout: string, stderr: string}>} */
  async cli(...args) {
    return await new Promise((resolve) => {
      const environment = { ...process.env, KEEL_SOCKET: this.socketPath };
      execFile(
        process.execPath,
        [KEEL, ...args],
        { encoding: "utf8", timeout: CLI_DEADLINE_MS, env: environment },
        (error, stdout, stderr) => {
          resolve({ status: error === null ? 0 : Number(error.code ?? 1), stdout, stderr });
        },
      );
    });
  }

  /** `keel ARGUMENTS -o json`, which must succeed. */
  async json(...args) {
    const { status, stdout, stderr } = await this.cli(...args, "-o", "json");
    if (status !== 0) throw new Error(`keel ${args.join(" ")} ended with ${status}: ${stderr}${stdout}`);
    return JSON.parse(stdout);
  }

  /**
   * Under a keeper: kills the server, not the keeper, and waits until the next one answers.
   * @returns {Promise<number>} the pid of the next one
   */
  async crash() {
    const { pid, keeper } = await this.json("status");
    if (keeper === null) throw new Error("no keeper holds this server's connections");
    process.kill(pid, "SIGKILL");
    const deadline = Date.now() + READY_DEADLINE_MS;
    while (Date.now() < deadline) {
      const { status, stdout } = await this.cli("status", "-o", "json");
      if (status === 0 && JSON.parse(stdout).pid !== pid) return JSON.parse(stdout).pid;
    }
    throw new Error(
      `no server answers ${READY_DEADLINE_MS / 1000} s after the death of ${pid}:\n${this.logTail(20)}`,
    );
  }

  /** Makes the running server offer something else. */
  async apply(offer) {
    this.#writeConfig(offer);
    const { status, stdout, stderr } = await this.cli("apply", "-f", this.#configPath, "--yes");
    if (status !== 0) throw new Error(`keel apply ended with ${status}: ${stderr}${stdout}`);
  }

  /** Kills the server as a crash would; the next `start()` continues with the same state and ports. */
  async kill(signal = "SIGKILL") {
    const child = this.#process;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    child.kill(signal);
    await withDeadline(
      once(child, "exit"),
      STOP_DEADLINE_MS,
      () => `the server did not end on ${signal}:\n${this.logTail(20)}`,
    );
  }

  /** Ends the server in an orderly way, or else by force; an orderly end that does not come is an error. */
  async stop() {
    try {
      await this.kill("SIGTERM");
    } finally {
      await this.kill("SIGKILL");
    }
  }

  /** Reasons to call the server faulty although the host was content: it is gone, or it logged an error. */
  complaints() {
    const child = this.#process;
    const gone = child === null || child.exitCode !== null || child.signalCode !== null;
    const errors = this.#log()
      .split("\n")
      .filter((line) => /"level":(50|60)\b|\b(ERROR|FATAL|CHECK failed)\b|Sanitizer/.test(line));
    return gone ? [`the server is gone (${child?.signalCode ?? child?.exitCode})`, ...errors] : errors;
  }

  #log() {
    return existsSync(this.logPath) ? readFileSync(this.logPath, "utf8") : "";
  }

  logTail(lines) {
    return this.#log().trimEnd().split("\n").slice(-lines).join("\n");
  }
}

/** Starts a server for one case. */
export async function startServer({ network, directory, config, keeper }) {
  const server = new Server({ network, directory, keeper });
  try {
    await server.start(config);
  } catch (error) {
    await server.kill();
    throw error;
  }
  return server;
}

async function answers(path) {
  return await new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}
