// The tree of devices below a volume: what `keel graph` prints, one value per node.

import { KeelError } from "./errors.js";
import { didYouMean } from "./nearest.js";
import type { DeviceReport, ServerStatus } from "./status.js";

export type GraphNode = {
  name: string;
  kind: string;
  /** Where its medium is; null: it stands on others. */
  path: string | null;
  /** Where in `name` the range begins that the node above uses. */
  startBytes: number;
  sizeBytes: number;
  /** As the node above sees it where that says more than the device itself: "resyncing", "stale". */
  state: string;
  reason: string;
  /** How many changes of the volume's make-up it has seen; null: it does not count them. */
  age: number | null;
  /** What it lacks. */
  dirtyBytes: number | null;
  inFlight: number;
  /** Requests that failed, and blocks that did not have their checksum. */
  errors: number;
  suspended: boolean;
  details: Record<string, string | number>;
  parts: GraphNode[];
};

export type GraphRoot = GraphNode & {
  /** Who uses it: "subsystem pg namespace 1". */
  usedBy: string[];
};

/** The details that a device tells of one of its parts: `leg.NAME.KEY` becomes KEY. */
export function partDetails(device: DeviceReport, part: string): Record<string, string | number> {
  const prefix = `leg.${part}.`;
  return Object.fromEntries(
    Object.entries(device.details)
      .filter(([key]) => key.startsWith(prefix) && !key.slice(prefix.length).includes("."))
      .map(([key, value]) => [key.slice(prefix.length), value]),
  );
}

const numberOf = (value: string | number | undefined): number | null =>
  typeof value === "number" ? value : null;

const depthMax = 32;

function node(
  name: string,
  devices: ReadonlyMap<string, DeviceReport>,
  above: DeviceReport | null,
  index: number,
  depth: number,
): GraphNode {
  const device = devices.get(name);
  const told = above === null ? {} : partDetails(above, name);
  const range = above?.ranges[index];
  const own = device?.state ?? "missing";
  const seen = String(told["state"] ?? "");
  const better = own === "ok" && seen !== "" && seen !== "up";
  return {
    name,
    kind: device?.kind ?? "",
    path: device?.path ?? null,
    startBytes: range?.startBytes ?? 0,
    sizeBytes: range !== undefined && range.sizeBytes > 0 ? range.sizeBytes : (device?.sizeBytes ?? 0),
    state: better ? seen : own,
    reason: better ? String(told["reason"] ?? "") : (device?.reason ?? ""),
    age: numberOf(told["events"]) ?? numberOf(device?.details["events"]),
    dirtyBytes: numberOf(told["dirty_bytes"]) ?? numberOf(device?.details["dirty_bytes"]),
    inFlight: device?.inFlight ?? 0,
    errors: (device?.errors ?? 0) + (numberOf(told["corruptions"]) ?? 0),
    suspended: device?.suspended ?? false,
    details: { ...(device?.details ?? {}) },
    parts:
      device === undefined || depth >= depthMax
        ? []
        : device.parts.map((part, place) => node(part, devices, device, place, depth + 1)),
  };
}

/** The volume of that name (a device, or a subsystem's devices), or every device that nothing stands on. */
export function graphOf(status: ServerStatus, volume: string | null): GraphRoot[] {
  const devices = new Map(status.devices.map((device) => [device.name, device]));
  const users = (name: string): string[] =>
    status.subsystems.flatMap((subsystem) =>
      subsystem.namespaces
        .filter((namespace) => namespace.device === name)
        .map(({ nsid }) => `subsystem ${subsystem.name} namespace ${nsid}`),
    );
  const root = (name: string): GraphRoot => ({ ...node(name, devices, null, 0, 0), usedBy: users(name) });
  if (volume === null) {
    const below = new Set(status.devices.flatMap((device) => device.parts));
    return status.devices.filter(({ name }) => !below.has(name)).map(({ name }) => root(name));
  }
  if (devices.has(volume)) return [root(volume)];
  const subsystem = status.subsystems.find(({ name, nqn }) => name === volume || nqn === volume);
  if (subsystem !== undefined)
    return [...new Set(subsystem.namespaces.map(({ device }) => device))].map(root);
  const names = [...devices.keys(), ...status.subsystems.map(({ name }) => name)];
  throw new KeelError("E_NOT_FOUND", `there is no volume "${volume}".${didYouMean(volume, names)}`, {
    fix: "keel graph shows all of them",
  });
}

export type GraphRow = { readonly node: GraphNode; readonly label: string };

/** From top to bottom, with the lines that draw the tree. */
export function graphRows(roots: readonly GraphRoot[]): GraphRow[] {
  const rows: GraphRow[] = [];
  const walk = (one: GraphNode, lead: string, mark: string, below: string): void => {
    rows.push({ node: one, label: `${lead}${mark}${one.name}` });
    for (const [index, part] of one.parts.entries()) {
      const last = index === one.parts.length - 1;
      walk(part, `${lead}${below}`, last ? "└─ " : "├─ ", last ? "   " : "│  ");
    }
  };
  for (const one of roots) walk(one, "", "", "");
  return rows;
}
