// The typed surface of the native addon (native/binding). The only file that loads it.
//
// The same names stand in native/binding (what the status passes on as it is, in model/status.ts); absent is null, never
// a missing property; options are complete before they cross. Sizes and byte counts are bigint, counts and times are
// number. Every promise is settled by the reactor thread's answer; errors are plain objects { code: "E_…", message,
// errorNumber } and become KeelError in ts/control.

import { createRequire } from "node:module";
import type {
  ConnectionReport,
  ControllerReport,
  KeeperReport,
  ListenerReport,
  NamespaceReport,
  RestartsReport,
} from "../model/status.js";

export type EngineOptions = {
  /** Descriptor of the arena memory file that a keeper holds; null: the engine makes its own (private to this process). */
  arenaDescriptor: number | null;
  /** Descriptor of the data buffers' memory file, likewise. */
  dataDescriptor: number | null;
  dataPoolBytes: bigint;
  connectionsMax: number;
  connectionsPerHostMax: number;
  controllersMax: number;
  inCapsuleBytesIo: number;
  maxQueueEntries: number;
  ioQueuesPerControllerMax: number;
  /** Seconds without progress after which a connection that owes bytes (half-open, stuck handshake) is closed. */
  connectTimeoutMs: number;
  transferTimeoutMs: number;
  /** Admission by TypeScript has this long; then the host gets a status that it may retry. */
  admissionTimeoutMs: number;
  serverName: string;
  /** Starting value of the discovery generation counter, from the durable directory. */
  discoveryGeneration: bigint;
};

/** A part of a volume: a range of another device. */
export type PartSpec = { device: string; startBytes: bigint; sizeBytes: bigint };

export type MirrorSpec = {
  /** 32 hexadecimal digits: a leg of another volume is foreign. */
  volume: string;
  /** One bit of the dirty bitmap; 0: chosen by the size. */
  regionBytes: number;
  checksums: boolean;
  assumeClean: boolean;
  whenLost: "fail" | "freeze";
  resyncBytesPerSecond: bigint;
};

export type RemoteSpec = {
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
  whenLost: "fail" | "freeze";
};

export type TcmuSpec = {
  handler: string;
  library: string;
  configuration: string;
  timeoutMs: number;
  whenLost: "resend" | "fail";
};

export type MigrationSpec = { source: string; destination: string; bytesPerSecond: bigint };

/** What was found out when the device was first opened, given back at each later start. */
export type KnownFacts = { sizeBytes: bigint; blockBytes: number; identity: string };

export type DeviceSpec = {
  name: string;
  /** One of the table in native/block/kinds.cc. */
  kind: string;
  sizeBytes: bigint;
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
  /** linear, stripe, mirror */
  parts: PartSpec[];
  /** stripe */
  chunkBytes: bigint;
  mirror: MirrorSpec | null;
  remote: RemoteSpec | null;
  tcmu: TcmuSpec | null;
  migration: MigrationSpec | null;
  /** ram: the name under which its memory is kept; null: the device's. */
  memoryName: string | null;
  known: KnownFacts | null;
  /** Begins suspended. */
  suspended: boolean;
  /** A descriptor of the memory that a ram device lives in, held by a keeper; null: the engine makes it. */
  memoryDescriptor: number | null;
};

export type DeviceStatus = {
  name: string;
  kind: string;
  sizeBytes: bigint;
  blockBytes: number;
  physicalBlockBytes: number;
  readOnly: boolean;
  volatileCache: boolean;
  canDeallocate: boolean;
  canWriteZeroes: boolean;
  rotational: boolean;
  state: string;
  reason: string;
  inFlight: number;
  errors: number;
  /** read, write, flush, write_zeroes, deallocate */
  completed: number[];
  bytes: number[];
  claimedBy: string[];
  /** Of the medium, as far as it tells; empty: none, or not known yet. */
  identity: string;
  /** By suspendDevice. */
  suspended: boolean;
  /** What only its kind has to tell: keys in snake_case, a repeated part's name between dots. */
  details: [string, string | bigint][];
  /** The devices that it stands on. */
  parts: string[];
};

export type SubsystemSpec = {
  nqn: string;
  serial: string;
  model: string;
  firmware: string;
  allowAnyHost: boolean;
  hosts: string[];
  /** What becomes of commands that are in flight when the server dies: executed again, answered as to be retried, or
   * their connection is closed. */
  inFlight: "replay" | "abort" | "drop";
  cntlidMin: number;
  cntlidMax: number;
};

export type NamespaceSpec = {
  nsid: number;
  device: string;
  /** 32 hexadecimal digits each. */
  nguid: string;
  uuid: string;
  readOnly: boolean;
  /** What a host had set (Namespace Write Protection state), for a namespace that a carried arena does not know. */
  writeProtection: number;
};

export type ListenerSpec = {
  id: string;
  address: string;
  family: "ipv4" | "ipv6";
  /** 0: any free port. */
  port: number;
  discoveryOnly: boolean;
  /** What discovery tells hosts; null: `address` (or, if that is a wildcard, the address the host came to). */
  advertise: string | null;
  /** Header and data digests of connections that come from now on. */
  digests: "off" | "optional" | "required";
  /** A listening descriptor that a keeper holds; null: the engine binds. */
  descriptor: number | null;
};

export type Referral = {
  address: string;
  family: "ipv4" | "ipv6";
  port: number;
  portId: number;
  nqn: string;
};

export type NamespaceStatus = Omit<NamespaceReport, "sizeBytes" | "state"> & { blocks: bigint };

export type SubsystemStatus = {
  nqn: string;
  serial: string;
  model: string;
  allowAnyHost: boolean;
  hosts: string[];
  namespaces: NamespaceStatus[];
};

export type EngineStatus = {
  version: string;
  devices: DeviceStatus[];
  subsystems: SubsystemStatus[];
  controllers: ControllerReport[];
  connections: ConnectionReport[];
  listeners: ListenerReport[];
  discoveryGeneration: bigint;
  dataPoolBytes: bigint;
  dataPoolUsedBytes: bigint;
  reactorCpuNs: number;
  reactorIterations: number;
  /** Why connections ended, by cause. */
  disconnects: Record<string, number>;
  connectionsAccepted: number;
  connectionsRefused: number;
};

export type EngineEvent =
  | {
      type: "connect";
      request: number;
      subsystem: string;
      hostNqn: string;
      hostId: string;
      peerAddress: string;
      peerPort: number;
    }
  /** Holds, and is answered to the host, once `admit` says that it is kept durably. */
  | {
      type: "write-protection";
      request: number;
      subsystem: string;
      nsid: number;
      nguid: string;
      state: number;
    }
  | { type: "log"; level: "debug" | "info" | "warn" | "error"; area: string; message: string }
  | {
      type: "controller";
      change: "connected" | "disconnected";
      subsystem: string;
      hostNqn: string;
      cntlid: number;
      reason: string;
    }
  | { type: "discovery-generation"; generation: bigint }
  | { type: "device"; device: string; state: string; reason: string }
  | { type: "restart-failed"; reason: string };

export type Takeover = {
  /** There is a keeper: this process may die at any moment. */
  kept: boolean;
  /** A predecessor's state is there and can be read. */
  carried: boolean;
  /** start, keeper, crash, watchdog, upgrade */
  reason: string;
  /** Of the predecessor: "signal:9", "code:1"; empty if there was none. */
  exit: string;
  previousPid: number;
  restarts: number;
};

export type Adoption = {
  carriedArena: boolean;
  /** Connections that go on. */
  carried: number;
  /** Connections that had been accepted but not read. */
  begun: number;
  /** Commands that were in flight and were executed again. */
  executed: number;
  /** A line for each connection that could not go on. */
  refused: string[];
};

export type LastPdu = {
  timeNs: bigint;
  type: string;
  cid: number;
  opcode: number;
  bytes: number;
  streamOffset: bigint;
  /** Data PDUs: data offset; capsules: low half of the starting LBA; responses: status. */
  detail: number;
};

export type LastPdus = {
  connection: number;
  hostNqn: string;
  qid: number;
  received: bigint;
  sent: bigint;
  commandsInFlight: number;
  /** Oldest first. */
  pdus: LastPdu[];
};

export type LoadOptions = {
  address: string;
  port: number;
  subsystem: string;
  hostNqn: string;
  nsid: number;
  headerDigest: boolean;
  dataDigest: boolean;
  connections: number;
  depth: number;
  ioBytes: number;
  readPercent: number;
  sequential: boolean;
  /** Every write carries a pattern that every read checks. */
  verify: boolean;
  /** Ends after so many commands, or (0) after `seconds`. */
  count: number;
  seconds: number;
  seed: number;
};

export type LoadResult = {
  commands: number;
  reads: number;
  writes: number;
  verifiedBlocks: number;
  errors: string[];
  seconds: number;
  iops: number;
  bytesPerSecond: number;
  meanUs: number;
  p50Us: number;
  p99Us: number;
  p9999Us: number;
  maxUs: number;
  longestGapMs: number;
};

export type NativeEngine = {
  /** Starts the reactor thread. `onEvent` is called on the main thread, in order. */
  start(onEvent: (event: EngineEvent) => void): void;
  /** Ends connections in an orderly way, closes devices, joins the thread. */
  stop(): Promise<void>;

  addDevice(spec: DeviceSpec): Promise<DeviceStatus>;
  removeDevice(name: string): Promise<void>;
  /** null: takes the medium's present size. Answers the new size. */
  resizeDevice(name: string, sizeBytes: bigint | null): Promise<bigint>;

  /** Requests to it wait from now on, until it is resumed; those that it has go on. */
  suspendDevice(name: string): Promise<void>;
  resumeDevice(name: string): Promise<void>;
  /** Closes the device of that name and makes it anew; who uses it waits meanwhile. On failure the former is back. */
  replaceDevice(spec: DeviceSpec): Promise<void>;
  /** An operation that only one kind knows. E_UNSUPPORTED: not a verb of this kind. */
  deviceCommand(name: string, verb: string, args: Record<string, string>): Promise<void>;

  /** Copies the device to another place while it is used. */
  beginMigration(name: string, destination: DeviceSpec, bytesPerSecond: bigint): Promise<void>;
  /** All is copied: holds requests back and flushes the destination. E_NOT_READY: not all is copied yet. */
  prepareMigration(name: string): Promise<void>;
  /** After prepareMigration: the destination takes the device's place. */
  commitMigration(name: string): Promise<void>;
  /** The device stays what it was. */
  cancelMigration(name: string): Promise<void>;

  addSubsystem(spec: SubsystemSpec): Promise<void>;
  removeSubsystem(nqn: string): Promise<void>;
  /** Connected hosts that are no longer allowed are disconnected. */
  setHosts(nqn: string, allowAnyHost: boolean, hosts: string[]): Promise<void>;
  /** For the next death; hosts notice nothing. */
  setInFlight(nqn: string, inFlight: SubsystemSpec["inFlight"]): Promise<void>;
  addNamespace(nqn: string, spec: NamespaceSpec): Promise<void>;
  removeNamespace(nqn: string, nsid: number): Promise<void>;
  setNamespaceReadOnly(nqn: string, nsid: number, readOnly: boolean): Promise<void>;

  addListener(spec: ListenerSpec): Promise<ListenerReport>;
  /** Takes over `advertise` and `digests`; the port stays open. */
  setListener(spec: ListenerSpec): Promise<void>;
  removeListener(id: string): Promise<void>;
  setReferrals(referrals: Referral[]): Promise<void>;
  /** While true, what is not known yet gets a status that the host may retry. */
  setLoading(loading: boolean): Promise<void>;

  /** Answers a "connect" or "write-protection" event. */
  admit(request: number, allow: boolean, reason: string): void;
  disconnectHost(hostNqn: string, subsystem: string | null): Promise<number>;

  status(): Promise<EngineStatus>;

  /** This process waits beside a server that lives: after `start`, takeOver() settles when that one is dead. */
  isStandby(): boolean;
  /** Settled once this process is to serve: at once without a keeper. Nothing may be configured before. */
  takeOver(): Promise<Takeover>;
  /** A standby has nothing left to prepare: from now on the keeper may replace the server by it as planned. */
  beWarm(): Promise<void>;
  /** Goes on with what a predecessor left, after the configuration is in place. Once. */
  adopt(): Promise<Adoption>;
  /** null: no keeper. */
  keeperInfo(): Promise<KeeperReport | null>;
  /** Asks the keeper to replace this process by what is installed now. A failure comes as "restart-failed". */
  requestRestart(reason: string): Promise<void>;
  /** Once a second: the main thread turns. */
  alive(): void;
  restarts(): Promise<RestartsReport>;
  /** A text that outlives the process, held by the keeper; without a keeper nothing happens. */
  storeText(name: string, text: string): Promise<void>;
  storedText(name: string): Promise<string | null>;
  setDiscoveryGeneration(generation: bigint): Promise<void>;
  /** The flight recorders of the predecessor that was replaced last. */
  lastPdus(): Promise<LastPdus[]>;
};

export type KeeperStart = { standby: boolean; configuration: string | null };

export type Addon = {
  /**
   * The start of a kept server, in this order: openKeeper → configuration (the stored text if there is one and it does
   * not say that the file is to be read again; a file with faults falls back to it, so that a crash never meets an edited
   * file) → createEngine → start → takeOver → stored text again (the predecessor may have changed it meanwhile) →
   * durable directory → devices, subsystems, listeners → adopt → setLoading(false) → everything that may wait: control
   * socket, metrics, discovery generation (continues in the arena if `carried`), files, storeText("configuration", …).
   * A text that also says what all of that came to (recovery/prepared.ts) is gone on with first: everything but devices,
   * subsystems, listeners and adopt is then loaded and read afterwards.
   * A planned restart stores a text that asks for the file first, then calls requestRestart.
   *
   * The keeper that the environment names, or null. Blocks until it has said what this process is to be. The engine
   * that is created next belongs to it. `configuration`: what the predecessor stored under that name.
   */
  openKeeper(): KeeperStart | null;
  createEngine(options: EngineOptions): NativeEngine;
  /** Drives an NVMe/TCP target with the project's own initiator, on a thread of its own. */
  runLoad(options: LoadOptions): Promise<LoadResult>;
  /** What the kernel and the processor offer. */
  /** Becomes another program under the same process id; returns only if that fails. */
  replaceProcess(path: string, args: string[]): { code: string; message: string; errorNumber: number };
  probe(): {
    kernel: string;
    ioUring: boolean;
    crc32c: string;
    hugePages: string;
    memlockBytes: bigint;
    reason: string | null;
  };
};

const load = createRequire(import.meta.url);

/** Loads the addon. Throws if it is not built. */
export function loadAddon(): Addon {
  return load("../../build/Release/keel.node") as Addon;
}
