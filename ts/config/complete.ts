// A checked document to the complete desired state: every default filled in, nothing left for the native side to
// decide. Pure: identities come from the server's UUID and what was recorded before.

import { join } from "node:path";
import { formatEndpoint, parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import { namespaceIdentity, subsystemSerial } from "../model/identity.js";
import { discoveryNqn, type Hex128, parseHex128 } from "../model/ids.js";
import {
  blockActions,
  type Desired,
  type DeviceWanted,
  type ListenerWanted,
  type ReferralWanted,
  type Settings,
  type SubsystemWanted,
} from "../model/state.js";
import { baseOf, type DefaultPaths, defaultEndpoints, defaultNqn } from "./naming.js";
import type { ConfigDocument, DeviceDocument } from "./schema.js";

/** What was given to hosts once and must stay: by "nqn nsid" and by "nqn". */
export type Identities = {
  readonly server: Hex128;
  readonly namespaces: Readonly<Record<string, { readonly uuid: string; readonly nguid: string }>>;
  readonly serials: Readonly<Record<string, string>>;
};

export type Context = {
  readonly node: string;
  readonly paths: DefaultPaths;
  readonly identities: Identities;
  /** At most 8 characters, as Identify Controller shows it. */
  readonly firmware: string;
};

const cntlidMax = 0xffef;
const defaultBlockBytes = 4096;
const ms = (microseconds: number | undefined, otherwise: number): number =>
  microseconds === undefined ? otherwise : Math.ceil(microseconds / 1000);

export const namespaceKey = (nqn: string, nsid: number): string => `${nqn} ${nsid}`;

const plainDevice: Omit<DeviceWanted, "name" | "kind"> = {
  sizeBytes: 0n,
  blockBytes: defaultBlockBytes,
  readOnly: false,
  path: null,
  create: false,
  base: null,
  readDelayUs: 0,
  writeDelayUs: 0,
  flushDelayUs: 0,
  errorActions: [],
  errorStatus: null,
  errorOffset: 0n,
  errorLength: 0n,
  errorCount: 0n,
};

function completeDevice(name: string, device: DeviceDocument): DeviceWanted {
  const common = "delay" in device || "error" in device ? {} : { readOnly: device.read_only ?? false };
  const blockBytes =
    "block_size" in device && device.block_size !== undefined ? device.block_size : defaultBlockBytes;
  const base = { name, ...plainDevice, ...common, blockBytes };
  if ("ram" in device) return { ...base, kind: "ram", sizeBytes: device.ram };
  if ("null" in device) return { ...base, kind: "null", sizeBytes: device.null };
  if ("file" in device) {
    return {
      ...base,
      kind: "file",
      path: device.file,
      sizeBytes: device.size ?? 0n,
      create: device.create ?? false,
    };
  }
  if ("blockdev" in device) {
    return { ...base, kind: "blockdev", path: device.blockdev, blockBytes: device.block_size ?? 0 };
  }
  if ("delay" in device) {
    return {
      ...base,
      kind: "delay",
      base: device.delay,
      readDelayUs: device.read ?? 0,
      writeDelayUs: device.write ?? 0,
      flushDelayUs: device.flush ?? 0,
    };
  }
  return {
    ...base,
    kind: "error",
    base: device.error,
    errorActions: device.on === undefined ? [...blockActions] : [...device.on],
    errorStatus: device.status ?? "medium_error",
    errorOffset: device.offset ?? 0n,
    errorLength: device.length ?? 0n,
    errorCount: BigInt(device.count ?? 0),
  };
}

/** What others stand on comes first. The document has been checked for circles. */
function devicesInOrder(devices: Readonly<Record<string, DeviceDocument>>): DeviceWanted[] {
  const ordered = new Map<string, DeviceWanted>();
  const visit = (name: string): void => {
    const device = devices[name];
    if (device === undefined || ordered.has(name)) return;
    const base = baseOf(device);
    if (base !== null) visit(base);
    ordered.set(name, completeDevice(name, device));
  };
  for (const name of Object.keys(devices).sort()) visit(name);
  return [...ordered.values()];
}

function completeSubsystems(document: ConfigDocument, node: string, context: Context): SubsystemWanted[] {
  const { identities } = context;
  return Object.entries(document.subsystems ?? {})
    .map(([name, subsystem]): SubsystemWanted => {
      const nqn = subsystem.nqn ?? defaultNqn(node, name);
      const hosts = subsystem.hosts ?? [];
      return {
        name,
        nqn,
        serial: subsystem.serial ?? identities.serials[nqn] ?? subsystemSerial(identities.server, nqn),
        model: subsystem.model ?? "Evenkeel",
        firmware: context.firmware,
        allowAnyHost: hosts === "any",
        hosts: hosts === "any" ? [] : [...hosts].sort(),
        inFlight: subsystem.in_flight ?? "replay",
        cntlidMin: 1,
        cntlidMax,
        namespaces: (subsystem.namespaces ?? [])
          .map((namespace) => {
            const identity =
              identities.namespaces[namespaceKey(nqn, namespace.id)] ??
              namespaceIdentity(identities.server, nqn, namespace.id);
            return {
              nsid: namespace.id,
              device: namespace.device,
              uuid:
                namespace.uuid === undefined ? identity.uuid : (parseHex128(namespace.uuid) ?? identity.uuid),
              nguid:
                namespace.nguid === undefined
                  ? identity.nguid
                  : (parseHex128(namespace.nguid) ?? identity.nguid),
              readOnly: namespace.read_only ?? false,
            };
          })
          .sort((left, right) => left.nsid - right.nsid),
      };
    })
    .sort((left, right) => (left.nqn < right.nqn ? -1 : 1));
}

const defaultListen: NonNullable<ConfigDocument["listen"]> = [
  { "nvme-tcp": defaultEndpoints.nvmeTcp },
  { discovery: defaultEndpoints.discovery },
];

function endpointOf(text: string): { address: string; family: "ipv4" | "ipv6"; port: number } {
  const endpoint = parseEndpoint(text);
  if (endpoint === null) throw new KeelError("E_INTERNAL", `"${text}" passed the checks and is no endpoint`);
  return endpoint;
}

function completeListeners(document: ConfigDocument): ListenerWanted[] {
  return (document.listen ?? defaultListen)
    .map((entry): ListenerWanted => {
      const discoveryOnly = "discovery" in entry;
      const endpoint = endpointOf(discoveryOnly ? entry.discovery : entry["nvme-tcp"]);
      const kind = discoveryOnly ? "discovery" : "nvme-tcp";
      return {
        id: `${kind} ${formatEndpoint(endpoint)}`,
        ...endpoint,
        discoveryOnly,
        advertise: entry.advertise ?? null,
      };
    })
    .sort((left, right) => (left.id < right.id ? -1 : 1));
}

function completeReferrals(document: ConfigDocument): ReferralWanted[] {
  return (document.referrals ?? []).map((referral, index) => ({
    ...endpointOf(referral.address),
    portId: index + 1,
    nqn: referral.nqn ?? discoveryNqn,
  }));
}

export const logLevelOf = (document: ConfigDocument) => document.log?.level ?? "info";

function rpcSocketOf(document: ConfigDocument, paths: DefaultPaths): string {
  const { sockets } = document;
  return typeof sockets === "string" ? join(sockets, "rpc.sock") : (sockets?.rpc ?? paths.rpcSocket);
}

export function completeSettings(document: ConfigDocument, node: string, paths: DefaultPaths): Settings {
  const limits = document.limits ?? {};
  const first = (document.listen ?? defaultListen).find((entry) => "nvme-tcp" in entry);
  const digests = first !== undefined && "nvme-tcp" in first ? (first.digests ?? "optional") : "optional";
  const connections = limits.connections ?? 2048;
  return {
    node,
    digests: { header: digests, data: digests },
    limits: {
      connections,
      connectionsPerHost: Math.min(limits.connections_per_host ?? 1024, connections),
      controllers: limits.controllers ?? 1024,
      queuesPerController: limits.queues_per_controller ?? 64,
      queueEntries: limits.queue_entries ?? 1024,
      memoryBytes: limits.memory ?? 128n << 20n,
      inCapsuleBytes: Number(limits.in_capsule ?? 8192n),
      connectTimeoutMs: ms(limits.connect_timeout, 10_000),
      transferTimeoutMs: ms(limits.transfer_timeout, 30_000),
      admissionTimeoutMs: ms(limits.admission_timeout, 2_000),
    },
    stateDirectory: document.state ?? paths.state,
    rpcSocket: rpcSocketOf(document, paths),
    httpListen: document.http === undefined ? null : endpointOf(document.http.listen),
  };
}

export function complete(document: ConfigDocument, context: Context): Desired {
  const node = document.node ?? context.node;
  return {
    settings: completeSettings(document, node, context.paths),
    logLevel: logLevelOf(document),
    state: {
      devices: devicesInOrder(document.devices ?? {}),
      subsystems: completeSubsystems(document, node, context),
      listeners: completeListeners(document),
      referrals: completeReferrals(document),
    },
  };
}
