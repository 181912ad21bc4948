// Benchmarks: npm run bench (`usage` below).
//
// Cases whose name contains every word are measured (cases.mjs), each against all subjects (subjects.mjs), interleaved:
// one repetition of each subject in turn, each with a server of its own. CPU time is that of the server's whole process
// tree; IOPS per core = IOPS / share of a core that the server used. A repetition during which somebody else used more
// than 6 % of a core is marked as disturbed and repeated, up to `patience` times; medians are over the undisturbed ones.
// With --realtime servers and clients come before whatever else the machine does (root only; for noisy machines).

import { spawn } from "node:child_process";
import { existsSync, rmSync, writeFileSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { parseArgs } from "node:util";
import { runLogged, StepFailed, step } from "../scripts/step.mjs";
import { chooseCases } from "./cases.mjs";
import { measureIdle, printIdle } from "./idle.mjs";
import { measurePauses } from "./pause.mjs";
import { printRatios, printTable, summarize } from "./report.mjs";
import { availableSubjects, prepareFile } from "./subjects.mjs";
import { busySeconds, cpuSeconds, machine, residentBytes } from "./system.mjs";
import { measureVolumes } from "./volumes.mjs";

const foreignShareMax = 0.06;
const warmupSeconds = 1;
const clientDeadlineMs = 120_000;

const usage = `npm run bench -- [word …] [--seconds N] [--reps N] [--subjects a,b] [--json FILE] [--file PATH]
                 [--patience N] [--realtime] [--idle] [--pause] [--volumes] [--list]

Measures the cases whose name contains every word; --list prints them. More in bench/README.md.`;

function parsed(config) {
  try {
    return parseArgs(config);
  } catch (error) {
    console.error(`${error.message.split(". ")[0]}\n\n${usage}`);
    process.exit(2);
  }
}

const { values: options, positionals: words } = parsed({
  allowPositionals: true,
  options: {
    seconds: { type: "string", default: "3" },
    reps: { type: "string" },
    patience: { type: "string", default: "2" },
    realtime: { type: "boolean", default: false },
    subjects: { type: "string" },
    json: { type: "string" },
    file: { type: "string", default: join(tmpdir(), `keel-bench-${process.pid}.img`) },
    idle: { type: "boolean", default: false },
    pause: { type: "boolean", default: false },
    volumes: { type: "boolean", default: false },
    repetitions: { type: "string" },
    list: { type: "boolean", default: false },
    help: { type: "boolean", short: "h", default: false },
    "no-build": { type: "boolean", default: false },
  },
});

if (options.help) {
  console.log(usage);
  process.exit(0);
}

options.repetitions ??= options.reps ?? "50";
options.reps ??= "3";

function numberOf(name) {
  const value = Number(options[name]);
  if (Number.isFinite(value) && value >= 0) return value;
  console.error(`--${name} ${options[name]} is not a number`);
  process.exit(2);
}

/** CPU time of our own processes at one moment, and of everybody's. */
function sample(server, client) {
  const own = process.cpuUsage();
  return {
    at: performance.now() / 1000,
    server: server === null ? Number.NaN : cpuSeconds(server.pid),
    client: cpuSeconds(client.pid),
    bench: (own.user + own.system) / 1e6,
    busy: busySeconds(),
    completed: Number.NaN,
  };
}

/** Runs a client; samples CPU times while it measures: by its own progress lines, else by the clock. */
function runClient(server, { command, args, byClock = false }, seconds) {
  return new Promise((resolve, reject) => {
    const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
    const samples = [];
    let stdout = "";
    let stderr = "";
    let partial = "";
    let resident = null;
    const take = (completed) => {
      samples.push({ ...sample(server, child), completed });
      resident = residentBytes(server === null ? child.pid : server.pid);
    };
    const timers = [setTimeout(() => child.kill("SIGKILL"), clientDeadlineMs)];
    if (byClock) {
      for (const at of [warmupSeconds + 0.6, warmupSeconds + seconds - 0.2]) {
        timers.push(setTimeout(() => take(Number.NaN), at * 1000));
      }
    }
    child.stdout.on("data", (text) => {
      stdout += text;
    });
    child.stderr.on("data", (text) => {
      stderr += text;
      partial += text;
      const lines = partial.split("\n");
      partial = lines.pop();
      for (const line of lines) {
        if (!line.startsWith("{")) continue;
        const progress = JSON.parse(line);
        if (progress.phase === "measuring") take(progress.completed);
      }
    });
    child.once("error", reject);
    child.once("close", (code) => {
      for (const timer of timers) clearTimeout(timer);
      if (code !== 0) {
        reject(new Error(`${command} ${args.join(" ")} ended with ${code}\n${stderr}${stdout}`));
        return;
      }
      resolve({ result: JSON.parse(stdout), samples, resident });
    });
  });
}

async function measure(subject, spec, seconds) {
  const server = await subject.start(spec);
  try {
    const client = subject.client(server, spec, { seconds, warmup: warmupSeconds });
    const { result, samples, resident } = await runClient(server, client, seconds);
    const first = samples[0];
    const last = samples.at(-1);
    const elapsed = last.at - first.at;
    // Where the client is all there is, its CPU time is what the I/Os cost.
    const worker = server === null ? "client" : "server";
    const cpu = last[worker] - first[worker];
    const own = (s) => (server === null ? 0 : s.server) + s.client + s.bench;
    const foreignShare = Math.max(0, last.busy - first.busy - (own(last) - own(first))) / elapsed;
    const completed = last.completed - first.completed;
    const iops = result.iops;
    const rate = Number.isFinite(completed) ? completed / elapsed : iops;
    return {
      iops,
      meanUs: result.latency?.mean_us ?? result.mean_us,
      p99Us: result.latency?.p99_us ?? result.p99_us,
      p9999Us: result.latency?.p9999_us ?? result.p9999_us,
      cpuShare: cpu / elapsed,
      cpuSecondsPerMillion: (cpu / elapsed / rate) * 1e6,
      iopsPerCore: rate / (cpu / elapsed),
      clientCpuShare: server === null ? Number.NaN : (last.client - first.client) / elapsed,
      foreignShare,
      disturbed: foreignShare > foreignShareMax,
      resident,
      errors: result.errors ?? 0,
    };
  } finally {
    await server?.stop();
  }
}

async function measureCase(spec, subjects, { seconds, reps, patience }) {
  const measured = subjects.map((subject) => ({ subject, repetitions: [], spare: patience }));
  for (let round = 0; ; ++round) {
    const wanted = measured.filter(({ repetitions, spare }) => {
      const clean = repetitions.filter((r) => !r.disturbed).length;
      return round < reps || (clean < reps && spare > 0);
    });
    if (wanted.length === 0) break;
    for (const entry of wanted) {
      if (round >= reps) entry.spare -= 1;
      entry.repetitions.push(await measure(entry.subject, spec, seconds));
    }
  }
  return measured.map(({ subject, repetitions }) => ({
    name: spec.name,
    subject: subject.name,
    summary: summarize(repetitions),
    repetitions,
  }));
}

function build() {
  step("benchmark programs: compiling", () =>
    runLogged("bench.log", process.execPath, ["scripts/native.mjs", "release", "benches"]),
  );
}

async function main() {
  const cases = options.pause || options.volumes ? [] : chooseCases(words);
  const limits = { seconds: numberOf("seconds"), reps: numberOf("reps"), patience: numberOf("patience") };
  if (options.realtime) process.env.EVENKEEL_BENCH_REALTIME = "1";
  const wanted = options.subjects?.split(",") ?? null;
  const filePath = options.file;
  const subjects = availableSubjects({ filePath }).filter(({ name, onRequest }) =>
    wanted === null ? !onRequest : wanted.includes(name),
  );
  if (options.list) {
    for (const { name } of cases) console.log(name);
    return;
  }
  if (cases.length === 0 && !options.idle && !options.pause && !options.volumes) {
    console.error(`no case has all of these words: ${words.join(" ")} (--list shows them)`);
    process.exitCode = 2;
    return;
  }
  if (availableParallelism() < 2) {
    console.error("server and client need a core each: this machine has one");
    process.exitCode = 1;
    return;
  }
  if (!options["no-build"]) build();
  const about = machine();
  console.log(
    `${about.processor}, ${about.processors} cores, Linux ${about.kernel}, TCP ${about.congestionControl}, ` +
      `Node ${about.node}, load ${about.loadAverage.toFixed(2)}; server on core 0, client on core 1`,
  );
  const existed = existsSync(filePath);
  const rows = [];
  let idle = null;
  let pauses = null;
  try {
    if (!existed && cases.some(({ device }) => device === "file")) prepareFile(filePath);
    if (options.idle) {
      idle = await measureIdle({ filePath, seconds: Math.max(limits.seconds, 10) });
      printIdle(idle);
    }
    if (options.pause) {
      pauses = await measurePauses({ repetitions: numberOf("repetitions"), words });
    }
    if (options.volumes) await measureVolumes({ repetitions: limits.reps });
    for (const spec of options.idle && words.length === 0 ? [] : cases) {
      const results = await measureCase(
        spec,
        subjects.filter((subject) => subject.does(spec)),
        limits,
      );
      rows.push(...results);
      for (const { subject, repetitions } of results) {
        const text = repetitions.map((r) => `${Math.round(r.iops)}${r.disturbed ? "!" : ""}`).join(" ");
        console.error(`${spec.name} ${subject}: ${text}`);
      }
      if (options.json) {
        writeFileSync(
          options.json,
          `${JSON.stringify({ machine: about, ...limits, idle, pauses, rows }, null, 1)}\n`,
        );
      }
    }
  } finally {
    if (!existed) rmSync(filePath, { force: true });
  }
  if (rows.length > 0) {
    printTable(rows);
    printRatios(rows);
  }
  if (options.json) {
    writeFileSync(
      options.json,
      `${JSON.stringify({ machine: about, ...limits, idle, pauses, rows }, null, 1)}\n`,
    );
  }
}

try {
  await main();
} catch (error) {
  if (!(error instanceof StepFailed)) throw error;
  console.error(error.message);
  process.exitCode = 1;
}
