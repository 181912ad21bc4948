// What a successor needs so that hosts go on before it has read any configuration: the settings that memory is laid out
// by and the state that the configuration and the recorded changes came to, with every default and identity in it. It
// lies with the keeper beside the documents that it follows from. It counts only for the build that wrote it and only
// as long as the durable directory records exactly these changes; then it is what reading everything would come to.

import { isJsonObject, type Json, sameJson } from "../model/json.js";
import type { LogLevel, Settings, State } from "../model/state.js";
import type { Change } from "./changes.js";

export type Prepared = {
  /** Of the program that wrote it: another one may understand its own types differently. */
  readonly build: string;
  readonly settings: Settings;
  readonly logLevel: LogLevel;
  readonly state: State;
  readonly changes: readonly Change[];
};

const bigintKey = "$bigint";

/** JSON that keeps integers of 64 bits apart from numbers, unlike what is printed for people and programs. */
export function encodePrepared(prepared: Prepared): Json {
  const text = JSON.stringify(prepared, (_key, value: unknown) =>
    typeof value === "bigint" ? { [bigintKey]: String(value) } : value,
  );
  return JSON.parse(text) as Json;
}

function decoded(value: Json): unknown {
  if (Array.isArray(value)) return value.map(decoded);
  if (!isJsonObject(value)) return value;
  const digits = value[bigintKey];
  if (typeof digits === "string" && /^-?\d+$/.test(digits)) return BigInt(digits);
  return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, decoded(entry)]));
}

/** null: there is none, or another build wrote it. */
export function decodePrepared(value: Json | undefined, build: string | null): Prepared | null {
  if (build === null || !isJsonObject(value) || value["build"] !== build) return null;
  // The same build wrote it, into memory that only this program writes: its types are this build's.
  const { changes, ...rest } = value;
  if (!Array.isArray(changes)) return null;
  return { ...(decoded(rest) as Omit<Prepared, "changes">), changes: changes as unknown as Change[] };
}

/** Nothing is half done, and the changes are those that the state contains. */
export const stillHolds = (
  prepared: Prepared,
  record: { readonly changes: readonly Change[]; readonly previous: readonly Change[] | null },
): boolean => record.previous === null && sameJson(prepared.changes, record.changes);
