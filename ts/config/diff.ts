// The difference of two states as ordered steps: how `apply`, start-up and the undoing of a failed change all work.
//
// Order: what hosts could still reach is taken away first (listeners, namespaces, subsystems, then devices from the
// top of a stack to its bottom), then sizes and access change, then devices are added and altered from the bottom up,
// devices that an alteration set free are removed, then subsystems and namespaces are added, and listeners last, so
// that no host ever sees something half built. A step is self-contained: `advance` gives the
// state after it, which is how a server that failed in the middle knows where it stands.

import {
  type DeviceWanted,
  destinationName,
  type ListenerWanted,
  type NamespaceWanted,
  type ReferralWanted,
  type State,
  type SubsystemWanted,
  sourceName,
  standsOn,
} from "../model/state.js";
import { exactSize } from "../model/units.js";
import {
  advanceDevices,
  alteration,
  type DeviceStep,
  describeDeviceStep,
  deviceText,
  migrationSteps,
  needsOf,
  type Surroundings,
  same,
} from "./alterations.js";

export type Step =
  | DeviceStep
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
  | {
      readonly type: "set-in-flight";
      readonly nqn: string;
      readonly name: string;
      readonly inFlight: SubsystemWanted["inFlight"];
    }
  | { readonly type: "set-referrals"; readonly referrals: readonly ReferralWanted[] }
  | { readonly type: "set-listener"; readonly listener: ListenerWanted }
  | { readonly type: "add-listener"; readonly listener: ListenerWanted };

const byKey = <Value>(values: readonly Value[], key: (value: Value) => string): Map<string, Value> =>
  new Map(values.map((value) => [key(value), value]));

/** What changes only by closing the port. */
const listenerPlace = (listener: ListenerWanted): unknown => ({ ...listener, advertise: null, digests: "" });
const samePlace = (left: ListenerWanted, right: ListenerWanted | undefined): boolean =>
  right !== undefined && same(listenerPlace(left), listenerPlace(right));

const namespaceIdentityOf = (namespace: NamespaceWanted): unknown => ({ ...namespace, readOnly: false });
const subsystemIdentityOf = (subsystem: SubsystemWanted): unknown => ({
  ...subsystem,
  allowAnyHost: false,
  hosts: [],
  inFlight: "replay",
  namespaces: [],
});

type Named = ReadonlyMap<string, DeviceWanted>;

/** What becomes of devices: `remade` are taken away (and made again if they are wanted), `steps` alter what stays. */
type DevicePlan = { readonly remade: ReadonlySet<string>; readonly steps: ReadonlyMap<string, DeviceStep[]> };

function planDevices(present: Named, desired: Named, inPlace: ReadonlySet<string>): DevicePlan {
  const moves = migrationSteps(present, desired);
  const moving = new Set(
    [...moves.keys()].flatMap((name) => [name, sourceName(name), destinationName(name)]),
  );
  const around: Surroundings = {
    goes: (name) => !desired.has(name),
    needs: (fresh, leg) => needsOf(fresh, desired, leg, present),
  };
  const remade = new Set<string>();
  const steps = new Map<string, DeviceStep[]>();
  for (const device of bottomUp([...present.values()])) {
    const wanted = desired.get(device.name);
    if (moving.has(device.name)) {
      const move = moves.get(device.name);
      if (move !== undefined) steps.set(device.name, [move]);
      continue;
    }
    const altered =
      wanted === undefined ? null : alteration(device, wanted, inPlace.has(device.name), around);
    // A replaced device brings its own parts; any other goes with what it stands on.
    const stands = wanted !== undefined && standsOn(wanted).some((name) => remade.has(name));
    if (altered === null || stands) remade.add(device.name);
    else if (altered.length > 0) steps.set(device.name, altered);
  }
  return { remade, steps };
}

/** What others stand on comes first. */
function bottomUp(devices: readonly DeviceWanted[]): DeviceWanted[] {
  const all = byKey(devices, (device) => device.name);
  const ordered = new Map<string, DeviceWanted>();
  const visit = (name: string): void => {
    const device = all.get(name);
    if (device === undefined || ordered.has(name)) return;
    for (const below of standsOn(device)) visit(below);
    ordered.set(name, device);
  };
  for (const { name } of devices) visit(name);
  return [...ordered.values()];
}

/** Devices that go, but are held by one that stays until it is altered; from the top of a stack to its bottom. */
function heldByAltered(goingTopDown: readonly DeviceWanted[], current: State, plan: DevicePlan): Set<string> {
  const held = new Set<string>();
  for (const { name } of goingTopDown) {
    const holders = current.devices.filter((device) => standsOn(device).includes(name));
    if (holders.some((holder) => !plan.remade.has(holder.name) || held.has(holder.name))) held.add(name);
  }
  return held;
}

/** The steps about devices, in three groups: before anything else changes, with the additions, and what was set free. */
function deviceSteps(
  current: State,
  desired: State,
  plan: DevicePlan,
): { readonly removals: Step[]; readonly resizes: Step[]; readonly additions: Step[] } {
  const present = byKey(current.devices, (device) => device.name);
  const going = bottomUp(current.devices)
    .reverse()
    .filter(({ name }) => plan.remade.has(name));
  const held = heldByAltered(going, current, plan);
  const removal = (device: DeviceWanted): Step => ({ type: "remove-device", device });
  const resizes: Step[] = [];
  const first: Step[] = [];
  const additions: Step[] = [];
  const last: Step[] = [];
  const late = new Set<string>(held);
  const placed = new Set(
    desired.devices
      .filter(({ kind }) => kind === "migration")
      .filter(({ name }) => plan.steps.get(name)?.[0]?.type === "begin-migration")
      .flatMap(({ name }) => [sourceName(name), destinationName(name)]),
  );
  for (const device of bottomUp(desired.devices)) {
    const { name } = device;
    const now = present.get(name);
    if (standsOn(device).some((below) => late.has(below))) late.add(name);
    const group = late.has(name) ? last : additions;
    if (placed.has(name)) continue;
    if (now === undefined || plan.remade.has(name)) {
      group.push({ type: "add-device", device });
      continue;
    }
    // What only lets go comes first, others may wait for what it holds; unless it waits for something itself.
    let letsGo = true;
    for (const step of plan.steps.get(name) ?? []) {
      letsGo = letsGo && step.type === "device-command" && step.verb === "remove_leg";
      (letsGo ? first : group).push(step);
    }
    const madeAnew = (plan.steps.get(name) ?? []).some(({ type }) => type !== "set-suspended");
    if (device.sizeBytes !== 0n && now.sizeBytes !== device.sizeBytes && !madeAnew) {
      resizes.push({ type: "resize-device", name, from: now.sizeBytes, sizeBytes: device.sizeBytes });
    }
  }
  return {
    removals: going.filter(({ name }) => !held.has(name)).map(removal),
    resizes,
    additions: [...first, ...additions, ...going.filter(({ name }) => held.has(name)).map(removal), ...last],
  };
}

/** `inPlace`: devices whose new medium has the content, so that whoever uses them goes on. */
export function diff(current: State, desired: State, inPlace: ReadonlySet<string> = new Set()): Step[] {
  const subsystems = byKey(desired.subsystems, (subsystem) => subsystem.nqn);
  const plan = planDevices(
    byKey(current.devices, (device) => device.name),
    byKey(desired.devices, (device) => device.name),
    inPlace,
  );
  const devices = deviceSteps(current, desired, plan);
  const removals: Step[] = [];
  const changes: Step[] = [];
  const additions: Step[] = [];

  const listeners = byKey(desired.listeners, (listener) => listener.id);
  const listening = byKey(current.listeners, (listener) => listener.id);
  for (const listener of current.listeners) {
    if (!samePlace(listener, listeners.get(listener.id)))
      removals.push({ type: "remove-listener", listener });
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
      if (stays && unchanged && !plan.remade.has(namespace.device)) kept.push(namespace);
      else removals.push({ type: "remove-namespace", nqn, name, nsid: namespace.nsid });
    }
    if (stays) keptSubsystems.set(nqn, { ...subsystem, namespaces: kept });
    else removals.push({ type: "remove-subsystem", nqn, name });
  }
  removals.push(...devices.removals);
  changes.push(...devices.resizes);
  additions.push(...devices.additions);

  for (const wanted of desired.subsystems) {
    const { nqn, name } = wanted;
    const kept = keptSubsystems.get(nqn);
    if (kept === undefined)
      additions.push({ type: "add-subsystem", subsystem: { ...wanted, namespaces: [] } });
    else if (kept.inFlight !== wanted.inFlight)
      changes.push({ type: "set-in-flight", nqn, name, inFlight: wanted.inFlight });
    if (
      kept !== undefined &&
      (kept.allowAnyHost !== wanted.allowAnyHost || !same(kept.hosts, wanted.hosts))
    ) {
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
    const now = listening.get(listener.id);
    if (!samePlace(listener, now)) additions.push({ type: "add-listener", listener });
    else if (!same(listener, now)) changes.push({ type: "set-listener", listener });
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
    case "replace-device":
    case "device-command":
    case "set-suspended":
    case "begin-migration":
    case "end-migration":
      return { ...state, devices: advanceDevices(state.devices, step) };
    case "remove-listener":
      return { ...state, listeners: state.listeners.filter(({ id }) => id !== step.listener.id) };
    case "add-listener":
      return { ...state, listeners: [...state.listeners, step.listener] };
    case "set-listener":
      return {
        ...state,
        listeners: state.listeners.map((listener) =>
          listener.id === step.listener.id ? step.listener : listener,
        ),
      };
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
    case "set-in-flight":
      return inSubsystem(state, step.nqn, (subsystem) => ({ ...subsystem, inFlight: step.inFlight }));
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

/** The first mirror that a step takes the records from: they lie at the end of its legs. Null: none. */
export function mirrorOfShrunk(
  steps: readonly Step[],
  current: State,
): { readonly leg: string; readonly mirror: string } | null {
  const present = byKey(current.devices, (device) => device.name);
  const below = (name: string): string[] => {
    const device = present.get(name);
    return device === undefined ? [] : [name, ...standsOn(device).flatMap(below)];
  };
  const mirrors = current.devices.filter(({ kind }) => kind === "mirror");
  for (const step of steps) {
    if (step.type !== "resize-device" || step.sizeBytes >= step.from) continue;
    const above = mirrors.find((mirror) => standsOn(mirror).flatMap(below).includes(step.name));
    if (above !== undefined) return { leg: step.name, mirror: above.name };
  }
  return null;
}

/** Mirrors of which all legs grow: they can grow as well. */
export function mirrorsOfGrown(steps: readonly Step[], desired: State): string[] {
  const grown = new Set<string>();
  for (const step of steps) {
    if (step.type === "resize-device" && step.sizeBytes > step.from) grown.add(step.name);
  }
  const grows = (name: string): boolean => {
    const device = desired.devices.find((one) => one.name === name);
    const below = device === undefined ? [] : standsOn(device);
    return grown.has(name) || (below.length > 0 && below.every(grows));
  };
  return desired.devices
    .filter(({ kind, name }) => kind === "mirror" && grown.size > 0 && grows(name))
    .map(({ name }) => name);
}

/** What a step would destroy for good, in words, or null. */
export function dataLost(step: Step): string | null {
  if (step.type === "remove-device" && step.device.kind === "ram") {
    return `the content of ram device "${step.device.name}" (${exactSize(step.device.sizeBytes)})`;
  }
  if (step.type === "replace-device" && step.before.kind === "ram") {
    return `the content of ram device "${step.before.name}" (${exactSize(step.before.sizeBytes)})`;
  }
  if (step.type === "resize-device" && step.sizeBytes < step.from) {
    return `what device "${step.name}" holds beyond ${exactSize(step.sizeBytes)}`;
  }
  return null;
}

/** One line for people: sign, thing, what about it. */
export function describeStep(step: Step): string {
  switch (step.type) {
    case "replace-device":
    case "device-command":
    case "set-suspended":
    case "begin-migration":
    case "end-migration":
      return describeDeviceStep(step);
    case "remove-listener":
      return `- listener   ${step.listener.id}`;
    case "add-listener":
      return `+ listener   ${step.listener.id}`;
    case "set-listener":
      return `~ listener   ${step.listener.id}  digests ${step.listener.digests}${step.listener.advertise === null ? "" : `, advertised as ${step.listener.advertise}`}`;
    case "remove-namespace":
      return `- namespace  ${step.name}/${step.nsid}`;
    case "add-namespace":
      return `+ namespace  ${step.name}/${step.namespace.nsid}  device ${step.namespace.device}${step.namespace.readOnly ? ", read-only" : ""}`;
    case "set-read-only":
      return `~ namespace  ${step.name}/${step.nsid}  ${step.readOnly ? "read-only" : "writable"}`;
    case "set-hosts":
      return `~ subsystem  ${step.name}  hosts: ${step.allowAnyHost ? "any" : step.hosts.join(", ") || "nobody"}`;
    case "set-in-flight":
      return `~ subsystem  ${step.name}  in flight: ${step.inFlight}`;
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
