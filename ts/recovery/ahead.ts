// What a standby has worked out while it waits: the state that its configuration and the recorded changes come to. Unlike
// what a predecessor leaves (prepared.ts) it needs nobody of the same build and knows a configuration file that was
// edited before a planned restart. It counts if, once the standby is to serve, the durable directory says just what it
// said then; then it is what reading everything again would come to.

import type { Identities } from "../config/complete.js";
import { isJsonObject, type JsonObject, sameJson } from "../model/json.js";
import type { State } from "../model/state.js";
import type { Change, Merge } from "./changes.js";

export type Ahead = {
  readonly state: State;
  readonly changes: readonly Change[];
  readonly identities: Identities;
};

export type Recorded = {
  readonly identities: Identities;
  readonly changes: { readonly changes: readonly Change[]; readonly previous: readonly Change[] | null };
};

/** Mirrors without a volume get one first, which is recorded before anything uses it. */
const namesVolumes = ({ devices }: JsonObject, { volumes }: Identities): boolean =>
  Object.entries(isJsonObject(devices) ? devices : {}).every(
    ([name, device]) =>
      !isJsonObject(device) || device["mirror"] === undefined || Object.hasOwn(volumes, name),
  );

/** null: a start has more to do than to bring up the state. */
export function aheadOf(state: State, merge: Merge, { identities, changes }: Recorded): Ahead | null {
  const settled = changes.previous === null && sameJson(merge.kept, changes.changes);
  if (!settled || !namesVolumes(merge.raw, identities)) return null;
  return { state, changes: changes.changes, identities };
}

export const isAhead = (ahead: Ahead, { identities, changes }: Recorded): boolean =>
  changes.previous === null &&
  sameJson(ahead.changes, changes.changes) &&
  sameJson(ahead.identities, identities);
