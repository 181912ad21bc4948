// Operations on volumes. What they change of the configuration is a change like any other, so it is durable, undone
// when it fails and there after a restart; what only the device knows (a leg that is left out, a scrub) is durable in
// the device.
//
// A migration has a moment at which the other place becomes the true one. There the order is its own: everything is
// copied → the engine holds requests back and flushes the destination (prepare) → the new configuration is written,
// once and finally → the engine hands over (commit). Killed before the write, the device is still both places, which
// are equal; killed after it, the device is the destination, which has all that was ever acknowledged. Calling off
// goes the other way: the source is complete at every moment, so it is written first.

import { randomUUID } from "node:crypto";
import {
  addLeg,
  beginMigration,
  endMigration,
  findDevice,
  findLeg,
  growLinear,
  isMigrating,
  type Place,
  partsOfKind,
  removeLeg,
  replaceDevice,
  replaceLeg,
  setResyncRate,
  suspendDevice,
} from "../config/volume-edit.js";
import { KeelError } from "../model/errors.js";
import { formatUuid } from "../model/ids.js";
import type { JsonObject } from "../model/json.js";
import type { NativeEngine } from "../native/addon.js";
import type { Job } from "../recovery/jobs.js";
import type { ChangeOptions, ChangeResult } from "./changes.js";
import type { Jobs } from "./jobs.js";

type Edit = (raw: JsonObject) => JsonObject;
const plain: ChangeOptions = { dryRun: false, allowDataLoss: false };

/** What operations need of the server. */
export type VolumeHost = {
  readonly engine: NativeEngine;
  readonly jobs: Jobs;
  configuration(): JsonObject;
  change(edit: Edit, options: ChangeOptions): Promise<ChangeResult>;
  /** `prepare`, then the record, once and finally, then the steps. */
  settle(edit: Edit, prepare: () => Promise<void>): Promise<ChangeResult>;
  /** A verb of the device's kind; one operation at a time. */
  command(device: string, verb: string, given: Record<string, string>): Promise<void>;
  /** The volume that a mirror has now. */
  volumeOf(device: string): string | null;
  forgetMedium(device: string): Promise<void>;
};

export type WithJob = ChangeResult & { readonly job: number | null };

export class Volumes {
  private readonly host: VolumeHost;

  constructor(host: VolumeHost) {
    this.host = host;
  }

  suspend(device: string, options: ChangeOptions = plain): Promise<ChangeResult> {
    return this.host.change((raw) => suspendDevice(raw, device, true), options);
  }

  resume(device: string, options: ChangeOptions = plain): Promise<ChangeResult> {
    return this.host.change((raw) => suspendDevice(raw, device, false), options);
  }

  /** Another medium with the same content. */
  replace(device: string, spec: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.host.change((raw) => replaceDevice(raw, device, spec), { ...options, inPlace: [device] });
  }

  /** The medium that is there now is the right one, although it is not the one that was there before. */
  async accept(device: string): Promise<void> {
    findDevice(structuredClone(this.host.configuration()), device);
    await this.host.forgetMedium(device);
  }

  async migrate(device: string, to: Place, rate: string | null, options: ChangeOptions): Promise<WithJob> {
    const volume = this.host.volumeOf(device);
    const volumes = {
      source: volume === null ? null : formatUuid(volume),
      destination: randomUUID(),
    };
    const result = await this.host.change((raw) => beginMigration(raw, device, to, rate, volumes), {
      ...options,
      // What the other place holds is overwritten: that is what was asked for.
      allowDataLoss: options.allowDataLoss || "spec" in to,
    });
    return this.withJob(result, () => this.host.jobs.begin("migrate", device, ""));
  }

  async finishMigration(device: string): Promise<void> {
    const { engine } = this.host;
    await this.host.settle(
      (raw) => endMigration(raw, device, "destination"),
      () => engine.prepareMigration(device),
    );
  }

  async cancelMigration(device: string): Promise<ChangeResult> {
    if (!isMigrating(this.host.configuration(), device))
      throw new KeelError("E_NOT_FOUND", `device "${device}" is not being copied to another place`);
    await this.host.jobs.endAll("migrate", device, "cancelled");
    return this.backToSource(device);
  }

  /** The other place has failed: nobody has noticed, and nobody will. */
  async abandonMigration(device: string, why: string): Promise<void> {
    await this.host.jobs.endAll("migrate", device, "failed", why);
    await this.backToSource(device);
  }

  private backToSource(device: string): Promise<ChangeResult> {
    return this.host.settle(
      (raw) => endMigration(raw, device, "source"),
      () => Promise.resolve(),
    );
  }

  grow(
    device: string,
    part: { device: string; start: string | null; size: string | null },
    options: ChangeOptions,
  ): Promise<ChangeResult> {
    return this.host.change((raw) => growLinear(raw, device, part), options);
  }

  async addLeg(mirror: string, device: string, options: ChangeOptions): Promise<WithJob> {
    const result = await this.host.change((raw) => addLeg(raw, mirror, device), options);
    return this.withJob(result, () => this.host.jobs.begin("resync", mirror, device));
  }

  removeLeg(mirror: string, leg: string, options: ChangeOptions): Promise<ChangeResult> {
    return this.host.change((raw) => removeLeg(raw, mirror, leg), options);
  }

  async replaceLeg(mirror: string, leg: string, device: string, options: ChangeOptions): Promise<WithJob> {
    const result = await this.host.change((raw) => replaceLeg(raw, mirror, leg, device), options);
    return this.withJob(result, () => this.host.jobs.begin("resync", mirror, device));
  }

  /** Throws if it is none. */
  findMirror(mirror: string): void {
    partsOfKind(structuredClone(this.host.configuration()), mirror, "mirror");
  }

  setRate(mirror: string, rate: string, options: ChangeOptions): Promise<ChangeResult> {
    return this.host.change((raw) => setResyncRate(raw, mirror, rate), options);
  }

  /** `detach`, `attach`, `invalidate`, `mark_clean`: what the legs record themselves. Answers the resync's job. */
  async legVerb(
    verb: "detach" | "attach" | "invalidate" | "mark_clean",
    mirror: string,
    leg: string,
    given: Record<string, string> = {},
  ): Promise<{ job: number | null }> {
    findLeg(structuredClone(this.host.configuration()), mirror, leg);
    await this.host.command(mirror, verb, { leg, ...given });
    if (verb === "detach" || verb === "mark_clean") return { job: null };
    return { job: (await this.host.jobs.begin("resync", mirror, leg)).id };
  }

  async scrub(mirror: string, repair: boolean): Promise<{ job: number }> {
    await this.startScrub(mirror, repair);
    return { job: (await this.host.jobs.begin("scrub", mirror, repair ? "repair" : "")).id };
  }

  startScrub(mirror: string, repair: boolean): Promise<void> {
    return this.host.command(mirror, "scrub", { repair: repair ? "yes" : "no" });
  }

  /** What a job does is ended where that is possible; a resync is ended by leaving its leg out. */
  async cancelJob(id: number): Promise<void> {
    const { jobs } = this.host;
    const job = jobs.find(id);
    if (job.state !== "running")
      throw new KeelError("E_NOT_FOUND", `job ${id} has ended already (${job.state})`);
    if (job.kind === "migrate") {
      await this.cancelMigration(job.device);
      return;
    }
    if (job.kind === "scrub") await this.host.command(job.device, "scrub_stop", {});
    else await this.host.command(job.device, "detach", { leg: job.subject });
    await jobs.end(id, "cancelled", "");
  }

  private async withJob(result: ChangeResult, begin: () => Promise<Job>): Promise<WithJob> {
    return { ...result, job: result.applied ? (await begin()).id : null };
  }
}
