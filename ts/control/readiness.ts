// Waiting for devices whose medium takes time: another machine, a handler's process, a mirror that reads its legs.
// Ready means: the size is known, so something can stand on it.

import { KeelError } from "../model/errors.js";
import type { DeviceKind, DeviceWanted } from "../model/state.js";
import type { DeviceStatus, NativeEngine } from "../native/addon.js";

const slow: ReadonlySet<DeviceKind> = new Set(["nvme", "tcmu", "mirror", "linear", "stripe"]);
const lookAgainMs = 200;

/** Kinds that are there at once and ready later. */
export const takesTime = (device: DeviceWanted): boolean => slow.has(device.kind);

export const isReady = (status: DeviceStatus): boolean => status.sizeBytes > 0n && status.state !== "foreign";

export class Readiness {
  private readonly engine: NativeEngine;
  private wake: () => void = () => undefined;

  constructor(engine: NativeEngine) {
    this.engine = engine;
  }

  /** Something about a device has changed. */
  changed(): void {
    this.wake();
  }

  /** Throws E_FOREIGN at once, E_UNREACHABLE after `deadlineMs`, with the engine's own reason. */
  async wait(name: string, deadlineMs: number): Promise<void> {
    const end = performance.now() + deadlineMs;
    for (;;) {
      const device = (await this.engine.status()).devices.find((one) => one.name === name);
      if (device === undefined || isReady(device)) return;
      const reason = device.reason === "" ? device.state : `${device.state}: ${device.reason}`;
      if (device.state === "foreign")
        throw new KeelError("E_FOREIGN", `devices.${name}: ${reason}`, { path: `devices.${name}` });
      const left = end - performance.now();
      if (left <= 0) {
        throw new KeelError(
          "E_UNREACHABLE",
          `devices.${name}: not there within ${deadlineMs / 1000} s (${reason})`,
          {
            path: `devices.${name}`,
            cause: "what the device stands for does not answer, or refuses this server",
            fix: "check its address, that the other side runs and admits this server's host NQN; then repeat the command",
          },
        );
      }
      await this.pause(Math.min(left, lookAgainMs));
    }
  }

  private pause(milliseconds: number): Promise<void> {
    return new Promise((resolve) => {
      const timer = setTimeout(resolve, milliseconds);
      this.wake = () => {
        clearTimeout(timer);
        resolve();
      };
    });
  }
}
