// Changes of the configuration while the server runs: one at a time, each durable before it is carried out.
//
// A change goes: document → checks → plan → recorded (with what held before) → carried out → recorded as done. Killed
// in between, the next start finds the record: it carries the change out, or falls back to what held before if that
// is impossible. A change that fails is undone and its record taken back. So after any kill there is the old
// configuration or the new one.

import {
  dataLost,
  describeStep,
  diff,
  mirrorOfShrunk,
  mirrorsOfGrown,
  type Step,
  unchangedCount,
} from "../config/diff.js";
import { type Loaded, parseDocument } from "../config/load.js";
import { KeelError, toKeelError } from "../model/errors.js";
import { type JsonObject, sameJson } from "../model/json.js";
import type { State } from "../model/state.js";
import { changeableSections, mergeChanges } from "../recovery/changes.js";
import { knownFacts, mediumKey } from "../recovery/media.js";
import { withDeadline } from "./deadline.js";
import type { EventRing } from "./events.js";
import type { Reconciler } from "./reconciler.js";
import { forgetProtections, nameVolumes, rememberIdentities, rememberMedia } from "./remembering.js";
import type { ServerParts } from "./server-parts.js";
import type { Wanted } from "./wanted.js";

const retryMs = 2_000;
/** How long a change waits for a device on another machine. */
const readyMs = 20_000;
const prepareDeadlineMs = 30_000;
const commandDeadlineMs = 60_000;
const statusDeadlineMs = 5_000;

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

/** What a mirror keeps at the end of its legs would be lost. */
function refuseShrunkLegs(steps: readonly Step[], current: State): void {
  const found = mirrorOfShrunk(steps, current);
  if (found === null) return;
  throw new KeelError(
    "E_UNSUPPORTED",
    `device "${found.leg}" is a leg of mirror "${found.mirror}", whose records lie at its end: it can grow only`,
    { fix: "make a mirror of smaller devices, and copy what is to stay" },
  );
}

export class Changes {
  private readonly parts: ServerParts;
  private readonly wanted: Wanted;
  private readonly reconciler: Reconciler;
  private readonly events: EventRing;
  /** Called when what holds has changed, before the change is answered. */
  private readonly holds: () => Promise<void>;
  private queue: Promise<unknown> = Promise.resolve();
  private retry: NodeJS.Timeout | null = null;
  private begun = false;
  private stopping = false;

  constructor(
    parts: ServerParts,
    wanted: Wanted,
    reconciler: Reconciler,
    events: EventRing,
    holds: () => Promise<void>,
  ) {
    this.parts = parts;
    this.wanted = wanted;
    this.reconciler = reconciler;
    this.events = events;
    this.holds = holds;
  }

  /** `edit` answers the document as it should be, from a copy that it may change. */
  change(edit: (raw: JsonObject) => JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.inTurn(() => this.changeNow(edit(structuredClone(this.wanted.raw)), options));
  }

  /** The document as a whole: what it does not name is removed. */
  apply(raw: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    return this.inTurn(async () => {
      const merged: JsonObject = {};
      for (const [key, value] of Object.entries(this.wanted.raw)) {
        if (!changeableSections.includes(key)) merged[key] = value;
      }
      for (const [key, value] of Object.entries(raw)) {
        if (changeableSections.includes(key)) merged[key] = value;
      }
      // Faults in the other keys are faults too, although they take effect later.
      const given = parseDocument(raw, this.wanted.desired.settings.node);
      const needsRestart = this.wanted.needRestart(given);
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
      const before = this.wanted.file;
      this.wanted.file = file;
      try {
        const needsRestart = this.wanted.needRestart(file);
        const result = await this.changeNow(merge.raw, { dryRun: false, allowDataLoss: false });
        return { ...result, needsRestart };
      } catch (thrown) {
        this.wanted.file = before;
        throw thrown;
      }
    });
  }

  /**
   * A change that is true from one moment on: prepared, recorded without a way back, then carried out. What fails of it
   * after the record is tried again, as at a start.
   */
  settle(edit: (raw: JsonObject) => JsonObject, prepare: () => Promise<void>): Promise<ChangeResult> {
    return this.inTurn(async () => {
      const { directory } = this.parts;
      const raw = edit(structuredClone(this.wanted.raw));
      const loaded = parseDocument(raw, this.wanted.desired.settings.node);
      const next = this.wanted.complete(loaded);
      const planned = diff(this.reconciler.actual, next.state);
      // Hosts wait from here to the record's end: a directory that cannot be written is found out before.
      await directory.writeChanges(directory.changes);
      await withDeadline(prepare(), prepareDeadlineMs, "holding requests back");
      await directory.writeChanges({ changes: this.wanted.changes(raw), previous: null });
      this.wanted.adopt(loaded);
      this.report(await this.reconciler.lenient(next.state));
      await this.holds();
      await this.rememberMedia();
      this.scheduleRetry();
      return { applied: true, steps: planned.map(describeStep), unchanged: 0, lost: [], needsRestart: [] };
    });
  }

  command(device: string, verb: string, given: Record<string, string>): Promise<void> {
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
  forgetMedium(device: string): Promise<void> {
    return this.inTurn(async () => {
      const { directory } = this.parts;
      const wanted = this.wanted.desired.state.devices.find(({ name }) => name === device);
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

  /** Looks at a medium again that was grown or shrunk outside. Answers the new size. */
  rescan(device: string): Promise<bigint> {
    return this.inTurn(async () => {
      if (!this.reconciler.actual.devices.some(({ name }) => name === device)) {
        throw new KeelError("E_NOT_FOUND", `there is no device "${device}"`);
      }
      const mirror = this.reconciler.actual.devices.some(
        ({ name, kind }) => name === device && kind === "mirror",
      );
      try {
        if (mirror) await this.growMirror(device);
        const bytes = await this.parts.engine.resizeDevice(device, null);
        if (mirror) await this.rememberMedia();
        return bytes;
      } catch (thrown) {
        throw toKeelError(thrown);
      }
    });
  }

  async rememberMedia(): Promise<void> {
    const { directory, engine, log } = this.parts;
    try {
      await rememberMedia(directory, engine, this.reconciler.actual, this.wanted.desired.state);
    } catch (thrown) {
      log.error({}, `what was found out about media is not recorded: ${toKeelError(thrown).message}`);
    }
  }

  /** The start has brought everything up: from now on devices that change by themselves are looked at. */
  begin(): void {
    this.begun = true;
    this.lookAgain();
  }

  /** While something waits, it is tried again; otherwise there is no timer. */
  scheduleRetry(afterMs: number = retryMs): void {
    const behind =
      this.reconciler.waiting.size > 0 || diff(this.reconciler.actual, this.wanted.desired.state).length > 0;
    if (!behind || this.stopping) return;
    if (this.retry !== null) {
      if (afterMs > 0) return;
      clearTimeout(this.retry);
    }
    this.retry = setTimeout(() => {
      this.retry = null;
      this.inTurn(() => this.reconciler.lenient(this.wanted.desired.state))
        .then((steps) => this.report(steps))
        .then(() => this.rememberMedia())
        .catch((error: unknown) => this.parts.log.warn({}, toKeelError(error).message))
        .finally(() => this.scheduleRetry());
    }, afterMs);
    this.retry.unref();
  }

  /** A device has changed by itself: what waited for it is tried at once; what it is now is recorded. */
  lookAgain(): void {
    if (!this.begun) return; // the start looks at every device itself, and not in turn
    this.scheduleRetry(0);
    this.inTurn(() => this.rememberMedia()).catch((error: unknown) =>
      this.parts.log.debug({}, toKeelError(error).message),
    );
  }

  /** Takes no further changes; done when the last one is. */
  async stop(): Promise<void> {
    this.stopping = true;
    if (this.retry !== null) clearTimeout(this.retry);
    await this.queue;
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

  private async changeNow(raw: JsonObject, options: ChangeOptions): Promise<ChangeResult> {
    const { directory } = this.parts;
    const loaded = parseDocument(raw, this.wanted.desired.settings.node);
    if (!options.dryRun) await nameVolumes(this.parts.directory, this.wanted.raw, raw);
    const next = this.wanted.complete(loaded);
    const inPlace = new Set(options.inPlace ?? []);
    const steps = diff(this.reconciler.actual, next.state, inPlace);
    refuseMigrating(steps);
    refuseShrunkLegs(steps, this.reconciler.actual);
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
    if (!options.allowDataLoss) await this.refuseInUse(steps);

    const before = directory.changes.changes;
    const changes = this.wanted.changes(raw);
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
    this.wanted.adopt(loaded);
    if (!sameJson(changes, before)) await directory.writeChanges({ changes, previous: null });
    await this.holds();
    await forgetProtections(directory, this.wanted.desired.state, this.parts.log);
    this.report(steps);
    await nameVolumes(this.parts.directory, raw);
    await this.growMirrors(mirrorsOfGrown(steps, next.state));
    await this.rememberMedia();
    this.scheduleRetry();
    return result;
  }

  /** The legs have what was asked for; a mirror that cannot follow now follows by command. */
  private async growMirrors(names: readonly string[]): Promise<void> {
    for (const device of names) {
      try {
        await this.growMirror(device);
      } catch (thrown) {
        const { message } = toKeelError(thrown);
        const text = `device ${device} has not grown with its legs: ${message}; later: keel mirror grow ${device}`;
        this.events.add("warn", text);
        this.parts.log.warn({ area: "config", device }, text);
      }
    }
  }

  private async growMirror(device: string): Promise<void> {
    const what = `device ${device}: grow`;
    await withDeadline(this.parts.engine.deviceCommand(device, "grow", {}), commandDeadlineMs, what);
    this.events.add("info", what);
    this.parts.log.info({ area: "config", device }, what);
  }

  /** Hosts that are connected now would lose a disk: that must be meant. */
  private async refuseInUse(steps: readonly Step[]): Promise<void> {
    const names = new Map<string, string>();
    for (const step of steps) {
      if (step.type === "remove-namespace" || step.type === "remove-subsystem")
        names.set(step.nqn, step.name);
    }
    if (names.size === 0) return;
    const { controllers } = await withDeadline(
      this.parts.engine.status(),
      statusDeadlineMs,
      "the engine's status",
    );
    for (const [nqn, name] of names) {
      const hosts = new Set(
        controllers.filter(({ subsystem }) => subsystem === nqn).map(({ hostNqn }) => hostNqn),
      );
      if (hosts.size === 0) continue;
      throw new KeelError("E_BUSY", `${hosts.size} connected host(s) use ${name}`, {
        cause: "hosts that have it mounted lose it",
        fix: "unmount and disconnect there first, or repeat the command with --yes (reload: keel apply -f FILE --yes)",
      });
    }
  }

  private report(steps: readonly Step[]): void {
    for (const step of steps) {
      const text = describeStep(step).replaceAll(/ {2,}/g, " ");
      this.events.add("info", text);
      this.parts.log.info({ area: "config" }, text);
    }
  }
}
