// The vocabulary of "what should be" and "what is": devices, subsystems, namespaces, listeners, referrals. ts/config
// produces the first, ts/control keeps the second, and the difference of the two is a list of steps (config/diff.ts).
// Field names are those of the native specs, which add what only a running process has (descriptors).

import type { Family } from "./endpoint.js";

export type DeviceKind =
  | "ram"
  | "file"
  | "blockdev"
  | "null"
  | "delay"
  | "error"
  | "linear"
  | "stripe"
  | "mirror"
  | "nvme"
  | "tcmu"
  | "migration";

/** A range of another device. `sizeBytes` 0: up to the end of it. */
export type PartWanted = { device: string; startBytes: bigint; sizeBytes: bigint };

/** What becomes of requests when nothing is left that could answer them. */
export type WhenLost = "fail" | "freeze";

export type MirrorWanted = {
  /** 32 hexadecimal digits: a leg that belongs to another volume is not taken. */
  volume: string;
  /** 0: chosen by the size. */
  regionBytes: number;
  checksums: boolean;
  assumeClean: boolean;
  whenLost: WhenLost;
  resyncBytesPerSecond: bigint;
};

/** A namespace of another NVMe/TCP target. */
export type RemoteWanted = {
  addresses: string[];
  subnqn: string;
  hostnqn: string;
  /** 32 hexadecimal digits. */
  hostid: string;
  nsid: number;
  headerDigest: boolean;
  dataDigest: boolean;
  ioQueues: number;
  depth: number;
  katoMs: number;
  pingMs: number;
  timeoutMs: number;
  deadlineMs: number;
  whenLost: WhenLost;
};

/** A handler written for tcmu-runner. */
export type TcmuWanted = {
  handler: string;
  /** Empty: looked for by the handler's name. */
  library: string;
  configuration: string;
  timeoutMs: number;
  whenLost: "resend" | "fail";
};

export type MigrationWanted = { source: string; destination: string; bytesPerSecond: bigint };

export type DeviceWanted = {
  name: string;
  kind: DeviceKind;
  /** file: 0 takes the size that the file has. blockdev, delay, error: always 0, the medium decides. */
  sizeBytes: bigint;
  /** blockdev: 0 takes the logical block size that the medium has. */
  blockBytes: number;
  readOnly: boolean;
  path: string | null;
  create: boolean;
  base: string | null;
  readDelayUs: number;
  writeDelayUs: number;
  flushDelayUs: number;
  errorActions: string[];
  errorStatus: string | null;
  errorOffset: bigint;
  errorLength: bigint;
  errorCount: bigint;
  /** linear, stripe, mirror: what it is made of, in order. */
  parts: PartWanted[];
  chunkBytes: bigint;
  mirror: MirrorWanted | null;
  remote: RemoteWanted | null;
  tcmu: TcmuWanted | null;
  migration: MigrationWanted | null;
  /** ram: the name that its memory is kept under; null: its own. */
  memoryName: string | null;
  /** Its requests wait. */
  suspended: boolean;
};

/** The devices that one stands on. */
export const standsOn = (device: Pick<DeviceWanted, "base" | "parts" | "migration">): string[] => [
  ...(device.base === null ? [] : [device.base]),
  ...device.parts.map((part) => part.device),
  ...(device.migration === null ? [] : [device.migration.source, device.migration.destination]),
];

/** What was found out about a medium when it was first seen; given back when it is opened again. */
export type KnownFacts = {
  readonly sizeBytes: bigint;
  readonly blockBytes: number;
  readonly identity: string;
};

/** While a device is copied to another place, these are the names of the two places. */
export const sourceName = (name: string): string => `${name}@source`;
export const destinationName = (name: string): string => `${name}@destination`;

export type NamespaceWanted = {
  nsid: number;
  device: string;
  nguid: string;
  uuid: string;
  readOnly: boolean;
};

/** What becomes of commands that are in flight when the server dies. */
export const inFlightPolicies = ["replay", "abort", "drop"] as const;
export type InFlightPolicy = (typeof inFlightPolicies)[number];

export type SubsystemWanted = {
  /** The name in the configuration; the NQN is what hosts see. */
  name: string;
  nqn: string;
  serial: string;
  model: string;
  firmware: string;
  allowAnyHost: boolean;
  hosts: string[];
  inFlight: InFlightPolicy;
  cntlidMin: number;
  cntlidMax: number;
  namespaces: NamespaceWanted[];
};

/** Header and data digests: never, as the host asks, or always. */
export type DigestPolicy = "off" | "optional" | "required";

export type ListenerWanted = {
  id: string;
  address: string;
  family: Family;
  port: number;
  discoveryOnly: boolean;
  advertise: string | null;
  digests: DigestPolicy;
};

export type ReferralWanted = { address: string; family: Family; port: number; portId: number; nqn: string };

/** Devices in an order in which each comes after what it stacks on; the rest sorted by name. */
export type State = {
  readonly devices: readonly DeviceWanted[];
  readonly subsystems: readonly SubsystemWanted[];
  readonly listeners: readonly ListenerWanted[];
  readonly referrals: readonly ReferralWanted[];
};

export const emptyState: State = { devices: [], subsystems: [], listeners: [], referrals: [] };

/** What is laid out at start-up and stays until the process ends. */
export type Settings = {
  node: string;
  limits: {
    connections: number;
    connectionsPerHost: number;
    controllers: number;
    queuesPerController: number;
    queueEntries: number;
    memoryBytes: bigint;
    inCapsuleBytes: number;
    connectTimeoutMs: number;
    transferTimeoutMs: number;
    admissionTimeoutMs: number;
  };
  stateDirectory: string;
  rpcSocket: string;
  httpListen: { address: string; family: Family; port: number } | null;
};

export const logLevels = ["debug", "info", "warn", "error"] as const;
export type LogLevel = (typeof logLevels)[number];

/** A whole configuration with every default filled in. */
export type Desired = { readonly settings: Settings; readonly logLevel: LogLevel; readonly state: State };

/** What an error device can be told to answer; the names of block::Status. */
export const errorStatuses = [
  "out_of_range",
  "misaligned",
  "not_supported",
  "read_only",
  "no_space",
  "medium_error",
  "gone",
  "aborted",
  "busy",
  "internal_error",
] as const;

/** The names of block::Action. */
export const blockActions = ["read", "write", "flush", "write_zeroes", "deallocate"] as const;
