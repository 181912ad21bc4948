// The real server under the real keeper, in a folder of its own, and hosts that verify every byte (keel-load).
//
// The keeper starts what `installed` says, a line of shell, so that a test can install another version.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync, mkdtempSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { root } from "../../../scripts/sources.mjs";
import { ask } from "../../harness/ask.mjs";
import { seed } from "../../harness/random.mjs";
import { until } from "../../harness/until.mjs";
import { keeperProgram } from "./fixture.mjs";

export const program = join(root, "bin/keel.mjs");
const loadProgram = join(root, "build/Release/keel-load");

/** Waiting for something that takes a second on a quiet machine. */
export const patienceMs = 60_000;

/** What is not there, or null. */
export function notBuilt() {
  const needed = [
    join(root, "build/Release/keel.node"),
    join(root, "dist/cli/main.js"),
    keeperProgram,
    loadProgram,
  ];
  return needed.every((path) => existsSync(path)) ? null : "not built: npm run build";
}

export const sleep = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

export function freePort() {
  return new Promise((resolve, reject) => {
    const probe = createServer();
    probe.once("error", reject);
    probe.listen(0, "127.0.0.1", () => {
      const { port } = probe.address();
      probe.close(() => resolve(port));
    });
  });
}

export const nqn = "nqn.2026-11.example.keel:crash";

/** Namespace 1 is memory, namespace 2 a file. */
export function configuration(folder, port, more = {}) {
  return {
    version: 1,
    node: "n",
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }],
    devices: {
      memory: { ram: "64MiB" },
      medium: { file: join(folder, "medium.img"), size: "64MiB", create: true },
      ...more.devices,
    },
    subsystems: {
      crash: {
        nqn,
        hosts: "any",
        namespaces: [
          { id: 1, device: "memory" },
          { id: 2, device: "medium" },
        ],
      },
      ...more.subsystems,
    },
    state: join(folder, "state"),
    sockets: folder,
  };
}

/** Runs a program to its end. */
export function run(command, args) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    let stdout = "";
    let stderr = "";
    child.stdout.setEncoding("utf8").on("data", (text) => {
      stdout += text;
    });
    child.stderr.setEncoding("utf8").on("data", (text) => {
      stderr += text;
    });
    child.once("error", reject);
    child.once("close", (status) => resolve({ status, stdout, stderr }));
  });
}

/** A host that writes and reads and checks everything until it is stopped. */
export class Load {
  constructor(port, hostNumber, options) {
    const values = {
      port,
      subnqn: nqn,
      hostnqn: `nqn.2026-11.example.keel:host-${hostNumber}`,
      seconds: 86_400,
      "read-percent": 50,
      "flush-every": 64,
      "kato-ms": 60_000,
      ...options.values,
    };
    const args = Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const flags = ["verify", "progress", ...(options.flags ?? [])].map((flag) => `--${flag}`);
    this.name = `host ${hostNumber}`;
    this.child = spawn(loadProgram, [...args, ...flags], { stdio: ["ignore", "pipe", "pipe"] });
    this.completed = 0;
    this.messages = "";
    let output = "";
    this.child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
    this.child.stderr.setEncoding("utf8").on("data", (text) => {
      for (const line of text.split("\n")) {
        const completed = /"completed": (\d+)/.exec(line);
        if (completed !== null) this.completed = Number(completed[1]);
        else if (line !== "") this.messages += `${line}\n`;
      }
    });
    this.ended = new Promise((resolve) => this.child.once("close", () => resolve(output)));
  }

  /** Waits until commands are completed that were not before. */
  async moves() {
    const before = this.completed;
    await until(
      `${this.name} goes on`,
      () => {
        assert.equal(this.child.exitCode, null, `${this.name} has ended; seed ${seed}\n${this.messages}`);
        return this.completed > before;
      },
      patienceMs,
    );
  }

  /** Ends it in order: everything that was written is read once more. */
  async finish() {
    this.child.kill("SIGTERM");
    const output = await this.ended;
    assert.notEqual(output, "", `${this.name} says nothing; seed ${seed}\n${this.messages}`);
    const result = JSON.parse(output);
    assert.deepEqual(result.error_texts, [], `${this.name}; seed ${seed}`);
    assert.ok(result.ok, `${this.name}; seed ${seed}`);
    assert.ok(result.verified_blocks > 0, `${this.name} verified nothing; seed ${seed}`);
    return result;
  }
}

/** Loads of several kinds at once on both devices; `connections`: theirs, the admin queues included. */
export function startLoads(port) {
  const mib = 1 << 20;
  const digests = ["header-digest", "data-digest"];
  const kinds = [
    { values: { nsid: 1, queues: 2, depth: 32, "io-bytes": 4096, "range-bytes": 8 * mib } },
    {
      values: {
        nsid: 1,
        queues: 1,
        depth: 8,
        "io-bytes": 65_536,
        "range-bytes": 16 * mib,
        "range-offset": 32 * mib,
      },
      flags: digests,
    },
    { values: { nsid: 2, queues: 1, depth: 16, "io-bytes": 16_384, "range-bytes": 16 * mib } },
    {
      values: {
        nsid: 2,
        queues: 2,
        depth: 16,
        "io-bytes": 4096,
        "range-bytes": 8 * mib,
        "range-offset": 32 * mib,
      },
      flags: [...digests, "flow-control"],
    },
    // Idle but for its keep-alives: what expires is a connection.
    {
      values: {
        nsid: 1,
        queues: 1,
        depth: 1,
        "io-bytes": 4096,
        "range-bytes": 8192,
        "range-offset": 60 * mib,
        rate: 1,
        "kato-ms": 20_000,
      },
    },
  ];
  const loads = kinds.map((kind, index) => new Load(port, index + 1, kind));
  const connections = kinds.reduce((sum, { values }) => sum + values.queues + 1, 0);
  return { loads, connections };
}

export class Keel {
  /** `options`: of the keeper. */
  static async start(options, more = {}) {
    const keel = new Keel();
    keel.folder = mkdtempSync(join(tmpdir(), "keel-server-"));
    keel.port = await freePort();
    keel.socket = join(keel.folder, "rpc.sock");
    keel.config = join(keel.folder, "keel.yaml");
    keel.document = configuration(keel.folder, keel.port, more);
    writeFileSync(keel.config, JSON.stringify(keel.document));
    keel.install();
    keel.log = "";
    keel.keeper = spawn(keeperProgram, [...options, "--", "/bin/sh", join(keel.folder, "installed")], {
      stdio: ["ignore", "ignore", "pipe"],
    });
    keel.keeper.stderr.setEncoding("utf8").on("data", (text) => {
      keel.log += text;
    });
    keel.ended = new Promise((resolve) => keel.keeper.once("exit", resolve));
    try {
      await keel.status();
    } catch (error) {
      await keel.stop("SIGKILL");
      throw error;
    }
    return keel;
  }

  /** What is started from now on; without a line: the server. */
  install(line = null) {
    const path = join(this.folder, "installed");
    const serve = `exec "${process.execPath}" "${program}" serve --config "${this.config}"`;
    writeFileSync(`${path}.new`, `${line ?? serve}\n`);
    renameSync(`${path}.new`, path);
  }

  /** Of whichever server answers; `wanted`: until it is one like this. */
  status(what = "an answer", wanted = () => true) {
    return until(
      `${what}; seed ${seed}`,
      async () => {
        assert.equal(this.keeper.exitCode, null, `the keeper has ended\n${this.log.slice(-4000)}`);
        const status = await ask(this.socket, "keel.status").catch(() => null);
        return status !== null && wanted(status) && status;
      },
      patienceMs,
    ).catch((error) => {
      throw new Error(`${error.message}\n${this.log.slice(-4000)}`);
    });
  }

  standby() {
    return this.status("a warm standby", ({ keeper }) => keeper?.standby === "warm");
  }

  command(...words) {
    return run(process.execPath, [program, ...words, "--socket", this.socket]);
  }

  async stop(signal = "SIGTERM") {
    if (this.keeper.exitCode === null && this.keeper.signalCode === null) this.keeper.kill(signal);
    await this.ended;
    rmSync(this.folder, { recursive: true, force: true });
  }

  /** The record of a change that was under way when a server died. */
  halfDone() {
    const path = join(this.folder, "state/changes.json");
    return existsSync(path) && JSON.parse(readFileSync(path, "utf8")).previous !== null;
  }
}
