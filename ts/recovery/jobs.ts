// Long operations: what was begun, and how it ended. What is really under way is said by the configuration that holds
// (a migration) and by the devices (a resync, a scrub); a job is the account of it that people and programs follow.

import { type JobKind, jobKinds } from "../model/job-kinds.js";
import { isJsonObject, type Json, type JsonObject } from "../model/json.js";

export const jobStates = ["running", "done", "failed", "cancelled"] as const;
export type JobState = (typeof jobStates)[number];

export type Job = {
  readonly id: number;
  readonly kind: JobKind;
  readonly device: string;
  /** resync: the leg; scrub: "repair" or "". */
  readonly subject: string;
  readonly state: JobState;
  /** Why it failed, or what it found. */
  readonly message: string;
  readonly startedMs: number;
  readonly endedMs: number | null;
};

export type JobRecord = { readonly next: number; readonly jobs: readonly Job[] };
export const emptyJobs: JobRecord = { next: 1, jobs: [] };

const endedMax = 100;

export const isRunning = (job: Job): boolean => job.state === "running";

/** A job like it that runs already is the same one. */
export function beginJob(
  record: JobRecord,
  kind: JobKind,
  device: string,
  subject: string,
  nowMs: number,
): { readonly record: JobRecord; readonly job: Job } {
  const present = record.jobs.find(
    (job) => isRunning(job) && job.kind === kind && job.device === device && job.subject === subject,
  );
  if (present !== undefined) return { record, job: present };
  const job: Job = {
    id: record.next,
    kind,
    device,
    subject,
    state: "running",
    message: "",
    startedMs: nowMs,
    endedMs: null,
  };
  return { record: { next: record.next + 1, jobs: [...record.jobs, job] }, job };
}

export function endJob(
  record: JobRecord,
  id: number,
  state: Exclude<JobState, "running">,
  message: string,
  nowMs: number,
): JobRecord {
  const jobs = record.jobs.map((job) =>
    job.id === id && isRunning(job) ? { ...job, state, message, endedMs: nowMs } : job,
  );
  const ended = jobs.filter((job) => !isRunning(job)).map((job) => job.id);
  const forgotten = new Set(ended.slice(0, Math.max(0, ended.length - endedMax)));
  return { next: record.next, jobs: jobs.filter((job) => !forgotten.has(job.id)) };
}

function parseJob(value: Json): Job | null {
  if (!isJsonObject(value)) return null;
  const { id, kind, device, subject, state, message, startedMs, endedMs } = value;
  const knownKind = jobKinds.find((one) => one === kind);
  const knownState = jobStates.find((one) => one === state);
  if (typeof id !== "number" || knownKind === undefined || knownState === undefined) return null;
  if (typeof device !== "string" || typeof subject !== "string" || typeof message !== "string") return null;
  if (typeof startedMs !== "number" || (typeof endedMs !== "number" && endedMs !== null)) return null;
  return { id, kind: knownKind, device, subject, state: knownState, message, startedMs, endedMs };
}

/** null: damaged. */
export function parseJobs(value: JsonObject): JobRecord | null {
  const { next, jobs } = value;
  if (typeof next !== "number" || !Number.isSafeInteger(next) || !Array.isArray(jobs)) return null;
  const parsed = jobs.map(parseJob);
  return parsed.every((job) => job !== null) ? { next, jobs: parsed } : null;
}
