// What a running server says of itself: the answer of keel.status and keel.ls, the source of the metrics and of
// `keel top`. Plain JSON: sizes and times are numbers, absent is null.

import type { Histogram } from "./histogram.js";

export type DeviceReport = {
  name: string;
  kind: string;
  path: string | null;
  base: string | null;
  /** The devices that it stands on. */
  parts: string[];
  /** Which range of each part; size 0: to its end. */
  ranges: { startBytes: number; sizeBytes: number }[];
  sizeBytes: number;
  blockBytes: number;
  physicalBlockBytes: number;
  readOnly: boolean;
  volatileCache: boolean;
  canDeallocate: boolean;
  canWriteZeroes: boolean;
  rotational: boolean;
  /** "ok", "waiting" (not opened yet, retried), or the engine's word. */
  state: string;
  reason: string;
  inFlight: number;
  errors: number;
  completed: number[];
  bytes: number[];
  usedBy: string[];
  /** What its medium calls itself; empty: nothing, or not known yet. */
  identity: string;
  /** Its requests wait until it is told to go on. */
  suspended: boolean;
  /** What only its kind tells. */
  details: Record<string, string | number>;
};

const servingStates: ReadonlySet<string> = new Set(["ok", "degraded", "resyncing", "migrating", "copied"]);

/** Whether a device answers requests, although there may be something to say about it. */
export const isServing = (state: string): boolean => servingStates.has(state);

export type NamespaceReport = {
  nsid: number;
  device: string;
  nguid: string;
  uuid: string;
  sizeBytes: number;
  blockBytes: number;
  readOnly: boolean;
  writeProtected: boolean;
  /** "ok", or why hosts do not see it. */
  state: string;
  readCommands: number;
  writeCommands: number;
  otherCommands: number;
  /** Of all these: with Force Unit Access. */
  fuaCommands: number;
  readBytes: number;
  writtenBytes: number;
  errors: number;
  readLatency: Histogram;
  writeLatency: Histogram;
};

export type SubsystemReport = {
  name: string;
  nqn: string;
  serial: string;
  model: string;
  allowAnyHost: boolean;
  hosts: string[];
  connectedHosts: number;
  namespaces: NamespaceReport[];
};

export type ControllerReport = {
  cntlid: number;
  subsystem: string;
  hostNqn: string;
  /** 32 hexadecimal digits. */
  hostId: string;
  discovery: boolean;
  keepAliveMs: number;
  /** "disabled", "ready", "shutdown", "failed" */
  state: string;
  connectedSinceMs: number;
  address: string;
  ioQueues: number;
  commandsInFlight: number;
  pendingEvents: number;
  errorLogEntries: number;
};

export type ConnectionReport = {
  slot: number;
  listener: string;
  peerAddress: string;
  peerPort: number;
  localAddress: string;
  localPort: number;
  /** null before Connect */
  cntlid: number | null;
  subsystem: string | null;
  hostNqn: string | null;
  qid: number | null;
  entries: number;
  headerDigest: boolean;
  dataDigest: boolean;
  /** "initializing", "connecting", "ready", "waiting for memory", "closing" */
  state: string;
  receivedBytes: number;
  sentBytes: number;
  commands: number;
  inFlight: number;
};

export type ListenerReport = {
  id: string;
  address: string;
  family: "ipv4" | "ipv6";
  port: number;
  discoveryOnly: boolean;
};

export type KeeperReport = {
  pid: number;
  sinceMs: number;
  keeperStarts: number;
  restarts: number;
  lastReason: string;
  memoryFiles: number;
  listeners: number;
  connections: number;
  accepted: number;
  refused: number;
  /** none, starting, warm */
  standby: string;
  standbyPid: number;
  systemd: boolean;
};

export type RestartReport = {
  number: number;
  timeMs: number;
  reason: string;
  exit: string;
  previousPid: number;
  /** From the death until connections are served again; and its parts, one after the other. */
  pauseMs: number;
  startMs: number;
  configureMs: number;
  adoptMs: number;
  /** Moments after the death; null: before it, as in a standby, or not known (yet). */
  processMs: number | null;
  loadedMs: number | null;
  mappedMs: number | null;
  /** No device waits any more for the I/O of the dead process to end. */
  barrierMs: number | null;
  firstByteMs: number | null;
  carried: number;
  begun: number;
  refused: number;
  executed: number;
};

export type RestartsReport = {
  restarts: number;
  crash: number;
  watchdog: number;
  upgrade: number;
  other: number;
  carried: number;
  refused: number;
  executed: number;
  pauseSumNs: number;
  /** Pauses below 1 ms, 2 ms, 4 ms, …; the last entry counts all above. */
  pauseCounts: number[];
  /** Newest first, at most 64. */
  last: RestartReport[];
};

export type JobReport = {
  id: number;
  /** migrate, resync, scrub */
  kind: string;
  device: string;
  subject: string;
  /** running, done, failed, cancelled */
  state: string;
  message: string;
  startedMs: number;
  endedMs: number | null;
  /** null: not known, or it does not run. */
  doneBytes: number | null;
  totalBytes: number | null;
  bytesPerSecond: number | null;
  secondsLeft: number | null;
};

export type EventReport = { timeMs: number; level: "info" | "warn" | "error"; text: string };

export type ServerStatus = {
  version: string;
  node: string;
  pid: number;
  startedMs: number;
  nowMs: number;
  stateDirectory: string;
  configFile: string | null;
  /** Objects whose run-time state differs from the configuration file. */
  changedAtRunTime: string[];
  /** Who keeps connections while the server restarts; null: nobody, so a restart drops them. */
  keeper: KeeperReport | null;
  restarts: RestartsReport;
  /** Why the last planned restart did not take place. */
  restartFailure: { timeMs: number; reason: string } | null;
  devices: DeviceReport[];
  subsystems: SubsystemReport[];
  controllers: ControllerReport[];
  connections: ConnectionReport[];
  listeners: ListenerReport[];
  referrals: { address: string; port: number; nqn: string }[];
  discoveryGeneration: number;
  dataPoolBytes: number;
  dataPoolUsedBytes: number;
  reactorCpuNs: number;
  reactorIterations: number;
  connectionsAccepted: number;
  connectionsRefused: number;
  disconnects: Record<string, number>;
  /** Newest first. */
  jobs: JobReport[];
  process: { residentBytes: number; cpuSeconds: number; eventLoopUtilization: number };
  events: EventReport[];
};
