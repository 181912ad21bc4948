// Commands that only look.

import { formatEndpoint } from "../../model/endpoint.js";
import { KeelError } from "../../model/errors.js";
import type { Json } from "../../model/json.js";
import { type HostRow, hostRows, type ShareRow, shareRows } from "../../model/listing.js";
import { didYouMean } from "../../model/nearest.js";
import type { KeeperReport, ListenerReport, ServerStatus } from "../../model/status.js";
import { formatSize, formatSpan } from "../../model/units.js";
import { type Column, type Format, print, printData, printRows, tableText } from "../output.js";
import type { CommonOptions } from "../program.js";
import { withServer } from "./session.js";

const formatOf = (options: CommonOptions): Format => (options.output ?? "table") as Format;

const fetchStatus = (options: CommonOptions): Promise<ServerStatus> =>
  withServer(options, (client) => client.call<ServerStatus>("keel.status"));

const shareColumns: readonly Column<ShareRow>[] = [
  { title: "NAME", value: (row) => row.name },
  { title: "FRONT", value: (row) => row.front },
  { title: "NSID", value: (row) => row.nsid || "–", right: true },
  { title: "SIZE", value: (row) => (row.nsid === 0 ? "–" : formatSize(row.sizeBytes)), right: true },
  { title: "BACK", value: (row) => row.back },
  { title: "HOSTS", value: (row) => row.hosts, right: true },
  { title: "ALLOWED", value: (row) => row.allowed },
  { title: "STATE", value: (row) => row.state },
  { title: "NQN", value: (row) => row.nqn, wide: true },
  { title: "UUID", value: (row) => row.uuid, wide: true },
];

export async function lsCommand(options: CommonOptions): Promise<void> {
  const rows = shareRows(await fetchStatus(options));
  printRows(
    rows,
    shareColumns,
    formatOf(options),
    "nothing is shared; keel share PATH --allow HOST-NQN shares something",
  );
}

const namespaceTitles = ["NAME", "NSID", "SIZE", "BACK", "STATE", "UUID"];
const namespaceColumns = shareColumns.filter(({ title }) => namespaceTitles.includes(title));

export async function namespacesCommand(subsystem: string | null, options: CommonOptions): Promise<void> {
  const rows = shareRows(await fetchStatus(options));
  const named = rows.filter(({ name, nqn }) => subsystem === null || subsystem === name || subsystem === nqn);
  if (subsystem !== null && named.length === 0) {
    const names = rows.map(({ name }) => name);
    throw new KeelError(
      "E_NOT_FOUND",
      `there is no subsystem "${subsystem}".${didYouMean(subsystem, names)}`,
    );
  }
  printRows(
    named.filter(({ nsid }) => nsid !== 0),
    namespaceColumns,
    formatOf(options),
    "there is no namespace; keel ns add SUBSYSTEM DEVICE exports a device",
  );
}

const hostColumns: readonly Column<HostRow>[] = [
  { title: "HOST", value: (row) => row.host },
  { title: "ADDRESS", value: (row) => row.address },
  { title: "SUBSYSTEM", value: (row) => row.subsystem },
  { title: "QPAIRS", value: (row) => row.queuePairs, right: true },
  { title: "SINCE", value: (row) => formatSpan(row.connectedMs), right: true },
  { title: "DIGEST", value: (row) => row.digest },
  { title: "STATE", value: (row) => row.state },
  { title: "CNTLID", value: (row) => row.cntlid, right: true, wide: true },
  { title: "IN FLIGHT", value: (row) => row.inFlight, right: true, wide: true },
];

export async function hostsCommand(options: CommonOptions): Promise<void> {
  printRows(hostRows(await fetchStatus(options)), hostColumns, formatOf(options), "no host is connected");
}

const listenerColumns: readonly Column<ListenerReport>[] = [
  { title: "ADDRESS", value: (row) => formatEndpoint(row) },
  { title: "FOR", value: (row) => (row.discoveryOnly ? "discovery" : "nvme-tcp") },
  { title: "ID", value: (row) => row.id, wide: true },
];

export async function listenersCommand(options: CommonOptions): Promise<void> {
  printRows(
    (await fetchStatus(options)).listeners,
    listenerColumns,
    formatOf(options),
    "the server listens nowhere",
  );
}

function keeperText(keeper: KeeperReport | null): string {
  if (keeper === null)
    return "nobody: when the server ends, its hosts are disconnected and reconnect by themselves";
  const systemd = keeper.systemd ? ", its store in systemd" : "";
  const standby = keeper.standbyPid === 0 ? keeper.standby : `${keeper.standby} (pid ${keeper.standbyPid})`;
  return `keeper pid ${keeper.pid}${systemd}, ${keeper.connections} connection(s) held · standby ${standby}`;
}

const restartMoments = [
  { name: "process", key: "processMs" },
  { name: "loaded", key: "loadedMs" },
  { name: "mapped", key: "mappedMs" },
  { name: "barrier", key: "barrierMs" },
  { name: "first byte", key: "firstByteMs" },
] as const;

function restartsText(status: ServerStatus): string {
  const { restarts, last } = status.restarts;
  const [newest] = last;
  if (newest === undefined) return String(restarts);
  const when = formatSpan(status.nowMs - newest.timeMs);
  const how = newest.exit === "" ? newest.reason : `${newest.reason} (${newest.exit})`;
  const parts = `start ${newest.startMs.toFixed(1)}, configure ${newest.configureMs.toFixed(1)}, adopt ${newest.adoptMs.toFixed(1)}`;
  const after = restartMoments.flatMap(({ name, key }) => {
    const value = newest[key];
    return value === null ? [] : [`${name} ${value.toFixed(1)}`];
  });
  const moments = after.length === 0 ? "" : `; ms after the death: ${after.join(", ")}`;
  return `${restarts}, the last ${when} ago: ${how}, pause ${newest.pauseMs.toFixed(1)} ms (${parts}${moments}), ${newest.carried} connections carried`;
}

function statusText(status: ServerStatus): string {
  const hosts = new Set(status.controllers.filter((one) => !one.discovery).map(({ hostNqn }) => hostNqn));
  const waiting = status.devices.filter((device) => device.state !== "ok");
  const listening = status.listeners.map(
    (listener) => `${formatEndpoint(listener)} ${listener.discoveryOnly ? "discovery" : "nvme-tcp"}`,
  );
  const queues = status.connections.filter((one) => one.qid !== null).length;
  const lines: [string, string][] = [
    [
      "server",
      `keel ${status.version} on ${status.node}, pid ${status.pid}, up ${formatSpan(status.nowMs - status.startedMs)}`,
    ],
    ["listening", listening.join(" · ") || "nowhere"],
    [
      "exports",
      `${status.subsystems.length} subsystem(s), ${shareRows(status).filter((row) => row.nsid > 0).length} namespace(s)`,
    ],
    ["hosts", `${hosts.size} connected, ${queues} queue pair(s), ${status.connections.length} connection(s)`],
    ["restarts", restartsText(status)],
    ["kept by", keeperText(status.keeper)],
    ["configuration", status.configFile ?? "built-in defaults"],
    [
      "memory",
      `${formatSize(status.process.residentBytes)} resident · data buffers ${formatSize(status.dataPoolUsedBytes)} of ${formatSize(status.dataPoolBytes)}`,
    ],
    ["state", status.stateDirectory],
  ];
  if (status.changedAtRunTime.length > 0)
    lines.push(["changed at run time", status.changedAtRunTime.join(", ")]);
  for (const device of waiting) lines.push([`device ${device.name}`, `${device.state}: ${device.reason}`]);
  const table = tableText(lines, [
    { title: "", value: ([key]) => key },
    { title: "", value: ([, value]) => value },
  ]);
  const events = status.events
    .slice(-5)
    .reverse()
    .map((event) => `  ${new Date(event.timeMs).toLocaleTimeString("en-GB")}  ${event.text}`);
  return [table.trimStart(), ...(events.length > 0 ? ["events", ...events] : [])].join("\n");
}

export async function statusCommand(options: CommonOptions): Promise<void> {
  const status = await fetchStatus(options);
  if (options.output === "json" || options.output === "yaml") printData(status, options.output);
  else print(statusText(status));
}

export async function getCommand(path: string, options: CommonOptions): Promise<void> {
  const value = await withServer(options, (client) => client.call<Json>("keel.get", { path }));
  const scalar = typeof value !== "object" || value === null;
  if (options.output !== "json" && scalar) print(String(value));
  else printData(value, options.output === "json" ? "json" : "yaml");
}

export async function metricsCommand(options: CommonOptions): Promise<void> {
  print(await withServer(options, (client) => client.call<string>("keel.metrics")));
}
