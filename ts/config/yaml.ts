// YAML text to plain values, remembering where each key and value stood. Only what JSON can say is accepted: no
// tags, no complex keys, no duplicate keys. Bounded: 4 MiB of text, 200,000 nodes, 64 levels, so that no file (and no
// alias bomb) makes the server grow.

import { createRequire } from "node:module";
import type { Node } from "yaml";
import type { Json, JsonObject } from "../model/json.js";

/** Loaded when a text is read: the successor of a server that died reads none, and hosts wait for it. */
const yaml = (): typeof import("yaml") => createRequire(import.meta.url)("yaml") as typeof import("yaml");

export const textBytesMax = 4 << 20;
const nodesMax = 200_000;
const levelsMax = 64;

export type Position = { readonly file: string; readonly line: number; readonly column: number };
export type PathPart = string | number;

/** Where a path's key and value stand. The key of a list item is its value. */
export type Places = {
  key(path: readonly PathPart[]): Position | null;
  value(path: readonly PathPart[]): Position | null;
};

export type YamlFault = { readonly position: Position; readonly message: string };
export type YamlResult =
  | { readonly ok: true; readonly value: Json; readonly places: PlaceMap }
  | { readonly ok: false; readonly faults: readonly YamlFault[] };

class Refused extends Error {
  readonly offset: number;
  constructor(offset: number, message: string) {
    super(message);
    this.offset = offset;
  }
}

const pathKey = (path: readonly PathPart[]): string => path.map(String).join("\u0000");

type Place = { readonly path: readonly PathPart[]; readonly key: Position | null; readonly value: Position };

export class PlaceMap implements Places {
  private readonly places = new Map<string, Place>();

  set(path: readonly PathPart[], key: Position | null, value: Position): void {
    this.places.set(pathKey(path), { path, key, value });
  }
  value(path: readonly PathPart[]): Position | null {
    return this.places.get(pathKey(path))?.value ?? null;
  }
  key(path: readonly PathPart[]): Position | null {
    const place = this.places.get(pathKey(path));
    return place === undefined ? null : (place.key ?? place.value);
  }
  /** Takes over another file's places; the first to name a path keeps it. */
  adopt(other: PlaceMap, move: (path: readonly PathPart[]) => readonly PathPart[]): void {
    for (const { path, key, value } of other.places.values()) {
      const moved = move(path);
      if (!this.places.has(pathKey(moved))) this.set(moved, key, value);
    }
  }
}

/** The parser gives up on thousands of brackets with the runtime's own words. */
const oneLine = (message: string): string =>
  message.includes("call stack")
    ? `nested deeper than ${levelsMax} levels`
    : (message.split("\n")[0] ?? message).replace(/ at line \d+.*$/, "");

export function parseYaml(text: string, file: string): YamlResult {
  const { isAlias, isMap, isNode, isScalar, isSeq, LineCounter, parseAllDocuments } = yaml();
  const counter = new LineCounter();
  const at = (offset: number): Position => {
    const { line, col } = counter.linePos(offset);
    return { file, line: Math.max(1, line), column: Math.max(1, col) };
  };
  if (Buffer.byteLength(text) > textBytesMax) {
    return { ok: false, faults: [{ position: { file, line: 1, column: 1 }, message: "larger than 4 MiB" }] };
  }
  const documents = parseAllDocuments(text, {
    lineCounter: counter,
    prettyErrors: false,
    uniqueKeys: false,
    version: "1.2",
    logLevel: "silent",
  });
  if (!Array.isArray(documents) || documents.length === 0) {
    return { ok: true, value: {}, places: new PlaceMap() };
  }
  const faults = documents.flatMap((document) =>
    [...document.errors, ...document.warnings].map((error) => ({
      position: at(error.pos[0]),
      message: oneLine(error.message),
    })),
  );
  if (faults.length > 0) return { ok: false, faults: faults.slice(0, 20) };
  const second = documents[1];
  if (second !== undefined) {
    const offset = second.range[0];
    return {
      ok: false,
      faults: [{ position: at(offset), message: "a second document (---): one file holds one" }],
    };
  }
  const [document] = documents;
  if (document === undefined) return { ok: true, value: {}, places: new PlaceMap() };

  const places = new PlaceMap();
  let nodes = 0;
  const offsetOf = (node: Node | null, fallback: number): number => node?.range?.[0] ?? fallback;

  const keyText = (key: unknown, fallback: number): { text: string; offset: number } => {
    const node = isNode(key) ? key : null;
    const offset = offsetOf(node, fallback);
    if (!isScalar(key)) throw new Refused(offset, "a key must be plain text");
    // The source text, because `null:` and `1:` are names here, not values.
    return { text: typeof key.value === "string" ? key.value : (key.source ?? String(key.value)), offset };
  };

  const convert = (node: unknown, path: readonly PathPart[], fallback: number): Json => {
    nodes += 1;
    const offset = offsetOf(isNode(node) ? node : null, fallback);
    if (nodes > nodesMax) throw new Refused(offset, `more than ${nodesMax} values`);
    if (path.length > levelsMax) throw new Refused(offset, `nested deeper than ${levelsMax} levels`);
    if (node === null || node === undefined) return null;
    if (isAlias(node)) {
      const target = node.resolve(document);
      if (target === undefined) throw new Refused(offset, `the anchor "${node.source}" does not exist`);
      return convert(target, path, offset);
    }
    if (isMap(node)) {
      const result: JsonObject = Object.create(null) as JsonObject;
      for (const pair of node.items) {
        const key = keyText(pair.key, offset);
        if (Object.hasOwn(result, key.text))
          throw new Refused(key.offset, `the key "${key.text}" stands here twice`);
        const valueNode = isNode(pair.value) ? pair.value : null;
        const inner = [...path, key.text];
        places.set(inner, at(key.offset), at(offsetOf(valueNode, key.offset)));
        result[key.text] = convert(pair.value, inner, key.offset);
      }
      return result;
    }
    if (isSeq(node)) {
      return node.items.map((item, index) => {
        const inner = [...path, index];
        places.set(inner, null, at(offsetOf(isNode(item) ? item : null, offset)));
        return convert(item, inner, offset);
      });
    }
    if (isScalar(node)) {
      const { value } = node;
      if (typeof value === "number" && !Number.isFinite(value))
        throw new Refused(offset, "not a finite number");
      if (
        typeof value === "string" ||
        typeof value === "number" ||
        typeof value === "boolean" ||
        value === null
      ) {
        return value;
      }
      return node.source ?? String(value);
    }
    throw new Refused(offset, "something that JSON cannot say");
  };

  try {
    places.set([], null, at(offsetOf(document.contents, 0)));
    const value = convert(document.contents, [], 0);
    return { ok: true, value: value ?? {}, places };
  } catch (thrown) {
    if (thrown instanceof Refused) {
      return { ok: false, faults: [{ position: at(thrown.offset), message: thrown.message }] };
    }
    throw thrown;
  }
}
