// Hosts go on: what a predecessor had is brought up as it was, and its connections are taken over. This is all that
// lies between a death and the first answer, so nothing here waits for a configuration to be read, and whatever it
// imports is loaded before hosts are answered.

import { namespaceKey } from "../model/ids.js";
import type { State } from "../model/state.js";
import type { Adoption, NativeEngine } from "../native/addon.js";
import { knownFacts } from "../recovery/media.js";
import type { DurableDirectory } from "./durable-directory.js";
import type { Log } from "./log.js";
import { Reconciler } from "./reconciler.js";

export type GoneOn = { readonly reconciler: Reconciler; readonly adoption: Adoption };

export const reconcilerFor = (engine: NativeEngine, directory: DurableDirectory, log: Log): Reconciler =>
  new Reconciler(
    engine,
    log,
    (device) => knownFacts(directory.media, device),
    (nqn, nsid, nguid) => directory.protectionOf(namespaceKey(nqn, nsid), nguid),
  );

export async function goOn(
  engine: NativeEngine,
  directory: DurableDirectory,
  state: State,
  log: Log,
): Promise<GoneOn> {
  const reconciler = reconcilerFor(engine, directory, log);
  await engine.setLoading(true);
  await reconciler.lenient(state);
  const adoption = await engine.adopt();
  await engine.setLoading(false);
  return { reconciler, adoption };
}
