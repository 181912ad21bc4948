// Configuration files to one document. The main file, then conf.d/*.yaml beside it in the order of their names:
// devices and subsystems are gathered by name, listen and referrals are joined, everything else may be said once.

import { closeSync, openSync, readdirSync, readSync } from "node:fs";
import { dirname, join } from "node:path";
import { KeelError } from "../model/errors.js";
import { isJsonObject, type Json, type JsonObject } from "../model/json.js";
import { configError, type Issue } from "./issue.js";
import { checkReferences } from "./references.js";
import type { ConfigDocument } from "./schema.js";
import { validate } from "./validate.js";
import { type PathPart, PlaceMap, type Places, parseYaml, textBytesMax } from "./yaml.js";

export type Source = { readonly file: string; readonly text: string };

export type Loaded = {
  /** As written, without defaults: what `keel get` shows and run-time changes are recorded against. */
  readonly raw: JsonObject;
  readonly document: ConfigDocument;
};

const gathered = new Set(["devices", "subsystems"]);
const joined = new Set(["listen", "referrals"]);

class Merger {
  readonly raw: JsonObject = {};
  readonly places = new PlaceMap();
  readonly issues: Issue[] = [];

  add(source: Source): void {
    const parsed = parseYaml(source.text, source.file);
    if (!parsed.ok) {
      for (const { position, message } of parsed.faults) {
        this.issues.push({ code: "E_CONFIG_SYNTAX", position, path: [], message });
      }
      return;
    }
    const shift = new Map<string, number>();
    if (!isJsonObject(parsed.value)) {
      const position = parsed.places.value([]);
      this.issues.push({
        code: "E_CONFIG_VALUE",
        position,
        path: [],
        message: "a configuration is a mapping (key: value)",
      });
      return;
    }
    for (const [key, value] of Object.entries(parsed.value))
      this.addSection(key, value, parsed.places, shift);
    this.places.adopt(parsed.places, (path) => {
      const [section, index, ...rest] = path;
      if (typeof section !== "string" || typeof index !== "number") return path;
      return [section, index + (shift.get(section) ?? 0), ...rest];
    });
  }

  private addSection(key: string, value: Json, places: PlaceMap, shift: Map<string, number>): void {
    const present = Object.hasOwn(this.raw, key) ? this.raw[key] : undefined;
    if (present === undefined || key === "__proto__") {
      Object.defineProperty(this.raw, key, {
        value: copy(value),
        writable: true,
        enumerable: true,
        configurable: true,
      });
      return;
    }
    if (gathered.has(key) && isJsonObject(present) && isJsonObject(value)) {
      for (const [name, entry] of Object.entries(value)) {
        if (Object.hasOwn(present, name)) this.twice([key, name], places);
        else present[name] = entry;
      }
      return;
    }
    if (joined.has(key) && Array.isArray(present) && Array.isArray(value)) {
      shift.set(key, present.length);
      present.push(...value);
      return;
    }
    if (key !== "version" || present !== value) this.twice([key], places);
  }

  private twice(path: readonly PathPart[], places: Places): void {
    const first = this.places.key(path);
    const where = first === null ? "" : `; it stands in ${first.file}:${first.line} already`;
    this.issues.push({
      code: "E_CONFIG_VALUE",
      position: places.key(path),
      path,
      message: `is given twice${where}`,
    });
  }
}

/** Lists and mappings of the first file are extended by the next: the parsed values stay as they are. */
const copy = (value: Json): Json =>
  Array.isArray(value)
    ? [...value]
    : isJsonObject(value)
      ? Object.assign(Object.create(null) as JsonObject, value)
      : value;

/** Throws one KeelError that holds every fault, one per line. `node` is the default of the `node` key. */
export function parseSources(sources: readonly Source[], node: string): Loaded {
  const merger = new Merger();
  for (const source of sources) merger.add(source);
  if (merger.issues.length > 0) throw configError(merger.issues);
  return check(merger.raw, node, merger.places);
}

/** The same for a document that is data already: what `apply` and `set` send over the socket. */
export const parseDocument = (raw: JsonObject, node: string): Loaded => check(raw, node, null);

function check(raw: JsonObject, node: string, places: Places | null): Loaded {
  const validated = validate(raw, places);
  if (!validated.ok) throw configError(validated.issues);
  const issues = checkReferences(validated.document, validated.document.node ?? node, places);
  if (issues.length > 0) throw configError(issues);
  return { raw, document: validated.document };
}

/** Not by the size that it says it has: a pipe or a device says 0 and may have no end. */
function readText(file: string): string {
  const descriptor = openSync(file, "r");
  try {
    const chunks: Buffer[] = [];
    for (let bytes = 0; bytes <= textBytesMax; ) {
      const chunk = Buffer.allocUnsafe(65_536);
      const count = readSync(descriptor, chunk);
      if (count === 0) return Buffer.concat(chunks).toString("utf8");
      chunks.push(chunk.subarray(0, count));
      bytes += count;
    }
  } finally {
    closeSync(descriptor);
  }
  throw new KeelError("E_CONFIG_READ", `${file} is larger than 4 MiB`, { path: file });
}

function readSource(file: string): Source {
  try {
    return { file, text: readText(file) };
  } catch (thrown) {
    if (thrown instanceof KeelError) throw thrown;
    const reason = (thrown as NodeJS.ErrnoException).code ?? String(thrown);
    throw new KeelError("E_CONFIG_READ", `cannot read ${file} (${reason})`, { path: file });
  }
}

/** The main file and its conf.d. */
export function readSources(file: string): Source[] {
  const folder = join(dirname(file), "conf.d");
  let names: string[] = [];
  try {
    names = readdirSync(folder).filter((name) => name.endsWith(".yaml") && !name.startsWith("."));
  } catch {
    // No conf.d: the main file is all there is.
  }
  return [readSource(file), ...names.sort().map((name) => readSource(join(folder, name)))];
}

export const loadFile = (file: string, node: string): Loaded => parseSources(readSources(file), node);
