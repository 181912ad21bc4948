// The server: owns the engine, takes one change at a time, makes each durable, and reconciles.
//
// A change goes: document → checks → plan → recorded (with what held before) → carried out → recorded as done. Killed
// in between, the next start finds the record: it carries the change out, or falls back to what held before if that
// is impossible. A change that fails is undone and its record taken back. So after any kill there is the old
// configuration or the new one.

import { performance } from "node:perf_hooks";
import { type Context, complete, completeSettings } from "../config/complete.js";
import { dataLost, describeStep, diff, type Step, unchangedCount } from "../config/diff.js";
import { type Loaded, parseDocument } from "../config/load.js";
import { isMigrating } from "../config/volume-edit.js";
import { KeelError, toKeelError } from "../model/errors.js";
import { namespaceKey } from "../model/ids.js";
import { type JsonObject, sameJson, toJson } from "../model/json.js";
import type { Desired, LogLevel, Settings } from "../model/state.js";
import type { ServerStatus } from "../model/status.js";
import type { Adoption, EngineEvent, LastPdus, NativeEngine, Takeover } from "../native/addon.js";
import { type Change, changeableSections, changesBetween, mergeChanges } from "../recovery/changes.js";
import { formatKept, keptConfigurationName } from "../recovery/kept-configuration.js";
import { knownFacts, mediumKey } from "../recovery/media.js";
import { encodePrepared } from "../recovery/prepared.js";
import { admit } from "./admission.js";
import { withDeadline } from "./deadline.js";
import { DurableDirectory } from "./durable-directory.js";
import { EventRing } from "./events.js";
import { type GoneOn, reconcilerFor } from "./going-on.js";
import { Jobs } from "./jobs.js";
import type { Log } from "./log.js";
import type { Reconciler } from "./reconciler.js";
import { nameVolumes, rememberIdentities, rememberMedia } from "./remembering.js";
import { serverStatus } from "./report.js";
import { Volumes } from "./volumes.js";

const retryMs = 2_000;
const aliveMs = 1_000;
/** How long a change waits for a device on another machine. */
const readyMs = 20_000;
const prepareDeadlineMs = 30_000;
const commandDeadlineMs = 60_000;
const statusDeadlineMs = 5_000;
const stopDeadlineMs = 10_000;

export type ServerParts = {
  readonly engine: NativeEngine;
  readonly directory: DurableDirectory;
  readonly log: Log;
  readonly context: Omit<Context, "identities">;
  readonly version: string;
  /** Of the program's files; null: not known. */
  readonly build: string | null;
  /** What the engine was laid out by, and the document that says so. */
  readonly settings: Settings;
  readonly layout: JsonObject;
  /** The file that the configuration came from, and how to read it again; null: built-in defaults. */
  readonly configFile: string | null;
  readonly setLogLevel: (level: LogLevel) => void;
};

export type ChangeOptions = {
  readonly dryRun: boolean;
  readonly allowDataLoss: boolean;
  /** Devices whose new medium has the content of the old one: whoever uses them goes on. */
  readonly inPlace?: readonly string[];
};
export type ChangeResult = {
  readonly applied: boolean;
  /** One line per step, as people read them. */
  readonly steps: string[];
  readonly unchanged: number;
  /** What the steps destroy for good. */
  readonly lost: string[];
  /** Keys that take effect at the next start only. */
  readonly needsRestart: string[];
};

/** Where a device's content is copied from and to is decided by the copying alone. */
function refuseMigrating(steps: readonly Step[]): void {
  const ends = steps.find((step) => step.type === "end-migration" && step.how === "commit");
  if (ends?.type !== "end-migration") return;
  throw new KeelError("E_BUSY", `device "${ends.device.name}" is being copied to another place`, {
    fix: "keel jobs shows how far it is; wait for its end, or cancel it",
  });
}

export class Server {
  private readonly parts: ServerParts;
  private readonly gone: GoneOn | null;
  private readonly reconciler: Reconciler;
  private readonly events = new EventRing();
  private readonly jobs: Jobs;
  readonly volumes: Volumes;
  private readonly startedMs = Date.now();
  private file: Loaded;
  private raw: JsonObject;
  private desired: Desired;
  private queue: Promise<unknown> = Promise.resolve();
  private retry: NodeJS.Timeout | null = null;
  private stopping = false;
  private kept = false;
  /** A planned restart was asked for: the successor is to read the file. */
  private readAgain = false;
  private watchdog: NodeJS.Timeout | null = null;
  private restartFailure: { timeMs: number; reason: string } | null = null;

  /** `file`: the configuration as its file has it. `gone`: hosts go on already, with what a predecessor had. */
  constructor(parts: ServerParts, file: Loaded, gone: GoneOn | null) {
    this.parts = parts;
    this.gone = gone;
    this.file = file;
    this.raw = file.raw;
    this.desired = this.complete(file);
    const { directory } = parts;
    this.reconciler = gone?.reconciler ?? reconcilerFor(parts.engine, directory, parts.log);
    this.jobs = new Jobs({
      directory,
      log: parts.log,
      devices: async () => (await this.status()).devices,
      isMigrating: (device) => isMigrating(this.raw, device),
      finishMigration: (device) => this.volumes.finishMigration(device),
      abandonMigration: (device, why) => this.volumes.abandonMigration(device, why),
      startScrub: (device, repair) => this.volumes.startScrub(device, repair),
    });
    this.volumes = new Volumes({
      engine: parts.engine,
      jobs: this.jobs,
      configuration: () => this.raw,
      change: (edit, options) => this.change(edit, options),
      settle: (edit, prepare) => this.settle(edit, prepare),
      command: (device, verb, given) => this.command(device, verb, given),
      volumeOf: (device) =>
        this.reconciler.actual.devices.find(({ name }) => name === device)?.mirror?.volume ?? null,
      forgetMedium: (device) => this.forgetMedium(device),
    });
  }

  get configuration(): JsonObject {
    return this.raw;
  }

  get settings(): Desired["settings"] {
    return this.desired.settings;
  }

  /**
   * Brings up what the file and the recorded changes say, then goes on with what a predecessor left. The engine has
   * been started, and this process is the one that is to serve.
   */
  async start(takeover: Takeover): Promise<void> {
    const { engine, directory } = this.parts;
    const record = directory.changes;
    if (this.gone === null) await engine.setLoading(true);
    // Where hosts go on already, this finds everything as it should be.
    let kept = await this.bringUp(record.previous ?? record.changes);
    if (record.previous !== null) kept = (await this.finish(record.changes)) ?? kept;
    this.reportAdoption(takeover, this.gone?.adoption ?? (await engine.adopt()));
    if (this.gone === null) await engine.setLoading(false);
    // Hosts go on already: what follows is bookkeeping that a kill may repeat.
    if (record.previous !== null || !sameJson(kept, record.changes)) {
      await directory.writeChanges({ changes: kept, previous: null });
    }
    await rememberIdentities(this.parts.directory, this.desired.state);
    await this.rememberMedia();
    await this.forgetProtections();
    await this.continueGeneration(takeover);
    this.kept = takeover.kept;
    await this.leaveConfiguration();
    if (takeover.kept) this.watchdog = setInterval(() => engine.alive(), aliveMs).unref();
    await this.jobs.resume(
      this.reconciler.actual.devices.filter(({ kind }) => kind === "migration").map(({ name }) => name),
    );
    this.scheduleRetry();
  }

  private reportAdoption(takeover: Takeover, adoption: Adoption): void {
    const { log } = this.parts;
    const { carried, begun, executed, refused } = adoption;
    for (const line of refused) log.warn({ area: "restart" }, `could not go on: ${line}`);
    if (takeover.reason === "" || takeover.reason === "start") return;
    const { reason, exit, previousPid, restarts } = takeover;
    const text = `restart after ${reason}: ${carried} connections and ${executed} commands carried over`;
    this.events.add(refused.length > 0 ? "warn" : "info", text);
    log.info({ area: "restart", reason, exit, previousPid, restarts, carried, begun, executed }, text);
  }

  /** A carried arena has the counter; otherwise it starts above everything that hosts may have seen. */
  private async continueGeneration(takeover: Takeover): Promise<void> {
    if (takeover.carried) return;
    const { engine, directory } = this.parts;
    const generation = DurableDirectory.firstGeneration(directory.path);
    await engine.setDiscoveryGeneration(generation);
    await directory.reserveGeneration(generation);
  }

  /** With the keeper, for a successor. */
  private async leaveConfiguration(): Promise<void> {
    if (!this.kept) return;
    const { readAgain } = this;
    const { build, settings, layout } = this.parts;
    const { state, logLevel } = this.desired;
    const file = this.file.raw;
    const changes = changesBetween(file, this.raw);
    const prepared =
      readAgain || build === null ? null : encodePrepared({ build, settings, logLevel, state, changes });
    await this.parts.engine.storeText(
      keptConfigurationName,
      formatKept({ file, layout, readAgain, prepared }),
    );
  }

  /** Asks the keeper to replace this process by what is installed now. It goes on until the new one is ready. */
  async restart(reason: string): Promise<void> {
    this.restartFailure = null;
    this.readAgain = true;
    await this.leaveConfiguration();
    await withDeadline(this.parts.engine.requestRestart(reason), statusDeadlineMs, "asking for a restart");
  }

  async lastPdus(): Promise<LastPdus[]> {
    return withDeadline(this.parts.engine.lastPdus(), statusDeadlineMs, "the flight recorder");
  }

  /** The change that a dead predecessor was carrying out: done now, or (null) undone. */
  private async finish(changes: readonly Change[]): Promise<readonly Change[] | null> {
    const { log, context } = this.parts;
    try {
      const merge = mergeChanges(this.file.raw, changes);
      const loaded = parseDocument(merge.raw, context.node);
      await this.reconciler.strict(this.complete(loaded).state, { readyMs: 0 });
      this.adopt(loaded);
      log.info({}, "the change that was under way when the server ended has been finished");
      return merge.kept;
    } catch (thrown) {
      const error = toKeelError(thrown);
      log.warn(
        { code: error.code },
        `the change that was under way when the server ended is undone: ${error.message}`,
      );
      return null;
    }
  }

  private async bringUp(changes: readonly Change[]): Promise<readonly Change[]> {
    const { log } = this.parts;
    const merge = mergeChanges(this.file.raw, changes);
    await nameVolumes(this.parts.directory, merge.raw);
    for (const { object } of merge.dropped) {
      log.warn(
        { object },
        `${object}: the configuration file was edited after it was changed at run time; the file holds`,
      );
    }
    let loaded: Loaded;
    let kept = merge.kept;
    try {
      loaded = parseDocument(merge.raw, this.parts.context.node);
    } catch (thrown) {
      // The file and the changes do not fit together any more: the file is what somebody wrote by hand.
      const objects = merge.kept.map(({ object }) => object).join(", ");
      log.error(
        { objects },
        `changes made at run time do not fit the configuration file any more and are dropped: ${toKeelError(thrown).message}`,
      );
      loaded = this.file;
      kept = [];
    }
    this.adopt(loaded);
    await this.reconciler.lenient(this.desired.state);
    return kept;
  }

  /** Reads as: from now on this is wanted. */
  private adopt(loaded: Loaded): void {
    this.raw = loaded.raw;
    this.desired = this.complete(loaded);
    this.parts.setLogLevel(this.desired.logLevel);
  }

  /** What the document asks for, with the layout that this process has: its node name decides default NQNs. */
  private complete({ document }: Loaded): Desired {
    const { context, directory, settings } = this.parts;
    const { identities } = directory;
    return { ...complete({ ...document, node: settings.node }, { ...context, identities }), settings };
  }

  /** Write protection ends with its namespace. */
  private async forgetProtections(): Promise<void> {
    const { directory, log } = this.parts;
    const present = new Map<string, string>();
    for (const { nqn, namespaces } of this.desired.state.subsystems) {
      for (const { nsid, nguid } of namespaces) present.set(namespaceKey(nqn, nsid), nguid);
    }
    await directory
      .forgetProtections((key, nguid) => present.get(key) === nguid)
      .catch((error: unknown) => log.error({}, toKeelError(error).message));
  }

  /** A host is answered, and what it asked for holds, once it is on the disk. */
  private async keepProtection(event: EngineEvent & { type: "write-protection" }): Promise<void> {
    const { engine, directory, log } = this.parts;
    const { request, subsystem, nsid, nguid, state } = event;
    const what = `${subsystem} namespace ${nsid}: write protection ${state === 0 ? "taken away" : "set"} by a host`;
    try {
      await directory.protect(namespaceKey(subsystem, nsid), nguid, state);
      engine.admit(request, true, "");
      this.events.add("info", what);
    } catch (thrown) {
      const reason = toKeelError(thrown).message;
      engine.admit(request, false, reason);
      log.error({ area: "host" }, `${what}, which cannot be kept: ${reason}`);
    }
  }

  private async rememberMedia(): Promise<void> {
    const { directory, engine, log } = this.parts;
    try {
      await rememberMedia(directory, engine, this.reconciler.actual, this.desired.state);
    } catch (thrown) {
      log.error({}, `what was found out about media is not recorded: ${toKeelError(thrown).message}`);
    }
  }

  /** One change at a time; whoever comes later waits for whoever came first. */
  private inTurn<Value>(work: () => Promise<Value>): Promise<Value> {
    const next = this.queue.then(() => {
      if (this.stopping) throw new KeelError("E_STOPPED", "the server is stopping");
      return work();
    });
    this.queue = next.catch(() => undefined);
    return next;
  }

  /** `edit` answers the document as it should be, from a copy that it may change. */
  change(edit: (raw: JsonObject) => JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.inTurn(() => this.changeNow(edit(structuredClone(this.raw)), options));
  }

  /** The document as a whole: what it does not name is removed. */
  apply(raw: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.inTurn(async () => {
      const merged: JsonObject = {};
      for (const [key, value] of Object.entries(this.raw)) {
        if (!changeableSections.includes(key)) merged[key] = value;
      }
      for (const [key, value] of Object.entries(raw)) {
        if (changeableSections.includes(key)) merged[key] = value;
      }
      // Faults in the other keys are faults too, although they take effect later.
      const given = parseDocument(raw, this.desired.settings.node);
      const needsRestart = this.needRestart(given);
      return { ...(await this.changeNow(merged, options)), needsRestart };
    });
  }

  /** The configuration file again, after somebody edited it. `read` throws if it has faults: then all stays. */
  reload(read: () => Loaded): Promise<ChangeResult> {
    return this.inTurn(async () => {
      const file = read();
      const merge = mergeChanges(file.raw, this.parts.directory.changes.changes);
      for (const { object } of merge.dropped)
        this.parts.log.warn({ object }, `${object}: the edited file holds`);
      const before = this.file;
      this.file = file;
      try {
        const needsRestart = this.needRestart(file);
        const result = await this.changeNow(merge.raw, { dryRun: false, allowDataLoss: false });
        return { ...result, needsRestart };
      } catch (thrown) {
        this.file = before;
        throw thrown;
      }
    });
  }

  /** What the document says about the layout and this process does not have. */
  private needRestart({ document }: Loaded): string[] {
    const { context, settings: now } = this.parts;
    const settings = completeSettings(document, document.node ?? context.node, context.paths);
    const limits = (Object.keys(now.limits) as (keyof typeof now.limits)[])
      .filter((key) => now.limits[key] !== settings.limits[key])
      .map((key) => `limits.${key}`);
    const others = (["node", "stateDirectory", "rpcSocket", "httpListen"] as const).filter(
      (key) => toJson(now[key]) !== toJson(settings[key]),
    );
    return [...others, ...limits];
  }

  private async changeNow(raw: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    const { directory } = this.parts;
    const loaded = parseDocument(raw, this.desired.settings.node);
    if (!options.dryRun) await nameVolumes(this.parts.directory, this.raw, raw);
    const next = this.complete(loaded);
    const inPlace = new Set(options.inPlace ?? []);
    const steps = diff(this.reconciler.actual, next.state, inPlace);
    refuseMigrating(steps);
    const lost = steps.map(dataLost).filter((text) => text !== null);
    const result: ChangeResult = {
      applied: !options.dryRun,
      steps: steps.map(describeStep),
      unchanged: unchangedCount(next.state, steps),
      lost,
      needsRestart: [],
    };
    if (options.dryRun) return result;
    if (lost.length > 0 && !options.allowDataLoss) {
      throw new KeelError("E_DATA_LOSS", `this would destroy ${lost.join(" and ")}`);
    }

    const before = directory.changes.changes;
    const changes = changesBetween(this.file.raw, raw);
    await rememberIdentities(this.parts.directory, next.state);
    if (!sameJson(changes, before)) await directory.writeChanges({ changes, previous: before });
    try {
      await this.reconciler.strict(next.state, { inPlace, readyMs });
    } catch (thrown) {
      await directory.writeChanges({ changes: before, previous: null }).catch((error: unknown) => {
        this.parts.log.error({}, `the record of a failed change stays: ${toKeelError(error).message}`);
      });
      this.scheduleRetry();
      throw thrown;
    }
    this.adopt(loaded);
    if (!sameJson(changes, before)) await directory.writeChanges({ changes, previous: null });
    await this.leaveConfiguration();
    await this.forgetProtections();
    this.report(steps);
    await nameVolumes(this.parts.directory, raw);
    await this.rememberMedia();
    this.scheduleRetry();
    return result;
  }

  /**
   * A change that is true from one moment on: prepared, recorded without a way back, then carried out. What fails of it
   * after the record is tried again, as at a start.
   */
  private settle(edit: (raw: JsonObject) => JsonObject, prepare: () => Promise<void>): Promise<ChangeResult> {
    return this.inTurn(async () => {
      const { directory } = this.parts;
      const raw = edit(structuredClone(this.raw));
      const loaded = parseDocument(raw, this.desired.settings.node);
      const next = this.complete(loaded);
      const planned = diff(this.reconciler.actual, next.state);
      // Hosts wait from here to the record's end: a directory that cannot be written is found out before.
      await directory.writeChanges(directory.changes);
      await withDeadline(prepare(), prepareDeadlineMs, "holding requests back");
      await directory.writeChanges({ changes: changesBetween(this.file.raw, raw), previous: null });
      this.adopt(loaded);
      this.report(await this.reconciler.lenient(next.state));
      await this.leaveConfiguration();
      await this.rememberMedia();
      this.scheduleRetry();
      return { applied: true, steps: planned.map(describeStep), unchanged: 0, lost: [], needsRestart: [] };
    });
  }

  private command(device: string, verb: string, given: Record<string, string>): Promise<void> {
    return this.inTurn(async () => {
      if (!this.reconciler.actual.devices.some(({ name }) => name === device))
        throw new KeelError("E_NOT_FOUND", `there is no device "${device}"`);
      const what = `device ${device}: ${verb.replaceAll("_", " ")}`;
      await withDeadline(this.parts.engine.deviceCommand(device, verb, given), commandDeadlineMs, what);
      const text = `${what} ${Object.values(given).join(" ")}`.trimEnd();
      this.events.add("info", text);
      this.parts.log.info({ area: "config", device }, text);
    });
  }

  /** The next medium that is found is taken whatever it is, if it has the size: who uses the device counts on that. */
  private forgetMedium(device: string): Promise<void> {
    return this.inTurn(async () => {
      const { directory } = this.parts;
      const wanted = this.desired.state.devices.find(({ name }) => name === device);
      const key = wanted === undefined ? null : mediumKey(wanted);
      if (wanted === undefined || key === null)
        throw new KeelError("E_UNSUPPORTED", `nothing is remembered of the medium of device "${device}"`);
      const before = directory.media;
      const facts = knownFacts(before, wanted);
      if (facts !== null) await directory.writeMedia({ ...before, [key]: { ...facts, identity: "" } });
      try {
        await this.reconciler.again(wanted);
      } catch (thrown) {
        await directory.writeMedia(before);
        throw thrown;
      }
      await this.rememberMedia();
    });
  }

  private report(steps: readonly Step[]): void {
    for (const step of steps) {
      const text = describeStep(step).replaceAll(/ {2,}/g, " ");
      this.events.add("info", text);
      this.parts.log.info({ area: "config" }, text);
    }
  }

  /** While something waits, it is tried again; otherwise there is no timer. */
  private scheduleRetry(afterMs: number = retryMs): void {
    const behind =
      this.reconciler.waiting.size > 0 || diff(this.reconciler.actual, this.desired.state).length > 0;
    if (!behind || this.stopping) return;
    if (this.retry !== null) {
      if (afterMs > 0) return;
      clearTimeout(this.retry);
    }
    this.retry = setTimeout(() => {
      this.retry = null;
      this.inTurn(() => this.reconciler.lenient(this.desired.state))
        .then((steps) => this.report(steps))
        .then(() => this.rememberMedia())
        .catch((error: unknown) => this.parts.log.warn({}, toKeelError(error).message))
        .finally(() => this.scheduleRetry());
    }, afterMs);
    this.retry.unref();
  }

  /** Looks at a medium again that was grown or shrunk outside. Answers the new size. */
  rescan(device: string): Promise<bigint> {
    return this.inTurn(async () => {
      if (!this.reconciler.actual.devices.some(({ name }) => name === device)) {
        throw new KeelError("E_NOT_FOUND", `there is no device "${device}"`);
      }
      try {
        return await this.parts.engine.resizeDevice(device, null);
      } catch (thrown) {
        throw toKeelError(thrown);
      }
    });
  }

  async disconnect(hostNqn: string, subsystem: string | null): Promise<number> {
    return withDeadline(
      this.parts.engine.disconnectHost(hostNqn, subsystem),
      statusDeadlineMs,
      "disconnecting",
    );
  }

  async status(): Promise<ServerStatus> {
    const { engine: native } = this.parts;
    const ask = Promise.all([native.status(), native.restarts(), this.kept ? native.keeperInfo() : null]);
    const [engine, restarts, keeper] = await withDeadline(ask, statusDeadlineMs, "the engine's status");
    const memory = process.memoryUsage.rss();
    const cpu = process.cpuUsage();
    const facts = {
      version: this.parts.version,
      pid: process.pid,
      startedMs: this.startedMs,
      nowMs: Date.now(),
      configFile: this.parts.configFile,
      changedAtRunTime: changesBetween(this.file.raw, this.raw).map(({ object }) => object),
      keeper,
      restarts,
      restartFailure: this.restartFailure,
      process: {
        residentBytes: memory,
        cpuSeconds: (cpu.user + cpu.system) / 1e6,
        eventLoopUtilization: performance.eventLoopUtilization().utilization,
      },
      events: this.events.list(),
    };
    return serverStatus(
      engine,
      this.desired,
      this.reconciler.actual,
      this.reconciler.waiting,
      facts,
      (devices) => this.jobs.reports(devices),
    );
  }

  /** What the engine says, in order, on the main thread. */
  onEvent(event: EngineEvent): void {
    const { log, engine, directory } = this.parts;
    switch (event.type) {
      case "connect": {
        const decision = this.stopping
          ? { allow: false, reason: "the server is stopping" }
          : admit(this.desired.state, event);
        engine.admit(event.request, decision.allow, decision.reason);
        if (!decision.allow) {
          this.events.add("warn", `${event.hostNqn} refused at ${event.subsystem}: ${decision.reason}`);
          log.warn(
            { host: event.hostNqn, subsystem: event.subsystem, peer: event.peerAddress },
            `host refused: ${decision.reason}`,
          );
        }
        return;
      }
      case "write-protection":
        void this.keepProtection(event);
        return;
      case "log":
        log[event.level]({ area: event.area }, event.message);
        return;
      case "controller": {
        const text = `${event.hostNqn} ${event.change} ${event.change === "connected" ? "to" : "from"} ${event.subsystem}`;
        this.events.add("info", event.reason === "" ? text : `${text}: ${event.reason}`);
        log.info({ area: "host", cntlid: event.cntlid, reason: event.reason }, text);
        return;
      }
      case "discovery-generation":
        directory.reserveGeneration(event.generation).catch((error: unknown) => {
          log.error({}, `the discovery generation counter is not durable: ${toKeelError(error).message}`);
        });
        return;
      case "restart-failed":
        this.restartFailure = { timeMs: Date.now(), reason: event.reason };
        this.readAgain = false;
        this.leaveConfiguration().catch((error: unknown) => log.error({}, toKeelError(error).message));
        this.events.add("error", `restart failed: ${event.reason}`);
        log.error(
          { area: "restart", code: "E_RESTART_FAILED" },
          `the new server did not start: ${event.reason}`,
        );
        return;
      case "device":
        this.deviceChanged();
        this.events.add(
          event.state === "ok" ? "info" : "warn",
          `device ${event.device}: ${event.state} ${event.reason}`.trimEnd(),
        );
        log.warn(
          { device: event.device, state: event.state },
          `device ${event.device}: ${event.state} ${event.reason}`.trimEnd(),
        );
    }
  }

  /** What waited for it is tried at once; what it is now is recorded. */
  private deviceChanged(): void {
    this.reconciler.deviceChanged();
    this.jobs.lookSoon();
    this.scheduleRetry(0);
    this.inTurn(() => this.rememberMedia()).catch((error: unknown) =>
      this.parts.log.debug({}, toKeelError(error).message),
    );
  }

  /** Ends connections in an orderly way and closes what is open. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.jobs.stop();
    if (this.retry !== null) clearTimeout(this.retry);
    if (this.watchdog !== null) clearInterval(this.watchdog);
    await this.queue;
    await withDeadline(this.parts.engine.stop(), stopDeadlineMs, "stopping the engine");
  }
}
