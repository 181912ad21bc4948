// What is wanted: the configuration as its file has it, as it holds with the changes that were made at run time, and
// completed.

import { complete, completeSettings } from "../config/complete.js";
import type { Loaded } from "../config/load.js";
import { type JsonObject, toJson } from "../model/json.js";
import type { Desired } from "../model/state.js";
import { type Change, changesBetween } from "../recovery/changes.js";
import type { ServerParts } from "./server-parts.js";

export class Wanted {
  private readonly parts: ServerParts;
  /** The configuration as its file has it. */
  file: Loaded;
  private document: JsonObject;
  private completed: Desired;

  constructor(parts: ServerParts, file: Loaded) {
    this.parts = parts;
    this.file = file;
    this.document = file.raw;
    this.completed = this.complete(file);
  }

  /** The document that holds. */
  get raw(): JsonObject {
    return this.document;
  }

  get desired(): Desired {
    return this.completed;
  }

  /** Reads as: from now on this is wanted. */
  adopt(loaded: Loaded): void {
    this.document = loaded.raw;
    this.completed = this.complete(loaded);
    this.parts.setLogLevel(this.completed.logLevel);
  }

  /** What the document asks for, with the layout that this process has: its node name decides default NQNs. */
  complete({ document }: Loaded): Desired {
    const { context, directory, settings } = this.parts;
    const { identities } = directory;
    return { ...complete({ ...document, node: settings.node }, { ...context, identities }), settings };
  }

  /** What a document says otherwise than the file. */
  changes(raw: JsonObject): readonly Change[] {
    return changesBetween(this.file.raw, raw);
  }

  /** What the document says about the layout and this process does not have. */
  needRestart({ document }: Loaded): string[] {
    const { context, settings: now } = this.parts;
    const settings = completeSettings(document, document.node ?? context.node, context.paths);
    const limits = (Object.keys(now.limits) as (keyof typeof now.limits)[])
      .filter((key) => now.limits[key] !== settings.limits[key])
      .map((key) => `limits.${key}`);
    const others = (["node", "stateDirectory", "rpcSocket", "httpListen"] as const).filter(
      (key) => toJson(now[key]) !== toJson(settings[key]),
    );
    return [...others, ...limits];
  }
}
