// What is compared: each subject can start something that serves, and knows the client's command line for a case.
// Servers run on core 0, clients on core 1.
//
//   keel     the real server, as `keel serve` starts it
//   echo     the raw loopback limit: the same bytes without NVMe (bench/echo)
//   device   the bare device through io_uring (bench/device)
//   peer     another target, given by the environment:
//     EVENKEEL_BENCH_PEER_TARGET       a program that takes a port on 127.0.0.1, serves there, and prints READY;
//                                      its pid is the target's; ends by SIGTERM
//     EVENKEEL_BENCH_PEER_RAM_NQN, EVENKEEL_BENCH_PEER_NULL_NQN, EVENKEEL_BENCH_PEER_FILE_NQN
//                                      its subsystems with namespace 1 in RAM, of nothing, in a file
//     EVENKEEL_BENCH_PEER_CLIENT       optional: a client for both targets, beside ours. Called with port, NQN,
//                                      randread|randwrite|read|write, bytes, depth per connection, connections, seconds,
//                                      digests (0|1); prints JSON with iops, mean_us and, where it has them, p99_us and
//                                      p9999_us, after a warm-up of a second.

import { spawn } from "node:child_process";
import { randomBytes } from "node:crypto";
import { closeSync, fsyncSync, mkdtempSync, openSync, rmSync, writeFileSync, writeSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { wireBytes } from "./cases.mjs";

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const program = (name) => join(root, "build/release/bench", name);
const serverCore = "0";
const clientCore = "1";
const sizeBytes = 512 * 1024 * 1024;
const nqnOf = (device) => `nqn.2026-11.example.keel:bench-${device}`;
const deadlineMs = 60_000;

/** The words before a command that put it on a core, and before all others there where --realtime asks for it. */
function onCore(core) {
  const first = process.env.EVENKEEL_BENCH_REALTIME ? ["chrt", "--rr", "1"] : [];
  return [...first, "taskset", "-c", core];
}

/** Starts a program on a core and waits for its line READY, or for `ready` to say that it serves. */
function startServer(core, command, args, ready = (line) => line.startsWith("READY")) {
  return new Promise((resolve, reject) => {
    const [first, ...rest] = [...onCore(core), command, ...args];
    const child = spawn(first, rest, { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    let settled = false;
    const settle = (action) => {
      if (settled) return;
      settled = true;
      clearTimeout(timer);
      action();
    };
    const fail = (why) => {
      child.kill("SIGKILL");
      settle(() => reject(new Error(`${command}: ${why}\n${output}`)));
    };
    const timer = setTimeout(() => fail("did not get ready in time"), deadlineMs);
    const exited = new Promise((done) => {
      child.once("exit", () => {
        done();
        fail("ended");
      });
    });
    child.once("error", (error) => fail(error.message));
    for (const stream of [child.stdout, child.stderr]) {
      stream.setEncoding("utf8");
      stream.on("data", (text) => {
        if (settled) return; // read on, so that the pipe does not fill
        output += text;
        if (output.split("\n").some(ready)) {
          settle(() => resolve({ pid: child.pid, stop: () => stopChild(child, exited) }));
        }
      });
    }
  });
}

async function stopChild(child, exited) {
  child.kill("SIGTERM");
  const timer = setTimeout(() => child.kill("SIGKILL"), 5_000);
  await exited;
  clearTimeout(timer);
}

/** The file that subjects share, written in full: every read and write finds its blocks allocated. */
export function prepareFile(path) {
  const part = randomBytes(1024 * 1024);
  const file = openSync(path, "w");
  for (let written = 0; written < sizeBytes; written += part.length) writeSync(file, part);
  fsyncSync(file);
  closeSync(file);
}

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

function clientOn(core, words) {
  const [command, ...args] = [...onCore(core), ...words.map(String)];
  return { command, args };
}

const clientOnCore = (command, args) => clientOn(clientCore, [command, ...args]);

/** keel-load against an NVMe/TCP target. */
function loadClient(port, nqn, spec, { seconds, warmup }) {
  return clientOnCore(program("io"), [
    ...["--port", port, "--subnqn", nqn, "--depth", spec.depth, "--queues", spec.connections].map(String),
    ...["--io-bytes", spec.bytes, "--read-percent", spec.read ? 100 : 0].map(String),
    ...["--seconds", seconds, "--warmup", warmup].map(String),
    ...(spec.sequential ? ["--sequential"] : []),
    ...(spec.digests ? ["--header-digest", "--data-digest"] : []),
    // Memory is written once, so that no repetition measures its first use; for the file see prepareFile.
    ...(spec.device === "ram" ? ["--fill"] : []),
    "--progress",
  ]);
}

function otherClient(port, nqn, spec, { seconds }) {
  const pattern = `${spec.sequential ? "" : "rand"}${spec.read ? "read" : "write"}`;
  const values = [
    port,
    nqn,
    pattern,
    spec.bytes,
    spec.depth,
    spec.connections,
    seconds,
    spec.digests ? 1 : 0,
  ];
  return { ...clientOnCore(process.env.EVENKEEL_BENCH_PEER_CLIENT, values.map(String)), byClock: true };
}

function keelConfiguration(port, directory, filePath) {
  const device = { ram: `ram: ${sizeBytes}`, null: `null: ${sizeBytes}` };
  if (filePath !== null) device.file = `file: ${filePath}`;
  const names = Object.keys(device);
  return [
    "version: 1",
    "listen:",
    `  - nvme-tcp: 127.0.0.1:${port}`,
    "devices:",
    ...names.flatMap((name) => [
      `  "${name}":`,
      `    ${device[name]}`,
      ...(name === "file" ? [`    size: ${sizeBytes}`, "    create: true"] : []),
    ]),
    "subsystems:",
    ...names.flatMap((name) => [
      `  bench-${name}:`,
      `    nqn: ${nqnOf(name)}`,
      "    hosts: any",
      "    namespaces:",
      `      - { id: 1, device: "${name}" }`,
    ]),
    `state: ${directory}/state`,
    `sockets: ${directory}`,
    "",
  ].join("\n");
}

async function startKeel(filePath) {
  const directory = mkdtempSync(join(tmpdir(), "keel-bench-"));
  const port = await freePort();
  const configuration = join(directory, "keel.yaml");
  writeFileSync(configuration, keelConfiguration(port, directory, filePath));
  const args = [join(root, "bin/keel.mjs"), "serve", "--no-keeper", "--config", configuration];
  const server = await startServer(serverCore, process.execPath, args, (line) => line.includes("ready"));
  return {
    ...server,
    port,
    stop: async () => {
      await server.stop();
      rmSync(directory, { recursive: true, force: true });
    },
  };
}

async function startEngine(filePath, extra) {
  const port = await freePort();
  const file = filePath === null ? [] : ["--file", filePath];
  const args = ["--port", String(port), "--size", String(sizeBytes), ...file, ...extra];
  return { ...(await startServer(serverCore, program("target"), args)), port };
}

async function startEcho(spec) {
  const port = await freePort();
  const { up, down } = wireBytes(spec);
  const memory = spec.device === "ram" && spec.read ? sizeBytes : 0;
  const args = ["serve", "--port", port, "--up", up, "--down", down, "--memory", memory].map(String);
  return { ...(await startServer(serverCore, program("echo"), args)), port };
}

function echoClient(port, spec, { seconds, warmup }) {
  const { up, down } = wireBytes(spec);
  const values = { port, up, down, depth: spec.depth, connections: spec.connections, seconds, warmup };
  const args = Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);
  return clientOnCore(program("echo"), ["load", ...args, "--progress"]);
}

function deviceClient(filePath, spec, { seconds, warmup }) {
  const values = { path: filePath, depth: spec.depth * spec.connections, "io-bytes": spec.bytes };
  const args = Object.entries({ ...values, "read-percent": spec.read ? 100 : 0, seconds, warmup });
  return clientOn(serverCore, [
    program("device"),
    ...args.flatMap(([name, value]) => [`--${name}`, value]),
    ...(spec.sequential ? ["--sequential"] : []),
    "--progress",
  ]);
}

/** The subjects that can be measured here: name, whether it does a case, how to start it, the client's command. */
export function availableSubjects({ filePath }) {
  const peerNqn = (device) => process.env[`EVENKEEL_BENCH_PEER_${device.toUpperCase()}_NQN`];
  const peer = process.env.EVENKEEL_BENCH_PEER_TARGET;
  const withOtherClient = process.env.EVENKEEL_BENCH_PEER_CLIENT;
  const subjects = [
    {
      name: "keel",
      does: () => true,
      start: () => startKeel(filePath),
      client: (server, spec, times) => loadClient(server.port, nqnOf(spec.device), spec, times),
    },
    {
      name: "echo",
      does: (spec) => !spec.digests,
      start: (spec) => startEcho(spec),
      client: (server, spec, times) => echoClient(server.port, spec, times),
    },
    {
      name: "device",
      does: (spec) => spec.device === "file" && !spec.digests,
      start: async () => null, // the client is all there is
      client: (_, spec, times) => deviceClient(filePath, spec, times),
    },
    // Not measured unless they are asked for: without Node; and that with state in memory of its own.
    {
      name: "engine",
      onRequest: true,
      does: () => true,
      start: () => startEngine(filePath, []),
      client: (server, spec, times) => loadClient(server.port, nqnOf(spec.device), spec, times),
    },
    {
      name: "engine-private",
      onRequest: true,
      does: (spec) => spec.device !== "file",
      start: () => startEngine(null, ["--private-memory"]),
      client: (server, spec, times) => loadClient(server.port, nqnOf(spec.device), spec, times),
    },
  ];
  if (withOtherClient) {
    subjects.push({
      name: "keel+client",
      does: () => true,
      start: () => startKeel(filePath),
      client: (server, spec, times) => otherClient(server.port, nqnOf(spec.device), spec, times),
    });
  }
  if (peer) {
    const startPeer = async () => {
      const port = await freePort();
      return { ...(await startServer(serverCore, peer, [String(port)])), port };
    };
    const does = (spec) => Boolean(peerNqn(spec.device));
    subjects.push({
      name: "peer",
      does,
      start: startPeer,
      client: (server, spec, times) => loadClient(server.port, peerNqn(spec.device), spec, times),
    });
    if (withOtherClient) {
      subjects.push({
        name: "peer+client",
        does,
        start: startPeer,
        client: (server, spec, times) => otherClient(server.port, peerNqn(spec.device), spec, times),
      });
    }
  }
  return subjects;
}

export { keelConfiguration, nqnOf, program, root, startKeel };
