// Changes of a configuration document that the operations on volumes mean; the rest of config/edit.ts.

import { KeelError } from "../model/errors.js";
import { isJsonObject, type Json, type JsonObject } from "../model/json.js";
import { didYouMean } from "../model/nearest.js";

/** The device's document, to be changed. */
export function findDevice(raw: JsonObject, name: string): JsonObject {
  const { devices } = raw;
  const all = isJsonObject(devices) ? devices : {};
  const device = Object.hasOwn(all, name) ? all[name] : undefined;
  if (isJsonObject(device)) return device;
  throw new KeelError("E_NOT_FOUND", `there is no device "${name}".${didYouMean(name, Object.keys(all))}`);
}

function setDevice(raw: JsonObject, name: string, device: JsonObject): JsonObject {
  findDevice(raw, name);
  (raw["devices"] as JsonObject)[name] = device;
  return raw;
}

export function suspendDevice(raw: JsonObject, name: string, suspended: boolean): JsonObject {
  const device = findDevice(raw, name);
  if (suspended) device["suspended"] = true;
  else delete device["suspended"];
  return raw;
}

function refuseMigrating(name: string, device: JsonObject): void {
  if (device["migration"] === undefined) return;
  throw new KeelError("E_BUSY", `device "${name}" is being copied to another place already`, {
    fix: "keel jobs shows how far it is; wait for its end, or cancel it",
  });
}

/** The same name for another medium, which has the content. */
export function replaceDevice(raw: JsonObject, name: string, device: JsonObject): JsonObject {
  const now = findDevice(raw, name);
  refuseMigrating(name, now);
  return setDevice(raw, name, withSuspension(device, now));
}

function withSuspension(device: JsonObject, now: JsonObject): JsonObject {
  const { suspended: _suspended, ...plain } = device;
  return now["suspended"] === true ? { ...plain, suspended: true } : plain;
}

const withoutSuspension = ({ suspended: _suspended, ...plain }: JsonObject): JsonObject => plain;

/** Memory of a destination is kept under a name that the source does not have. */
function otherMemory(name: string, source: JsonObject): string {
  const { memory } = source;
  const number = typeof memory === "string" ? Number(/@(\d+)$/.exec(memory)?.[1] ?? 1) : 1;
  return `${name}@${number + 1}`;
}

export type Place = { readonly spec: JsonObject } | { readonly device: string };

/** `volume`: a fresh identity for a mirror that is made as the destination; `source` keeps its own. */
export function beginMigration(
  raw: JsonObject,
  name: string,
  to: Place,
  rate: string | null,
  volumes: { readonly source: string | null; readonly destination: string },
): JsonObject {
  const now = findDevice(raw, name);
  refuseMigrating(name, now);
  let given: JsonObject;
  if ("spec" in to) given = to.spec;
  else {
    if (to.device === name) throw new KeelError("E_USAGE", `device "${name}" cannot be copied to itself`);
    given = findDevice(raw, to.device);
    refuseMigrating(to.device, given);
    // It becomes a part of this device: nobody else can have it.
    delete (raw["devices"] as JsonObject)[to.device];
  }
  const source = withoutSuspension(now);
  const destination = withoutSuspension(given);
  if (source["mirror"] !== undefined && volumes.source !== null) source["volume"] ??= volumes.source;
  if (destination["mirror"] !== undefined) destination["volume"] ??= volumes.destination;
  if (destination["ram"] !== undefined) destination["memory"] = otherMemory(name, source);
  const migration: JsonObject = { source, destination };
  if (rate !== null) migration["rate"] = rate;
  return setDevice(raw, name, withSuspension({ migration }, now));
}

/** What the device is when the copying has ended: one of the two places. */
export function endMigration(raw: JsonObject, name: string, at: "source" | "destination"): JsonObject {
  const now = findDevice(raw, name);
  const { migration } = now;
  const place = isJsonObject(migration) ? migration[at] : undefined;
  if (!isJsonObject(place))
    throw new KeelError("E_NOT_FOUND", `device "${name}" is not being copied to another place`);
  return setDevice(raw, name, withSuspension(place, now));
}

export const isMigrating = (raw: JsonObject, name: string): boolean => {
  const { devices } = raw;
  const device = isJsonObject(devices) ? devices[name] : undefined;
  return isJsonObject(device) && device["migration"] !== undefined;
};

/** A list of parts that a device of this kind has. */
export function partsOfKind(raw: JsonObject, name: string, kind: "mirror" | "linear" | "stripe"): Json[] {
  const parts = findDevice(raw, name)[kind];
  if (Array.isArray(parts)) return parts;
  throw new KeelError("E_UNSUPPORTED", `device "${name}" is no ${kind}`);
}

export function addLeg(raw: JsonObject, mirror: string, device: string): JsonObject {
  const legs = partsOfKind(raw, mirror, "mirror");
  findDevice(raw, device);
  if (legs.includes(device)) throw new KeelError("E_EXISTS", `"${device}" is a leg of "${mirror}" already`);
  legs.push(device);
  return raw;
}

/** Where a leg stands in its mirror. */
export function findLeg(raw: JsonObject, mirror: string, leg: string): number {
  const legs = partsOfKind(raw, mirror, "mirror");
  const index = legs.indexOf(leg);
  const known = legs.filter((one) => typeof one === "string");
  if (index < 0)
    throw new KeelError("E_NOT_FOUND", `"${leg}" is no leg of "${mirror}".${didYouMean(leg, known)}`);
  return index;
}

export function removeLeg(raw: JsonObject, mirror: string, leg: string): JsonObject {
  const index = findLeg(raw, mirror, leg);
  const legs = partsOfKind(raw, mirror, "mirror");
  if (legs.length === 1) throw new KeelError("E_BUSY", `"${leg}" is the only leg of "${mirror}"`);
  legs.splice(index, 1);
  return raw;
}

export function replaceLeg(raw: JsonObject, mirror: string, leg: string, device: string): JsonObject {
  const index = findLeg(raw, mirror, leg);
  findDevice(raw, device);
  partsOfKind(raw, mirror, "mirror")[index] = device;
  return raw;
}

export function setResyncRate(raw: JsonObject, mirror: string, rate: string): JsonObject {
  partsOfKind(raw, mirror, "mirror");
  findDevice(raw, mirror)["resync_rate"] = rate;
  return raw;
}

export function growLinear(
  raw: JsonObject,
  name: string,
  part: { readonly device: string; readonly start: string | null; readonly size: string | null },
): JsonObject {
  const parts = partsOfKind(raw, name, "linear");
  findDevice(raw, part.device);
  const entry: JsonObject = { device: part.device };
  if (part.start !== null) entry["start"] = part.start;
  if (part.size !== null) entry["size"] = part.size;
  parts.push(part.start === null && part.size === null ? part.device : entry);
  return raw;
}
