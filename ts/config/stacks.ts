// Devices that stand on others: every part exists, nothing stands on itself, ranges do not overlap, and sizes fit as
// far as the document tells them. What a medium has to tell (a remote namespace, a file without `size`) is checked by
// the engine when it is there.

import type { ErrorCode } from "../model/errors.js";
import { didYouMean } from "../model/nearest.js";
import { sourceName } from "../model/state.js";
import { exactSize } from "../model/units.js";
import { type PartDocument, partsOf } from "./naming.js";
import type { DeviceDocument, PlainDeviceDocument } from "./schema.js";
import type { PathPart } from "./yaml.js";

type Devices = Readonly<Record<string, DeviceDocument>>;
type Add = (code: ErrorCode, path: readonly PathPart[], message: string) => void;
type Claim = (device: string, user: string, writes: boolean, path: readonly PathPart[]) => void;

export const isReadOnly = (device: DeviceDocument | undefined): boolean =>
  device !== undefined && "read_only" in device && device.read_only === true;

/** The documents in which a device's own values stand: two while it is copied to another place. */
function plainOf(device: DeviceDocument): { document: PlainDeviceDocument; path: readonly PathPart[] }[] {
  if (!("migration" in device)) return [{ document: device, path: [] }];
  return (["source", "destination"] as const).map((side) => ({
    document: device.migration[side],
    path: ["migration", side],
  }));
}

/** As the document says it; null where only the medium knows. */
function sizeOf(device: DeviceDocument | undefined): bigint | null {
  if (device === undefined) return null;
  if ("migration" in device) return sizeOf(device.migration.source);
  if ("ram" in device) return device.ram;
  if ("null" in device) return device.null;
  return "file" in device || "tcmu" in device ? (device.size ?? null) : null;
}

function blockBytesOf(device: DeviceDocument | undefined): number | null {
  if (device === undefined) return null;
  if ("migration" in device) return blockBytesOf(device.migration.source);
  if ("ram" in device || "null" in device || "file" in device) return device.block_size ?? 4096;
  return "blockdev" in device || "tcmu" in device ? (device.block_size ?? null) : null;
}

/** From `name` downwards back to `name`, if there is such a way. */
function circle(devices: Devices, name: string): string[] | null {
  const seen = new Set<string>();
  const walk = (from: string, way: readonly string[]): string[] | null => {
    const device = devices[from];
    if (device === undefined) return null;
    for (const { part } of partsOf(device)) {
      if (part.device === name) return [...way, name];
      if (seen.has(part.device)) continue;
      seen.add(part.device);
      const found = walk(part.device, [...way, part.device]);
      if (found !== null) return found;
    }
    return null;
  };
  return walk(name, [name]);
}

function checkSizes(document: PlainDeviceDocument, path: readonly PathPart[], add: Add): void {
  const size = sizeOf(document);
  const block = BigInt(blockBytesOf(document) ?? 4096);
  const key = "ram" in document ? "ram" : "null" in document ? "null" : "size";
  if (size === 0n) {
    add("E_CONFIG_VALUE", [...path, key], `0 bytes are no device: it has at least one block of ${block}`);
  } else if (size !== null && size % block !== 0n) {
    add("E_CONFIG_VALUE", [...path, key], `${size} bytes is not a multiple of the block size ${block}`);
  }
  if ("stripe" in document && document.chunk !== undefined) {
    const { chunk } = document;
    if (chunk < 4096n || chunk > 16n << 20n || chunk % 4096n !== 0n) {
      add("E_CONFIG_VALUE", [...path, "chunk"], `${chunk} bytes is not a multiple of 4KiB up to 16MiB`);
    }
  }
  if ("mirror" in document && document.region !== undefined) {
    const { region } = document;
    if (region < 64n << 10n || region > 1n << 30n || (region & (region - 1n)) !== 0n) {
      add("E_CONFIG_VALUE", [...path, "region"], `${region} bytes is not a power of two from 64KiB to 1GiB`);
    }
  }
  for (const [key, low, high] of [
    ["keep_alive", 1_000_000, 600_000_000],
    ["ping", 10_000, 600_000_000],
    ["timeout", 10_000, 600_000_000],
    ["deadline", 10_000, 86_400_000_000],
  ] as const) {
    if (!("nvme-tcp" in document) && !("tcmu" in document)) break;
    const value = key in document ? (document as Partial<Record<typeof key, number>>)[key] : undefined;
    if (value !== undefined && (value < low || value > high)) {
      add("E_CONFIG_VALUE", [...path, key], `is not between ${low / 1000} ms and ${high / 1_000_000} s`);
    }
  }
}

type Range = { readonly part: PartDocument; readonly path: readonly PathPart[] };

/** A linear volume may take several ranges of one device; anything else takes a device once. */
function checkRanges(ranges: readonly Range[], devices: Devices, linear: boolean, add: Add): void {
  for (const [index, { part, path }] of ranges.entries()) {
    const size = sizeOf(devices[part.device]);
    const end = part.size === 0n ? size : part.start + part.size;
    for (const [key, value] of [
      ["start", part.start],
      ["size", part.size],
    ] as const) {
      if (value % 4096n !== 0n)
        add("E_CONFIG_VALUE", [...path, key], `${value} bytes is not a multiple of 4KiB`);
    }
    if (size !== null && (part.start >= size || (end ?? 0n) > size)) {
      add("E_CONFIG_VALUE", path, `reaches beyond the end of device "${part.device}" (${exactSize(size)})`);
    }
    for (const earlier of ranges.slice(0, index)) {
      if (earlier.part.device !== part.device) continue;
      const { part: other } = earlier;
      const otherEnd = other.size === 0n ? null : other.start + other.size;
      const apart =
        linear &&
        ((otherEnd !== null && otherEnd <= part.start) ||
          (end !== null && part.size !== 0n && end <= other.start));
      if (!apart) {
        const text = linear
          ? `overlaps another range of device "${part.device}"`
          : `device "${part.device}" stands here twice`;
        add("E_CONFIG_REFERENCE", path, text);
        break;
      }
    }
  }
}

/** Parts that say their block size say the same. */
function checkBlocks(ranges: readonly Range[], devices: Devices, add: Add): void {
  let first: { name: string; bytes: number } | null = null;
  for (const { part, path } of ranges) {
    const bytes = blockBytesOf(devices[part.device]);
    if (bytes === null) continue;
    first ??= { name: part.device, bytes };
    if (bytes !== first.bytes) {
      const text = `device "${part.device}" has blocks of ${bytes} bytes, "${first.name}" of ${first.bytes}`;
      add("E_CONFIG_VALUE", path, text);
    }
  }
}

export function checkStacks(devices: Devices, add: Add, claim: Claim): void {
  const names = Object.keys(devices);
  for (const [name, device] of Object.entries(devices)) {
    const own = ["devices", name];
    for (const { document, path } of plainOf(device)) {
      checkSizes(document, [...own, ...path], add);
      const ranges = partsOf(document).map((range) => ({
        part: range.part,
        path: [...own, ...path, ...range.path],
      }));
      const present = ranges.filter(({ part, path: where }) => {
        if (devices[part.device] !== undefined) return true;
        add(
          "E_CONFIG_REFERENCE",
          where,
          `there is no device "${part.device}".${didYouMean(part.device, names)}`,
        );
        return false;
      });
      const way = circle(devices, name);
      if (way !== null) {
        const [first] = present;
        add("E_CONFIG_REFERENCE", first?.path ?? own, `devices stack in a circle: ${way.join(" → ")}`);
        continue;
      }
      checkRanges(present, devices, "linear" in document, add);
      checkBlocks(present, devices, add);
      const claimed = new Set<string>();
      for (const { part, path: where } of present) {
        if (claimed.has(part.device)) continue;
        claimed.add(part.device);
        claim(part.device, `device "${name}"`, !isReadOnly(devices[part.device]), where);
      }
    }
    if ("migration" in device) checkMigration(name, device.migration, own, add);
  }
}

function checkMigration(
  name: string,
  { source, destination }: { source: PlainDeviceDocument; destination: PlainDeviceDocument },
  own: readonly PathPart[],
  add: Add,
): void {
  const from = sizeOf(source);
  const to = sizeOf(destination);
  if (from !== null && to !== null && to < from) {
    const text = `${exactSize(to)} cannot hold what "${sourceName(name)}" has, ${exactSize(from)}`;
    add("E_CONFIG_VALUE", [...own, "migration", "destination"], text);
  }
}
