// A real server process for one test file: its own directory, ports and control socket; stopped and removed at the end.
// The binary is `node bin/keel.mjs serve -c FILE`, as a user starts it.

import assert from "node:assert/strict";
import { type ChildProcess, spawn } from "node:child_process";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { deferred, until, within } from "./deadline.js";
import { type Endpoint, Wire } from "./wire.js";

export const repository = dirname(dirname(dirname(dirname(fileURLToPath(import.meta.url)))));
export const keel = join(repository, "bin/keel.mjs");

export type Json = null | boolean | number | string | Json[] | { [key: string]: Json };
export type JsonObject = { [key: string]: Json };

/** A port below the ephemeral range that nobody listens on now. */
export async function freePort(address = "127.0.0.1"): Promise<number> {
  for (;;) {
    const port = 20_000 + Math.floor(Math.random() * 12_000);
    const { promise, resolve } = deferred<boolean>();
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen({ port, host: address, exclusive: true }, () => probe.close(() => resolve(true)));
    if (await promise) return port;
  }
}

export type RpcAnswer = {
  readonly result?: Json;
  readonly error?: { code: number; message: string; data?: Json };
};

/** Sends `bytes` to a unix socket as they are and returns what comes back until the other side closes or is silent. */
export async function rawRpc(
  socketPath: string,
  bytes: Buffer,
  enough: (text: string) => boolean,
): Promise<string> {
  const socket = createConnection(socketPath);
  const { promise, resolve, reject } = deferred<string>();
  let text = "";
  socket.setEncoding("utf8");
  socket.on("error", reject);
  socket.on("close", () => resolve(text));
  socket.on("data", (chunk: string) => {
    text += chunk;
    if (enough(text)) resolve(text);
  });
  socket.write(bytes);
  try {
    return await within(promise, "an answer on the control socket");
  } finally {
    socket.destroy();
  }
}

const isJson = (text: string): boolean => {
  try {
    JSON.parse(text);
    return true;
  } catch {
    return false;
  }
};

export type RunResult = { readonly status: number | null; readonly out: string; readonly err: string };

/** Runs the command line tool to its end. */
export async function run(args: readonly string[], env: Record<string, string> = {}): Promise<RunResult> {
  const child = spawn(process.execPath, [keel, ...args], {
    env: { ...process.env, ...env },
    stdio: ["ignore", "pipe", "pipe"],
  });
  const texts = { out: "", err: "" };
  child.stdout.setEncoding("utf8").on("data", (chunk: string) => {
    texts.out += chunk;
  });
  child.stderr.setEncoding("utf8").on("data", (chunk: string) => {
    texts.err += chunk;
  });
  const { promise, resolve, reject } = deferred<number | null>();
  child.once("error", reject);
  child.once("close", (status) => resolve(status));
  try {
    return { status: await within(promise, `keel ${args.join(" ").slice(0, 80)}`, 120_000), ...texts };
  } finally {
    child.kill("SIGKILL");
  }
}

export type Config = JsonObject;

export class Server {
  readonly directory: string;
  readonly rpcSocket: string;
  readonly configPath: string;
  config: Config;
  log = "";
  #child: ChildProcess | null = null;

  private constructor(directory: string, config: Config) {
    this.directory = directory;
    this.rpcSocket = join(directory, "rpc.sock");
    this.configPath = join(directory, "keel.yaml");
    this.config = config;
  }

  /** `config` without version, state and sockets: the directory gives those. JSON is YAML. */
  static async start(config: Config): Promise<Server> {
    return Server.make(() => Promise.resolve(config));
  }

  /** With a configuration that names files in the server's directory. */
  static async make(configure: (directory: string) => Promise<Config>): Promise<Server> {
    for (let attempt = 1; ; attempt += 1) {
      const directory = mkdtempSync(join(tmpdir(), "keel-protocol-"));
      const server = new Server(directory, await configure(directory));
      try {
        await server.#launch();
        return server;
      } catch (error) {
        await server.stop();
        // Somebody else took the port between the question and the start.
        if (attempt === 3 || !server.log.includes("E_PORT_IN_USE")) throw error;
      }
    }
  }

  document(config: Config = this.config): JsonObject {
    const state = join(this.directory, "state");
    return {
      version: 1,
      node: "testnode",
      state,
      sockets: { rpc: this.rpcSocket },
      log: { level: "debug" },
      ...config,
    };
  }

  /** Writes the configuration file anew. */
  write(config: Config): void {
    this.config = config;
    writeFileSync(this.configPath, JSON.stringify(this.document(), null, 2));
  }

  async #launch(): Promise<void> {
    this.write(this.config);
    const args = [keel, "serve", "--no-keeper", "-c", this.configPath];
    const child = spawn(process.execPath, args, { cwd: this.directory, stdio: ["ignore", "pipe", "pipe"] });
    this.#child = child;
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8").on("data", (chunk: string) => {
        this.log += chunk;
      });
    }
    await until(
      async () => {
        if (child.exitCode !== null || child.signalCode !== null)
          throw new Error(`the server ended:\n${this.log}`);
        try {
          return await this.rpc("rpc_get_methods");
        } catch {
          return null;
        }
      },
      "the server to answer on its control socket",
      120_000,
    );
    for (const endpoint of this.endpoints()) (await Wire.open(endpoint)).destroy();
  }

  /** Where the configuration says it listens. */
  endpoints(): Endpoint[] {
    const entries = (this.config["listen"] ?? []) as { [key: string]: Json }[];
    return entries.map((entry) => {
      const text = String(entry["nvme-tcp"] ?? entry["discovery"]);
      const colon = text.lastIndexOf(":");
      const address = text.slice(0, colon).replace(/^\[(.*)\]$/, "$1");
      const reachable = address === "0.0.0.0" ? "127.0.0.1" : address === "::" ? "::1" : address;
      return { address: reachable, port: Number(text.slice(colon + 1)) };
    });
  }

  endpoint(index = 0): Endpoint {
    const found = this.endpoints()[index];
    assert.ok(found, `listener ${index}`);
    return found;
  }

  async rpc(method: string, params?: JsonObject): Promise<Json> {
    const request = { jsonrpc: "2.0", id: 1, method, ...(params === undefined ? {} : { params }) };
    const text = await rawRpc(this.rpcSocket, Buffer.from(`${JSON.stringify(request)}\n`), isJson);
    const answer = JSON.parse(text) as RpcAnswer;
    if (answer.error !== undefined) throw new Error(`${method}: ${JSON.stringify(answer.error)}`);
    return answer.result ?? null;
  }

  /** The command line tool against this server. */
  async keel(...args: string[]): Promise<RunResult> {
    return run(args, { KEEL_SOCKET: this.rpcSocket });
  }

  /** Replaces the configuration file and applies it. */
  async apply(config: Config): Promise<void> {
    this.write(config);
    const result = await this.keel("apply", "-f", this.configPath, "--yes");
    assert.equal(result.status, 0, `keel apply: ${result.out}${result.err}`);
  }

  /** Ends the process as a crash does and starts another over what it left on the disk. */
  async killAndRestart(): Promise<void> {
    const child = this.#child;
    assert.ok(child !== null && this.running, "the server runs");
    const { promise, resolve } = deferred<void>();
    child.once("close", () => resolve());
    child.kill("SIGKILL");
    await within(promise, "the killed server to be gone");
    await this.#launch();
  }

  get pid(): number {
    const pid = this.#child?.pid;
    assert.ok(pid !== undefined, "the server runs");
    return pid;
  }

  get running(): boolean {
    return this.#child !== null && this.#child.exitCode === null && this.#child.signalCode === null;
  }

  descriptors(): number {
    return readdirSync(`/proc/${this.pid}/fd`).length;
  }

  residentBytes(): number {
    const status = readFileSync(`/proc/${this.pid}/status`, "utf8");
    return Number(/^VmRSS:\s+(\d+) kB/m.exec(status)?.[1] ?? 0) * 1024;
  }

  async stop(): Promise<void> {
    const child = this.#child;
    if (child !== null && child.exitCode === null && child.signalCode === null) {
      const { promise, resolve } = deferred<void>();
      child.once("close", () => resolve());
      child.kill("SIGTERM");
      try {
        await within(promise, "the server to stop", 30_000);
      } catch (error) {
        child.kill("SIGKILL");
        await promise;
        throw error;
      } finally {
        rmSync(this.directory, { recursive: true, force: true });
      }
    }
    rmSync(this.directory, { recursive: true, force: true });
  }
}
