// What `keel ls` and `keel hosts` list: one row per exported namespace, one row per connected host.

import { formatUuid } from "./ids.js";
import type { DeviceReport, ServerStatus } from "./status.js";

export type ShareRow = {
  name: string;
  front: string;
  nsid: number;
  sizeBytes: number;
  back: string;
  hosts: number;
  allowed: string;
  state: string;
  nqn: string;
  uuid: string;
};

/** "delay(ram d0)", "mirror(a, b)", "file /srv/pg.img": what stands below, for people. */
export function describeDevice(name: string, devices: readonly DeviceReport[], depth = 0): string {
  const device = devices.find((candidate) => candidate.name === name);
  if (device === undefined || depth > 8) return name;
  if (device.base !== null) return `${device.kind}(${describeDevice(device.base, devices, depth + 1)})`;
  if (device.parts.length > 0) return `${device.kind}(${device.parts.join(", ")})`;
  return device.path === null ? `${device.kind} ${device.name}` : `${device.kind} ${device.path}`;
}

export function shareRows(status: ServerStatus): ShareRow[] {
  return status.subsystems.flatMap((subsystem) => {
    const count = subsystem.hosts.length;
    const common = {
      name: subsystem.name,
      front: "nvme-tcp",
      hosts: subsystem.connectedHosts,
      allowed: subsystem.allowAnyHost ? "any" : count === 0 ? "nobody" : String(count),
      nqn: subsystem.nqn,
    };
    if (subsystem.namespaces.length === 0) {
      return [{ ...common, nsid: 0, sizeBytes: 0, back: "no namespace", state: "empty", uuid: "" }];
    }
    return subsystem.namespaces.map((namespace) => ({
      ...common,
      nsid: namespace.nsid,
      sizeBytes: namespace.sizeBytes,
      back: describeDevice(namespace.device, status.devices),
      state: namespace.state === "ok" && namespace.readOnly ? "ok, read-only" : namespace.state,
      uuid: formatUuid(namespace.uuid),
    }));
  });
}

export type HostRow = {
  host: string;
  address: string;
  subsystem: string;
  queuePairs: number;
  connectedMs: number;
  digest: string;
  state: string;
  cntlid: number;
  inFlight: number;
};

export function hostRows(status: ServerStatus): HostRow[] {
  return status.controllers.map((controller) => {
    const queues = status.connections.filter(
      (one) => one.cntlid === controller.cntlid && one.subsystem === controller.subsystem,
    );
    const digests = [
      queues.some((one) => one.headerDigest) ? "header" : "",
      queues.some((one) => one.dataDigest) ? "data" : "",
    ].filter((text) => text !== "");
    const subsystem = status.subsystems.find(({ nqn }) => nqn === controller.subsystem);
    return {
      host: controller.hostNqn,
      address: controller.address,
      subsystem: controller.discovery ? "(discovery)" : (subsystem?.name ?? controller.subsystem),
      queuePairs: queues.length,
      connectedMs: Math.max(0, status.nowMs - controller.connectedSinceMs),
      digest: digests.length === 0 ? "off" : digests.join("+"),
      state: controller.state,
      cntlid: controller.cntlid,
      inFlight: controller.commandsInFlight,
    };
  });
}
