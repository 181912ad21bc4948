// The first thing that a kept server does, before its command line is read and anything else is loaded: if a predecessor
// died and left what it had in a form that can be used as it is (recovery/prepared.ts), hosts go on from here, and the
// rest of the program is loaded while they do. Otherwise the start takes its usual way, with what was opened.

import { readFileSync } from "node:fs";
import { DurableDirectory } from "../control/durable-directory.js";
import { engineOptions } from "../control/engine-options.js";
import { EventRelay, HeldLog } from "../control/event-relay.js";
import { type GoneOn, goOn } from "../control/going-on.js";
import { KeelError, toKeelError } from "../model/errors.js";
import type { LogLevel, Settings } from "../model/state.js";
import {
  type Addon,
  type KeeperStart,
  loadAddon,
  type NativeEngine,
  type Takeover,
} from "../native/addon.js";
import { preparedIn } from "../recovery/kept-configuration.js";
import { type Prepared, stillHolds } from "../recovery/prepared.js";

export type Resumed = {
  readonly engine: NativeEngine;
  readonly events: EventRelay;
  readonly log: HeldLog;
  readonly directory: DurableDirectory;
  readonly takeover: Takeover;
  readonly settings: Settings;
  readonly logLevel: LogLevel;
  /** null: the directory says something newer than what was prepared, so nothing is brought up yet. */
  readonly gone: GoneOn | null;
};

export type Beginning = {
  readonly addon: Addon;
  readonly keeper: KeeperStart | null;
  /** null: not a successor, or there is nothing prepared for this one. */
  readonly resumed: Resumed | null;
};

/** Loads the addon, or says how to get it. */
export function addonOrError(): Addon {
  try {
    return loadAddon();
  } catch (thrown) {
    const reason = thrown instanceof Error ? (thrown.message.split("\n")[0] ?? "") : String(thrown);
    throw new KeelError("E_NOT_BUILT", `the native addon does not load: ${reason}`);
  }
}

/** Says which files the program was built to (scripts/build.mjs); null: it was not built as a whole. */
function readBuild(): string | null {
  try {
    const text = readFileSync(new URL("../build-id.json", import.meta.url), "utf8");
    const { id } = JSON.parse(text) as { id: unknown };
    return typeof id === "string" ? id : null;
  } catch {
    return null;
  }
}

export const build = readBuild();

export function makeEngine(addon: Addon, settings: Settings): NativeEngine {
  const generation = DurableDirectory.firstGeneration(settings.stateDirectory);
  try {
    return addon.createEngine(engineOptions(settings, generation));
  } catch (thrown) {
    throw toKeelError(thrown);
  }
}

async function resume(addon: Addon, prepared: Prepared): Promise<Resumed> {
  const { settings, logLevel } = prepared;
  const events = new EventRelay();
  const log = new HeldLog();
  const engine = makeEngine(addon, settings);
  engine.start((event) => events.take(event));
  let directory: DurableDirectory | null = null;
  try {
    const takeover = await engine.takeOver();
    directory = await DurableDirectory.open(settings.stateDirectory);
    const gone = stillHolds(prepared, directory.changes)
      ? await goOn(engine, directory, prepared.state, log.log)
      : null;
    return { engine, events, log, directory, takeover, settings, logLevel, gone };
  } catch (thrown) {
    await engine.stop();
    await directory?.close();
    throw thrown;
  }
}

export async function begin(useKeeper: boolean): Promise<Beginning> {
  const addon = addonOrError();
  const keeper = useKeeper ? addon.openKeeper() : null;
  const prepared = keeper === null || keeper.standby ? null : preparedIn(keeper.configuration, build);
  return { addon, keeper, resumed: prepared === null ? null : await resume(addon, prepared) };
}
