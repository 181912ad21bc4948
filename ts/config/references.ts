// What refers to what within one document: names that must exist, things that must be unique, devices that one owner
// alone may write. What shapes cannot say.

import { formatEndpoint, parseEndpoint } from "../model/endpoint.js";
import type { ErrorCode } from "../model/errors.js";
import { discoveryNqn } from "../model/ids.js";
import { didYouMean } from "../model/nearest.js";
import type { Issue } from "./issue.js";
import { defaultNqn } from "./naming.js";
import type { ConfigDocument } from "./schema.js";
import { checkStacks, isReadOnly } from "./stacks.js";
import type { PathPart, Places } from "./yaml.js";

export function checkReferences(document: ConfigDocument, node: string, places: Places | null): Issue[] {
  const issues: Issue[] = [];
  const add = (code: ErrorCode, path: readonly PathPart[], message: string): void => {
    issues.push({ code, position: places?.value(path) ?? null, path, message });
  };
  const devices = document.devices ?? {};
  const names = Object.keys(devices);
  /** Who has a device for itself, in words. */
  const users = new Map<string, { user: string; writes: boolean }>();
  const claim = (device: string, user: string, writes: boolean, path: readonly PathPart[]): void => {
    const other = users.get(device);
    if (other !== undefined && (other.writes || writes)) {
      add(
        "E_CONFIG_REFERENCE",
        path,
        `device "${device}" is used by ${other.user} already; one owner alone may write`,
      );
      return;
    }
    users.set(device, { user, writes });
  };

  checkStacks(devices, add, claim);

  const nqns = new Map<string, string>();
  const uuids = new Map<string, string>();
  for (const [name, subsystem] of Object.entries(document.subsystems ?? {})) {
    const nqn = subsystem.nqn ?? defaultNqn(node, name);
    const nqnPath = ["subsystems", name, ...(subsystem.nqn === undefined ? [] : ["nqn"])];
    const other = nqns.get(nqn);
    if (nqn === discoveryNqn) add("E_CONFIG_VALUE", nqnPath, "this NQN belongs to discovery");
    if (nqn.length > 223)
      add("E_CONFIG_VALUE", nqnPath, "the NQN made from node and name is longer than 223 bytes; give one");
    if (other !== undefined)
      add("E_CONFIG_VALUE", nqnPath, `subsystem "${other}" has the NQN ${nqn} already`);
    nqns.set(nqn, name);

    const ids = new Set<number>();
    for (const [index, namespace] of (subsystem.namespaces ?? []).entries()) {
      const path = ["subsystems", name, "namespaces", index];
      if (ids.has(namespace.id))
        add("E_CONFIG_VALUE", [...path, "id"], `namespace ${namespace.id} exists twice`);
      ids.add(namespace.id);
      const device = devices[namespace.device];
      if (device === undefined) {
        const guess = didYouMean(namespace.device, names);
        add("E_CONFIG_REFERENCE", [...path, "device"], `there is no device "${namespace.device}".${guess}`);
      } else {
        const writes = namespace.read_only !== true && !isReadOnly(device);
        claim(namespace.device, `subsystem "${name}" namespace ${namespace.id}`, writes, [...path, "device"]);
      }
      for (const key of ["uuid", "nguid"] as const) {
        const value = namespace[key]?.replaceAll("-", "").toLowerCase();
        if (value === undefined) continue;
        const user = uuids.get(`${key} ${value}`);
        if (user !== undefined)
          add("E_CONFIG_VALUE", [...path, key], `${user} has this ${key.toUpperCase()} already`);
        uuids.set(`${key} ${value}`, `subsystem "${name}" namespace ${namespace.id}`);
      }
    }
    if (Array.isArray(subsystem.hosts)) {
      for (const [index, host] of subsystem.hosts.entries()) {
        if (subsystem.hosts.indexOf(host) !== index) {
          add("E_CONFIG_VALUE", ["subsystems", name, "hosts", index], `${host} stands here twice`);
        }
      }
    }
  }

  const limits = document.limits;
  if (limits?.memory !== undefined && (limits.memory < 4n << 20n || limits.memory > 1n << 40n)) {
    add("E_CONFIG_VALUE", ["limits", "memory"], "is not between 4MiB and 1TiB");
  }
  if (limits?.in_capsule !== undefined && (limits.in_capsule > 65536n || limits.in_capsule % 4096n !== 0n)) {
    add("E_CONFIG_VALUE", ["limits", "in_capsule"], "is not a multiple of 4KiB up to 64KiB");
  }
  for (const key of ["connect_timeout", "transfer_timeout", "admission_timeout"] as const) {
    const value = limits?.[key];
    if (value !== undefined && (value < 100_000 || value > 600_000_000)) {
      add("E_CONFIG_VALUE", ["limits", key], "is not between 100ms and 10m");
    }
  }

  const endpoints = new Set<string>();
  for (const [index, entry] of (document.listen ?? []).entries()) {
    const kind = "discovery" in entry ? "discovery" : "nvme-tcp";
    const endpoint = parseEndpoint("discovery" in entry ? entry.discovery : entry["nvme-tcp"]);
    const text = endpoint === null ? "" : formatEndpoint(endpoint);
    if (endpoints.has(text) && endpoint?.port !== 0) {
      add("E_CONFIG_VALUE", ["listen", index, kind], `${text} stands here twice`);
    }
    endpoints.add(text);
  }
  return issues;
}
