// A recorder in the place of the engine: tests of the control plane look at the order of calls and make some of them
// fail. What the engine really does is the protocol tests' business.

import type {
  DeviceSpec,
  DeviceStatus,
  EngineEvent,
  EngineStatus,
  NativeEngine,
} from "../../dist/native/addon.js";

export const noRestarts = {
  restarts: 0,
  crash: 0,
  watchdog: 0,
  upgrade: 0,
  other: 0,
  carried: 0,
  refused: 0,
  executed: 0,
  pauseSumNs: 0,
  pauseCounts: [0, 0, 0],
  last: [],
};

export class FakeEngine implements NativeEngine {
  readonly calls: string[] = [];
  readonly admissions: { request: number; allow: boolean; reason: string }[] = [];
  /** A call whose text matches fails with this error. */
  failures: { match: RegExp; code: string; message: string }[] = [];
  /** A call whose text matches never settles, until released. */
  stuck: { match: RegExp; release: Promise<void> } | null = null;
  emit: (event: EngineEvent) => void = () => undefined;

  private async call(text: string): Promise<void> {
    this.calls.push(text);
    if (this.stuck?.match.test(text) === true) await this.stuck.release;
    const failure = this.failures.find(({ match }) => match.test(text));
    if (failure !== undefined) throw { code: failure.code, message: failure.message, errorNumber: 0 };
  }

  /** The calls since the last time this was asked. */
  take(): string[] {
    return this.calls.splice(0);
  }

  start(onEvent: (event: EngineEvent) => void): void {
    this.emit = onEvent;
    this.calls.push("start");
  }
  stop = (): Promise<void> => this.call("stop");
  /** What the engine tells of its devices. */
  readonly devices = new Map<string, DeviceStatus>();
  /** Sizes of media that a spec does not tell; 0: not known yet. */
  readonly sizes = new Map<string, bigint>();
  readonly specs = new Map<string, DeviceSpec>();

  private made(spec: DeviceSpec): DeviceStatus {
    const size = this.sizes.get(spec.name) ?? spec.known?.sizeBytes ?? spec.sizeBytes;
    const status = {
      ...this.plain(spec),
      sizeBytes: size === 0n && !["nvme", "tcmu", "mirror"].includes(spec.kind) ? 4096n : size,
    };
    this.devices.set(spec.name, status);
    this.specs.set(spec.name, spec);
    return status;
  }

  addDevice: NativeEngine["addDevice"] = async (spec) => {
    await this.call(`addDevice ${spec.name} ${spec.kind} ${spec.sizeBytes}`);
    return this.made(spec);
  };

  private plain(spec: DeviceSpec): DeviceStatus {
    return {
      name: spec.name,
      kind: spec.kind,
      sizeBytes: spec.sizeBytes,
      blockBytes: spec.blockBytes,
      physicalBlockBytes: spec.blockBytes,
      readOnly: spec.readOnly,
      volatileCache: false,
      canDeallocate: false,
      canWriteZeroes: false,
      rotational: false,
      state: "ok",
      reason: "",
      inFlight: 0,
      errors: 0,
      completed: [],
      bytes: [],
      claimedBy: [],
      identity: spec.known?.identity ?? "",
      suspended: spec.suspended,
      details: [],
      parts: spec.parts.map(({ device }) => device),
    };
  }
  removeDevice: NativeEngine["removeDevice"] = async (name) => {
    await this.call(`removeDevice ${name}`);
    this.devices.delete(name);
  };
  suspendDevice: NativeEngine["suspendDevice"] = (name) => this.call(`suspendDevice ${name}`);
  resumeDevice: NativeEngine["resumeDevice"] = (name) => this.call(`resumeDevice ${name}`);
  replaceDevice: NativeEngine["replaceDevice"] = async (spec) => {
    await this.call(`replaceDevice ${spec.name} ${spec.kind}`);
    this.made(spec);
  };
  deviceCommand: NativeEngine["deviceCommand"] = (name, verb, given) =>
    this.call(`${verb} ${name} ${Object.values(given).join(" ")}`.trimEnd());
  beginMigration: NativeEngine["beginMigration"] = (name, destination, rate) =>
    this.call(`beginMigration ${name} ${destination.name} ${destination.kind} ${rate}`);
  prepareMigration: NativeEngine["prepareMigration"] = (name) => this.call(`prepareMigration ${name}`);
  commitMigration: NativeEngine["commitMigration"] = (name) => this.call(`commitMigration ${name}`);
  cancelMigration: NativeEngine["cancelMigration"] = (name) => this.call(`cancelMigration ${name}`);
  resizeDevice: NativeEngine["resizeDevice"] = async (name, sizeBytes) => {
    await this.call(`resizeDevice ${name} ${sizeBytes ?? "rescan"}`);
    return sizeBytes ?? 0n;
  };
  addSubsystem: NativeEngine["addSubsystem"] = (spec) =>
    this.call(`addSubsystem ${spec.nqn} ${spec.allowAnyHost ? "any" : spec.hosts.join(",")}`);
  removeSubsystem: NativeEngine["removeSubsystem"] = (nqn) => this.call(`removeSubsystem ${nqn}`);
  setInFlight: NativeEngine["setInFlight"] = (nqn, inFlight) => this.call(`setInFlight ${nqn} ${inFlight}`);
  setHosts: NativeEngine["setHosts"] = (nqn, any, hosts) =>
    this.call(`setHosts ${nqn} ${any ? "any" : hosts.join(",")}`);
  addNamespace: NativeEngine["addNamespace"] = (nqn, spec) =>
    this.call(`addNamespace ${nqn} ${spec.nsid} ${spec.device}`);
  removeNamespace: NativeEngine["removeNamespace"] = (nqn, nsid) =>
    this.call(`removeNamespace ${nqn} ${nsid}`);
  setNamespaceReadOnly: NativeEngine["setNamespaceReadOnly"] = (nqn, nsid, readOnly) =>
    this.call(`setNamespaceReadOnly ${nqn} ${nsid} ${readOnly}`);
  addListener: NativeEngine["addListener"] = async (spec) => {
    await this.call(`addListener ${spec.id}`);
    return spec;
  };
  setListener: NativeEngine["setListener"] = (spec) => this.call(`setListener ${spec.id} ${spec.digests}`);
  removeListener: NativeEngine["removeListener"] = (id) => this.call(`removeListener ${id}`);
  setReferrals: NativeEngine["setReferrals"] = (referrals) => this.call(`setReferrals ${referrals.length}`);
  setLoading: NativeEngine["setLoading"] = (loading) => this.call(`setLoading ${loading}`);
  admit(request: number, allow: boolean, reason: string): void {
    this.admissions.push({ request, allow, reason });
  }
  isStandby = (): boolean => false;
  takeOver: NativeEngine["takeOver"] = async () => ({
    kept: false,
    carried: false,
    reason: "start",
    exit: "",
    previousPid: 0,
    restarts: 0,
  });
  beWarm: NativeEngine["beWarm"] = () => Promise.resolve();
  adopt: NativeEngine["adopt"] = async () => {
    await this.call("adopt");
    return { carriedArena: false, carried: 0, begun: 0, executed: 0, refused: [] };
  };
  keeperInfo: NativeEngine["keeperInfo"] = () => Promise.resolve(null);
  requestRestart: NativeEngine["requestRestart"] = (reason) => this.call(`requestRestart ${reason}`);
  alive(): void {
    this.calls.push("alive");
  }
  restarts: NativeEngine["restarts"] = () => Promise.resolve(noRestarts);
  readonly texts = new Map<string, string>();
  storeText: NativeEngine["storeText"] = async (name, text) => {
    this.texts.set(name, text);
  };
  storedText: NativeEngine["storedText"] = async (name) => this.texts.get(name) ?? null;
  setDiscoveryGeneration: NativeEngine["setDiscoveryGeneration"] = () => Promise.resolve();
  lastPdus: NativeEngine["lastPdus"] = () => Promise.resolve([]);
  disconnectHost: NativeEngine["disconnectHost"] = async (host) => {
    await this.call(`disconnectHost ${host}`);
    return 1;
  };
  /** Of hosts that are connected. */
  readonly controllers: EngineStatus["controllers"] = [];
  status: NativeEngine["status"] = async (): Promise<EngineStatus> => ({
    version: "0",
    devices: [...this.devices.values()],
    subsystems: [],
    controllers: this.controllers,
    connections: [],
    listeners: [],
    discoveryGeneration: 1n,
    dataPoolBytes: 0n,
    dataPoolUsedBytes: 0n,
    reactorCpuNs: 0,
    reactorIterations: 0,
    disconnects: {},
    connectionsAccepted: 0,
    connectionsRefused: 0,
  });
}
