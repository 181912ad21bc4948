// The server: owns the engine and its parts, starts with what the file and the recorded changes say, goes on with what a
// predecessor left, and leaves everything to a successor. What changes while it runs: changes.ts.

import { performance } from "node:perf_hooks";
import { type Loaded, parseDocument } from "../config/load.js";
import { isMigrating } from "../config/volume-edit.js";
import { toKeelError } from "../model/errors.js";
import { type JsonObject, sameJson } from "../model/json.js";
import type { Desired } from "../model/state.js";
import type { ServerStatus } from "../model/status.js";
import type { Adoption, EngineEvent, LastPdus, Takeover } from "../native/addon.js";
import { type Change, mergeChanges } from "../recovery/changes.js";
import { formatKept, keptConfigurationName } from "../recovery/kept-configuration.js";
import { encodePrepared } from "../recovery/prepared.js";
import { type ChangeOptions, type ChangeResult, Changes } from "./changes.js";
import { withDeadline } from "./deadline.js";
import { DurableDirectory } from "./durable-directory.js";
import { EngineEvents } from "./engine-events.js";
import { EventRing } from "./events.js";
import { type GoneOn, reconcilerFor } from "./going-on.js";
import { Jobs } from "./jobs.js";
import type { Reconciler } from "./reconciler.js";
import { forgetProtections, nameVolumes, rememberIdentities } from "./remembering.js";
import { serverStatus } from "./report.js";
import type { ServerParts } from "./server-parts.js";
import { Volumes } from "./volumes.js";
import { Wanted } from "./wanted.js";

const aliveMs = 1_000;
const statusDeadlineMs = 5_000;
const stopDeadlineMs = 10_000;

export class Server {
  private readonly parts: ServerParts;
  private readonly gone: GoneOn | null;
  private readonly wanted: Wanted;
  private readonly reconciler: Reconciler;
  private readonly events = new EventRing();
  private readonly changes: Changes;
  private readonly engineEvents: EngineEvents;
  private readonly jobs: Jobs;
  readonly volumes: Volumes;
  private readonly startedMs = Date.now();
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
    this.wanted = new Wanted(parts, file);
    const { directory } = parts;
    this.reconciler = gone?.reconciler ?? reconcilerFor(parts.engine, directory, parts.log);
    this.changes = new Changes(parts, this.wanted, this.reconciler, this.events, () =>
      this.leaveConfiguration(),
    );
    this.engineEvents = new EngineEvents(parts, this.events, {
      desired: () => this.wanted.desired.state,
      stopping: () => this.stopping,
      restartFailed: (reason) => this.restartFailed(reason),
      deviceChanged: () => this.deviceChanged(),
    });
    this.jobs = new Jobs({
      directory,
      log: parts.log,
      devices: async () => (await this.status()).devices,
      isMigrating: (device) => isMigrating(this.wanted.raw, device),
      finishMigration: (device) => this.volumes.finishMigration(device),
      abandonMigration: (device, why) => this.volumes.abandonMigration(device, why),
      startScrub: (device, repair) => this.volumes.startScrub(device, repair),
    });
    this.volumes = new Volumes({
      engine: parts.engine,
      jobs: this.jobs,
      configuration: () => this.wanted.raw,
      change: (edit, options) => this.changes.change(edit, options),
      settle: (edit, prepare) => this.changes.settle(edit, prepare),
      command: (device, verb, given) => this.changes.command(device, verb, given),
      volumeOf: (device) =>
        this.reconciler.actual.devices.find(({ name }) => name === device)?.mirror?.volume ?? null,
      forgetMedium: (device) => this.changes.forgetMedium(device),
    });
  }

  get configuration(): JsonObject {
    return this.wanted.raw;
  }

  get settings(): Desired["settings"] {
    return this.wanted.desired.settings;
  }

  /** `edit` answers the document as it should be, from a copy that it may change. */
  change(edit: (raw: JsonObject) => JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.changes.change(edit, options);
  }

  /** The document as a whole: what it does not name is removed. */
  apply(raw: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.changes.apply(raw, options);
  }

  /** The configuration file again, after somebody edited it. `read` throws if it has faults: then all stays. */
  reload(read: () => Loaded): Promise<ChangeResult> {
    return this.changes.reload(read);
  }

  /** Looks at a medium again that was grown or shrunk outside. Answers the new size. */
  rescan(device: string): Promise<bigint> {
    return this.changes.rescan(device);
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
    await rememberIdentities(this.parts.directory, this.wanted.desired.state);
    await this.changes.rememberMedia();
    await forgetProtections(directory, this.wanted.desired.state, this.parts.log);
    await this.continueGeneration(takeover);
    this.kept = takeover.kept;
    await this.leaveConfiguration();
    if (takeover.kept) this.watchdog = setInterval(() => engine.alive(), aliveMs).unref();
    await this.jobs.resume(
      this.reconciler.actual.devices.filter(({ kind }) => kind === "migration").map(({ name }) => name),
    );
    this.changes.begin();
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
    const { state, logLevel } = this.wanted.desired;
    const file = this.wanted.file.raw;
    const changes = this.wanted.changes(this.wanted.raw);
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
      const merge = mergeChanges(this.wanted.file.raw, changes);
      const loaded = parseDocument(merge.raw, context.node);
      await this.reconciler.strict(this.wanted.complete(loaded).state, { readyMs: 0 });
      this.wanted.adopt(loaded);
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
    const merge = mergeChanges(this.wanted.file.raw, changes);
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
      loaded = this.wanted.file;
      kept = [];
    }
    this.wanted.adopt(loaded);
    await this.reconciler.lenient(this.wanted.desired.state);
    return kept;
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
      changedAtRunTime: this.wanted.changes(this.wanted.raw).map(({ object }) => object),
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
      this.wanted.desired,
      this.reconciler.actual,
      this.reconciler.waiting,
      facts,
      (devices) => this.jobs.reports(devices),
    );
  }

  /** What the engine says, in order, on the main thread. */
  onEvent(event: EngineEvent): void {
    this.engineEvents.take(event);
  }

  private restartFailed(reason: string): void {
    this.restartFailure = { timeMs: Date.now(), reason };
    this.readAgain = false;
    this.leaveConfiguration().catch((error: unknown) => this.parts.log.error({}, toKeelError(error).message));
  }

  private deviceChanged(): void {
    this.reconciler.deviceChanged();
    this.jobs.lookSoon();
    this.changes.lookAgain();
  }

  /** Ends connections in an orderly way and closes what is open. */
  async stop(): Promise<void> {
    this.stopping = true;
    this.jobs.stop();
    if (this.watchdog !== null) clearInterval(this.watchdog);
    await this.changes.stop();
    await withDeadline(this.parts.engine.stop(), stopDeadlineMs, "stopping the engine");
  }
}
