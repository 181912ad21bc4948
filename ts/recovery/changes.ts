// Run-time changes against the configuration file: which of the two holds after a restart.
//
// The unit is one object: a device, a subsystem, the list of listeners, the list of referrals, the log settings. A
// change remembers what the file said about its object when the change was made. The latest word wins: as long as the
// file still says that, the change holds; once the file says something else, somebody edited it later, and the file
// holds. A change that the file has caught up with is forgotten.

import { isJsonObject, type Json, type JsonObject, sameJson } from "../model/json.js";

export type Change = {
  /** "devices/pg", "subsystems/pg", "listen", "referrals", "log" */
  readonly object: string;
  /** What the file said when the change was made, and what holds instead; null: nothing of that name. */
  readonly file: Json;
  readonly now: Json;
};

export type Merge = {
  readonly raw: JsonObject;
  readonly kept: readonly Change[];
  /** Overtaken by an edit of the file. */
  readonly dropped: readonly Change[];
};

const namedSections = ["devices", "subsystems"] as const;
const wholeSections = ["listen", "referrals", "log"] as const;

export const changeableSections: readonly string[] = [...namedSections, ...wholeSections];

function objectsOf(raw: JsonObject): Map<string, Json> {
  const objects = new Map<string, Json>();
  for (const section of namedSections) {
    const entries = raw[section];
    if (!isJsonObject(entries)) continue;
    for (const [name, value] of Object.entries(entries)) objects.set(`${section}/${name}`, value);
  }
  for (const section of wholeSections) {
    const value = raw[section];
    if (value !== undefined) objects.set(section, value);
  }
  return objects;
}

/** `raw` with objects set (or, by null, removed). Empty named sections disappear. */
function withObjects(raw: JsonObject, objects: ReadonlyMap<string, Json>): JsonObject {
  const result: JsonObject = {};
  for (const [key, value] of Object.entries(raw)) {
    if (!changeableSections.includes(key)) result[key] = value;
  }
  for (const [object, value] of objects) {
    const [section = "", ...rest] = object.split("/");
    const name = rest.join("/");
    if (name === "") {
      result[section] = value;
      continue;
    }
    const present = result[section];
    const entries: JsonObject = isJsonObject(present) ? present : {};
    entries[name] = value;
    result[section] = entries;
  }
  return result;
}

/** What has to be remembered so that `effective` holds although the file says `file`. */
export function changesBetween(file: JsonObject, effective: JsonObject): Change[] {
  const before = objectsOf(file);
  const after = objectsOf(effective);
  const names = [...new Set([...before.keys(), ...after.keys()])].sort();
  return names
    .map((object) => ({ object, file: before.get(object) ?? null, now: after.get(object) ?? null }))
    .filter((change) => !sameJson(change.file, change.now));
}

export function mergeChanges(file: JsonObject, changes: readonly Change[]): Merge {
  const objects = objectsOf(file);
  const kept: Change[] = [];
  const dropped: Change[] = [];
  for (const change of changes) {
    const says = objects.get(change.object) ?? null;
    if (sameJson(says, change.now)) continue;
    if (!sameJson(says, change.file)) {
      dropped.push(change);
      continue;
    }
    kept.push(change);
    if (change.now === null) objects.delete(change.object);
    else objects.set(change.object, change.now);
  }
  return { raw: withObjects(file, objects), kept, dropped };
}
