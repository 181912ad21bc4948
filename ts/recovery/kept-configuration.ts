// The configuration that a keeper holds for a server's successor. A crash is no occasion to meet an edited file: the
// successor goes on with the document that the dead server had read, unless it is there because somebody asked for a
// restart or a reload. Run-time changes are not in it; they stand in the durable directory.

import { isJsonObject, type Json, type JsonObject, toJson } from "../model/json.js";
import { decodePrepared, type Prepared } from "./prepared.js";

/** The name under which the keeper holds it. */
export const keptConfigurationName = "configuration";

export type KeptConfiguration = {
  /** The document as its file had it when it was read last. */
  readonly file: JsonObject;
  /** The one that the memory and the engine's limits were laid out by. Differs from `file` after a reload that changed them. */
  readonly layout: JsonObject;
  /** The successor is to read the file again. */
  readonly readAgain: boolean;
  /** What both come to (recovery/prepared.ts); null: not known, as while a change is being carried out. */
  readonly prepared: Json;
};

export const formatKept = (kept: KeptConfiguration): string => toJson({ version: 1, ...kept });

/** null: there is none, or another version of this program wrote it. Then the file is read. */
export function parseKept(text: string | null): KeptConfiguration | null {
  if (text === null) return null;
  let value: unknown;
  try {
    value = JSON.parse(text);
  } catch {
    return null;
  }
  if (!isJsonObject(value) || value["version"] !== 1) return null;
  const { file, layout, readAgain } = value;
  const complete = isJsonObject(file) && isJsonObject(layout) && typeof readAgain === "boolean";
  return complete ? { file, layout, readAgain, prepared: value["prepared"] ?? null } : null;
}

/** null: there is none that this build can use, or the file is to be read first. */
export function preparedIn(text: string | null, build: string | null): Prepared | null {
  const kept = parseKept(text);
  return kept === null || kept.readAgain ? null : decodePrepared(kept.prepared, build);
}
