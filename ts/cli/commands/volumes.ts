// Commands about devices, volumes and long operations.

import { setTimeout as sleep } from "node:timers/promises";
import { parseYaml } from "../../config/yaml.js";
import { KeelError } from "../../model/errors.js";
import { type GraphRoot, type GraphRow, graphRows } from "../../model/graph.js";
import { isJsonObject, type JsonObject } from "../../model/json.js";
import type { DeviceReport, JobReport } from "../../model/status.js";
import { formatSize, formatSpan } from "../../model/units.js";
import type { Client } from "../client.js";
import { type Column, type Format, print, printData, printRows, tableText } from "../output.js";
import type { ChangeFlags, CommonOptions } from "../program.js";
import { type ChangeAnswer, change } from "./change.js";
import { withServer } from "./session.js";

const formatOf = (options: CommonOptions): Format => (options.output ?? "table") as Format;

const deviceColumns: readonly Column<DeviceReport>[] = [
  { title: "NAME", value: (row) => row.name },
  { title: "KIND", value: (row) => row.kind },
  { title: "SIZE", value: (row) => (row.sizeBytes === 0 ? "–" : formatSize(row.sizeBytes)), right: true },
  { title: "ON", value: (row) => row.path ?? (row.parts.join(", ") || "–") },
  { title: "STATE", value: (row) => (row.suspended ? `${row.state}, suspended` : row.state) },
  { title: "USED BY", value: (row) => row.usedBy.join(", ") || "–" },
  { title: "IN FLIGHT", value: (row) => row.inFlight, right: true, wide: true },
  { title: "ERRORS", value: (row) => row.errors, right: true, wide: true },
  { title: "IDENTITY", value: (row) => row.identity || "–", wide: true },
  { title: "REASON", value: (row) => row.reason || "–", wide: true },
];

export async function devicesCommand(options: CommonOptions): Promise<void> {
  const rows = await withServer(options, (client) => client.call<DeviceReport[]>("keel.devices"));
  printRows(
    rows,
    deviceColumns,
    formatOf(options),
    "there is no device; keel device add NAME SPEC makes one",
  );
}

const bytesOr = (value: number | null): string => (value === null ? "–" : formatSize(value));

const graphColumns: readonly Column<GraphRow>[] = [
  { title: "NAME", value: ({ label }) => label },
  { title: "KIND", value: ({ node }) => [node.kind, node.path].filter((part) => part !== null).join(" ") },
  {
    title: "START",
    value: ({ node }) => (node.startBytes === 0 ? "–" : formatSize(node.startBytes)),
    right: true,
  },
  {
    title: "SIZE",
    value: ({ node }) => (node.sizeBytes === 0 ? "–" : formatSize(node.sizeBytes)),
    right: true,
  },
  { title: "STATE", value: ({ node }) => (node.suspended ? `${node.state}, suspended` : node.state) },
  { title: "AGE", value: ({ node }) => node.age ?? "–", right: true },
  { title: "DIRTY", value: ({ node }) => bytesOr(node.dirtyBytes), right: true },
  { title: "IN FLIGHT", value: ({ node }) => node.inFlight, right: true },
  { title: "ERRORS", value: ({ node }) => node.errors, right: true },
  { title: "REASON", value: ({ node }) => node.reason },
];

export async function graphCommand(
  volume: string | null,
  options: CommonOptions & { json?: boolean },
): Promise<void> {
  const parameters: JsonObject = volume === null ? {} : { volume };
  const roots = await withServer(options, (client) => client.call<GraphRoot[]>("keel.graph", parameters));
  const format = options.json === true ? "json" : formatOf(options);
  if (format === "json" || format === "yaml") {
    printData(roots, format);
    return;
  }
  if (roots.length === 0) print("there is no device");
  for (const [index, root] of roots.entries()) {
    if (index > 0) print("");
    if (root.usedBy.length > 0) print(`${root.name} ─ ${root.usedBy.join(", ")}`);
    print(tableText(graphRows([root]), graphColumns));
  }
}

/** A device's configuration as it is written behind its name: `{ram: 1GiB}`. */
function specOf(text: string): JsonObject {
  const parsed = parseYaml(text, "the device");
  if (parsed.ok && isJsonObject(parsed.value)) return parsed.value;
  const why = parsed.ok ? "it is not a mapping" : (parsed.faults[0]?.message ?? "");
  throw new KeelError("E_USAGE", `"${text}" is not what a device is: ${why}`, {
    fix: "keel device add fast '{ram: 1GiB}'",
  });
}

const stepsOr =
  (text: string) =>
  (answer: ChangeAnswer): string =>
    answer.steps.length === 0 ? text : answer.steps.join("\n");

export const deviceAddCommand = (name: string, text: string, options: ChangeFlags): Promise<void> =>
  change("keel.device.add", { device: name, spec: specOf(text) }, options, () => `device ${name} is there`);

export const deviceRemoveCommand = (name: string, options: ChangeFlags): Promise<void> =>
  change("keel.device.remove", { device: name }, options, () => `device ${name} is there no longer`);

export const suspendCommand = (
  verb: "suspend" | "resume",
  name: string,
  options: ChangeFlags,
): Promise<void> =>
  change(`keel.device.${verb}`, { device: name }, options, () =>
    verb === "suspend" ? `device ${name} is suspended: what is asked of it waits` : `device ${name} goes on`,
  );

export const deviceReplaceCommand = (name: string, text: string, options: ChangeFlags): Promise<void> =>
  change(
    "keel.device.replace",
    { device: name, spec: specOf(text) },
    options,
    stepsOr(`device ${name} is that already`),
  );

export async function deviceAcceptCommand(name: string, options: CommonOptions): Promise<void> {
  await withServer(options, (client) => client.call("keel.device.accept", { device: name }));
  print(`device ${name} takes the medium that is there now`);
}

export const deviceGrowCommand = (
  name: string,
  part: string,
  options: ChangeFlags & { start?: string; size?: string },
): Promise<void> => {
  const parameters: JsonObject = { device: name, part };
  if (options.start !== undefined) parameters["start"] = options.start;
  if (options.size !== undefined) parameters["size"] = options.size;
  return change("keel.device.grow", parameters, options, () => `${part} belongs to ${name} now`);
};

type JobFlags = ChangeFlags & { wait?: boolean };
type JobAnswer = ChangeAnswer & { job: number | null };

/** A change that begins a long operation: says which, and with --wait follows it. */
async function beginning(method: string, parameters: JsonObject, options: JobFlags): Promise<void> {
  let job: number | null = null;
  const done = (answer: ChangeAnswer): string => {
    ({ job } = answer as JobAnswer);
    const follow = options.wait === true ? "" : `; keel jobs wait ${job} follows it`;
    return job === null ? "done" : `job ${job} runs${follow}`;
  };
  await change(method, parameters, options, done);
  if (options.wait === true && options.dryRun !== true && job !== null)
    await jobWaitCommand(String(job), options);
}

export async function migrateCommand(
  name: string,
  text: string | null,
  options: JobFlags & { to?: string; rate?: string; cancel?: boolean },
): Promise<void> {
  if (options.cancel === true) {
    if (options.dryRun === true)
      throw new KeelError("E_USAGE", "--cancel cannot be tried out with --dry-run");
    await change(
      "keel.device.migrate.cancel",
      { device: name },
      { ...options, yes: false },
      () => `device ${name} stays where it was`,
    );
    return;
  }
  if ((text === null) === (options.to === undefined)) {
    throw new KeelError("E_USAGE", "say where to: what the new device is, or --to DEVICE", {
      fix: `keel device migrate ${name} '{file: /srv/new.img, size: 1GiB, create: true}'`,
    });
  }
  const parameters: JsonObject = { device: name };
  if (text !== null) parameters["spec"] = specOf(text);
  if (options.to !== undefined) parameters["to"] = options.to;
  if (options.rate !== undefined) parameters["rate"] = options.rate;
  await beginning("keel.device.migrate", parameters, options);
}

export const mirrorAddCommand = (mirror: string, device: string, options: JobFlags): Promise<void> =>
  beginning("keel.mirror.add", { mirror, device }, options);

export const mirrorReplaceCommand = (
  mirror: string,
  leg: string,
  device: string,
  options: JobFlags,
): Promise<void> => beginning("keel.mirror.replace", { mirror, leg, device }, options);

export const mirrorRemoveCommand = (mirror: string, leg: string, options: ChangeFlags): Promise<void> =>
  change("keel.mirror.remove", { mirror, leg }, options, () => `${leg} is no leg of ${mirror} any more`);

export const mirrorRateCommand = (mirror: string, rate: string, options: ChangeFlags): Promise<void> =>
  change("keel.mirror.rate", { mirror, rate }, options, () => `${mirror} resyncs with at most ${rate}/s`);

/** Hosts see the new size at once. */
export async function mirrorGrowCommand(mirror: string, options: CommonOptions): Promise<void> {
  const { sizeBytes } = await withServer(options, (client) =>
    client.call<{ sizeBytes: number }>("keel.mirror.grow", { mirror }),
  );
  print(`${mirror} has ${formatSize(sizeBytes)} now`);
}

const legDone: Readonly<Record<string, (mirror: string, leg: string) => string>> = {
  detach: (mirror, leg) => `${mirror} goes on without ${leg}`,
  attach: (mirror, leg) => `${mirror} takes ${leg} back`,
  invalidate: (_mirror, leg) => `${leg} is filled anew`,
  mark_clean: (mirror, leg) => `${leg} counts as equal to the other legs of ${mirror}`,
};

/** A verb that the legs record themselves. */
export async function legCommand(
  verb: "detach" | "attach" | "invalidate" | "mark_clean",
  mirror: string,
  leg: string,
  options: CommonOptions & { force?: boolean; wait?: boolean },
): Promise<void> {
  const parameters: JsonObject = { mirror, leg };
  if (options.force === true) parameters["force"] = true;
  const { job } = await withServer(options, (client) =>
    client.call<{ job: number | null }>(`keel.mirror.${verb}`, parameters),
  );
  const follow = job === null ? "" : `: job ${job}`;
  print(`${legDone[verb]?.(mirror, leg) ?? ""}${follow}`);
  if (options.wait === true && job !== null) await jobWaitCommand(String(job), options);
}

export async function scrubCommand(
  mirror: string,
  options: CommonOptions & { repair?: boolean; wait?: boolean },
): Promise<void> {
  const { job } = await withServer(options, (client) =>
    client.call<{ job: number }>("keel.mirror.scrub", { mirror, repair: options.repair === true }),
  );
  print(`job ${job} compares the legs of ${mirror}`);
  if (options.wait === true) await jobWaitCommand(String(job), options);
}

const percent = (job: JobReport): string => {
  if (job.doneBytes === null || job.totalBytes === null || job.totalBytes === 0) return "–";
  return `${Math.min(100, (job.doneBytes / job.totalBytes) * 100).toFixed(1)} %`;
};

const jobColumns: readonly Column<JobReport>[] = [
  { title: "JOB", value: (row) => row.id, right: true },
  { title: "WHAT", value: (row) => row.kind },
  { title: "DEVICE", value: (row) => (row.subject === "" ? row.device : `${row.device} ${row.subject}`) },
  { title: "STATE", value: (row) => row.state },
  { title: "DONE", value: percent, right: true },
  {
    title: "RATE",
    value: (row) => (row.bytesPerSecond === null ? "–" : `${formatSize(row.bytesPerSecond)}/s`),
    right: true,
  },
  {
    title: "LEFT",
    value: (row) => (row.secondsLeft === null ? "–" : formatSpan(row.secondsLeft * 1000)),
    right: true,
  },
  { title: "MESSAGE", value: (row) => row.message },
  { title: "BEGUN", value: (row) => new Date(row.startedMs).toISOString(), wide: true },
];

const jobsOf = (client: Client): Promise<JobReport[]> => client.call<JobReport[]>("keel.jobs");

export async function jobsCommand(options: CommonOptions): Promise<void> {
  printRows(await withServer(options, jobsOf), jobColumns, formatOf(options), "there is no job");
}

function idOf(text: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new KeelError("E_USAGE", `"${text}" is not the number of a job`, { fix: "keel jobs lists them" });
}

export async function jobCancelCommand(text: string, options: CommonOptions): Promise<void> {
  const id = idOf(text);
  await withServer(options, (client) => client.call("keel.job.cancel", { id }));
  print(`job ${id} is cancelled`);
}

const barWidth = 26;

function progressLine(job: JobReport): string {
  const { doneBytes, totalBytes } = job;
  const share = doneBytes === null || !totalBytes ? 0 : Math.min(1, doneBytes / totalBytes);
  const full = Math.round(share * barWidth);
  const rate = job.bytesPerSecond === null ? "?" : `${formatSize(job.bytesPerSecond)}/s`;
  const left = job.secondsLeft === null ? "?" : formatSpan(job.secondsLeft * 1000);
  const size = `${bytesOr(doneBytes)}/${bytesOr(totalBytes)}`;
  const bar = `[${"█".repeat(full)}${"·".repeat(barWidth - full)}]`;
  return `job ${job.id}  ${bar} ${percent(job)}  ${size}  ${rate}  ETA ${left}  ${job.message}`.trimEnd();
}

const lookMs = 300;
const lineMs = 5_000;
/** A server that is being replaced answers again within this time. */
const patienceMs = 60_000;

/** Follows a job to its end, over restarts of the server. Fails if it did not end well. */
export async function jobWaitCommand(
  text: string,
  options: CommonOptions & { timeout?: string },
): Promise<void> {
  const id = idOf(text);
  const seconds = options.timeout === undefined ? null : Number(options.timeout);
  if (seconds !== null && !(seconds > 0))
    throw new KeelError("E_USAGE", `--timeout "${options.timeout}" is not a number of seconds`);
  const end = seconds === null ? Number.POSITIVE_INFINITY : performance.now() + seconds * 1000;
  const terminal = process.stderr.isTTY;
  let shownAt = Number.NEGATIVE_INFINITY;
  let answeredAt = performance.now();
  for (;;) {
    let jobs: JobReport[] | null = null;
    try {
      jobs = await withServer(options, jobsOf);
      answeredAt = performance.now();
    } catch (thrown) {
      const gone = thrown instanceof KeelError && thrown.code === "E_UNREACHABLE";
      if (!gone || performance.now() - answeredAt > patienceMs) throw thrown;
    }
    const job = jobs?.find((one) => one.id === id);
    if (jobs !== null && job === undefined)
      throw new KeelError("E_NOT_FOUND", `there is no job ${id}`, { fix: "keel jobs lists them" });
    if (job !== undefined && job.state !== "running") {
      if (terminal) process.stderr.write("\r\u001b[K");
      finished(job, options);
      return;
    }
    if (job !== undefined && performance.now() - shownAt >= (terminal ? lookMs : lineMs)) {
      shownAt = performance.now();
      process.stderr.write(terminal ? `\r\u001b[K${progressLine(job)}` : `${progressLine(job)}\n`);
    }
    if (performance.now() >= end)
      throw new KeelError("E_TIMEOUT", `job ${id} has not ended within ${seconds} s; it goes on`);
    await sleep(lookMs);
  }
}

function finished(job: JobReport, options: CommonOptions): void {
  if (job.state === "failed")
    throw new KeelError("E_IO", `job ${job.id} (${job.kind}) failed: ${job.message}`);
  if (options.output === "json" || options.output === "yaml") printData(job, options.output);
  else print(`job ${job.id} (${job.kind}) is ${job.state}${job.message === "" ? "" : `: ${job.message}`}`);
}
