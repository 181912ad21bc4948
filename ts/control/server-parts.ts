// What a server is made of, and what it was told when it was made.

import type { Context } from "../config/complete.js";
import type { JsonObject } from "../model/json.js";
import type { LogLevel, Settings } from "../model/state.js";
import type { NativeEngine } from "../native/addon.js";
import type { DurableDirectory } from "./durable-directory.js";
import type { Log } from "./log.js";

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
