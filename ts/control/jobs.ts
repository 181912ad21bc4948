// Long operations: each has an id, goes on after a restart, and is followed until it ends. A job decides nothing: a
// migration is what the configuration says, a resync and a scrub are what the devices do. The only thing that follows
// from its progress is that a migration which has copied everything is finished.

import { KeelError, toKeelError } from "../model/errors.js";
import type { JobKind } from "../model/job-kinds.js";
import {
  migrationProgress,
  notBegun,
  type Progress,
  resyncProgress,
  scrubProgress,
} from "../model/progress.js";
import type { DeviceReport, JobReport } from "../model/status.js";
import { beginJob, endJob, isRunning, type Job, type JobState } from "../recovery/jobs.js";
import type { DurableDirectory } from "./durable-directory.js";
import type { Log } from "./log.js";

const lookMs = 500;
const againMs = 10_000;
/** How much of a new measurement goes into the rate. */
const weight = 0.2;

/** What jobs need of the server. */
export type JobHost = {
  readonly directory: DurableDirectory;
  readonly log: Log;
  devices(): Promise<readonly DeviceReport[]>;
  isMigrating(device: string): boolean;
  finishMigration(device: string): Promise<void>;
  abandonMigration(device: string, why: string): Promise<void>;
  startScrub(device: string, repair: boolean): Promise<void>;
};

type Measure = { readonly timeMs: number; readonly doneBytes: number; readonly rate: number | null };

const progressOf = (job: Job, device: DeviceReport): Progress | null => {
  if (job.kind === "migrate") return migrationProgress(device);
  return job.kind === "resync" ? resyncProgress(device, job.subject) : scrubProgress(device);
};

export class Jobs {
  private readonly host: JobHost;
  private readonly measures = new Map<number, Measure>();
  private readonly troubles = new Map<number, string>();
  /** Ending a migration holds requests back: what failed is not tried again at once. */
  private readonly notBefore = new Map<number, number>();
  private timer: NodeJS.Timeout | null = null;
  private looking: Promise<void> | null = null;
  private stopped = false;

  constructor(host: JobHost) {
    this.host = host;
  }

  private get record() {
    return this.host.directory.jobs;
  }

  /** Goes on with what a predecessor had begun. `migrating`: the devices that the configuration says are copied. */
  async resume(migrating: readonly string[]): Promise<void> {
    for (const device of migrating) await this.begin("migrate", device, "");
    for (const job of this.record.jobs.filter(isRunning)) {
      if (job.kind === "migrate" && !migrating.includes(job.device)) await this.end(job.id, "done", "");
    }
    this.follow();
  }

  async begin(kind: JobKind, device: string, subject: string): Promise<Job> {
    const { record, job } = beginJob(this.record, kind, device, subject, Date.now());
    if (record !== this.record) await this.host.directory.writeJobs(record);
    this.follow();
    return job;
  }

  async end(id: number, state: Exclude<JobState, "running">, message: string): Promise<void> {
    await this.host.directory.writeJobs(endJob(this.record, id, state, message, Date.now()));
    this.measures.delete(id);
    this.troubles.delete(id);
    this.notBefore.delete(id);
  }

  /** Every running job of a kind about a device. */
  async endAll(
    kind: JobKind,
    device: string,
    state: Exclude<JobState, "running">,
    message = "",
  ): Promise<void> {
    for (const job of this.record.jobs) {
      if (isRunning(job) && job.kind === kind && job.device === device)
        await this.end(job.id, state, message);
    }
  }

  find(id: number): Job {
    const job = this.record.jobs.find((one) => one.id === id);
    if (job === undefined)
      throw new KeelError("E_NOT_FOUND", `there is no job ${id}`, { fix: "keel jobs lists them" });
    return job;
  }

  /** Newest first. */
  reports(devices: readonly DeviceReport[]): JobReport[] {
    return this.record.jobs
      .map((job): JobReport => {
        const device = devices.find(({ name }) => name === job.device);
        const progress = isRunning(job) && device !== undefined ? progressOf(job, device) : null;
        const rate = this.measures.get(job.id)?.rate ?? null;
        const left = progress === null ? null : Math.max(0, progress.totalBytes - progress.doneBytes);
        return {
          ...job,
          message: isRunning(job) ? (this.troubles.get(job.id) ?? progress?.trouble ?? "") : job.message,
          doneBytes: progress?.doneBytes ?? null,
          totalBytes: progress?.totalBytes ?? null,
          bytesPerSecond: rate,
          secondsLeft: left === null || rate === null || rate <= 0 ? null : left / rate,
        };
      })
      .reverse();
  }

  stop(): void {
    this.stopped = true;
    if (this.timer !== null) clearInterval(this.timer);
    this.timer = null;
  }

  /** Something about a device changed: a job may have ended. */
  lookSoon(): void {
    if (this.timer !== null) void this.look();
  }

  private follow(): void {
    const running = this.record.jobs.some(isRunning);
    if (!running && this.timer !== null) {
      clearInterval(this.timer);
      this.timer = null;
    }
    if (running && this.timer === null && !this.stopped)
      this.timer = setInterval(() => void this.look(), lookMs).unref();
  }

  private look(): Promise<void> {
    this.looking ??= this.lookNow()
      .catch((thrown: unknown) => this.host.log.warn({}, `jobs: ${toKeelError(thrown).message}`))
      .finally(() => {
        this.looking = null;
        this.follow();
      });
    return this.looking;
  }

  private async lookNow(): Promise<void> {
    const devices = await this.host.devices();
    for (const job of this.record.jobs.filter(isRunning)) {
      const device = devices.find(({ name }) => name === job.device);
      if (device === undefined) {
        if (!this.stopped) await this.end(job.id, "failed", `device "${job.device}" is there no longer`);
        continue;
      }
      const progress = progressOf(job, device);
      if (progress === null) {
        await this.ended(job);
        continue;
      }
      this.measure(job.id, progress.doneBytes);
      if (progress.failed !== null) await this.failed(job, progress.failed);
      else if (progress.complete) await this.complete(job, progress);
      else if (progress.trouble === notBegun) await this.scrubAgain(job);
    }
  }

  private async failed(job: Job, why: string): Promise<void> {
    this.host.log.error({ area: "job", job: job.id, device: job.device }, `job ${job.id} failed: ${why}`);
    if (job.kind === "migrate") await this.host.abandonMigration(job.device, why);
    else await this.end(job.id, "failed", why);
  }

  /** After a restart, as soon as the mirror serves. */
  private async scrubAgain(job: Job): Promise<void> {
    await this.host.startScrub(job.device, job.subject === "repair").catch(() => undefined);
  }

  /** The device does nothing of the kind any more. */
  private async ended(job: Job): Promise<void> {
    if (job.kind === "migrate" && this.host.isMigrating(job.device)) return;
    if (job.kind === "resync") await this.end(job.id, "failed", `"${job.subject}" is no leg any more`);
    else await this.end(job.id, "done", "");
  }

  private async complete(job: Job, progress: Progress): Promise<void> {
    if (job.kind === "migrate") {
      if (performance.now() < (this.notBefore.get(job.id) ?? 0)) return;
      try {
        await this.host.finishMigration(job.device);
        this.troubles.delete(job.id);
      } catch (thrown) {
        const { message } = toKeelError(thrown);
        if (this.troubles.get(job.id) !== message)
          this.host.log.warn({ device: job.device }, `the migration cannot end yet: ${message}`);
        this.troubles.set(job.id, message);
        this.notBefore.set(job.id, performance.now() + againMs);
        return;
      }
    }
    await this.end(job.id, "done", progress.result);
    this.host.log.info(
      { area: "job", job: job.id, device: job.device },
      `job ${job.id} (${job.kind}) is done`,
    );
  }

  private measure(id: number, doneBytes: number): void {
    const timeMs = performance.now();
    const before = this.measures.get(id);
    if (before === undefined) {
      this.measures.set(id, { timeMs, doneBytes, rate: null });
      return;
    }
    const seconds = (timeMs - before.timeMs) / 1000;
    if (seconds < 0.2) return;
    const now = Math.max(0, doneBytes - before.doneBytes) / seconds;
    const rate = before.rate === null ? now : before.rate * (1 - weight) + now * weight;
    this.measures.set(id, { timeMs, doneBytes, rate });
  }
}
