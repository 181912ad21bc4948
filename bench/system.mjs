// What the kernel says about processes and the machine: CPU time, memory, who else was busy.

import { readdirSync, readFileSync } from "node:fs";
import { availableParallelism, cpus, loadavg, release } from "node:os";

const ticksPerSecond = 100; // USER_HZ, the unit of /proc/stat, is 100 everywhere

function readOrNull(path) {
  try {
    return readFileSync(path, "utf8");
  } catch {
    return null; // the process or thread has ended
  }
}

function listOrEmpty(path) {
  try {
    return readdirSync(path);
  } catch {
    return [];
  }
}

/** The process and all that descend from it. */
export function processTree(pid) {
  const found = [];
  const waiting = [pid];
  while (waiting.length > 0) {
    const next = waiting.pop();
    found.push(next);
    for (const thread of listOrEmpty(`/proc/${next}/task`)) {
      const children = readOrNull(`/proc/${next}/task/${thread}/children`) ?? "";
      waiting.push(...children.split(" ").filter(Boolean).map(Number));
    }
  }
  return found;
}

/** CPU seconds of a process tree, to the nanosecond, threads that still live. */
export function cpuSeconds(pid) {
  let nanoseconds = 0;
  for (const process of processTree(pid)) {
    for (const thread of listOrEmpty(`/proc/${process}/task`)) {
      const text = readOrNull(`/proc/${process}/task/${thread}/schedstat`);
      if (text !== null) nanoseconds += Number(text.split(" ")[0]);
    }
  }
  return nanoseconds / 1e9;
}

/** Memory that a process tree has in RAM, in bytes, and how much of it is shared memory (arena, buffers, RAM disks). */
export function residentBytes(pid) {
  let total = 0;
  let shared = 0;
  for (const process of processTree(pid)) {
    const text = readOrNull(`/proc/${process}/status`) ?? "";
    const of = (name) => Number(new RegExp(`^${name}:\\s+(\\d+)`, "m").exec(text)?.[1] ?? 0) * 1024;
    total += of("VmRSS");
    shared += of("RssShmem");
  }
  return { total, shared };
}

/** Seconds that all CPUs together were busy since the machine started, stolen time included. */
export function busySeconds() {
  const fields = readFileSync("/proc/stat", "utf8")
    .split("\n", 1)[0]
    .trim()
    .split(/\s+/)
    .slice(1)
    .map(Number);
  const [user, nice, system, , , irq, softirq, steal] = fields;
  return (user + nice + system + irq + softirq + steal) / ticksPerSecond;
}

export function machine() {
  const setting = (path) => readOrNull(path)?.trim() ?? "unknown";
  return {
    processor: cpus()[0]?.model ?? "unknown",
    processors: availableParallelism(),
    kernel: release(),
    congestionControl: setting("/proc/sys/net/ipv4/tcp_congestion_control"),
    loadAverage: loadavg()[0],
    node: process.version,
  };
}
