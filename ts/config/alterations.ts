// What about a device can change while it is in use, without taking it away from who uses it. Everything else is
// removed and made anew.

import {
  type DeviceWanted,
  destinationName,
  type PartWanted,
  type RemoteWanted,
  sourceName,
  standsOn,
} from "../model/state.js";
import { exactSize } from "../model/units.js";

export type DeviceStep =
  /** The device is made anew under whoever uses it. */
  | { readonly type: "replace-device"; readonly device: DeviceWanted; readonly before: DeviceWanted }
  /** A verb of its kind. `device`: what it is afterwards. */
  | {
      readonly type: "device-command";
      readonly verb: string;
      readonly arguments: Readonly<Record<string, string>>;
      readonly device: DeviceWanted;
    }
  | { readonly type: "set-suspended"; readonly name: string; readonly suspended: boolean }
  | {
      readonly type: "begin-migration";
      readonly device: DeviceWanted;
      readonly source: DeviceWanted;
      readonly destination: DeviceWanted;
    }
  | { readonly type: "end-migration"; readonly device: DeviceWanted; readonly how: "commit" | "cancel" };

export const same = (left: unknown, right: unknown): boolean => {
  const text = (value: unknown) =>
    JSON.stringify(value, (_key, inner: unknown) => (typeof inner === "bigint" ? `${inner}n` : inner));
  return text(left) === text(right);
};

const canResize = (device: DeviceWanted): boolean =>
  device.kind === "ram" || device.kind === "null" || device.kind === "file";

/** What makes a device another one. `create` and `assumeClean` matter only when it is made. */
const deviceIdentity = (device: DeviceWanted): unknown => ({
  ...device,
  create: false,
  suspended: false,
  sizeBytes: canResize(device) ? 0n : device.sizeBytes,
  mirror: device.mirror === null ? null : { ...device.mirror, assumeClean: false },
});

/** The same medium with the same content: only how it is reached or treated differs. */
function treatedDifferently(device: DeviceWanted): unknown {
  const { remote, tcmu, mirror } = device;
  return deviceIdentity({
    ...device,
    readDelayUs: 0,
    writeDelayUs: 0,
    flushDelayUs: 0,
    remote: remote === null ? null : { ...emptyRemote, subnqn: remote.subnqn, nsid: remote.nsid },
    tcmu: tcmu === null ? null : { ...tcmu, library: "", timeoutMs: 0, whenLost: "fail" },
    mirror: mirror === null ? null : { ...mirror, whenLost: "fail" },
    migration: device.migration === null ? null : { ...device.migration, bytesPerSecond: 0n },
  });
}

const emptyRemote: Omit<RemoteWanted, "subnqn" | "nsid"> = {
  addresses: [],
  hostnqn: "",
  hostid: "",
  headerDigest: false,
  dataDigest: false,
  ioQueues: 0,
  depth: 0,
  katoMs: 0,
  pingMs: 0,
  timeoutMs: 0,
  deadlineMs: 0,
  whenLost: "fail",
};

const command = (
  verb: string,
  given: Readonly<Record<string, string>>,
  device: DeviceWanted,
): DeviceStep => ({ type: "device-command", verb, arguments: given, device });

export type Surroundings = {
  /** Whether a device is not wanted any more. */
  readonly goes: (name: string) => boolean;
  /** Whether a new device needs what a present one has: its medium, or something below. */
  readonly needs: (fresh: string, present: string) => boolean;
};

/** As many as a mirror can have. */
const legsMax = 8;
/** No stack is deeper. */
const depthMax = 32;

const names = (parts: readonly PartWanted[]): string[] => parts.map(({ device }) => device);

/**
 * From one list of legs to another. A leg that another one replaces stays in use until that one has everything. A
 * device that is to go is let go at once, but after new legs were taken, if there is room for both: one that is refused
 * then costs nothing.
 */
function legSteps(now: DeviceWanted, wanted: DeviceWanted, { goes, needs }: Surroundings): DeviceStep[] {
  const steps: DeviceStep[] = [];
  let device = now;
  const step = (verb: string, given: Readonly<Record<string, string>>, parts: PartWanted[]): void => {
    device = { ...device, parts };
    steps.push(command(verb, given, device));
  };
  const before = names(now.parts);
  const after = names(wanted.parts);
  const gone = before.filter((name) => !after.includes(name));
  const fresh = wanted.parts.filter((part) => !before.includes(part.device));
  const replaceable = gone.filter((name) => !goes(name)).slice(0, fresh.length);
  const leaving = gone.filter((name) => !replaceable.includes(name));
  const remove = (legs: readonly string[]): void => {
    for (const leg of legs) {
      const parts = device.parts.filter((part) => part.device !== leg);
      step("remove_leg", { leg }, parts);
    }
  };
  const room = before.length + fresh.length - replaceable.length <= legsMax;
  const stays = (leg: string): boolean =>
    room && goes(leg) && fresh.length > 0 && !fresh.some((part) => needs(part.device, leg));
  const last = leaving.filter(stays);
  remove(leaving.filter((leg) => !last.includes(leg)));
  for (const leg of replaceable) {
    const part = fresh.shift();
    if (part === undefined) break;
    const parts = device.parts.map((present) => (present.device === leg ? part : present));
    step("replace_leg", { leg, device: part.device }, parts);
  }
  for (const part of fresh) step("add_leg", { device: part.device }, [...device.parts, part]);
  remove(last);
  return steps;
}

const growSteps = (now: DeviceWanted, wanted: DeviceWanted): DeviceStep[] =>
  wanted.parts
    .slice(now.parts.length)
    .map((part, index) =>
      command(
        "grow",
        { device: part.device, start: String(part.startBytes), size: String(part.sizeBytes) },
        { ...now, parts: wanted.parts.slice(0, now.parts.length + index + 1) },
      ),
    );

/**
 * How `now` becomes `wanted` while it is in use; null: it cannot. `inPlace`: somebody says that the new medium has the
 * content.
 */
export function alteration(
  now: DeviceWanted,
  wanted: DeviceWanted,
  inPlace: boolean,
  around: Surroundings,
): DeviceStep[] | null {
  const steps = content(now, wanted, inPlace, around);
  if (steps === null || now.suspended === wanted.suspended) return steps;
  if (steps.some(({ type }) => type === "replace-device")) return steps;
  return [...steps, { type: "set-suspended", name: now.name, suspended: wanted.suspended }];
}

function content(
  now: DeviceWanted,
  wanted: DeviceWanted,
  inPlace: boolean,
  around: Surroundings,
): DeviceStep[] | null {
  if (same(deviceIdentity(now), deviceIdentity(wanted))) return [];
  if (now.kind === wanted.kind && now.kind === "mirror" && now.mirror !== null && wanted.mirror !== null) {
    const rate = wanted.mirror.resyncBytesPerSecond;
    const legs = legSteps(now, wanted, around);
    const tuned = { ...now, parts: wanted.parts, mirror: { ...now.mirror, resyncBytesPerSecond: rate } };
    const steps =
      rate === now.mirror.resyncBytesPerSecond
        ? legs
        : [...legs, command("set_rate", { bytes_per_second: String(rate) }, tuned)];
    if (same(deviceIdentity({ ...tuned, parts: [] }), deviceIdentity({ ...wanted, parts: [] }))) return steps;
  }
  if (now.kind === "linear" && wanted.kind === "linear") {
    const grown = same(now.parts, wanted.parts.slice(0, now.parts.length));
    if (grown && same(deviceIdentity({ ...now, parts: [] }), deviceIdentity({ ...wanted, parts: [] }))) {
      return growSteps(now, wanted);
    }
  }
  const treated = same(treatedDifferently(now), treatedDifferently(wanted));
  return treated || inPlace ? [{ type: "replace-device", device: wanted, before: now }] : null;
}

/** The same place, whatever it is called. */
function samePlace(left: DeviceWanted | undefined, right: DeviceWanted | undefined): boolean {
  if (left === undefined || right === undefined) return false;
  const placed = (device: DeviceWanted): unknown =>
    deviceIdentity({
      ...device,
      name: "",
      memoryName: device.kind === "ram" ? (device.memoryName ?? device.name) : null,
    });
  return same(placed(left), placed(right));
}

type Named = ReadonlyMap<string, DeviceWanted>;

/** What can be used once only: names of devices and of media, of one and of all below it. */
function usedBy(name: string, devices: Named, depth = 0): string[] {
  const device = devices.get(name);
  if (device === undefined || depth > depthMax) return [];
  const { path, remote, tcmu, kind, memoryName } = device;
  return [
    `device ${name}`,
    ...(path === null ? [] : [`path ${path}`]),
    ...(remote === null ? [] : [`remote ${remote.subnqn} ${remote.nsid}`]),
    ...(tcmu === null ? [] : [`tcmu ${tcmu.configuration}`]),
    ...(kind === "ram" ? [`memory ${memoryName ?? name}`] : []),
    ...standsOn(device).flatMap((below) => usedBy(below, devices, depth + 1)),
  ];
}

/** Whether `fresh`, which is wanted, needs something that `present` has now. */
export function needsOf(fresh: string, desired: Named, present: string, now: Named): boolean {
  const used = new Set(usedBy(present, now));
  return usedBy(fresh, desired).some((one) => used.has(one));
}

/** Copying that begins or ends between two states: the step, by the device's name. */
export function migrationSteps(present: Named, desired: Named): Map<string, DeviceStep> {
  const steps = new Map<string, DeviceStep>();
  for (const [name, now] of present) {
    const wanted = desired.get(name);
    if (wanted === undefined || (now.kind === "migration") === (wanted.kind === "migration")) continue;
    if (wanted.kind === "migration") {
      const source = desired.get(sourceName(name));
      const destination = desired.get(destinationName(name));
      if (source === undefined || destination === undefined || !samePlace(now, source)) continue;
      steps.set(name, { type: "begin-migration", device: wanted, source, destination });
    } else if (samePlace(present.get(sourceName(name)), wanted)) {
      steps.set(name, { type: "end-migration", device: wanted, how: "cancel" });
    } else if (samePlace(present.get(destinationName(name)), wanted)) {
      steps.set(name, { type: "end-migration", device: wanted, how: "commit" });
    }
  }
  return steps;
}

type Devices = readonly DeviceWanted[];

const swapped = (devices: Devices, device: DeviceWanted): Devices =>
  devices.map((present) => (present.name === device.name ? device : present));

const without = (devices: Devices, gone: readonly string[]): Devices =>
  devices.filter(({ name }) => !gone.includes(name));

/** The devices after a step. */
export function advanceDevices(devices: Devices, step: DeviceStep): Devices {
  switch (step.type) {
    case "replace-device":
    case "device-command":
      return swapped(devices, step.device);
    case "set-suspended":
      return devices.map((device) =>
        device.name === step.name ? { ...device, suspended: step.suspended } : device,
      );
    case "begin-migration": {
      const kept = without(devices, [step.device.name]);
      return [...kept, step.source, step.destination, step.device];
    }
    case "end-migration": {
      const { name } = step.device;
      return swapped(without(devices, [sourceName(name), destinationName(name)]), step.device);
    }
  }
}

/** What a device is, in a few words. */
export function deviceText(device: DeviceWanted): string {
  const { remote, tcmu, migration, parts } = device;
  const what =
    device.path ??
    device.base ??
    (remote === null ? null : `${remote.addresses.join(", ")} ${remote.subnqn}/${remote.nsid}`) ??
    (tcmu === null ? null : `${tcmu.handler} ${tcmu.configuration}`) ??
    (migration === null ? null : `${migration.source} → ${migration.destination}`) ??
    parts
      .map((part) =>
        part.startBytes === 0n && part.sizeBytes === 0n
          ? part.device
          : `${part.device}[${exactSize(part.startBytes)}+${part.sizeBytes === 0n ? "…" : exactSize(part.sizeBytes)}]`,
      )
      .join(", ");
  const size = device.sizeBytes === 0n ? "" : exactSize(device.sizeBytes);
  return [device.kind, what, size, device.suspended ? "suspended" : ""]
    .filter((part) => part !== "")
    .join(" ");
}

/** One line for people. */
export function describeDeviceStep(step: DeviceStep): string {
  switch (step.type) {
    case "replace-device":
      return `~ device     ${step.device.name}  ${deviceText(step.before)} → ${deviceText(step.device)}`;
    case "device-command": {
      const given = Object.values(step.arguments).join(" ");
      return `~ device     ${step.device.name}  ${`${step.verb.replaceAll("_", " ")} ${given}`.trimEnd()}`;
    }
    case "set-suspended":
      return `~ device     ${step.name}  ${step.suspended ? "suspended" : "resumed"}`;
    case "begin-migration":
      return `~ device     ${step.device.name}  copying to ${deviceText(step.destination)}`;
    case "end-migration":
      return `~ device     ${step.device.name}  ${step.how === "commit" ? "is" : "stays"} ${deviceText(step.device)}`;
  }
}
