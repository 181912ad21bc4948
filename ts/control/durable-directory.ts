// The durable directory: what must be the same after a restart of the process or the machine. Small JSON files:
//   identity.json   the server's UUID; UUID, NGUID and serial of everything that hosts ever saw; volumes of mirrors
//   changes.json    run-time changes against the configuration file (recovery/changes.ts)
//   discovery.json  how far the discovery generation counter may have counted
//   media.json      size, block size and identity of media that may be out of reach at a start (recovery/media.ts)
//   jobs.json       long operations (recovery/jobs.ts)
//   protection.json which namespaces hosts have write-protected
// A file is replaced whole: written beside, fsync, rename, fsync of the directory. So a reader finds the old or the
// new content and never half of one, and what was acknowledged is on the medium. One server per directory: a socket
// in the abstract name space is the lock, because the kernel releases it with the process.

import { randomUUID } from "node:crypto";
import { accessSync, constants, readFileSync, statSync } from "node:fs";
import { open, rename, rm } from "node:fs/promises";
import { createServer, type Server } from "node:net";
import { join } from "node:path";
import type { Identities } from "../config/complete.js";
import { KeelError, toKeelError } from "../model/errors.js";
import { type Hex128, parseHex128 } from "../model/ids.js";
import { isJsonObject, type Json, type JsonObject, toJson } from "../model/json.js";
import type { Change } from "../recovery/changes.js";
import { emptyJobs, type JobRecord, parseJobs } from "../recovery/jobs.js";
import { formatMedia, type Media, parseMedia } from "../recovery/media.js";
import { makeDirectory } from "./make-directory.js";

const fileBytesMax = 64 << 20;
/** The counter's reserve: one write to the disk per so many changes. */
const generationsReserved = 256n;
const generationsAhead = 1n << 20n;

export type RecordedChanges = {
  readonly changes: readonly Change[];
  /** What held before, while a change is being carried out; null once it is done. */
  readonly previous: readonly Change[] | null;
};

const emptyChanges: RecordedChanges = { changes: [], previous: null };

/** By "nqn nsid": the state of Namespace Write Protection that a host has set; without an entry there is none. */
export type Protections = Readonly<Record<string, { readonly nguid: string; readonly state: number }>>;

function corrupt(path: string, why: string): KeelError {
  return new KeelError("E_STATE_CORRUPT", `${path}: ${why}`, { path });
}

const isText = (value: unknown): value is string => typeof value === "string";

function parseChanges(value: Json | undefined, path: string): Change[] {
  if (!Array.isArray(value)) throw corrupt(path, "changes is not a list");
  return value.map((entry) => {
    if (!isJsonObject(entry) || !isText(entry["object"])) throw corrupt(path, "a change has no object");
    return { object: entry["object"], file: entry["file"] ?? null, now: entry["now"] ?? null };
  });
}

function parseIdentities(value: JsonObject, path: string): Identities {
  const server = isText(value["server"]) ? parseHex128(value["server"]) : null;
  const { namespaces, serials } = value;
  // Absent: written by a version without mirrors.
  const volumes = value["volumes"] ?? {};
  if (server === null) throw corrupt(path, "the server's UUID is missing");
  if (!isJsonObject(namespaces) || !isJsonObject(serials) || !isJsonObject(volumes))
    throw corrupt(path, "namespaces, serials or volumes are missing");
  const identities: Record<string, { uuid: string; nguid: string }> = {};
  for (const [key, entry] of Object.entries(namespaces)) {
    const { uuid, nguid } = isJsonObject(entry) ? entry : {};
    if (!isText(uuid) || !isText(nguid) || parseHex128(uuid) === null || parseHex128(nguid) === null) {
      throw corrupt(path, `the identity of ${key} is damaged`);
    }
    identities[key] = { uuid, nguid };
  }
  const texts: Record<string, string> = {};
  for (const [nqn, serial] of Object.entries(serials)) {
    if (!isText(serial)) throw corrupt(path, `the serial of ${nqn} is damaged`);
    texts[nqn] = serial;
  }
  const mirrors: Record<string, string> = {};
  for (const [name, volume] of Object.entries(volumes)) {
    if (!isText(volume) || parseHex128(volume) === null)
      throw corrupt(path, `the volume of mirror ${name} is damaged`);
    mirrors[name] = volume;
  }
  return { server, namespaces: identities, serials: texts, volumes: mirrors };
}

function parseProtections(value: JsonObject, path: string): Protections {
  const { namespaces } = value;
  if (!isJsonObject(namespaces)) throw corrupt(path, "namespaces are missing");
  const protections: Record<string, { nguid: string; state: number }> = {};
  for (const [key, entry] of Object.entries(namespaces)) {
    const { nguid, state } = isJsonObject(entry) ? entry : {};
    if (!isText(nguid) || parseHex128(nguid) === null || (state !== 0 && state !== 1)) {
      throw corrupt(path, `the write protection of ${key} is damaged`);
    }
    protections[key] = { nguid, state };
  }
  return protections;
}

export class DurableDirectory {
  readonly path: string;
  private readonly lock: Server;
  private identityRecord: Identities;
  private changeRecord: RecordedChanges;
  private generationReserved: bigint;
  private mediaRecord: Media;
  private jobRecord: JobRecord;
  private protectionRecord: Protections;
  private writing: Promise<void> = Promise.resolve();

  private constructor(path: string, lock: Server, record: StateRecord) {
    this.path = path;
    this.lock = lock;
    this.identityRecord = record.identities;
    this.changeRecord = record.changes;
    this.generationReserved = record.generationReserved;
    this.mediaRecord = record.media;
    this.jobRecord = record.jobs;
    this.protectionRecord = record.protections;
  }

  /** Creates the directory if need be. Throws E_STATE_DIRECTORY, E_ALREADY_RUNNING, E_STATE_CORRUPT. */
  static async open(path: string): Promise<DurableDirectory> {
    try {
      makeDirectory(path, 0o750);
      accessSync(path, constants.R_OK | constants.W_OK | constants.X_OK);
    } catch (thrown) {
      const reason = (thrown as NodeJS.ErrnoException).code ?? String(thrown);
      throw new KeelError("E_STATE_DIRECTORY", `cannot use the state directory ${path} (${reason})`, {
        path,
      });
    }
    const { dev, ino } = statSync(path);
    const lock = await takeLock(path, `keel-state-${dev}-${ino}`);
    try {
      const record = readAll(path);
      const directory = new DurableDirectory(path, lock, record);
      if (record.fresh) await directory.writeIdentities(record.identities);
      return directory;
    } catch (thrown) {
      lock.close();
      throw thrown;
    }
  }

  /** Reads as `open` does and leaves everything to whoever holds the directory. */
  static async peek(path: string): Promise<Pick<StateRecord, "identities" | "changes" | "media">> {
    const lock = await takeLock(path, `keel-rehearsal-${process.pid}`);
    try {
      return readAll(path);
    } finally {
      await new Promise<void>((resolve) => lock.close(() => resolve()));
    }
  }

  get identities(): Identities {
    return this.identityRecord;
  }

  get changes(): RecordedChanges {
    return this.changeRecord;
  }

  get media(): Media {
    return this.mediaRecord;
  }

  get jobs(): JobRecord {
    return this.jobRecord;
  }

  async writeMedia(media: Media): Promise<void> {
    await this.write("media.json", () => formatMedia(media));
    this.mediaRecord = media;
  }

  async writeJobs(jobs: JobRecord): Promise<void> {
    await this.write("jobs.json", () => ({ version: 1, ...jobs }));
    this.jobRecord = jobs;
  }

  /** Of the namespace that has this identity; another one under the same number starts without. */
  protectionOf(key: string, nguid: string): number {
    const entry = this.protectionRecord[key];
    return entry?.nguid === nguid ? entry.state : 0;
  }

  /** Kept when it settles. If it throws, what held before still holds. */
  async protect(key: string, nguid: string, state: number): Promise<void> {
    const before = this.protectionRecord[key];
    const entry = { nguid, state };
    this.protectionRecord = { ...this.protectionRecord, [key]: entry };
    try {
      await this.writeProtections();
    } catch (thrown) {
      if (this.protectionRecord[key] === entry) {
        const { [key]: _failed, ...others } = this.protectionRecord;
        this.protectionRecord = before === undefined ? others : { ...others, [key]: before };
      }
      throw thrown;
    }
  }

  /** Forgets namespaces that are no more: what is made later under their numbers is something else. */
  async forgetProtections(remains: (key: string, nguid: string) => boolean): Promise<void> {
    const entries = Object.entries(this.protectionRecord);
    const left = entries.filter(([key, { nguid, state }]) => state !== 0 && remains(key, nguid));
    if (left.length === entries.length) return;
    this.protectionRecord = Object.fromEntries(left);
    await this.writeProtections();
  }

  async writeIdentities(identities: Identities): Promise<void> {
    await this.write("identity.json", () => ({ version: 1, ...identities }));
    this.identityRecord = identities;
  }

  async writeChanges(record: RecordedChanges): Promise<void> {
    await this.write("changes.json", () => ({ version: 1, ...record }));
    this.changeRecord = record;
  }

  /**
   * Where the counter of a process starts that is about to use the directory: never below what hosts may have seen.
   * A standby asks while its predecessor still counts, so the start leaves room for what that one may yet reach.
   * The start is made durable by reserveGeneration.
   */
  static firstGeneration(path: string): bigint {
    const recorded = readJson(join(path, "discovery.json"));
    return (
      (recorded === null ? 0n : readGeneration(recorded, join(path, "discovery.json"))) + generationsAhead
    );
  }

  /** Called with each value that the counter reaches; writes only when the reserve is used up. */
  async reserveGeneration(value: bigint): Promise<void> {
    if (value < this.generationReserved) return;
    const reserved = value + generationsReserved;
    this.generationReserved = reserved;
    await this.write("discovery.json", () => ({ version: 1, reserved: String(reserved) }));
  }

  /** What the record says when its turn comes: the last of several writers writes for all. */
  private writeProtections(): Promise<void> {
    return this.write("protection.json", () => ({ version: 1, namespaces: this.protectionRecord }));
  }

  async close(): Promise<void> {
    await this.writing.catch(() => undefined);
    await new Promise<void>((resolve) => this.lock.close(() => resolve()));
  }

  private write(name: string, value: () => unknown): Promise<void> {
    const next = this.writing
      .catch(() => undefined)
      .then(() => replaceFile(this.path, name, `${toJson(value(), 2)}\n`));
    this.writing = next;
    return next;
  }
}

type StateRecord = {
  readonly identities: Identities;
  readonly changes: RecordedChanges;
  readonly generationReserved: bigint;
  readonly media: Media;
  readonly jobs: JobRecord;
  readonly protections: Protections;
  /** Nothing was there: the identities were made just now. */
  readonly fresh: boolean;
};

function readAll(path: string): StateRecord {
  const identity = readJson(join(path, "identity.json"));
  const changes = readJson(join(path, "changes.json"));
  const discovery = readJson(join(path, "discovery.json"));
  const media = readJson(join(path, "media.json"));
  const jobs = readJson(join(path, "jobs.json"));
  const protection = readJson(join(path, "protection.json"));
  return {
    identities:
      identity === null
        ? { server: parseHex128(randomUUID()) as Hex128, namespaces: {}, serials: {}, volumes: {} }
        : parseIdentities(identity, join(path, "identity.json")),
    changes: changes === null ? emptyChanges : readChanges(changes, join(path, "changes.json")),
    generationReserved: discovery === null ? 0n : readGeneration(discovery, join(path, "discovery.json")),
    media: media === null ? {} : parsedOr(parseMedia(media), join(path, "media.json")),
    jobs: jobs === null ? emptyJobs : parsedOr(parseJobs(jobs), join(path, "jobs.json")),
    protections: protection === null ? {} : parseProtections(protection, join(path, "protection.json")),
    fresh: identity === null,
  };
}

function parsedOr<Value>(value: Value | null, path: string): Value {
  if (value === null) throw corrupt(path, "is damaged");
  return value;
}

function readChanges(value: JsonObject, path: string): RecordedChanges {
  const previous = value["previous"];
  return {
    changes: parseChanges(value["changes"], path),
    previous: previous === null || previous === undefined ? null : parseChanges(previous, path),
  };
}

function readGeneration(value: JsonObject, path: string): bigint {
  const reserved = value["reserved"];
  if (!isText(reserved) || !/^\d{1,19}$/.test(reserved))
    throw corrupt(path, "the generation counter is damaged");
  return BigInt(reserved);
}

/** Synchronous: a few small files, read while hosts wait for a successor. */
function readJson(path: string): JsonObject | null {
  let text: string;
  try {
    if (statSync(path).size > fileBytesMax) throw corrupt(path, "is larger than 64 MiB");
    text = readFileSync(path, "utf8");
  } catch (thrown) {
    if (thrown instanceof KeelError) throw thrown;
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === "ENOENT") return null;
    throw new KeelError("E_STATE_DIRECTORY", `cannot read ${path} (${code ?? String(thrown)})`, { path });
  }
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    throw corrupt(path, "is not JSON");
  }
  if (!isJsonObject(value)) throw corrupt(path, "is not a JSON object");
  if (value["version"] !== 1)
    throw corrupt(path, `has version ${JSON.stringify(value["version"])}; known is 1`);
  return value;
}

async function replaceFile(directory: string, name: string, text: string): Promise<void> {
  const temporary = join(directory, `${name}.new`);
  try {
    const file = await open(temporary, "w", 0o640);
    try {
      await file.writeFile(text, "utf8");
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, join(directory, name));
    const folder = await open(directory, "r");
    try {
      await folder.sync();
    } finally {
      await folder.close();
    }
  } catch (thrown) {
    await rm(temporary, { force: true }).catch(() => undefined);
    throw new KeelError(
      "E_STATE_WRITE",
      `cannot write ${join(directory, name)}: ${toKeelError(thrown).message}`,
    );
  }
}

function takeLock(path: string, name: string): Promise<Server> {
  const server = createServer((socket) => socket.destroy());
  return new Promise((resolve, reject) => {
    server.once("error", (error: NodeJS.ErrnoException) => {
      const text =
        error.code === "EADDRINUSE" ? "another server uses" : `cannot lock (${error.code ?? error.message})`;
      reject(new KeelError("E_ALREADY_RUNNING", `${text} the state directory ${path}`, { path }));
    });
    server.listen(`\0${name}`, () => {
      server.unref();
      resolve(server);
    });
  });
}
