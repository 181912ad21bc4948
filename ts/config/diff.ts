// The difference of two states as ordered steps: how `apply`, start-up and the undoing of a failed change all work.
//
// Order: what hosts could still reach is taken away first (listeners, namespaces, subsystems, then devices from the
// top of a stack to its bottom), then sizes and access change, then devices, subsystems and namespaces are added,
// and listeners last, so that no host ever sees something half built. A step is self-contained: `advance` gives the
// state after it, which is how a server that failed in the middle knows where it stands.

import type {
  DeviceWanted,
  ListenerWanted,
  NamespaceWanted,
  ReferralWanted,
  State,
  SubsystemWanted,
} from "../model/state.js";
import { exactSize } from "../model/units.js";

export type Step =
  | { readonly type: "remove-listener"; readonly listener: ListenerWanted }
  | { readonly type: "remove-namespace"; readonly nqn: string; readonly name: string; readonly nsid: number }
  | { readonly type: "remove-subsystem"; readonly nqn: string; readonly name: string }
  | { readonly type: "remove-device"; readonly device: DeviceWanted }
  | { readonly type: "add-device"; readonly device: DeviceWanted }
  | {
      readonly type: "resize-device";
      readonly name: string;
      readonly from: bigint;
      readonly sizeBytes: bigint;
    }
  | { readonly type: "add-subsystem"; readonly subsystem: SubsystemWanted }
  | {
      readonly type: "add-namespace";
      readonly nqn: string;
      readonly name: string;
      readonly namespace: NamespaceWanted;
    }
  | {
      readonly type: "set-read-only";
      readonly nqn: string;
      readonly name: string;
      readonly nsid: number;
      readonly readOnly: boolean;
    }
  | {
      readonly type: "set-hosts";
      readonly nqn: string;
      readonly name: string;
      readonly allowAnyHost: boolean;
      readonly hosts: readonly string[];
    }
  | { readonly type: "set-referrals"; readonly referrals: readonly ReferralWanted[] }
  | { readonly type: "add-listener"; readonly listener: ListenerWanted };

const same = (left: unknown, right: unknown): boolean => {
  const text = (value: unknown) =>
    JSON.stringify(value, (_key, inner: unknown) => (typeof inner === "bigint" ? `${inner}n` : inner));
  return text(left) === text(right);
};

const byKey = <Value>(values: readonly Value[], key: (value: Value) => string): Map<string, Value> =>
  new Map(values.map((value) => [key(value), value]));

const canResize = (device: DeviceWanted): boolean =>
  device.kind === "ram" || device.kind === "null" || device.kind === "file";

/** What can only change by removing the device and making it anew. `create` matters only when it is made. */
const deviceIdentity = (device: DeviceWanted): unknown => ({
  ...device,
  create: false,
  sizeBytes: canResize(device) ? 0n : device.sizeBytes,
});

const namespaceIdentityOf = (namespace: NamespaceWanted): unknown => ({ ...namespace, readOnly: false });
const subsystemIdentityOf = (subsystem: SubsystemWanted): unknown => ({
  ...subsystem,
  allowAnyHost: false,
  hosts: [],
  namespaces: [],
});

/** The devices that cannot stay as they are: removed, changed, or standing on one of those. */
function devicesToReplace(current: State, desired: ReadonlyMap<string, DeviceWanted>): Set<string> {
  const replaced = new Set<string>();
  for (const device of current.devices) {
    const wanted = desired.get(device.name);
    const stands = device.base !== null && replaced.has(device.base);
    if (stands || wanted === undefined || !same(deviceIdentity(device), deviceIdentity(wanted)))
      replaced.add(device.name);
  }
  return replaced;
}

export function diff(current: State, desired: State): Step[] {
  const devices = byKey(desired.devices, (device) => device.name);
  const present = byKey(current.devices, (device) => device.name);
  const subsystems = byKey(desired.subsystems, (subsystem) => subsystem.nqn);
  const replaced = devicesToReplace(current, devices);
  const removals: Step[] = [];
  const changes: Step[] = [];
  const additions: Step[] = [];

  const listeners = byKey(desired.listeners, (listener) => listener.id);
  const listening = byKey(current.listeners, (listener) => listener.id);
  for (const listener of current.listeners) {
    if (!same(listener, listeners.get(listener.id))) removals.push({ type: "remove-listener", listener });
  }

  const keptSubsystems = new Map<string, SubsystemWanted>();
  for (const subsystem of current.subsystems) {
    const { nqn, name } = subsystem;
    const wanted = subsystems.get(nqn);
    const stays = wanted !== undefined && same(subsystemIdentityOf(subsystem), subsystemIdentityOf(wanted));
    const kept: NamespaceWanted[] = [];
    for (const namespace of subsystem.namespaces) {
      const next = wanted?.namespaces.find(({ nsid }) => nsid === namespace.nsid);
      const unchanged = next !== undefined && same(namespaceIdentityOf(namespace), namespaceIdentityOf(next));
      if (stays && unchanged && !replaced.has(namespace.device)) kept.push(namespace);
      else removals.push({ type: "remove-namespace", nqn, name, nsid: namespace.nsid });
    }
    if (stays) keptSubsystems.set(nqn, { ...subsystem, namespaces: kept });
    else removals.push({ type: "remove-subsystem", nqn, name });
  }
  for (const device of [...current.devices].reverse()) {
    if (replaced.has(device.name)) removals.push({ type: "remove-device", device });
  }

  for (const device of desired.devices) {
    const now = present.get(device.name);
    if (now === undefined || replaced.has(device.name)) additions.push({ type: "add-device", device });
    else if (device.sizeBytes !== 0n && now.sizeBytes !== device.sizeBytes) {
      changes.push({
        type: "resize-device",
        name: device.name,
        from: now.sizeBytes,
        sizeBytes: device.sizeBytes,
      });
    }
  }

  for (const wanted of desired.subsystems) {
    const { nqn, name } = wanted;
    const kept = keptSubsystems.get(nqn);
    if (kept === undefined)
      additions.push({ type: "add-subsystem", subsystem: { ...wanted, namespaces: [] } });
    else if (kept.allowAnyHost !== wanted.allowAnyHost || !same(kept.hosts, wanted.hosts)) {
      changes.push({ type: "set-hosts", nqn, name, allowAnyHost: wanted.allowAnyHost, hosts: wanted.hosts });
    }
    for (const namespace of wanted.namespaces) {
      const now = kept?.namespaces.find(({ nsid }) => nsid === namespace.nsid);
      if (now === undefined) additions.push({ type: "add-namespace", nqn, name, namespace });
      else if (now.readOnly !== namespace.readOnly) {
        changes.push({
          type: "set-read-only",
          nqn,
          name,
          nsid: namespace.nsid,
          readOnly: namespace.readOnly,
        });
      }
    }
  }
  if (!same(current.referrals, desired.referrals))
    changes.push({ type: "set-referrals", referrals: desired.referrals });
  for (const listener of desired.listeners) {
    if (!same(listener, listening.get(listener.id))) additions.push({ type: "add-listener", listener });
  }
  return [...removals, ...changes, ...additions];
}

const inSubsystem = (
  state: State,
  nqn: string,
  change: (subsystem: SubsystemWanted) => SubsystemWanted,
): State => ({
  ...state,
  subsystems: state.subsystems.map((subsystem) => (subsystem.nqn === nqn ? change(subsystem) : subsystem)),
});

/** The state after a step has been carried out. */
export function advance(state: State, step: Step): State {
  switch (step.type) {
    case "remove-listener":
      return { ...state, listeners: state.listeners.filter(({ id }) => id !== step.listener.id) };
    case "add-listener":
      return { ...state, listeners: [...state.listeners, step.listener] };
    case "remove-namespace":
      return inSubsystem(state, step.nqn, (subsystem) => ({
        ...subsystem,
        namespaces: subsystem.namespaces.filter(({ nsid }) => nsid !== step.nsid),
      }));
    case "add-namespace":
      return inSubsystem(state, step.nqn, (subsystem) => ({
        ...subsystem,
        namespaces: [...subsystem.namespaces, step.namespace].sort((left, right) => left.nsid - right.nsid),
      }));
    case "set-read-only":
      return inSubsystem(state, step.nqn, (subsystem) => ({
        ...subsystem,
        namespaces: subsystem.namespaces.map((namespace) =>
          namespace.nsid === step.nsid ? { ...namespace, readOnly: step.readOnly } : namespace,
        ),
      }));
    case "set-hosts":
      return inSubsystem(state, step.nqn, (subsystem) => ({
        ...subsystem,
        allowAnyHost: step.allowAnyHost,
        hosts: [...step.hosts],
      }));
    case "remove-subsystem":
      return { ...state, subsystems: state.subsystems.filter(({ nqn }) => nqn !== step.nqn) };
    case "add-subsystem":
      return { ...state, subsystems: [...state.subsystems, { ...step.subsystem, namespaces: [] }] };
    case "remove-device":
      return { ...state, devices: state.devices.filter(({ name }) => name !== step.device.name) };
    case "add-device":
      return { ...state, devices: [...state.devices, step.device] };
    case "resize-device":
      return {
        ...state,
        devices: state.devices.map((device) =>
          device.name === step.name ? { ...device, sizeBytes: step.sizeBytes } : device,
        ),
      };
    case "set-referrals":
      return { ...state, referrals: step.referrals };
  }
}

/** What a step would destroy for good, in words, or null. */
export function dataLost(step: Step): string | null {
  if (step.type === "remove-device" && step.device.kind === "ram") {
    return `the content of ram device "${step.device.name}" (${exactSize(step.device.sizeBytes)})`;
  }
  if (step.type === "resize-device" && step.sizeBytes < step.from) {
    return `what device "${step.name}" holds beyond ${exactSize(step.sizeBytes)}`;
  }
  return null;
}

const deviceText = (device: DeviceWanted): string => {
  const what = device.path ?? device.base ?? "";
  const size = device.sizeBytes === 0n ? "" : exactSize(device.sizeBytes);
  return [device.kind, what, size].filter((part) => part !== "").join(" ");
};

/** One line for people: sign, thing, what about it. */
export function describeStep(step: Step): string {
  switch (step.type) {
    case "remove-listener":
      return `- listener   ${step.listener.id}`;
    case "add-listener":
      return `+ listener   ${step.listener.id}`;
    case "remove-namespace":
      return `- namespace  ${step.name}/${step.nsid}`;
    case "add-namespace":
      return `+ namespace  ${step.name}/${step.namespace.nsid}  device ${step.namespace.device}${step.namespace.readOnly ? ", read-only" : ""}`;
    case "set-read-only":
      return `~ namespace  ${step.name}/${step.nsid}  ${step.readOnly ? "read-only" : "writable"}`;
    case "set-hosts":
      return `~ subsystem  ${step.name}  hosts: ${step.allowAnyHost ? "any" : step.hosts.join(", ") || "nobody"}`;
    case "remove-subsystem":
      return `- subsystem  ${step.name}  ${step.nqn}`;
    case "add-subsystem":
      return `+ subsystem  ${step.subsystem.name}  ${step.subsystem.nqn}  hosts: ${step.subsystem.allowAnyHost ? "any" : step.subsystem.hosts.join(", ") || "nobody"}`;
    case "remove-device":
      return `- device     ${step.device.name}  ${deviceText(step.device)}`;
    case "add-device":
      return `+ device     ${step.device.name}  ${deviceText(step.device)}`;
    case "resize-device":
      return `~ device     ${step.name}  ${exactSize(step.from)} → ${exactSize(step.sizeBytes)}`;
    case "set-referrals":
      return `~ referrals  ${step.referrals.length}`;
  }
}

/** How many of the desired state's things no step touches. */
export function unchangedCount(desired: State, steps: readonly Step[]): number {
  const touched = steps.filter(
    (step) => !step.type.startsWith("remove-") && step.type !== "set-referrals",
  ).length;
  const namespaces = desired.subsystems.reduce((count, subsystem) => count + subsystem.namespaces.length, 0);
  return Math.max(
    0,
    desired.devices.length + desired.subsystems.length + namespaces + desired.listeners.length - touched,
  );
}
