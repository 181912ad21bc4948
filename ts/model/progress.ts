// How far a long operation is, from what the devices tell of themselves.

import { type DeviceReport, isServing } from "./status.js";

export type Progress = {
  readonly doneBytes: number;
  readonly totalBytes: number;
  /** The device says that nothing is left. */
  readonly complete: boolean;
  /** Why it cannot go on now; empty: it goes on. */
  readonly trouble: string;
  /** It has ended without success: why. */
  readonly failed: string | null;
  /** What it found, when it is complete. */
  readonly result: string;
};

const number = (device: DeviceReport, key: string): number | null => {
  const value = device.details[key];
  return typeof value === "number" ? value : null;
};

const text = (device: DeviceReport, key: string): string => String(device.details[key] ?? "");

/** null: the device does not copy. */
export function migrationProgress(device: DeviceReport): Progress | null {
  if (device.kind !== "migration") return null;
  const totalBytes = number(device, "total_bytes") ?? device.sizeBytes;
  const state = text(device, "state");
  return {
    doneBytes: Math.min(number(device, "copied_bytes") ?? 0, totalBytes),
    totalBytes,
    complete: state === "copied",
    trouble: isServing(device.state) ? "" : `${device.state} ${device.reason}`.trimEnd(),
    failed: state === "failed" ? text(device, "reason") : null,
    result: "",
  };
}

export const legState = (device: DeviceReport, leg: string): string => text(device, `leg.${leg}.state`);

/** What a leg waits for before anything can be copied to it. */
const stuck = ["absent", "refused", "diverged", "detached"];

/** null: the mirror has no such leg. */
export function resyncProgress(device: DeviceReport, leg: string): Progress | null {
  const state = legState(device, leg);
  if (state === "") return null;
  const dirty = number(device, `leg.${leg}.dirty_bytes`) ?? 0;
  const reason = text(device, `leg.${leg}.reason`);
  return {
    doneBytes: Math.max(0, device.sizeBytes - dirty),
    totalBytes: device.sizeBytes,
    complete: state === "up",
    failed: null,
    trouble: stuck.includes(state) ? `${leg} is ${state}${reason === "" ? "" : `: ${reason}`}` : "",
    result: "",
  };
}

/** null: no mirror. */
export function scrubProgress(device: DeviceReport): Progress | null {
  const state = text(device, "scrub.state");
  if (state === "") return null;
  const totalBytes = device.sizeBytes;
  const different = number(device, "scrub.different_blocks") ?? 0;
  const repaired = number(device, "scrub.repaired_blocks") ?? 0;
  const ran = (number(device, "scrub.runs") ?? 0) > 0;
  return {
    doneBytes: Math.min(number(device, "scrub.checked_bytes") ?? 0, totalBytes),
    totalBytes,
    complete: state === "idle" && ran,
    failed: null,
    // The device forgets a scrub with the process that ran it.
    trouble: state === "idle" && !ran ? notBegun : "",
    result: different === 0 ? "no differences" : `${different} block(s) differ, ${repaired} repaired`,
  };
}

export const notBegun = "not begun again yet";
