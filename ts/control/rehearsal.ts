// What a standby does while it waits: everything that lies between the death of its predecessor and the first byte,
// once, with the present configuration and without touching anything. The first time that code runs costs
// milliseconds that no host should wait for.

import { type Context, complete } from "../config/complete.js";
import { diff } from "../config/diff.js";
import { type Loaded, parseDocument } from "../config/load.js";
import { emptyState, type Settings } from "../model/state.js";
import type { NativeEngine } from "../native/addon.js";
import { type Ahead, aheadOf, isAhead } from "../recovery/ahead.js";
import { mergeChanges } from "../recovery/changes.js";
import { formatKept, parseKept } from "../recovery/kept-configuration.js";
import { knownFacts } from "../recovery/media.js";
import { DurableDirectory } from "./durable-directory.js";
import { Reconciler } from "./reconciler.js";

const silent = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const roundsMax = 20;
/** With thousands of objects, a few rounds are enough and more would delay the moment at which the standby is warm. */
const milliseconds = 300;

/** Accepts every call and does nothing. */
const nothing = new Proxy({}, { get: () => () => Promise.resolve() }) as NativeEngine;

/** What the last round came to. `over`: nobody may wait any more. */
export async function rehearse(
  loaded: Loaded,
  context: Omit<Context, "identities">,
  { stateDirectory, node }: Settings,
  over: () => boolean,
): Promise<Ahead | null> {
  const end = performance.now() + milliseconds;
  let ahead: Ahead | null = null;
  for (let round = 0; round < roundsMax && !over() && (round === 0 || performance.now() < end); round += 1) {
    const recorded = await DurableDirectory.peek(stateDirectory);
    const { identities, changes, media } = recorded;
    const kept = parseKept(
      formatKept({ file: loaded.raw, layout: loaded.raw, readAgain: false, prepared: null }),
    );
    const merge = mergeChanges(kept?.file ?? loaded.raw, changes.changes);
    const { document } = parseDocument(merge.raw, context.node);
    const { state } = complete({ ...document, node }, { ...context, identities });
    const reconciler = new Reconciler(nothing, silent, (device) => knownFacts(media, device));
    await reconciler.lenient(state);
    diff(emptyState, reconciler.actual);
    ahead = aheadOf(state, merge, recorded);
    if (ahead !== null) isAhead(ahead, recorded);
  }
  return ahead;
}
