// One server of a test: the real program in a place of its own, with its configuration, state and control socket in a
// directory that outlives its deaths.

import assert from "node:assert/strict";
import { execFile, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, openSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { fileURLToPath } from "node:url";
import { ask } from "../../harness/ask.mjs";
import { eventually } from "../../harness/until.mjs";

export const root = fileURLToPath(new URL("../../..", import.meta.url));
const program = join(root, "bin/keel.mjs");
const loader = join(root, "build/Release/keel-load");
export const built = existsSync(join(root, "build/Release/keel.node")) && existsSync(loader);

const patienceMs = 90_000;

/** Waits for a value that is not null, undefined or false; a probe that rejects is asked again. */
export const until = (condition, what, milliseconds = patienceMs) =>
  eventually(what, condition, milliseconds, 25);

export const randomPort = () => 21_000 + Math.floor(Math.random() * 10_000);

export class Node {
  #child = null;

  /** `address`: where others find it; `port`: of its listener; `environment`: what it has beside this process's. */
  constructor({
    name,
    directory,
    place,
    address = "127.0.0.1",
    port = randomPort(),
    keeper = false,
    environment = {},
  }) {
    Object.assign(this, { name, place, address, port, keeper, environment });
    this.directory = join(directory, name);
    mkdirSync(this.directory, { recursive: true });
    this.socketPath = join(this.directory, "rpc.sock");
    this.configPath = join(this.directory, "keel.yaml");
    this.logPath = join(this.directory, "log");
  }

  path(name) {
    return join(this.directory, name);
  }

  nqn(subsystem) {
    return `nqn.2026-11.example.keel:${this.name}:${subsystem}`;
  }

  /** A device of another node that uses what `subsystem` of this one exports. */
  as(subsystem, more = {}) {
    return { "nvme-tcp": `${this.address}:${this.port}`, nqn: this.nqn(subsystem), ...more };
  }

  configure(config) {
    const document = {
      version: 1,
      node: this.name,
      listen: [{ "nvme-tcp": `0.0.0.0:${this.port}` }],
      state: this.path("state"),
      sockets: { rpc: this.socketPath },
      ...config,
    };
    writeFileSync(this.configPath, JSON.stringify(document, null, 2));
  }

  /** With what the configuration file says. */
  async start(config = null) {
    if (config !== null) this.configure(config);
    const log = openSync(this.logPath, "a");
    const [command, ...args] = [
      ...this.place.prefix,
      "setpriv",
      "--pdeathsig",
      "KILL",
      process.execPath,
      program,
      "serve",
      "-c",
      this.configPath,
      ...(this.keeper ? [] : ["--no-keeper"]),
    ];
    const child = spawn(command, args, {
      stdio: ["ignore", log, log],
      env: { ...process.env, ...this.environment },
    });
    this.#child = child;
    await until(() => {
      if (child.exitCode !== null || child.signalCode !== null)
        assert.fail(`${this.name} ended:\n${this.log()}`);
      return this.rpc("keel.version");
    }, `${this.name} answers`);
    return this;
  }

  log(lines = 40) {
    return existsSync(this.logPath)
      ? readFileSync(this.logPath, "utf8").split("\n").slice(-lines).join("\n")
      : "";
  }

  rpc(method, params = {}) {
    return ask(this.socketPath, method, params, patienceMs);
  }

  status() {
    return this.rpc("keel.status");
  }

  /** Until hosts can use everything that it exports. */
  async exporting() {
    await until(async () => {
      const { subsystems } = await this.status();
      return subsystems.every(({ namespaces }) =>
        // One that hosts do not see yet has no latencies.
        namespaces.every(({ readLatency }) => readLatency.counts.length > 0),
      );
    }, `${this.name} exports everything`);
    return this;
  }

  async device(name) {
    return (await this.rpc("keel.devices")).find((device) => device.name === name) ?? null;
  }

  /** The command line tool; resolves to its exit status and what it printed. */
  cli(...args) {
    return new Promise((resolve) => {
      execFile(
        process.execPath,
        [program, ...args],
        { env: { ...process.env, KEEL_SOCKET: this.socketPath }, timeout: patienceMs },
        (error, out, err) => resolve({ status: error === null ? 0 : (error.code ?? 1), out, err }),
      );
    });
  }

  /** The command has to succeed; what it printed. */
  async keel(...args) {
    const { status, out, err } = await this.cli(...args);
    assert.equal(status, 0, `keel ${args.join(" ")} on ${this.name}: ${out}${err}\n${this.log()}`);
    return out;
  }

  /** SIGKILL for the server process; a keeper starts the next one. */
  async kill() {
    const { pid } = await this.rpc("keel.version");
    const ended = this.keeper ? null : once(this.#child, "exit");
    process.kill(pid, "SIGKILL");
    if (ended !== null) await ended;
    else
      await until(async () => (await this.rpc("keel.version")).pid !== pid, `${this.name} has a successor`);
  }

  async stop() {
    const child = this.#child;
    if (child === null || child.exitCode !== null || child.signalCode !== null) return;
    const ended = once(child, "exit");
    child.kill("SIGTERM");
    const timer = setTimeout(() => child.kill("SIGKILL"), 20_000);
    await ended;
    clearTimeout(timer);
  }
}

const optionOf = (name) => `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;

/** The verifying load on a subsystem of a node, from the node's own place; `options`: those of keel-load. */
export class Load {
  #child;
  #out = "";
  #progress = "";
  completed = 0;
  errors = 0;
  longestGapMs = 0;

  constructor(node, subsystem, options = {}) {
    const [command, ...args] = [
      ...node.place.prefix,
      loader,
      "--address",
      "127.0.0.1",
      "--port",
      String(node.port),
      "--subnqn",
      node.nqn(subsystem),
      "--hostnqn",
      "nqn.2014-08.org.nvmexpress:uuid:6b65656c-0000-4000-8000-000000000003",
      "--progress",
      "--stall-timeout",
      "120",
      // A pause of the server is not a death: what counts is that nothing is lost.
      "--kato-ms",
      "120000",
      "--verify",
      ...Object.entries(options).flatMap(([name, value]) => [
        optionOf(name),
        ...(value === true ? [] : [String(value)]),
      ]),
    ];
    this.#child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    this.#child.stdout.setEncoding("utf8").on("data", (chunk) => {
      this.#out += chunk;
    });
    this.#child.stderr.setEncoding("utf8").on("data", (chunk) => this.#read(chunk));
    this.ended = once(this.#child, "close").then(([status]) => this.#result(status));
    this.ended.catch(() => undefined);
  }

  #read(chunk) {
    const lines = (this.#progress + chunk).split("\n");
    this.#progress = lines.pop() ?? "";
    for (const line of lines) {
      try {
        const progress = JSON.parse(line);
        this.completed = progress.completed ?? this.completed;
        this.errors = progress.errors ?? this.errors;
        this.longestGapMs = Math.max(this.longestGapMs, progress.longest_gap_ms ?? 0);
      } catch {
        this.#out += `${line}\n`;
      }
    }
  }

  #result(status) {
    let result = null;
    try {
      result = JSON.parse(this.#out);
    } catch {
      // Said below.
    }
    assert.equal(status, 0, `the load: ${this.#out.slice(-4000)}`);
    return result;
  }

  get running() {
    return this.#child.exitCode === null && this.#child.signalCode === null;
  }

  /** Until so many more commands have completed. */
  async more(commands) {
    const wanted = this.completed + commands;
    await until(() => {
      if (!this.running && this.completed < wanted) return true;
      return this.completed >= wanted;
    }, `${commands} more commands (${this.completed} so far, ${this.errors} errors)`);
    if (this.completed < wanted) await this.ended;
  }

  /** Ends it in an orderly way: everything that was written is read once more. */
  finish() {
    this.#child.kill("SIGTERM");
    return this.ended;
  }

  kill() {
    if (this.running) this.#child.kill("SIGKILL");
  }
}
