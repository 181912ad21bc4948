// `keel top`: what the server does, once a second, from the difference of two readings of its counters. Plain ANSI,
// nothing else; into a pipe it prints one table and ends.

import { setTimeout as sleep } from "node:timers/promises";
import { type Histogram, quantileUs, since } from "../../model/histogram.js";
import type { NamespaceReport, ServerStatus } from "../../model/status.js";
import { formatCount, formatSpan } from "../../model/units.js";
import { type Column, print, tableText } from "../output.js";
import type { CommonOptions } from "../program.js";
import { withServer } from "./session.js";

const intervalMs = 1000;

export type TopRow = {
  name: string;
  readIops: number;
  writeIops: number;
  readBytes: number;
  writtenBytes: number;
  readLatency: Histogram;
  writeLatency: Histogram;
  depth: number;
  state: string;
};

const rate = (later: number, earlier: number, seconds: number): number =>
  seconds <= 0 ? 0 : (later >= earlier ? later - earlier : later) / seconds;

/** Each namespace's work between two readings. */
export function topRows(now: ServerStatus, before: ServerStatus): TopRow[] {
  const seconds = (now.nowMs - before.nowMs) / 1000;
  const earlier = new Map<string, NamespaceReport>();
  for (const subsystem of before.subsystems) {
    for (const namespace of subsystem.namespaces)
      earlier.set(`${subsystem.nqn} ${namespace.nsid}`, namespace);
  }
  return now.subsystems.flatMap((subsystem) =>
    subsystem.namespaces.map((namespace) => {
      const past = earlier.get(`${subsystem.nqn} ${namespace.nsid}`);
      const device = now.devices.find(({ name }) => name === namespace.device);
      return {
        name: subsystem.namespaces.length === 1 ? subsystem.name : `${subsystem.name}/${namespace.nsid}`,
        readIops: rate(namespace.readCommands, past?.readCommands ?? 0, seconds),
        writeIops: rate(namespace.writeCommands, past?.writeCommands ?? 0, seconds),
        readBytes: rate(namespace.readBytes, past?.readBytes ?? 0, seconds),
        writtenBytes: rate(namespace.writtenBytes, past?.writtenBytes ?? 0, seconds),
        readLatency: since(namespace.readLatency, past?.readLatency ?? null),
        writeLatency: since(namespace.writeLatency, past?.writeLatency ?? null),
        depth: device?.inFlight ?? 0,
        state: namespace.state,
      };
    }),
  );
}

const latency = (histogram: Histogram): string => {
  const show = (quantile: number): string => {
    const value = quantileUs(histogram, quantile);
    return value === null ? "–" : value >= 10_000 ? `${(value / 1000).toFixed(0)}ms` : value.toFixed(0);
  };
  return `${show(0.5)}/${show(0.99)}`;
};

const columns: readonly Column<TopRow>[] = [
  { title: "NAME", value: (row) => row.name },
  { title: "R IOPS", value: (row) => formatCount(row.readIops), right: true },
  { title: "W IOPS", value: (row) => formatCount(row.writeIops), right: true },
  { title: "R MB/s", value: (row) => (row.readBytes / 1e6).toFixed(1), right: true },
  { title: "W MB/s", value: (row) => (row.writtenBytes / 1e6).toFixed(1), right: true },
  { title: "R p50/p99", value: (row) => latency(row.readLatency), right: true },
  { title: "W p50/p99 µs", value: (row) => latency(row.writeLatency), right: true },
  { title: "QD", value: (row) => row.depth, right: true },
  { title: "STATE", value: (row) => row.state },
];

export function topText(now: ServerStatus, before: ServerStatus): string {
  const seconds = Math.max(0.001, (now.nowMs - before.nowMs) / 1000);
  const hosts = new Set(now.controllers.filter((one) => !one.discovery).map(({ hostNqn }) => hostNqn)).size;
  const queues = now.connections.filter((one) => one.qid !== null).length;
  const busy = Math.min(100, (rate(now.reactorCpuNs, before.reactorCpuNs, seconds) / 1e9) * 100);
  const sum = (status: ServerStatus, key: "receivedBytes" | "sentBytes"): number =>
    status.connections.reduce((total, connection) => total + connection[key], 0);
  const received = Math.max(0, sum(now, "receivedBytes") - sum(before, "receivedBytes")) / seconds / 1e6;
  const sent = Math.max(0, sum(now, "sentBytes") - sum(before, "sentBytes")) / seconds / 1e6;
  const head = [
    `keel top · ${now.node}   up ${formatSpan(now.nowMs - now.startedMs)}   hosts ${hosts}  qpairs ${queues}`,
    `CPU  reactor ${busy.toFixed(0)}%   NET  in ${received.toFixed(1)}  out ${sent.toFixed(1)} MB/s`,
    "",
  ];
  const rows = topRows(now, before);
  const table = rows.length === 0 ? "nothing is shared" : tableText(rows, columns);
  const events = now.events
    .slice(-4)
    .reverse()
    .map((event) => `${new Date(event.timeMs).toLocaleTimeString("en-GB")} ${event.text}`);
  return [...head, table, ...(events.length > 0 ? ["", "EVENTS", ...events] : [])].join("\n");
}

const clear = "\u001b[H\u001b[J";

/** Cut to the window, so that a redraw never scrolls. */
function fitted(text: string): string {
  const width = process.stdout.columns || 120;
  const height = process.stdout.rows || 40;
  return text
    .split("\n")
    .slice(0, Math.max(1, height - 1))
    .map((line) => line.slice(0, width))
    .join("\n");
}

export async function topCommand(options: CommonOptions): Promise<void> {
  await withServer(options, async (client) => {
    let before = await client.call<ServerStatus>("keel.status");
    const once = !process.stdout.isTTY;
    let going = true;
    const quit = (): void => {
      going = false;
    };
    const stop = new AbortController();
    const { stdin } = process;
    if (!once && stdin.isTTY) {
      stdin.setRawMode(true);
      stdin.resume();
      stdin.on("data", (key: Buffer) => {
        if (key.includes("q") || key.includes("\u0003")) {
          quit();
          stop.abort();
        }
      });
    }
    try {
      do {
        await sleep(intervalMs, undefined, { signal: stop.signal }).catch(() => undefined);
        if (!going) break;
        const now = await client.call<ServerStatus>("keel.status");
        if (once) print(topText(now, before));
        else process.stdout.write(`${clear}${fitted(`${topText(now, before)}\n\n[q]uit`)}\n`);
        before = now;
      } while (going && !once);
    } finally {
      if (!once && stdin.isTTY) {
        stdin.setRawMode(false);
        stdin.pause();
      }
    }
  });
}
