// The vocabulary of "what should be" and "what is": devices, subsystems, namespaces, listeners, referrals. ts/config
// produces the first, ts/control keeps the second, and the difference of the two is a list of steps (config/diff.ts).
// Field names are those of the native specs, which add what only a running process has (descriptors).

import type { Family } from "./endpoint.js";

export type DeviceKind = "ram" | "file" | "blockdev" | "null" | "delay" | "error";

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
};

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

export type ListenerWanted = {
  id: string;
  address: string;
  family: Family;
  port: number;
  discoveryOnly: boolean;
  advertise: string | null;
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

export type DigestPolicy = "off" | "optional" | "required";

/** What is laid out at start-up and stays until the process ends. */
export type Settings = {
  node: string;
  digests: { header: DigestPolicy; data: DigestPolicy };
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
