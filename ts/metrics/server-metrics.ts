// A server's status as metrics. Text that changes (UUIDs, NQNs of hosts) stands in `_info` series, so that a graph
// does not break into pieces when it does.

import { type GraphNode, graphOf } from "../model/graph.js";
import { folded, type Histogram } from "../model/histogram.js";
import { formatUuid } from "../model/ids.js";
import { jobKinds } from "../model/job-kinds.js";
import { isServing, type NamespaceReport, type RestartReport, type ServerStatus } from "../model/status.js";
import { type Labels, MetricsText } from "./text.js";

const nsPerSecond = 1e9;
const actions = ["read", "write", "flush", "write_zeroes", "deallocate"] as const;

type NamespaceRow = { readonly labels: Labels; readonly namespace: NamespaceReport };

/** Counters and gauges of a namespace: one row per family. */
const namespaceFamilies: readonly [
  string,
  "counter" | "gauge",
  string,
  (namespace: NamespaceReport) => number,
][] = [
  ["reads_completed_total", "counter", "Read commands completed.", (ns) => ns.readCommands],
  ["writes_completed_total", "counter", "Write commands completed.", (ns) => ns.writeCommands],
  ["other_commands_completed_total", "counter", "Other I/O commands completed.", (ns) => ns.otherCommands],
  [
    "fua_commands_completed_total",
    "counter",
    "Commands with Force Unit Access, of all these.",
    (ns) => ns.fuaCommands,
  ],
  ["read_bytes_total", "counter", "Bytes read by hosts.", (ns) => ns.readBytes],
  ["written_bytes_total", "counter", "Bytes written by hosts.", (ns) => ns.writtenBytes],
  [
    "read_seconds_total",
    "counter",
    "Time that read commands took, summed.",
    (ns) => ns.readLatency.sumNs / nsPerSecond,
  ],
  [
    "write_seconds_total",
    "counter",
    "Time that write commands took, summed.",
    (ns) => ns.writeLatency.sumNs / nsPerSecond,
  ],
  ["errors_total", "counter", "Commands that ended with an error.", (ns) => ns.errors],
  ["size_bytes", "gauge", "Size of the namespace.", (ns) => ns.sizeBytes],
];

function namespaces(text: MetricsText, rows: readonly NamespaceRow[], node: string): void {
  const info = text.family("keel_namespace_info", "gauge", "What a namespace is.");
  for (const { labels, namespace } of rows) {
    info(
      { ...labels, uuid: formatUuid(namespace.uuid), nguid: namespace.nguid, device: namespace.device, node },
      1,
    );
  }
  const up = text.family("keel_namespace_up", "gauge", "1 if hosts can use the namespace.");
  for (const { labels, namespace } of rows) up(labels, isServing(namespace.state) ? 1 : 0);
  for (const [name, type, help, value] of namespaceFamilies) {
    const sample = text.family(`keel_namespace_${name}`, type, help);
    for (const { labels, namespace } of rows) sample(labels, value(namespace));
  }
}

function latencies(text: MetricsText, rows: readonly NamespaceRow[]): void {
  const sample = text.family(
    "keel_io_duration_seconds",
    "histogram",
    "Time from a command's arrival to its completion.",
  );
  const one = (labels: Labels, histogram: Histogram): void => {
    for (const { leSeconds, count } of folded(histogram))
      sample({ ...labels, le: leSeconds }, count, "_bucket");
    sample({ ...labels, le: "+Inf" }, histogram.total, "_bucket");
    sample(labels, histogram.sumNs / nsPerSecond, "_sum");
    sample(labels, histogram.total, "_count");
  };
  for (const { labels, namespace } of rows) {
    one({ ...labels, op: "read" }, namespace.readLatency);
    one({ ...labels, op: "write" }, namespace.writeLatency);
  }
}

function devices(text: MetricsText, status: ServerStatus): void {
  const up = text.family("keel_device_up", "gauge", "1 if the device works.");
  for (const device of status.devices)
    up({ device: device.name, kind: device.kind }, isServing(device.state) ? 1 : 0);
  const size = text.family("keel_device_size_bytes", "gauge", "Size of the device.");
  for (const device of status.devices) size({ device: device.name }, device.sizeBytes);
  const errors = text.family(
    "keel_device_errors_total",
    "counter",
    "Requests that the device ended with an error.",
  );
  for (const device of status.devices) errors({ device: device.name }, device.errors);
  const flight = text.family("keel_device_requests_in_flight", "gauge", "Requests that the device has now.");
  for (const device of status.devices) flight({ device: device.name }, device.inFlight);
  const completed = text.family(
    "keel_device_requests_completed_total",
    "counter",
    "Requests completed, by action.",
  );
  for (const device of status.devices) {
    for (const [index, op] of actions.entries())
      completed({ device: device.name, op }, device.completed[index] ?? 0);
  }
  const bytes = text.family("keel_device_bytes_total", "counter", "Bytes of completed requests, by action.");
  for (const device of status.devices) {
    for (const [index, op] of actions.entries()) bytes({ device: device.name, op }, device.bytes[index] ?? 0);
  }
}

function volumes(text: MetricsText, status: ServerStatus): void {
  const suspended = text.family("keel_device_suspended", "gauge", "1 if requests to the device wait.");
  for (const device of status.devices) suspended({ device: device.name }, device.suspended ? 1 : 0);
  const nodes = graphOf(status, null).flatMap((root) => edges(root));
  const part = text.family("keel_volume_part_info", "gauge", "What a volume stands on.");
  for (const [above, one] of nodes) part({ volume: above.name, part: one.name, state: one.state }, 1);
  const age = text.family(
    "keel_volume_part_age",
    "gauge",
    "Changes of the volume's make-up that the part has seen.",
  );
  for (const [above, one] of nodes) {
    if (one.age !== null) age({ volume: above.name, part: one.name }, one.age);
  }
  const dirty = text.family("keel_volume_part_dirty_bytes", "gauge", "What the part lacks.");
  for (const [above, one] of nodes) {
    if (one.dirtyBytes !== null) dirty({ volume: above.name, part: one.name }, one.dirtyBytes);
  }
  const detail = text.family("keel_device_detail", "gauge", "What only a device's kind tells.");
  for (const device of status.devices) {
    for (const [key, value] of Object.entries(device.details)) {
      if (typeof value === "number") detail({ device: device.name, detail: key }, value);
    }
  }
  const running = text.family("keel_jobs_running", "gauge", "Long operations under way, by kind.");
  for (const kind of jobKinds) {
    const count = status.jobs.filter((job) => job.state === "running" && job.kind === kind).length;
    running({ kind }, count);
  }
  const left = text.family("keel_job_left_bytes", "gauge", "What a long operation has still to do.");
  for (const { id, kind, device, state, doneBytes, totalBytes } of status.jobs) {
    if (state === "running" && doneBytes !== null && totalBytes !== null)
      left({ job: id, kind, device }, totalBytes - doneBytes);
  }
}

/** Each node below with the one above it. */
const edges = (above: GraphNode): [GraphNode, GraphNode][] =>
  above.parts.flatMap((one) => [[above, one] as [GraphNode, GraphNode], ...edges(one)]);

function sessions(text: MetricsText, status: ServerStatus): void {
  const controllers = text.family("keel_controllers", "gauge", "Controllers, by subsystem.");
  const discovery = status.controllers.filter((controller) => controller.discovery).length;
  for (const { name, nqn } of status.subsystems) {
    controllers({ nqn, subsystem: name }, status.controllers.filter((one) => one.subsystem === nqn).length);
  }
  text.family("keel_discovery_controllers", "gauge", "Discovery controllers.")({}, discovery);
  text.family(
    "keel_qpairs",
    "gauge",
    "Queue pairs in use.",
  )({}, status.connections.filter((one) => one.qid !== null).length);
  text.family("keel_connections", "gauge", "TCP connections.")({}, status.connections.length);
  const connected = text.family("keel_host_connected", "gauge", "1 for each host with a controller.");
  const pairs = new Map<string, Labels>();
  for (const one of status.controllers) {
    if (!one.discovery)
      pairs.set(`${one.subsystem}\n${one.hostNqn}`, { nqn: one.subsystem, host_nqn: one.hostNqn });
  }
  for (const labels of pairs.values()) connected(labels, 1);
  text.family(
    "keel_connections_accepted_total",
    "counter",
    "TCP connections accepted.",
  )({}, status.connectionsAccepted);
  text.family(
    "keel_connections_refused_total",
    "counter",
    "TCP connections refused by a limit.",
  )({}, status.connectionsRefused);
  const ended = text.family("keel_connections_ended_total", "counter", "TCP connections ended, by reason.");
  for (const [reason, count] of Object.entries(status.disconnects)) ended({ reason }, count);
}

function server(text: MetricsText, status: ServerStatus): void {
  text.family(
    "keel_build_info",
    "gauge",
    "Version of the server.",
  )({ version: status.version, node: status.node }, 1);
  text.family("keel_start_time_seconds", "gauge", "When the server started.")({}, status.startedMs / 1000);
  text.family("keel_data_pool_size_bytes", "gauge", "Memory for data in flight.")({}, status.dataPoolBytes);
  text.family(
    "keel_data_pool_used_bytes",
    "gauge",
    "Memory for data in flight, in use.",
  )({}, status.dataPoolUsedBytes);
  text.family(
    "keel_reactor_cpu_seconds_total",
    "counter",
    "CPU time of the reactor thread.",
  )({}, status.reactorCpuNs / nsPerSecond);
  text.family(
    "keel_reactor_iterations_total",
    "counter",
    "Turns of the reactor's loop.",
  )({}, status.reactorIterations);
  text.family(
    "keel_process_resident_memory_bytes",
    "gauge",
    "Resident memory.",
  )({}, status.process.residentBytes);
  text.family(
    "keel_process_cpu_seconds_total",
    "counter",
    "CPU time of the process.",
  )({}, status.process.cpuSeconds);
  text.family(
    "keel_discovery_generation",
    "gauge",
    "The discovery log's generation counter.",
  )({}, status.discoveryGeneration);
}

const momentsOf = (last: RestartReport): Record<string, number | null> => ({
  process: last.processMs,
  loaded: last.loadedMs,
  mapped: last.mappedMs,
  go: last.startMs,
  configured: last.startMs + last.configureMs,
  barrier: last.barrierMs,
  adopted: last.pauseMs,
  first_byte: last.firstByteMs,
});

function restarts(text: MetricsText, status: ServerStatus): void {
  const { restarts: all } = status;
  const total = text.family(
    "keel_restarts_total",
    "counter",
    "Restarts that hosts were carried over, by reason.",
  );
  for (const reason of ["crash", "watchdog", "upgrade", "other"] as const) total({ reason }, all[reason]);
  const pause = text.family(
    "keel_restart_pause_seconds",
    "histogram",
    "From a server's death to its successor's first byte.",
  );
  let count = 0;
  for (const [bucket, pauses] of all.pauseCounts.slice(0, -1).entries()) {
    count += pauses;
    pause({ le: 2 ** bucket / 1000 }, count, "_bucket");
  }
  count += all.pauseCounts.at(-1) ?? 0;
  pause({ le: "+Inf" }, count, "_bucket");
  pause({}, all.pauseSumNs / nsPerSecond, "_sum");
  pause({}, count, "_count");
  const moment = text.family(
    "keel_restart_last_seconds",
    "gauge",
    "The last restart: what was reached how long after the death; without what a standby had done before.",
  );
  const [last] = all.last;
  for (const [reached, ms] of Object.entries(last === undefined ? {} : momentsOf(last)))
    if (ms !== null) moment({ reached }, ms / 1000);
  text.family(
    "keel_connections_carried_total",
    "counter",
    "Connections carried over restarts.",
  )({}, all.carried);
  text.family(
    "keel_connections_not_carried_total",
    "counter",
    "Connections that a restart had to end.",
  )({}, all.refused);
  text.family(
    "keel_commands_executed_again_total",
    "counter",
    "Commands in flight at a restart.",
  )({}, all.executed);
  text.family(
    "keel_keeper_up",
    "gauge",
    "1 if a keeper holds the connections.",
  )({}, status.keeper === null ? 0 : 1);
}

export function serverMetrics(status: ServerStatus): string {
  const text = new MetricsText();
  const rows = status.subsystems.flatMap((subsystem) =>
    subsystem.namespaces.map((namespace) => ({
      labels: { nqn: subsystem.nqn, nsid: namespace.nsid, subsystem: subsystem.name },
      namespace,
    })),
  );
  server(text, status);
  namespaces(text, rows, status.node);
  latencies(text, rows);
  devices(text, status);
  volumes(text, status);
  sessions(text, status);
  restarts(text, status);
  return text.toString();
}
