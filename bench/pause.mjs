// How long hosts wait when the server is replaced: the real server under its keeper with a RAM disk that has been
// written in full, and keel-load with 128 commands outstanding on each of its connections. The server is killed with a
// warm standby beside it, killed without one, and replaced as planned; each again and again.
//
// What counts is what the client sees: the longest time without any completion, and the longest latency of one
// command, of all that completed from the death until a while after. The parts come from the server's own records.

import { spawn } from "node:child_process";
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { freePort, keelConfiguration, nqnOf, program, root } from "./subjects.mjs";

const deadlineMs = 60_000;
const depth = 128;
const connectionCounts = [1, 16, 256];
const queuesPerController = 64;
/** After a replacement the client reports what it saw at least this long (it does so five times a second). */
const settleMs = 500;
/** The memory that was written becomes huge pages in the seconds after (native/engine/huge_pages.h), where it can. */
const hugePagesMs = 20_000;
/** A cell takes no more time than this for its repetitions; what it has by then counts. */
const cellMs = 100_000;
const attempts = 2;
const hugeShareMin = 0.95;

export const pauseKinds = ["crash with standby", "crash", "upgrade"];

/** Before what else the machine does, but for 50 ms of each second, which the kernel gives to others: these show too. */
const first = () => (process.env.EVENKEEL_BENCH_REALTIME ? ["chrt", "--rr", "1"] : []);

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

async function until(what, probe) {
  const end = performance.now() + deadlineMs;
  for (;;) {
    const value = await probe();
    if (value) return value;
    if (performance.now() > end) throw new Error(`waited ${deadlineMs} ms in vain for ${what}`);
    await sleep(5);
  }
}

/** One request to the control socket on a connection of its own; null if nobody answers. */
function ask(path, method, params = {}) {
  return new Promise((resolve) => {
    const socket = connect(path);
    let text = "";
    socket.setTimeout(5_000, () => socket.destroy());
    socket.setEncoding("utf8");
    socket.on("error", () => resolve(null));
    socket.on("close", () => resolve(null));
    socket.on("data", (chunk) => {
      text += chunk;
      if (!text.endsWith("\n")) return;
      resolve(JSON.parse(text).result ?? null);
      socket.destroy();
    });
    socket.write(JSON.stringify({ jsonrpc: "2.0", id: 1, method, params }));
  });
}

class KeptServer {
  static async start(standby) {
    const server = new KeptServer();
    server.directory = mkdtempSync(join(tmpdir(), "keel-pause-"));
    server.port = await freePort();
    const configuration = join(server.directory, "keel.yaml");
    writeFileSync(configuration, keelConfiguration(server.port, server.directory, null));
    const command = [process.execPath, join(root, "bin/keel.mjs"), "serve", "--config", configuration];
    // The next standby starts when the pause has been reported: real-time, it would take turns with the server.
    const options = [`--standby=${standby ? "on" : "off"}`, "--standby-delay=0.6", "--short-life=0"];
    // Not on one core: the standby starts beside the server.
    const words = [...first(), join(root, "build/Release/keel-keeper"), ...options, "--", ...command];
    server.keeper = spawn(words[0], words.slice(1), {
      stdio: ["ignore", "ignore", "pipe"],
    });
    server.log = "";
    server.keeper.stderr.setEncoding("utf8").on("data", (text) => {
      server.log += text;
    });
    server.ended = new Promise((resolve) => server.keeper.once("exit", resolve));
    await server.status();
    return server;
  }

  status() {
    return until(`an answer of the server\n${this.log}`, () =>
      ask(join(this.directory, "rpc.sock"), "keel.status"),
    );
  }

  /** How long a server that was replaced as planned took to rest, and from then on to end. */
  lastRest(pid) {
    const text = new RegExp(`server ${pid} was asked to rest, rested ([\\d.]+) ms later, .* after ([\\d.]+)`);
    return text.exec(this.log)?.slice(1).map(Number) ?? [Number.NaN, Number.NaN];
  }

  async hugePages() {
    const { pid } = await this.status();
    const kilobytes = (name, text) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0);
    for (const end = performance.now() + hugePagesMs; performance.now() < end; await sleep(200)) {
      const huge = kilobytes("ShmemPmdMapped", readFileSync(`/proc/${pid}/smaps_rollup`, "utf8"));
      if (huge >= hugeShareMin * kilobytes("RssShmem", readFileSync(`/proc/${pid}/status`, "utf8"))) return;
    }
    console.log("not all memory lies in huge pages");
  }

  async stop() {
    this.keeper.kill("SIGTERM");
    await this.ended;
    rmSync(this.directory, { recursive: true, force: true });
  }
}

/** keel-load in the background; `reports`: what it said of each fifth of a second. */
class Client {
  constructor(port, number, queues, reports) {
    const hostnqn = `nqn.2026-11.example.keel:bench-host-${number}`;
    const values = {
      port,
      subnqn: nqnOf("ram"),
      hostnqn,
      queues,
      depth,
      "read-percent": 50,
      seconds: 86_400,
    };
    const args = Object.entries(values).flatMap(([name, value]) => [`--${name}`, String(value)]);
    if (number === 0) args.push("--fill");
    const words = [...first(), "taskset", "-c", "1", program("io"), ...args, "--progress"];
    this.child = spawn(words[0], words.slice(1), { stdio: ["ignore", "pipe", "pipe"] });
    this.phase = "";
    let partial = "";
    this.child.stderr.setEncoding("utf8").on("data", (text) => {
      const lines = (partial + text).split("\n");
      partial = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("{")) continue;
        const report = JSON.parse(line);
        this.phase = report.phase;
        reports.push({ ...report, at: performance.now() });
      }
    });
    let output = "";
    this.child.stdout.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
    this.result = new Promise((resolve) => this.child.once("close", () => resolve(output)));
  }

  measuring() {
    return until("the load", () => {
      if (this.child.exitCode !== null) throw new Error("the load ended");
      return this.phase === "measuring";
    });
  }

  async stop() {
    this.child.kill("SIGTERM");
    return JSON.parse(await this.result);
  }
}

/** As many hosts as it takes for so many connections. */
class Clients {
  constructor() {
    this.reports = [];
    this.all = [];
  }

  async start(port, connections) {
    for (let left = connections; left > 0; left -= queuesPerController) {
      const queues = Math.min(left, queuesPerController);
      const client = new Client(port, this.all.length, queues, this.reports);
      this.all.push(client);
      await client.measuring();
    }
  }

  /** The longest of what was reported since then. */
  longestSince(at) {
    const seen = this.reports.filter((report) => report.at >= at);
    const longest = (name) => Math.max(...seen.map((report) => report[name]));
    return { gapMs: longest("longest_gap_ms"), latencyMs: longest("longest_latency_ms") };
  }

  async stop() {
    const results = await Promise.all(this.all.map((client) => client.stop()));
    return results.flatMap((result) => result.error_texts);
  }

  kill() {
    for (const client of this.all) client.child.kill("SIGKILL");
  }
}

async function replaceOnce(kind, server, clients) {
  const socket = join(server.directory, "rpc.sock");
  const wanted = kind === "crash with standby" ? "warm" : "none";
  const before = await until("the standby", async () => {
    const status = await server.status();
    return (status.keeper?.standby ?? "") === wanted && status;
  });
  await sleep(settleMs);
  const quiet = clients.longestSince(performance.now() - settleMs);
  const at = performance.now();
  const atMs = performance.timeOrigin + at;
  if (kind === "upgrade") await ask(socket, "keel.restart", { reason: "bench" });
  else process.kill(before.pid, "SIGKILL");
  const after = await until("the next server", async () => {
    const status = await ask(socket, "keel.status");
    return status !== null && status.pid !== before.pid && status;
  });
  await sleep(settleMs);
  const [record] = after.restarts.last;
  const [restMs, endMs] = server.lastRest(before.pid);
  const noticedMs = kind === "upgrade" ? endMs : record.timeMs - record.pauseMs - atMs;
  const moments = { goMs: record.startMs, configuredMs: record.startMs + record.configureMs };
  const without = { quietGapMs: quiet.gapMs, quietLatencyMs: quiet.latencyMs };
  return { ...clients.longestSince(at), ...without, restMs, noticedMs, ...moments, ...record };
}

async function measure(kind, connections, repetitions) {
  const server = await KeptServer.start(kind === "crash with standby");
  const clients = new Clients();
  const rows = [];
  try {
    await clients.start(server.port, connections);
    await server.hugePages();
    const end = performance.now() + cellMs;
    while (rows.length < repetitions && performance.now() < end)
      rows.push(await replaceOnce(kind, server, clients));
    return { kind, connections, rows, errors: await clients.stop() };
  } catch (error) {
    console.error(`${error.message}\n${server.log.slice(-3_000)}`);
    throw error;
  } finally {
    clients.kill();
    await server.stop();
  }
}

const seen = [
  ["gap", "gapMs"],
  ["gap without a death", "quietGapMs"],
  ["latency", "latencyMs"],
  ["latency without a death", "quietLatencyMs"],
];

/**
 * `noticed` is counted from the kill, which in a planned restart comes when the server rests; the others from there. A
 * standby has the first three behind it.
 */
const parts = [
  ["rest", "restMs"],
  ["noticed", "noticedMs"],
  ["process", "processMs"],
  ["loaded", "loadedMs"],
  ["mapped", "mappedMs"],
  ["go", "goMs"],
  ["configured", "configuredMs"],
  ["barrier", "barrierMs"],
  ["adopted", "pauseMs"],
  ["first byte", "firstByteMs"],
];

/** One cell; what went wrong is tried once more, and does not end the others. */
async function measured(kind, connections, repetitions) {
  for (let attempt = 1; attempt <= attempts; attempt += 1) {
    try {
      return await measure(kind, connections, repetitions);
    } catch (error) {
      console.error(
        `${kind}, ${connections} connections, attempt ${attempt} of ${attempts}: ${error.message}`,
      );
    }
  }
  process.exitCode = 1;
  return null;
}

export async function measurePauses({ repetitions, words }) {
  const results = [];
  for (const kind of pauseKinds) {
    for (const connections of connectionCounts) {
      const name = `${kind} c${connections}`;
      if (!words.every((word) => name.includes(word))) continue;
      const result = await measured(kind, connections, repetitions);
      if (result === null) continue;
      results.push(result);
      printPause(result);
    }
  }
  return results;
}

const threeOf = (values) => [Math.min(...values), median(values), Math.max(...values)];

function cellsOf(rows, columns) {
  const cells = columns.map(([title, key]) => {
    const values = rows.map((row) => row[key]).filter(Number.isFinite);
    return `${title} ${
      values.length === 0
        ? "–"
        : threeOf(values)
            .map((ms) => ms.toFixed(1))
            .join("/")
    }`;
  });
  return cells.join("  ");
}

function printPause({ kind, connections, rows, errors }) {
  console.log(
    `${kind}, ${connections} × ${depth}, ${rows.length} times, ms least/median/worst: ${cellsOf(rows, seen)}`,
  );
  const executed = median(rows.map((row) => row.executed));
  console.log(
    `  parts: ${cellsOf(rows, parts)}  commands executed again ${executed}, errors ${errors.length}`,
  );
  for (const text of errors) console.log(`  ${text}`);
}
