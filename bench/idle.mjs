// CPU that the server uses while hosts are connected and ask for nothing.

import { spawn } from "node:child_process";
import { setTimeout as sleep } from "node:timers/promises";
import { nqnOf, program, startKeel } from "./subjects.mjs";
import { cpuSeconds, residentBytes } from "./system.mjs";

const queuesPerController = 50;
const settleMs = 4_000;

/** Hosts with `queues` I/O queues in all; each process is one controller that sends an I/O now and then. */
function connect(port, queues, seconds) {
  const children = [];
  for (let left = queues; left > 0; left -= queuesPerController) {
    const nqn = `nqn.2026-11.example.keel:bench-host-${left}`;
    const values = { port, subnqn: nqnOf("null"), hostnqn: nqn, queues: Math.min(left, queuesPerController) };
    const args = Object.entries({ ...values, depth: 1, rate: 1, seconds }).flatMap(([name, value]) => [
      `--${name}`,
      String(value),
    ]);
    children.push(spawn("taskset", ["-c", "1", program("io"), ...args], { stdio: "ignore" }));
  }
  return children;
}

export async function measureIdle({ filePath, seconds }) {
  const results = [];
  for (const queues of [0, 1, 1000]) {
    const server = await startKeel(filePath);
    const children = connect(server.port, queues, 3_600);
    try {
      await sleep(settleMs);
      const before = cpuSeconds(server.pid);
      const began = performance.now();
      await sleep(seconds * 1000);
      const elapsed = (performance.now() - began) / 1000;
      const alive = children.filter((child) => child.exitCode === null).length;
      results.push({
        queues,
        connected: alive === children.length,
        cpuShare: (cpuSeconds(server.pid) - before) / elapsed,
        resident: residentBytes(server.pid),
      });
    } finally {
      for (const child of children) child.kill("SIGTERM");
      await server.stop();
    }
  }
  return results;
}

export function printIdle(results) {
  for (const { queues, connected, cpuShare, resident } of results) {
    const memory = `${Math.round(resident.total / 2 ** 20)} MiB resident, ${Math.round(resident.shared / 2 ** 20)} of it shared`;
    const note = connected ? "" : " (not all hosts stayed connected)";
    console.log(`idle, ${queues} I/O queues: ${(cpuShare * 100).toFixed(2)} % CPU, ${memory}${note}`);
  }
}
