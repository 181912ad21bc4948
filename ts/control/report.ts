// The engine's own account joined with what the configuration calls things, as plain JSON for everybody outside.

import { type Desired, type DeviceWanted, type State, standsOn } from "../model/state.js";
import type {
  DeviceReport,
  JobReport,
  NamespaceReport,
  ServerStatus,
  SubsystemReport,
} from "../model/status.js";
import type { EngineStatus, NamespaceStatus, SubsystemStatus } from "../native/addon.js";
import type { Waiting } from "./reconciler.js";

export type ProcessFacts = Pick<
  ServerStatus,
  | "version"
  | "pid"
  | "startedMs"
  | "nowMs"
  | "configFile"
  | "changedAtRunTime"
  | "keeper"
  | "restarts"
  | "restartFailure"
  | "process"
  | "events"
>;

/** Where the medium is, for people. */
function pathOf({ path, remote, tcmu }: DeviceWanted): string | null {
  if (remote !== null) return `${remote.addresses[0] ?? ""} ${remote.subnqn}/${remote.nsid}`;
  return tcmu === null ? path : `${tcmu.handler} ${tcmu.configuration}`.trimEnd();
}

const rangesOf = (device: DeviceWanted): DeviceReport["ranges"] =>
  device.parts.map(({ startBytes, sizeBytes }) => ({
    startBytes: Number(startBytes),
    sizeBytes: Number(sizeBytes),
  }));

const emptyCounts = (): number[] => [0, 0, 0, 0, 0];

function waitingDevice({ device, error }: Waiting): DeviceReport {
  return {
    name: device.name,
    kind: device.kind,
    path: pathOf(device),
    base: device.base,
    parts: standsOn(device),
    ranges: rangesOf(device),
    identity: "",
    suspended: device.suspended,
    details: {},
    sizeBytes: Number(device.sizeBytes),
    blockBytes: device.blockBytes,
    physicalBlockBytes: device.blockBytes,
    readOnly: device.readOnly,
    volatileCache: false,
    canDeallocate: false,
    canWriteZeroes: false,
    rotational: false,
    state: "waiting",
    reason: error.message,
    inFlight: 0,
    errors: 0,
    completed: emptyCounts(),
    bytes: emptyCounts(),
    usedBy: [],
  };
}

function deviceReports(
  engine: EngineStatus,
  actual: State,
  waiting: ReadonlyMap<string, Waiting>,
): DeviceReport[] {
  const present = engine.devices.map((device): DeviceReport => {
    const wanted = actual.devices.find(({ name }) => name === device.name);
    const { claimedBy, sizeBytes, details, ...rest } = device;
    return {
      ...rest,
      sizeBytes: Number(sizeBytes),
      details: Object.fromEntries(
        details.map(([key, value]) => [key, typeof value === "bigint" ? Number(value) : value]),
      ),
      parts: wanted === undefined ? rest.parts : standsOn(wanted),
      ranges: wanted === undefined ? [] : rangesOf(wanted),
      path: wanted === undefined ? null : pathOf(wanted),
      base: wanted?.base ?? null,
      usedBy: claimedBy,
    };
  });
  return [...present, ...[...waiting.values()].map(waitingDevice)].sort((left, right) =>
    left.name < right.name ? -1 : 1,
  );
}

function namespaceReport(status: NamespaceStatus, devices: readonly DeviceReport[]): NamespaceReport {
  const { blocks, ...rest } = status;
  const device = devices.find(({ name }) => name === status.device);
  return { ...rest, sizeBytes: Number(blocks) * status.blockBytes, state: device?.state ?? "ok" };
}

/** A namespace whose device waits: hosts do not see it, people must. */
function missingNamespace(
  nsid: number,
  device: string,
  uuid: string,
  nguid: string,
  devices: readonly DeviceReport[],
): NamespaceReport {
  const below = devices.find(({ name }) => name === device);
  const none = { counts: [], total: 0, sumNs: 0 };
  return {
    nsid,
    device,
    uuid,
    nguid,
    sizeBytes: below?.sizeBytes ?? 0,
    blockBytes: below?.blockBytes ?? 0,
    readOnly: false,
    writeProtected: false,
    state: below === undefined || below.state === "ok" ? "waiting" : below.state,
    readCommands: 0,
    writeCommands: 0,
    otherCommands: 0,
    fuaCommands: 0,
    readBytes: 0,
    writtenBytes: 0,
    errors: 0,
    readLatency: none,
    writeLatency: none,
  };
}

function subsystemReports(
  engine: EngineStatus,
  desired: State,
  devices: readonly DeviceReport[],
): SubsystemReport[] {
  return engine.subsystems.map((subsystem: SubsystemStatus): SubsystemReport => {
    const wanted = desired.subsystems.find(({ nqn }) => nqn === subsystem.nqn);
    const namespaces = subsystem.namespaces.map((namespace) => namespaceReport(namespace, devices));
    for (const { nsid, device, uuid, nguid } of wanted?.namespaces ?? []) {
      if (!namespaces.some((namespace) => namespace.nsid === nsid)) {
        namespaces.push(missingNamespace(nsid, device, uuid, nguid, devices));
      }
    }
    const hosts = new Set(
      engine.controllers
        .filter((controller) => controller.subsystem === subsystem.nqn)
        .map(({ hostNqn }) => hostNqn),
    );
    return {
      name: wanted?.name ?? subsystem.nqn,
      nqn: subsystem.nqn,
      serial: subsystem.serial,
      model: subsystem.model,
      allowAnyHost: subsystem.allowAnyHost,
      hosts: subsystem.hosts,
      connectedHosts: hosts.size,
      namespaces: namespaces.sort((left, right) => left.nsid - right.nsid),
    };
  });
}

export function serverStatus(
  engine: EngineStatus,
  desired: Desired,
  actual: State,
  waiting: ReadonlyMap<string, Waiting>,
  facts: ProcessFacts,
  jobs: (devices: readonly DeviceReport[]) => JobReport[],
): ServerStatus {
  const devices = deviceReports(engine, actual, waiting);
  return {
    ...facts,
    node: desired.settings.node,
    stateDirectory: desired.settings.stateDirectory,
    devices,
    jobs: jobs(devices),
    subsystems: subsystemReports(engine, desired.state, devices),
    controllers: engine.controllers,
    connections: engine.connections,
    listeners: engine.listeners,
    referrals: desired.state.referrals.map(({ address, port, nqn }) => ({ address, port, nqn })),
    discoveryGeneration: Number(engine.discoveryGeneration),
    dataPoolBytes: Number(engine.dataPoolBytes),
    dataPoolUsedBytes: Number(engine.dataPoolUsedBytes),
    reactorCpuNs: engine.reactorCpuNs,
    reactorIterations: engine.reactorIterations,
    connectionsAccepted: engine.connectionsAccepted,
    connectionsRefused: engine.connectionsRefused,
    disconnects: engine.disconnects,
  };
}
