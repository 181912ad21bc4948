// Brings the engine from what is to what should be, one plan at a time, and knows at every moment where it stands.
//
// Two ways to treat a failing step. `strict` (a change that somebody asked for): the plan stops, what was done is
// undone by the plan back to where it started, and the error is thrown; a device whose medium takes time is waited for.
// `lenient` (start-up, later retries): a device that cannot be opened waits together with all that stands on it, and is
// tried again, and so does a namespace whose device is not ready; only what hosts need to reach the server at all (a
// listener) fails the start.

import { advance, diff, type Step } from "../config/diff.js";
import { type ErrorReport, KeelError, toKeelError } from "../model/errors.js";
import { toJson } from "../model/json.js";
import { type DeviceWanted, emptyState, type State, standsOn } from "../model/state.js";
import type { NativeEngine } from "../native/addon.js";
import { withDeadline } from "./deadline.js";
import type { Log } from "./log.js";
import { Readiness, takesTime } from "./readiness.js";
import { executeStep, type Known, type ProtectionOf, subjectOf } from "./steps.js";

const stepDeadlineMs = 60_000;

export type StrictOptions = {
  /** Devices whose new medium has the content of the old one. */
  readonly inPlace?: ReadonlySet<string>;
  /** How long a new device may take until it is ready; 0: what is not ready is left for later. */
  readonly readyMs: number;
};

export type Waiting = { readonly device: DeviceWanted; readonly error: ErrorReport };

export class Reconciler {
  private readonly engine: NativeEngine;
  private readonly log: Log;
  private current: State = emptyState;
  private readonly waitingDevices = new Map<string, Waiting>();
  /** Steps that failed because a device was not ready. */
  private readonly unready = new Set<string>();
  private readonly readiness: Readiness;
  private readonly known: Known;
  private readonly deadlineMs: number;
  private readonly protectionOf: ProtectionOf;

  constructor(
    engine: NativeEngine,
    log: Log,
    known: Known = () => null,
    protectionOf: ProtectionOf = () => 0,
    deadlineMs: number = stepDeadlineMs,
  ) {
    this.engine = engine;
    this.log = log;
    this.known = known;
    this.readiness = new Readiness(engine);
    this.protectionOf = protectionOf;
    this.deadlineMs = deadlineMs;
  }

  /** The engine told of a device. */
  deviceChanged(): void {
    this.readiness.changed();
  }

  /** What the engine has now. */
  get actual(): State {
    return this.current;
  }

  /** Devices that are wanted and could not be opened yet. */
  get waiting(): ReadonlyMap<string, Waiting> {
    return this.waitingDevices;
  }

  /** All or nothing. Throws the first step's error after undoing what came before it. */
  async strict(desired: State, { inPlace, readyMs }: StrictOptions): Promise<Step[]> {
    const before = this.current;
    const done: Step[] = [];
    for (const step of diff(before, desired, inPlace)) {
      if (this.dependsOnWaiting(step, desired)) continue;
      try {
        await this.run(step);
        done.push(step);
        this.unready.delete(subjectOf(step));
        if (readyMs > 0 && step.type === "add-device" && takesTime(step.device))
          await this.ready(step.device, readyMs);
      } catch (thrown) {
        const error = toKeelError(thrown);
        const unready = error.code === "E_NOT_READY" && step.type === "add-namespace";
        if (unready && (readyMs === 0 || this.unready.has(subjectOf(step)))) {
          this.unready.add(subjectOf(step));
          continue;
        }
        const left = done.length === 0 ? [] : await this.undo(before, inPlace);
        if (left.length > 0) {
          throw new KeelError(error.code, `${error.message}; undoing it failed at: ${left.join(", ")}`, {
            path: error.path,
            cause: error.causeText,
            fix: error.fix,
          });
        }
        throw error;
      }
    }
    this.forgetWaiting(desired);
    return done;
  }

  /** As far as it goes. Throws only for a listener. Answers the steps that were carried out. */
  async lenient(desired: State): Promise<Step[]> {
    const done: Step[] = [];
    this.forgetWaiting(desired);
    const skipped = new Set<string>();
    for (const step of diff(this.current, desired)) {
      if (this.standsOn(step, skipped)) {
        if (step.type === "add-device") skipped.add(step.device.name);
        continue;
      }
      try {
        await this.run(step);
        done.push(step);
        this.unready.delete(subjectOf(step));
        if (step.type === "add-device" && this.waitingDevices.delete(step.device.name)) {
          this.log.info({ device: step.device.name }, `device ${step.device.name} is there now`);
        }
      } catch (thrown) {
        const error = toKeelError(thrown);
        if (step.type === "add-listener") throw error;
        if (step.type === "add-device") {
          skipped.add(step.device.name);
          this.wait(step.device, error);
        } else if (error.code === "E_NOT_READY") {
          this.notReady(step, error);
        } else {
          this.log.error({ code: error.code, step: step.type }, error.message);
        }
      }
    }
    return done;
  }

  /** The device made anew under whoever uses it, with what is known of its medium now. */
  async again(device: DeviceWanted): Promise<void> {
    if (!this.current.devices.some(({ name }) => name === device.name)) return;
    await this.run({ type: "replace-device", device, before: device });
  }

  private notReady(step: Step, error: KeelError): void {
    const subject = subjectOf(step);
    if (!this.unready.has(subject)) this.log.warn({ code: error.code }, error.message);
    this.unready.add(subject);
  }

  /** Suspended parts do not hinder: their size is known, or they are waited for when they go on. */
  private async ready(device: DeviceWanted, readyMs: number): Promise<void> {
    const waits = standsOn(device).some((name) => this.waitingDevices.has(name));
    if (!waits && !device.suspended) await this.readiness.wait(device.name, readyMs);
  }

  private wait(device: DeviceWanted, error: KeelError): void {
    const known = this.waitingDevices.get(device.name);
    if (known === undefined || known.error.message !== error.message) {
      this.log.warn(
        { code: error.code, device: device.name },
        `device ${device.name} is not there yet: ${error.message}`,
      );
    }
    this.waitingDevices.set(device.name, { device, error: error.report() });
  }

  /** A device whose wish changed or went away is not waited for any more. */
  private forgetWaiting(desired: State): void {
    for (const [name, { device }] of this.waitingDevices) {
      const wanted = desired.devices.find((candidate) => candidate.name === name);
      if (wanted === undefined || toJson(wanted) !== toJson(device)) this.waitingDevices.delete(name);
    }
  }

  private standsOn(step: Step, devices: ReadonlySet<string>): boolean {
    if (step.type === "add-namespace") return devices.has(step.namespace.device);
    if (step.type !== "add-device" && step.type !== "replace-device") return false;
    return standsOn(step.device).some((name) => devices.has(name));
  }

  /** A change elsewhere does not fail because of a device that was missing before. */
  private dependsOnWaiting(step: Step, desired: State): boolean {
    const still = new Set<string>();
    for (const device of desired.devices) {
      const waiting = this.waitingDevices.get(device.name);
      const same = waiting !== undefined && toJson(waiting.device) === toJson(device);
      if (same || standsOn(device).some((name) => still.has(name))) still.add(device.name);
    }
    return this.standsOn(step, still) || (step.type === "add-device" && still.has(step.device.name));
  }

  private async run(step: Step): Promise<void> {
    const late = (succeeded: boolean): void => {
      this.log.warn(
        { step: step.type },
        `${subjectOf(step)}: ended after its deadline, ${succeeded ? "done" : "failed"}`,
      );
      if (succeeded) this.current = advance(this.current, step);
    };
    const done = executeStep(this.engine, step, this.known, this.protectionOf);
    await withDeadline(done, this.deadlineMs, subjectOf(step), late);
    this.current = advance(this.current, step);
  }

  /** Back to `before`; answers the subjects of the steps that failed. */
  private async undo(before: State, inPlace: ReadonlySet<string> | undefined): Promise<string[]> {
    const failed: string[] = [];
    for (const step of diff(this.current, before, inPlace)) {
      try {
        await this.run(step);
      } catch (thrown) {
        failed.push(subjectOf(step));
        this.log.error({ step: step.type }, `undoing failed: ${toKeelError(thrown).message}`);
      }
    }
    return failed;
  }
}
