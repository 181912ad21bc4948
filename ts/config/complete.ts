// A checked document to the complete desired state: every default filled in, nothing left for the native side to
// decide. Pure: identities come from the server's UUID and what was recorded before.

import { join } from "node:path";
import { formatEndpoint, parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import {
  type HostIdentity,
  hostIdentity,
  mirrorVolume,
  namespaceIdentity,
  subsystemSerial,
} from "../model/identity.js";
import { discoveryNqn, type Hex128, namespaceKey, parseHex128 } from "../model/ids.js";
import {
  blockActions,
  type Desired,
  type DeviceWanted,
  destinationName,
  type ListenerWanted,
  type ReferralWanted,
  type Settings,
  type SubsystemWanted,
  sourceName,
} from "../model/state.js";
import { type DefaultPaths, defaultEndpoints, defaultNqn, partsOf } from "./naming.js";
import type { ConfigDocument, DeviceDocument, PlainDeviceDocument } from "./schema.js";

/** What was given out once and must stay: by "nqn nsid", by "nqn", and by the name of a mirror. */
export type Identities = {
  readonly server: Hex128;
  readonly namespaces: Readonly<Record<string, { readonly uuid: string; readonly nguid: string }>>;
  readonly serials: Readonly<Record<string, string>>;
  readonly volumes: Readonly<Record<string, string>>;
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
  parts: [],
  chunkBytes: 0n,
  mirror: null,
  remote: null,
  tcmu: null,
  migration: null,
  memoryName: null,
  suspended: false,
};

const remoteDefaults = {
  queues: 2,
  depth: 128,
  katoMs: 5_000,
  pingMs: 1_000,
  timeoutMs: 5_000,
  deadlineMs: 60_000,
  /** Of a mirror's leg: the others go on without it long before hosts lose their patience (Linux: 30 s). */
  legDeadlineMs: 5_000,
};
const tcmuTimeoutMs = 30_000;
const defaultChunkBytes = 64n << 10n;

type Remote = Extract<PlainDeviceDocument, { "nvme-tcp": string }>;
type Mirror = Extract<PlainDeviceDocument, { mirror: string[] }>;
type Tcmu = Extract<PlainDeviceDocument, { tcmu: string }>;

function completeRemote(
  device: Remote,
  own: HostIdentity,
  leg: boolean,
): NonNullable<DeviceWanted["remote"]> {
  const digests = device.digests ?? "off";
  const { hostnqn, hostid } = device.host_nqn === undefined ? own : hostIdentityFor(device.host_nqn, own);
  return {
    addresses: [device["nvme-tcp"], ...(device.addresses ?? [])].map((text) =>
      formatEndpoint(endpointOf(text)),
    ),
    subnqn: device.nqn,
    hostnqn,
    hostid,
    nsid: device.nsid ?? 1,
    headerDigest: digests === "header" || digests === "both",
    dataDigest: digests === "data" || digests === "both",
    ioQueues: device.queues ?? remoteDefaults.queues,
    depth: device.depth ?? remoteDefaults.depth,
    katoMs: ms(device.keep_alive, remoteDefaults.katoMs),
    pingMs: ms(device.ping, remoteDefaults.pingMs),
    timeoutMs: ms(device.timeout, remoteDefaults.timeoutMs),
    deadlineMs: ms(device.deadline, leg ? remoteDefaults.legDeadlineMs : remoteDefaults.deadlineMs),
    whenLost: device.when_lost ?? "fail",
  };
}

/** A host NQN that is made of a UUID brings its host identifier with it. */
function hostIdentityFor(hostnqn: string, own: HostIdentity): HostIdentity {
  const uuid = /:uuid:([0-9a-fA-F-]{36})$/.exec(hostnqn)?.[1] ?? "";
  return { hostnqn, hostid: parseHex128(uuid) ?? own.hostid };
}

const completeMirror = (device: Mirror, volume: string): NonNullable<DeviceWanted["mirror"]> => ({
  volume: device.volume === undefined ? volume : (parseHex128(device.volume) ?? volume),
  regionBytes: Number(device.region ?? 0n),
  checksums: device.checksums ?? false,
  assumeClean: device.assume_clean ?? false,
  whenLost: device.when_lost ?? "freeze",
  resyncBytesPerSecond: device.resync_rate ?? 0n,
});

const completeTcmu = (device: Tcmu): NonNullable<DeviceWanted["tcmu"]> => ({
  handler: device.tcmu,
  library: device.handler ?? "",
  configuration: device.path ?? "",
  timeoutMs: ms(device.timeout, tcmuTimeoutMs),
  whenLost: device.when_lost ?? "resend",
});

/** `leg`: whether a mirror stands on it, on whatever way. */
function completeDevice(
  name: string,
  device: PlainDeviceDocument,
  identities: Identities,
  leg: boolean,
): DeviceWanted {
  const parts = partsOf(device).map(({ part }) => ({
    device: part.device,
    startBytes: part.start,
    sizeBytes: part.size,
  }));
  const base = {
    name,
    ...plainDevice,
    readOnly: "read_only" in device ? (device.read_only ?? false) : false,
    blockBytes: "block_size" in device ? (device.block_size ?? defaultBlockBytes) : defaultBlockBytes,
    suspended: device.suspended ?? false,
  };
  if ("ram" in device)
    return { ...base, kind: "ram", sizeBytes: device.ram, memoryName: device.memory ?? null };
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
  if ("linear" in device) return { ...base, kind: "linear", parts };
  if ("stripe" in device) {
    return { ...base, kind: "stripe", parts, chunkBytes: device.chunk ?? defaultChunkBytes };
  }
  if ("mirror" in device) {
    const volume = identities.volumes[name] ?? mirrorVolume(identities.server, name);
    return { ...base, kind: "mirror", parts, mirror: completeMirror(device, volume) };
  }
  if ("nvme-tcp" in device) {
    return { ...base, kind: "nvme", remote: completeRemote(device, hostIdentity(identities.server), leg) };
  }
  if ("tcmu" in device)
    return { ...base, kind: "tcmu", sizeBytes: device.size ?? 0n, tcmu: completeTcmu(device) };
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

/** A device that is being copied to another place is three: the two places, and itself over both. */
function completeDevices(
  name: string,
  device: DeviceDocument,
  identities: Identities,
  leg: boolean,
): DeviceWanted[] {
  if (!("migration" in device)) return [completeDevice(name, device, identities, leg)];
  const { source, destination, rate } = device.migration;
  const from = completeDevice(sourceName(name), source, identities, leg);
  const to = completeDevice(destinationName(name), destination, identities, leg);
  return [
    // The source was made under the device's own name, and its memory is still kept under that.
    { ...from, memoryName: from.kind === "ram" ? (from.memoryName ?? name) : null },
    to,
    {
      name,
      ...plainDevice,
      kind: "migration",
      migration: { source: from.name, destination: to.name, bytesPerSecond: rate ?? 0n },
      suspended: device.suspended ?? false,
    },
  ];
}

/** What others stand on comes first. The document has been checked for circles. */
function devicesInOrder(
  devices: Readonly<Record<string, DeviceDocument>>,
  identities: Identities,
): DeviceWanted[] {
  const ordered = new Map<string, readonly DeviceWanted[]>();
  const users = new Map(
    Object.entries(devices).flatMap(([user, device]) =>
      partsOf(device).map(({ part }): [string, string] => [part.device, user]),
    ),
  );
  const isLeg = (name: string): boolean => {
    const user = users.get(name);
    const device = user === undefined ? undefined : devices[user];
    return user !== undefined && device !== undefined && ("mirror" in device || isLeg(user));
  };
  const visit = (name: string): void => {
    const device = devices[name];
    if (device === undefined || ordered.has(name)) return;
    for (const { part } of partsOf(device)) visit(part.device);
    ordered.set(name, completeDevices(name, device, identities, isLeg(name)));
  };
  for (const name of Object.keys(devices).sort()) visit(name);
  return [...ordered.values()].flat();
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
        digests: "digests" in entry ? (entry.digests ?? "optional") : "optional",
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
  const connections = limits.connections ?? 2048;
  return {
    node,
    limits: {
      connections,
      connectionsPerHost: Math.min(limits.connections_per_host ?? 1024, connections),
      controllers: limits.controllers ?? 1024,
      queuesPerController: limits.queues_per_controller ?? 64,
      queueEntries: limits.queue_entries ?? 1024,
      memoryBytes: limits.memory ?? 64n << 20n,
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
      devices: devicesInOrder(document.devices ?? {}, context.identities),
      subsystems: completeSubsystems(document, node, context),
      listeners: completeListeners(document),
      referrals: completeReferrals(document),
    },
  };
}
