// What volumes cost, as ratios within one run: a remote node (a second server on the loopback) against the local device,
// the speed of a migration against a plain copy of the same files, and what hosts notice of a migration. The real
// servers and keel-load; every comparison is made in turn, again and again, and medians are printed with their range.
//
// The server is on core 0, the client on core 1; the second server on a third core, or else beside the client.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdtempSync, rmSync } from "node:fs";
import { availableParallelism, tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { Node } from "../test/volumes/harness/node.mjs";
import { root } from "./subjects.mjs";

const mib = 1 << 20;
const remoteCases = [
  ["read 4 KiB, depth 1", ["--depth", 1]],
  ["write 4 KiB, depth 1", ["--depth", 1, "--read-percent", 0]],
  ["read 4 KiB, depth 32", ["--depth", 32]],
  ["write 4 KiB, depth 32", ["--depth", 32, "--read-percent", 0]],
  ["read 128 KiB, depth 8", ["--depth", 8, "--io-bytes", "128k"]],
  ["write 128 KiB, depth 8", ["--depth", 8, "--io-bytes", "128k", "--read-percent", 0]],
];
const loads = [
  ["5000/s, depth 8", ["--depth", 8, "--rate", 5000, "--read-percent", 70]],
  ["as fast as it goes, depth 32", ["--depth", 32, "--read-percent", 70]],
];
const migratingMib = 384;
const limits = [null, "100MiB", "0"]; // no migration; one at that rate; one after the other without a limit
const copiedMib = 256;

const onCore = (core) => ["taskset", "-c", String(core)];
const ofAny = (device) => ({ namespaces: [{ id: 1, device }], hosts: "any" });

const middle = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
};
const ranged = (values, digits = 2) =>
  `${middle(values).toFixed(digits)} (${Math.min(...values).toFixed(digits)}–${Math.max(...values).toFixed(digits)})`;
const ratios = (above, below) => above.map((value, index) => value / below[index]);

/** keel-load on a subsystem; its result. */
async function load(node, subsystem, options, seconds) {
  const words = [join(root, "build/Release/keel-load"), "--address", "127.0.0.1", "--port", node.port];
  words.push("--subnqn", node.nqn(subsystem), "--seconds", seconds, ...options);
  words.push("--hostnqn", "nqn.2014-08.org.nvmexpress:uuid:6b65656c-0000-4000-8000-000000000003");
  const [command, ...args] = [...onCore(1), ...words.map(String)];
  const child = spawn(command, args, { stdio: ["ignore", "pipe", "pipe"] });
  let out = "";
  for (const stream of [child.stdout, child.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      out += text;
    });
  }
  const [status] = await once(child, "close");
  if (status !== 0) throw new Error(`keel-load: ${out}`);
  const { iops, latency } = JSON.parse(out);
  return { iops, p50: latency.p50_us, p99: latency.p99_us };
}

async function remote(node, repetitions) {
  console.log(
    `\n${"remote node against the same device here".padEnd(42)}IOPS local → remote, ratio; µs added (median)`,
  );
  for (const [name, options] of remoteCases) {
    const sides = { local: [], far: [] };
    for (let round = 0; round < repetitions; ++round)
      for (const side of Object.keys(sides)) sides[side].push(await load(node, side, options, 1));
    const of = (side, key) => sides[side].map((each) => each[key]);
    const added = of("far", "p50").map((value, index) => value - of("local", "p50")[index]);
    const counts = `${Math.round(middle(of("local", "iops")))} → ${Math.round(middle(of("far", "iops")))}`;
    console.log(
      `  ${name.padEnd(40)}${counts.padEnd(20)}${ranged(ratios(of("far", "iops"), of("local", "iops")))}  +${ranged(added, 0)}`,
    );
  }
}

/** Until nothing is left to copy, or the device is at the other place. */
async function copied(node, name) {
  for (;;) {
    const device = await node.device(name);
    if (device.kind !== "migration" || device.details.state === "copied") return;
    if (device.details.state === "failed") throw new Error(device.details.reason);
    await sleep(5);
  }
}

async function settled(node) {
  while ((await node.rpc("keel.jobs")).some(({ state }) => state === "running")) await sleep(10);
}

const migrate = (node, device, spec, rate = "0") =>
  node.rpc("keel.device.migrate", { device, spec, ...(rate === "0" ? {} : { rate }), yes: true });

async function speed(node, repetitions) {
  const path = (name) => node.path(`${name}.img`);
  const file = (name) => ({ file: path(name), size: `${copiedMib}MiB`, create: true });
  const dd = (from, to) =>
    execFileSync(
      "dd",
      [`if=${from}`, `of=${to}`, "bs=1M", "conv=fsync,notrunc", `count=${copiedMib}`, "oflag=direct"].concat(
        from === "/dev/urandom" ? ["iflag=fullblock"] : ["iflag=direct"],
      ),
      { stdio: "ignore" },
    );
  dd("/dev/urandom", path("source"));
  await node.rpc("keel.device.add", { device: "moving", spec: file("source") });
  let from = "source";
  const [ours, plain] = [[], []];
  for (let round = 0; round < repetitions; ++round) {
    const to = `destination${round}`;
    dd(path(from), path("plain")); // blocks allocated, as those of the destination below
    dd(path(from), path(to));
    let begun = performance.now();
    dd(path(from), path("plain"));
    plain.push(copiedMib / ((performance.now() - begun) / 1000));
    begun = performance.now();
    await migrate(node, "moving", file(to));
    await copied(node, "moving");
    ours.push(copiedMib / ((performance.now() - begun) / 1000));
    await settled(node);
    if (from !== "source") rmSync(path(from));
    from = to;
  }
  console.log(
    `\nmigration of a file of ${copiedMib} MiB, no load    MiB/s: ${ranged(ours, 0)}, dd ${ranged(plain, 0)}, ratio ${ranged(ratios(ours, plain))}`,
  );
}

/** While the load runs, one migration after the other. */
async function migrating(node, rate, during) {
  if (rate === null) return await during;
  let over = false;
  const ended = during.finally(() => {
    over = true;
  });
  ended.catch(() => {});
  while (!over) {
    await migrate(node, "local", { ram: `${migratingMib}MiB` }, rate);
    while (!over && (await node.rpc("keel.jobs")).some(({ state }) => state === "running")) await sleep(10);
  }
  await node.cli("device", "migrate", "local", "--cancel"); // unless it has just ended
  await settled(node);
  return await ended;
}

async function effect(node, repetitions) {
  console.log(
    `\n${"what hosts notice of a migration".padEnd(34)}${"rate".padEnd(12)}IOPS, ratio; p99 µs, ratio (4 KiB, 70 % reads)`,
  );
  for (const [name, options] of loads) {
    const seen = new Map(limits.map((rate) => [rate, []]));
    for (let round = 0; round < repetitions; ++round)
      for (const rate of limits)
        seen.get(rate).push(await migrating(node, rate, load(node, "local", options, 3)));
    const of = (rate, key) => seen.get(rate).map((each) => each[key]);
    for (const rate of limits) {
      const shown = rate === null ? "none" : rate === "0" ? "no limit" : `${rate}/s`;
      const iops = `${Math.round(middle(of(rate, "iops")))}, ${ranged(ratios(of(rate, "iops"), of(null, "iops")))}`;
      const p99 = `${Math.round(middle(of(rate, "p99")))}, ${ranged(ratios(of(rate, "p99"), of(null, "p99")), 1)}`;
      console.log(`  ${name.padEnd(32)}${shown.padEnd(12)}${iops}; ${p99}`);
    }
  }
}

/** All of it takes less than three minutes with three repetitions. */
export async function measureVolumes({ repetitions }) {
  const directory = mkdtempSync(
    join(process.env.EVENKEEL_BENCH_DIRECTORY ?? tmpdir(), "keel-volumes-bench-"),
  );
  const place = (core) => ({ name: `core ${core}`, prefix: onCore(core) });
  const far = new Node({ name: "far", directory, place: place(availableParallelism() > 2 ? 2 : 1) });
  const near = new Node({ name: "near", directory, place: place(0) });
  try {
    await far.start({ devices: { d: { ram: `${migratingMib}MiB` } }, subsystems: { d: ofAny("d") } });
    await near.start({
      devices: { local: { ram: `${migratingMib}MiB` }, far: far.as("d") },
      subsystems: { local: ofAny("local"), far: ofAny("far") },
    });
    await near.exporting();
    const whole = [
      "--io-bytes",
      mib,
      "--depth",
      4,
      "--read-percent",
      0,
      "--sequential",
      "--count",
      migratingMib,
    ];
    for (const side of ["local", "far"]) await load(near, side, whole, 0);
    await remote(near, repetitions);
    await effect(near, repetitions);
    await speed(near, repetitions);
    const mirror = join(root, "build/release/bench/mirror");
    if (existsSync(mirror)) {
      console.log("\nmirror of two legs in memory against one, without a target (bench/mirror)");
      execFileSync(mirror, ["128"], { stdio: "inherit" });
    }
  } finally {
    await near.stop();
    await far.stop();
    rmSync(directory, { recursive: true, force: true });
  }
}
