// The small command forms of DST, the distributed storage that was once part of Linux, as changes of the document: a
// storage is a linear, mirror or stripe device, its nodes are devices named after it, and what it exports is a
// subsystem. Both ends know a storage by its name alone, so its NQN follows from the name.

import { formatEndpoint, parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import { isJsonObject, type Json, type JsonObject, sameJson } from "../model/json.js";
import { addDevice, addSubsystem, partNames, removeDevice, removeSubsystem } from "./edit.js";
import { defaultNqn } from "./naming.js";
import { findDevice } from "./volume-edit.js";

export const algorithms = ["alg_linear", "alg_mirror", "alg_stripe"] as const;
export type Algorithm = (typeof algorithms)[number];

const keyOf: Readonly<Record<Algorithm, string>> = {
  alg_linear: "linear",
  alg_mirror: "mirror",
  alg_stripe: "stripe",
};

export const storageNqn = (storage: string): string => defaultNqn("dst", storage);

export type LocalNode = {
  readonly path: string;
  readonly kind: "file" | "blockdev";
  readonly size: string | null;
};
export type RemoteNode = {
  readonly address: string;
  readonly port: number;
  readonly nqn: string | null;
  readonly nsid: number | null;
};
export type DstNode = LocalNode | RemoteNode;

function nodeDevice(storage: string, node: DstNode): JsonObject {
  if ("path" in node) {
    const device: JsonObject = { [node.kind]: node.path };
    if (node.size !== null) {
      device["size"] = node.size;
      device["create"] = true;
    }
    return device;
  }
  const host =
    node.address.includes(":") && !node.address.startsWith("[") ? `[${node.address}]` : node.address;
  const endpoint = parseEndpoint(`${host}:${node.port}`);
  if (endpoint === null)
    throw new KeelError("E_USAGE", `"${node.address}" and ${node.port} are not an IP address and a port`);
  const device: JsonObject = { "nvme-tcp": formatEndpoint(endpoint), nqn: node.nqn ?? storageNqn(storage) };
  if (node.nsid !== null) device["nsid"] = node.nsid;
  return device;
}

/** The key that says the storage's algorithm, or null: it is no storage of several nodes. */
function algorithmKey(device: JsonObject): string | null {
  return Object.values(keyOf).find((key) => Array.isArray(device[key])) ?? null;
}

/** Creates the storage if `algorithm` is given, and adds a node to it. Answers the node's name. */
export function addNode(
  raw: JsonObject,
  storage: string,
  algorithm: Algorithm | null,
  node: DstNode,
  range: { readonly start: string | null; readonly size: string | null },
): string {
  const devices = isJsonObject(raw["devices"]) ? raw["devices"] : {};
  let number = 0;
  while (Object.hasOwn(devices, `${storage}-${number}`)) number += 1;
  const name = `${storage}-${number}`;
  const isRange = range.start !== null || range.size !== null;
  const part: Json = isRange ? withoutNulls({ device: name, start: range.start, size: range.size }) : name;
  addDevice(raw, name, nodeDevice(storage, node));
  if (algorithm !== null) {
    if (isRange && algorithm !== "alg_linear")
      throw new KeelError("E_USAGE", "only alg_linear takes ranges of its nodes");
    addDevice(raw, storage, { [keyOf[algorithm]]: [part] });
    return name;
  }
  const device = findDevice(raw, storage);
  const key = algorithmKey(device);
  const parts = key === null ? null : device[key];
  if (!Array.isArray(parts))
    throw new KeelError("E_UNSUPPORTED", `device "${storage}" has no algorithm that nodes could be added to`);
  if (isRange && key !== "linear")
    throw new KeelError("E_USAGE", "only alg_linear takes ranges of its nodes");
  parts.push(part);
  return name;
}

const withoutNulls = (values: Record<string, Json>): JsonObject =>
  Object.fromEntries(Object.entries(values).filter(([, value]) => value !== null));

/** Takes a node away from a mirror, by where it is. */
export function removeNode(raw: JsonObject, storage: string, node: DstNode): JsonObject {
  const device = findDevice(raw, storage);
  const wanted = nodeDevice(storage, node);
  const place = "path" in node ? node.kind : "nvme-tcp";
  const found = partNames(device).find((name) => {
    const present = findDevice(raw, name);
    return (
      sameJson(present[place], wanted[place]) &&
      (place !== "nvme-tcp" || sameJson(present["nqn"], wanted["nqn"]))
    );
  });
  if (found === undefined)
    throw new KeelError("E_NOT_FOUND", `storage "${storage}" has no such node`, {
      fix: `keel graph ${storage}`,
    });
  const legs = device["mirror"];
  if (!Array.isArray(legs)) {
    throw new KeelError("E_DATA_LOSS", `each node of storage "${storage}" holds a part of its content`, {
      fix: `keel device migrate ${found} moves a node elsewhere; keel dst -n ${storage} --remove removes the storage`,
    });
  }
  device["mirror"] = legs.filter((leg) => leg !== found);
  return removeDevice(raw, found);
}

/** Exports the storage, or one disk under the storage's name. */
export function startStorage(raw: JsonObject, storage: string, hosts: readonly string[]): JsonObject {
  findDevice(raw, storage);
  const allowed: Json = hosts.length === 0 || hosts.includes("any") ? "any" : [...hosts];
  return addSubsystem(raw, storage, {
    nqn: storageNqn(storage),
    namespaces: [{ id: 1, device: storage }],
    hosts: allowed,
  });
}

/** A disk that another machine uses as a node of the storage of that name. */
export function exportDisk(
  raw: JsonObject,
  storage: string,
  node: LocalNode,
  hosts: readonly string[],
): JsonObject {
  return startStorage(addDevice(raw, storage, nodeDevice(storage, node)), storage, hosts);
}

export const stopStorage = (raw: JsonObject, storage: string): JsonObject =>
  removeSubsystem(raw, "dst", storage);

/** The storage, what it exports and its nodes; what the nodes hold stays. */
export function removeStorage(raw: JsonObject, storage: string): JsonObject {
  const parts = partNames(findDevice(raw, storage));
  const { subsystems } = raw;
  if (isJsonObject(subsystems) && Object.hasOwn(subsystems, storage)) stopStorage(raw, storage);
  removeDevice(raw, storage);
  for (const part of new Set(parts)) {
    if (part.startsWith(`${storage}-`)) removeDevice(raw, part);
  }
  return raw;
}
