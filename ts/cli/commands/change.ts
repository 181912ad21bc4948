// Commands that change something.

import { hostname } from "node:os";
import { resolve } from "node:path";
import { loadFile } from "../../config/load.js";
import { nodeOfHost } from "../../config/naming.js";
import { parseYaml } from "../../config/yaml.js";
import { formatEndpoint } from "../../model/endpoint.js";
import { KeelError } from "../../model/errors.js";
import type { Json, JsonObject } from "../../model/json.js";
import type { ListenerReport } from "../../model/status.js";
import { formatSize } from "../../model/units.js";
import { print, printData } from "../output.js";
import type { ChangeFlags, CommonOptions } from "../program.js";
import { withServer } from "./session.js";

export type ChangeAnswer = {
  applied: boolean;
  steps: string[];
  unchanged: number;
  lost: string[];
  needsRestart: string[];
};

const flags = (options: ChangeFlags): JsonObject => ({
  ...(options.dryRun === true ? { dry_run: true } : {}),
  ...(options.yes === true ? { yes: true } : {}),
});

/** The plan of a dry run, or, after a change, `done`. */
function show(answer: ChangeAnswer, options: ChangeFlags, done: string): void {
  if (options.output === "json" || options.output === "yaml") {
    printData(answer, options.output);
    return;
  }
  if (!answer.applied) {
    for (const step of answer.steps) print(step);
    for (const lost of answer.lost) print(`! this destroys ${lost}`);
    const yes = answer.lost.length > 0 && options.yes !== true ? " --yes" : "";
    const hint = answer.steps.length === 0 ? "" : ` Apply: ${options.again ?? ""}${yes}`;
    print(`= ${answer.unchanged} unchanged.  Nothing written.${hint}`);
  } else {
    print(done);
  }
  if (answer.needsRestart.length > 0) {
    print(`these take effect at the next start only: ${answer.needsRestart.join(", ")}`);
  }
}

export async function change(
  method: string,
  parameters: JsonObject,
  options: ChangeFlags,
  done: (answer: ChangeAnswer) => string,
): Promise<void> {
  await withServer(options, async (client) => {
    const answer = await client.call<ChangeAnswer>(method, { ...parameters, ...flags(options) });
    show(answer, options, done(answer));
  });
}

function integer(text: string, what: string): number {
  if (!/^\d{1,9}$/.test(text)) throw new KeelError("E_USAGE", `${what} "${text}" is not a whole number`);
  return Number(text);
}

type ShareFlags = ChangeFlags & {
  name?: string;
  allow: string[];
  size?: string;
  blockSize?: string;
  readOnly?: boolean;
};

export async function shareCommand(path: string, options: ShareFlags): Promise<void> {
  if (path === "") throw new KeelError("E_USAGE", "the path is empty");
  const parameters: JsonObject = { path: resolve(path), allow: options.allow };
  if (options.name !== undefined) parameters["name"] = options.name;
  if (options.size !== undefined) parameters["size"] = options.size;
  if (options.blockSize !== undefined) parameters["block_size"] = Number(options.blockSize);
  if (options.readOnly === true) parameters["read_only"] = true;
  type Answer = ChangeAnswer & {
    name: string;
    nqn: string;
    nsid: number;
    sizeBytes: number;
    listeners: ListenerReport[];
  };
  const done = (answer: ChangeAnswer): string => {
    const { name, nqn, nsid, sizeBytes, listeners } = answer as Answer;
    const places = listeners.filter((listener) => !listener.discoveryOnly).map(formatEndpoint);
    const lines = [`shared ${name}  ${formatSize(sizeBytes)}  ${nqn} ns ${nsid} · ${places.join(" ")}`];
    if (options.allow.length === 0) {
      lines.push(`nobody may connect yet; keel hosts add ${name} HOST-NQN (or any) changes that`);
    }
    return lines.join("\n");
  };
  await change("keel.share", parameters, options, done);
}

export const unshareCommand = (name: string, options: ChangeFlags): Promise<void> =>
  change("keel.unshare", { name }, options, () => `${name} is shared no longer`);

export const hostCommand = (
  verb: "add" | "remove",
  subsystem: string,
  host: string,
  options: ChangeFlags,
): Promise<void> =>
  change(`keel.hosts.${verb}`, { subsystem, host }, options, () =>
    verb === "add" ? `${host} may connect to ${subsystem}` : `${host} may connect to ${subsystem} no longer`,
  );

export async function namespaceAddCommand(
  subsystem: string,
  device: string,
  options: ChangeFlags & { id?: string; readOnly?: boolean },
): Promise<void> {
  const parameters: JsonObject = { subsystem, device };
  if (options.id !== undefined) parameters["id"] = integer(options.id, "--id");
  if (options.readOnly === true) parameters["read_only"] = true;
  const done = (answer: ChangeAnswer): string =>
    `${device} is namespace ${String((answer as ChangeAnswer & { nsid: number }).nsid)} of ${subsystem}`;
  await change("keel.namespace.add", parameters, options, done);
}

export const namespaceRemoveCommand = (subsystem: string, id: string, options: ChangeFlags): Promise<void> =>
  change(
    "keel.namespace.remove",
    { subsystem, id: integer(id, "the namespace id") },
    options,
    () => `${subsystem} has no namespace ${id} any more`,
  );

export async function namespaceResizeCommand(
  subsystem: string,
  id: string,
  size: string | null,
  options: ChangeFlags,
): Promise<void> {
  const parameters: JsonObject = { subsystem, id: integer(id, "the namespace id") };
  if (size !== null) parameters["size"] = size;
  const done = (answer: ChangeAnswer): string => {
    const { sizeBytes } = answer as ChangeAnswer & { sizeBytes?: number };
    return `namespace ${id} of ${subsystem} has ${sizeBytes === undefined ? (size ?? "") : formatSize(sizeBytes)} now`;
  };
  await change("keel.namespace.resize", parameters, options, done);
}

export async function listenerAddCommand(
  address: string,
  options: ChangeFlags & { discovery?: boolean; advertise?: string },
): Promise<void> {
  const parameters: JsonObject = { address };
  if (options.discovery === true) parameters["discovery"] = true;
  if (options.advertise !== undefined) parameters["advertise"] = options.advertise;
  await change("keel.listener.add", parameters, options, () => `listening on ${address}`);
}

export const listenerRemoveCommand = (address: string, options: ChangeFlags): Promise<void> =>
  change("keel.listener.remove", { address }, options, () => `listening on ${address} no longer`);

export async function applyCommand(options: ChangeFlags & { file: string }): Promise<void> {
  const { raw } = loadFile(options.file, nodeOfHost(hostname()));
  const done = (answer: ChangeAnswer): string =>
    [...answer.steps, `= ${answer.unchanged} unchanged.  Applied.`].join("\n");
  await change("keel.apply", { config: raw }, options, done);
}

function yamlValue(text: string): Json {
  const parsed = parseYaml(text, "the value");
  if (parsed.ok) return text.trim() === "" ? "" : parsed.value;
  throw new KeelError("E_USAGE", `the value is not YAML: ${parsed.faults[0]?.message ?? ""}`);
}

export async function setCommand(
  path: string,
  value: string | null,
  options: ChangeFlags & { delete?: boolean },
): Promise<void> {
  if (path === "") {
    throw new KeelError("E_USAGE", "the path is empty; it says what to set, such as subsystems.pg.hosts");
  }
  if ((value === null) !== (options.delete === true)) {
    throw new KeelError("E_USAGE", "give a value, or --delete", { fix: `keel set ${path} VALUE` });
  }
  const parameters: JsonObject = value === null ? { path } : { path, value: yamlValue(value) };
  const done = (answer: ChangeAnswer): string =>
    answer.steps.length === 0 ? `${path} is set` : answer.steps.join("\n");
  await change("keel.set", parameters, options, done);
}

export async function disconnectCommand(
  host: string,
  subsystem: string | null,
  options: CommonOptions,
): Promise<void> {
  await withServer(options, async (client) => {
    const parameters: JsonObject = subsystem === null ? { host } : { host, subsystem };
    const answer = await client.call<{ disconnected: number }>("keel.disconnect", parameters);
    if (options.output === "json" || options.output === "yaml") printData(answer, options.output);
    else print(`${answer.disconnected} controller(s) of ${host} disconnected`);
  });
}

export async function reloadCommand(options: CommonOptions): Promise<void> {
  await withServer(options, (client) => client.call("keel.reload"));
  print("the configuration file was read again");
}

export async function shutdownCommand(options: CommonOptions): Promise<void> {
  await withServer(options, (client) => client.call("keel.shutdown"));
  print("the server is stopping");
}
