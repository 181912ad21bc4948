// Changes of a configuration document, as the commands of the CLI and the RPC methods mean them. Each takes the
// document as it is written (a copy that it may change) and answers it as it should be; the checks of the whole
// come afterwards, so only what a check could not say is said here.

import { formatEndpoint, parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import { isJsonObject, type Json, type JsonObject, sameJson } from "../model/json.js";
import { nearest } from "../model/nearest.js";
import { formatPath } from "./issue.js";
import { defaultEndpoints, defaultNqn } from "./naming.js";
import type { PathPart } from "./yaml.js";

/** A mapping inside the document, made if it is not there. */
function section(raw: JsonObject, key: string): JsonObject {
  const present = raw[key];
  if (isJsonObject(present)) return present;
  const made: JsonObject = {};
  raw[key] = made;
  return made;
}

function list(owner: JsonObject, key: string): Json[] {
  const present = owner[key];
  if (Array.isArray(present)) return present;
  const made: Json[] = [];
  owner[key] = made;
  return made;
}

function missing(noun: string, name: string, names: readonly string[]): KeelError {
  const guess = nearest(name, names);
  const hint = guess === null ? "" : ` Did you mean "${guess}"?`;
  return new KeelError("E_NOT_FOUND", `there is no ${noun} "${name}".${hint}`);
}

/** A subsystem by its name or its NQN. */
export function findSubsystem(
  raw: JsonObject,
  node: string,
  nameOrNqn: string,
): { name: string; subsystem: JsonObject } {
  const subsystems = section(raw, "subsystems");
  for (const [name, subsystem] of Object.entries(subsystems)) {
    if (!isJsonObject(subsystem)) continue;
    const nqn = typeof subsystem["nqn"] === "string" ? subsystem["nqn"] : defaultNqn(node, name);
    if (name === nameOrNqn || nqn === nameOrNqn) return { name, subsystem };
  }
  throw missing("subsystem", nameOrNqn, Object.keys(subsystems));
}

export function addDevice(raw: JsonObject, name: string, device: JsonObject): JsonObject {
  const devices = section(raw, "devices");
  if (Object.hasOwn(devices, name)) throw new KeelError("E_EXISTS", `device "${name}" exists already`);
  devices[name] = device;
  return raw;
}

export function removeDevice(raw: JsonObject, name: string): JsonObject {
  const devices = section(raw, "devices");
  if (!Object.hasOwn(devices, name)) throw missing("device", name, Object.keys(devices));
  const user = userOf(raw, name);
  if (user !== null) throw new KeelError("E_BUSY", `device "${name}" is used by ${user}`);
  delete devices[name];
  return raw;
}

/** Who stands on a device, in words. */
function userOf(raw: JsonObject, device: string): string | null {
  const above = Object.entries(section(raw, "devices")).find(([, other]) =>
    partNames(other).includes(device),
  );
  if (above !== undefined) return `device "${above[0]}"`;
  const subsystem = Object.entries(section(raw, "subsystems")).find(([, other]) =>
    devicesOf(other).includes(device),
  );
  return subsystem === undefined ? null : `subsystem "${subsystem[0]}"`;
}

export function addSubsystem(raw: JsonObject, name: string, subsystem: JsonObject): JsonObject {
  const subsystems = section(raw, "subsystems");
  if (Object.hasOwn(subsystems, name)) throw new KeelError("E_EXISTS", `subsystem "${name}" exists already`);
  subsystems[name] = subsystem;
  return raw;
}

export function removeSubsystem(raw: JsonObject, node: string, nameOrNqn: string): JsonObject {
  const { name } = findSubsystem(raw, node, nameOrNqn);
  delete section(raw, "subsystems")[name];
  return raw;
}

/** Device, subsystem and namespace 1 in one: what `keel share` does. */
export function share(
  raw: JsonObject,
  name: string,
  device: JsonObject,
  allow: readonly string[],
  readOnly: boolean,
): JsonObject {
  const hosts: Json = allow.includes("any") ? "any" : [...new Set(allow)];
  const namespace: JsonObject = { id: 1, device: name };
  if (readOnly) namespace["read_only"] = true;
  return addSubsystem(addDevice(raw, name, device), name, { namespaces: [namespace], hosts });
}

const devicesOf = (subsystem: Json): string[] =>
  isJsonObject(subsystem) && Array.isArray(subsystem["namespaces"])
    ? subsystem["namespaces"].flatMap((namespace) =>
        isJsonObject(namespace) && typeof namespace["device"] === "string" ? [namespace["device"]] : [],
      )
    : [];

/** The devices that a device's document names as what it stands on. */
export function partNames(device: Json): string[] {
  if (!isJsonObject(device)) return [];
  const names = ["delay", "error"].flatMap((key) => (typeof device[key] === "string" ? [device[key]] : []));
  for (const key of ["linear", "stripe", "mirror"]) {
    const parts = device[key];
    if (!Array.isArray(parts)) continue;
    for (const part of parts) {
      const name = isJsonObject(part) ? part["device"] : part;
      if (typeof name === "string") names.push(name);
    }
  }
  const { migration } = device;
  if (isJsonObject(migration)) {
    names.push(...partNames(migration["source"] ?? null), ...partNames(migration["destination"] ?? null));
  }
  return names;
}

/** The subsystem and every device that nothing else uses then. */
export function unshare(raw: JsonObject, node: string, nameOrNqn: string): JsonObject {
  const { name, subsystem } = findSubsystem(raw, node, nameOrNqn);
  const subsystems = section(raw, "subsystems");
  const devices = section(raw, "devices");
  delete subsystems[name];
  const candidates = devicesOf(subsystem);
  for (let candidate = candidates.pop(); candidate !== undefined; candidate = candidates.pop()) {
    const users = [
      ...Object.values(subsystems).flatMap(devicesOf),
      ...Object.values(devices).flatMap(partNames),
    ];
    const device = devices[candidate];
    if (device === undefined || users.includes(candidate)) continue;
    delete devices[candidate];
    candidates.push(...partNames(device));
  }
  return raw;
}

export function addHost(raw: JsonObject, node: string, subsystemName: string, host: string): JsonObject {
  const { name, subsystem } = findSubsystem(raw, node, subsystemName);
  if (host === "any") {
    subsystem["hosts"] = "any";
    return raw;
  }
  if (subsystem["hosts"] === "any")
    throw new KeelError("E_EXISTS", `subsystem "${name}" admits any host already`);
  const hosts = list(subsystem, "hosts");
  if (hosts.includes(host)) throw new KeelError("E_EXISTS", `subsystem "${name}" admits ${host} already`);
  hosts.push(host);
  return raw;
}

export function removeHost(raw: JsonObject, node: string, subsystemName: string, host: string): JsonObject {
  const { name, subsystem } = findSubsystem(raw, node, subsystemName);
  if (host === "any") {
    if (subsystem["hosts"] !== "any")
      throw new KeelError("E_NOT_FOUND", `subsystem "${name}" does not admit any host`);
    subsystem["hosts"] = [];
    return raw;
  }
  const hosts = list(subsystem, "hosts");
  const index = hosts.indexOf(host);
  if (index < 0) {
    const admitted = hosts.filter((entry) => typeof entry === "string");
    throw missing(`host in the list of subsystem "${name}":`, host, admitted);
  }
  hosts.splice(index, 1);
  return raw;
}

const namespaceIds = (namespaces: readonly Json[]): number[] =>
  namespaces.flatMap((entry) =>
    isJsonObject(entry) && typeof entry["id"] === "number" ? [entry["id"]] : [],
  );

/** The lowest id that is free if `namespace` has none. Answers the id. */
export function addNamespace(
  raw: JsonObject,
  node: string,
  subsystemName: string,
  namespace: JsonObject,
): number {
  const { name, subsystem } = findSubsystem(raw, node, subsystemName);
  const namespaces = list(subsystem, "namespaces");
  const used = namespaceIds(namespaces);
  let id = typeof namespace["id"] === "number" ? namespace["id"] : 1;
  if (namespace["id"] === undefined) while (used.includes(id)) id += 1;
  if (used.includes(id)) throw new KeelError("E_EXISTS", `subsystem "${name}" has a namespace ${id} already`);
  namespaces.push({ ...namespace, id });
  return id;
}

export function findNamespace(raw: JsonObject, node: string, subsystemName: string, id: number): JsonObject {
  const { name, subsystem } = findSubsystem(raw, node, subsystemName);
  const found = list(subsystem, "namespaces").find((entry) => isJsonObject(entry) && entry["id"] === id);
  if (!isJsonObject(found)) throw new KeelError("E_NOT_FOUND", `subsystem "${name}" has no namespace ${id}`);
  return found;
}

export function removeNamespace(
  raw: JsonObject,
  node: string,
  subsystemName: string,
  id: number,
): JsonObject {
  findNamespace(raw, node, subsystemName, id);
  const { subsystem } = findSubsystem(raw, node, subsystemName);
  subsystem["namespaces"] = list(subsystem, "namespaces").filter(
    (entry) => !isJsonObject(entry) || entry["id"] !== id,
  );
  return raw;
}

/** Where the size of each kind stands that has one of its own. */
const sizeKeys: Readonly<Record<string, string>> = { ram: "ram", null: "null", file: "size" };

export function resizeDevice(raw: JsonObject, name: string, size: string): JsonObject {
  const devices = section(raw, "devices");
  const device = devices[name];
  if (!isJsonObject(device)) throw missing("device", name, Object.keys(devices));
  const kind = Object.keys(sizeKeys).find((key) => Object.hasOwn(device, key));
  if (kind === undefined) {
    throw new KeelError("E_DEVICE_SIZE", `device "${name}" takes its size from what it stands on`, {
      fix: "resize what is below, then: keel ns resize SUBSYSTEM ID (without a size)",
    });
  }
  device[sizeKeys[kind] ?? ""] = size;
  return raw;
}

const endpointOf = (entry: Json): string | null => {
  if (!isJsonObject(entry)) return null;
  const text = entry["nvme-tcp"] ?? entry["discovery"];
  const endpoint = typeof text === "string" ? parseEndpoint(text) : null;
  return endpoint === null ? null : formatEndpoint(endpoint);
};

/** The list as it is written, or the default in writing. */
function listenersOf(raw: JsonObject): Json[] {
  raw["listen"] ??= [{ "nvme-tcp": defaultEndpoints.nvmeTcp }, { discovery: defaultEndpoints.discovery }];
  return list(raw, "listen");
}

export function addListener(raw: JsonObject, entry: JsonObject): JsonObject {
  const listeners = listenersOf(raw);
  const endpoint = endpointOf(entry);
  if (listeners.some((present) => endpointOf(present) === endpoint)) {
    throw new KeelError("E_EXISTS", `the server listens on ${endpoint ?? "it"} already`);
  }
  listeners.push(entry);
  return raw;
}

export function removeListener(raw: JsonObject, address: string): JsonObject {
  const listeners = listenersOf(raw);
  const endpoint = parseEndpoint(address);
  const wanted = endpoint === null ? address : formatEndpoint(endpoint);
  const left = listeners.filter((entry) => endpointOf(entry) !== wanted);
  if (left.length === listeners.length) {
    throw missing(
      "listener",
      wanted,
      listeners.map(endpointOf).filter((text) => text !== null),
    );
  }
  raw["listen"] = left;
  return raw;
}

export function addReferral(raw: JsonObject, referral: JsonObject): JsonObject {
  const referrals = list(raw, "referrals");
  if (referrals.some((present) => sameJson(present, referral))) {
    throw new KeelError("E_EXISTS", "this referral exists already");
  }
  referrals.push(referral);
  return raw;
}

export function removeReferral(raw: JsonObject, address: string): JsonObject {
  const referrals = list(raw, "referrals");
  const left = referrals.filter((entry) => !isJsonObject(entry) || entry["address"] !== address);
  if (left.length === referrals.length)
    throw new KeelError("E_NOT_FOUND", `there is no referral to ${address}`);
  raw["referrals"] = left;
  return raw;
}

/** "subsystems.pg.hosts[0]", `devices."a.b".ram`; null if it is no path. */
export function parsePath(text: string): PathPart[] | null {
  const parts: PathPart[] = [];
  if (text.startsWith(".")) return null;
  const pattern = /(?:^|\.)([A-Za-z0-9_-]+)|(?:^|\.)("(?:[^"\\]|\\.)*")|\[(\d{1,6})\]/y;
  while (pattern.lastIndex < text.length) {
    const match = pattern.exec(text);
    if (match === null || match[0] === "") return null;
    if (match[3] !== undefined) parts.push(Number(match[3]));
    else if (match[1] !== undefined) parts.push(match[1]);
    else {
      try {
        parts.push(String(JSON.parse(match[2] ?? '""')));
      } catch {
        return null;
      }
    }
  }
  return parts;
}

function parsed(text: string): PathPart[] {
  const path = parsePath(text);
  if (path === null) {
    throw new KeelError("E_USAGE", `"${text}" is not a path such as subsystems.pg.hosts[0]`, {
      fix: "keel get prints the whole configuration",
    });
  }
  return path;
}

function child(value: Json | undefined, part: PathPart): Json | undefined {
  if (Array.isArray(value)) return typeof part === "number" ? value[part] : undefined;
  return isJsonObject(value) && Object.hasOwn(value, String(part)) ? value[String(part)] : undefined;
}

/** What stands at a path of the document as it is written. */
export function getPath(raw: JsonObject, text: string): Json {
  let value: Json | undefined = raw;
  const path = parsed(text);
  for (const [index, part] of path.entries()) {
    const next = child(value, part);
    if (next === undefined) {
      const names = isJsonObject(value) ? Object.keys(value) : [];
      const guess = nearest(String(part), names);
      const hint = guess === null ? "" : ` Did you mean "${formatPath([...path.slice(0, index), guess])}"?`;
      throw new KeelError(
        "E_NOT_FOUND",
        `the configuration says nothing about ${formatPath(path.slice(0, index + 1))}.${hint}`,
        {
          fix: "keel get prints the whole configuration",
        },
      );
    }
    value = next;
  }
  return value ?? null;
}

/** Sets (or, by undefined, removes) what stands at a path; mappings on the way are made. */
export function setPath(raw: JsonObject, text: string, value: Json | undefined): JsonObject {
  const path = parsed(text);
  const last = path.pop();
  if (last === undefined)
    throw new KeelError("E_USAGE", "an empty path names the whole configuration; use keel apply -f FILE");
  let owner: Json = raw;
  for (const part of path) {
    const next = child(owner, part);
    if (next !== undefined) {
      owner = next;
      continue;
    }
    if (!isJsonObject(owner) || typeof part === "number" || part === "__proto__") {
      throw new KeelError(
        "E_NOT_FOUND",
        `the configuration has no ${formatPath([part])} on the way to ${text}`,
      );
    }
    const made: JsonObject = {};
    owner[part] = made;
    owner = made;
  }
  if (Array.isArray(owner) && typeof last === "number" && last <= owner.length) {
    if (value === undefined) owner.splice(last, 1);
    else owner[last] = value;
    return raw;
  }
  if (!isJsonObject(owner) || typeof last === "number" || last === "__proto__") {
    throw new KeelError("E_USAGE", `${text} is not a place in the configuration`);
  }
  if (value !== undefined) owner[last] = value;
  else if (Object.hasOwn(owner, last)) delete owner[last];
  else throw new KeelError("E_NOT_FOUND", `the configuration says nothing about ${text}`);
  return raw;
}
