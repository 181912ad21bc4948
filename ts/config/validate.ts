// Plain values to a checked document. The shapes are zod's; the words are ours, because a message has to name the
// value, what is allowed, and the nearest name.

import { z } from "zod";
import { nameRule, parseName } from "../model/ids.js";
import type { Json } from "../model/json.js";
import { isJsonObject } from "../model/json.js";
import { didYouMean } from "../model/nearest.js";
import type { Issue } from "./issue.js";
import {
  type ConfigDocument,
  deviceKinds,
  deviceShapes,
  documentShape,
  listenKinds,
  listenShapes,
} from "./schema.js";
import type { PathPart, Places } from "./yaml.js";

export type ValidateResult =
  | { readonly ok: true; readonly document: ConfigDocument }
  | { readonly ok: false; readonly issues: readonly Issue[] };

type Shapes = Readonly<Record<string, z.ZodType>>;

/** Values that take one of several shapes, told apart by the one key that only that shape has. */
type Variant = { readonly noun: string; readonly kinds: readonly string[]; readonly shapes: Shapes };
const variants: Record<string, Variant> = {
  devices: { noun: "device kind", kinds: deviceKinds, shapes: deviceShapes },
  listen: { noun: "kind of listener", kinds: listenKinds, shapes: listenShapes },
};

const variantAt = (path: readonly PathPart[]): Variant | null =>
  path.length === 2 ? (variants[String(path[0])] ?? null) : null;

const kindsOf = (variant: Variant, value: unknown): string[] =>
  isJsonObject(value) ? variant.kinds.filter((kind) => Object.hasOwn(value, kind)) : [];

function valueAt(value: unknown, path: readonly PathPart[]): unknown {
  let current = value;
  for (const part of path) {
    if (typeof current !== "object" || current === null) return undefined;
    current = Object.hasOwn(current, part) ? (current as Record<PathPart, unknown>)[part] : undefined;
  }
  return current;
}

/** The keys that the mapping at `path` may have. */
function keysAt(root: unknown, path: readonly PathPart[]): string[] {
  let shape: unknown = documentShape;
  let walked: readonly PathPart[] = [];
  for (const part of [...path, null]) {
    while (shape instanceof z.ZodOptional) shape = shape.unwrap();
    const variant = variantAt(walked);
    if (variant !== null) shape = variant.shapes[kindsOf(variant, valueAt(root, walked))[0] ?? ""];
    if (part === null) break;
    if (shape instanceof z.ZodObject) shape = shape.shape[part];
    else if (shape instanceof z.ZodRecord) shape = shape.valueType;
    else if (shape instanceof z.ZodArray) shape = shape.element;
    else return [];
    walked = [...walked, part];
  }
  return shape instanceof z.ZodObject ? Object.keys(shape.shape) : [];
}

const show = (value: unknown): string => {
  const text = JSON.stringify(value) ?? "nothing";
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
};

const typeNames: Record<string, string> = {
  object: "a mapping (key: value)",
  record: "a mapping (name: …)",
  array: "a list (- …)",
  string: "text",
  int: "a whole number",
  number: "a number",
  boolean: "true or false",
};

/** What stands in quotes is text, however much it looks like the number that is wanted. */
const quoted = (value: unknown): string =>
  typeof value === "string" && /^-?\d+$/.test(value) ? ": write it without quotes" : "";

function words(issue: z.core.$ZodIssue, value: unknown): string {
  switch (issue.code) {
    case "invalid_type": {
      const expected = typeNames[issue.expected] ?? issue.expected;
      if (value === undefined) return `missing; expected ${expected}`;
      const hint = issue.expected === "number" || issue.expected === "int" ? quoted(value) : "";
      return `${show(value)} is not ${expected}${hint}`;
    }
    case "invalid_value": {
      const allowed = issue.values.map(String);
      const list = allowed.join(", ");
      const rule = allowed.length === 1 ? list : `one of ${list}`;
      if (value === undefined) return `missing; expected ${rule}`;
      if (typeof value === "string" && allowed.includes(value))
        return `${show(value)} is text, not ${rule}${quoted(value)}`;
      return `${show(value)} is not ${rule}.${typeof value === "string" ? didYouMean(value, allowed) : ""}`;
    }
    case "too_big":
    case "too_small": {
      const bound = issue.code === "too_big" ? issue.maximum : issue.minimum;
      const relation = issue.code === "too_big" ? "at most" : "at least";
      const what =
        issue.origin === "array" ? `${relation} ${bound} entries are allowed` : `is not ${relation} ${bound}`;
      return issue.origin === "array" ? what : `${show(value)} ${what}`;
    }
    default:
      return issue.message;
  }
}

class Collector {
  readonly issues: Issue[] = [];
  private readonly root: Json;
  private readonly places: Places | null;

  constructor(root: Json, places: Places | null) {
    this.root = root;
    this.places = places;
  }

  add(code: Issue["code"], path: readonly PathPart[], message: string, atKey = false): void {
    // What is missing has no place of its own: its parent's is shown.
    let position = atKey ? (this.places?.key(path) ?? null) : (this.places?.value(path) ?? null);
    for (
      let length = path.length - 1;
      position === null && this.places !== null && length >= 0;
      length -= 1
    ) {
      position = this.places.key(path.slice(0, length));
    }
    this.issues.push({ code, position, path, message });
  }

  fromZod(issue: z.core.$ZodIssue, prefix: readonly PathPart[]): void {
    const path = [...prefix, ...issue.path.map((part) => (typeof part === "number" ? part : String(part)))];
    const value = valueAt(this.root, path);
    if (issue.code === "unrecognized_keys") {
      const allowed = keysAt(this.root, path);
      for (const key of issue.keys) {
        const guess = didYouMean(key, allowed);
        const hint = guess === "" ? ` Allowed here: ${allowed.join(", ")}` : guess;
        this.add("E_CONFIG_KEY", [...path, key], `there is no such key.${hint}`, true);
      }
      return;
    }
    if (issue.code === "invalid_union") {
      const variant = variantAt(path);
      const kind = variant === null ? undefined : kindsOf(variant, value)[0];
      if (variant !== null && kind !== undefined) {
        const branch = issue.errors[variant.kinds.indexOf(kind)] ?? [];
        for (const inner of branch) this.fromZod(inner, path);
        return;
      }
      const nested = issue.errors
        .flat()
        .find((inner) => inner.path.length > 0 && inner.code !== "invalid_type");
      if (nested !== undefined) {
        this.fromZod(nested, path);
        return;
      }
      const constants = issue.errors
        .flat()
        .flatMap((inner) => (inner.code === "invalid_value" ? inner.values : []));
      const allowed =
        issue.message !== "Invalid input" ? issue.message : `expected one of ${constants.join(", ")}`;
      this.add(
        "E_CONFIG_VALUE",
        path,
        value === undefined ? `missing; ${allowed}` : `${show(value)}: ${allowed}`,
      );
      return;
    }
    const code = path.length === 1 && path[0] === "version" ? "E_CONFIG_VERSION" : "E_CONFIG_VALUE";
    this.add(code, path, words(issue, value));
  }
}

/** What zod cannot say well: names, and which of several shapes a value means. Answers the paths that it refused. */
function checkVariants(root: Json, faults: Collector): readonly (readonly PathPart[])[] {
  const refused: (readonly PathPart[])[] = [];
  if (!isJsonObject(root)) return refused;
  for (const section of ["devices", "subsystems"]) {
    const entries = root[section];
    if (!isJsonObject(entries)) continue;
    for (const key of Object.keys(entries)) {
      if (parseName(key) !== null) continue;
      faults.add("E_CONFIG_VALUE", [section, key], `${show(key)} is not a name (${nameRule})`, true);
    }
  }
  for (const [section, variant] of Object.entries(variants)) {
    const entries = root[section];
    const pairs: [PathPart, Json][] = Array.isArray(entries)
      ? [...entries.entries()]
      : isJsonObject(entries)
        ? Object.entries(entries)
        : [];
    for (const [key, value] of pairs) {
      const path = [section, key];
      if (!isJsonObject(value)) continue;
      const kinds = kindsOf(variant, value);
      if (kinds.length === 1) continue;
      refused.push(path);
      if (kinds.length > 1) {
        faults.add("E_CONFIG_VALUE", path, `has two kinds, ${kinds.join(" and ")}; one is allowed`);
        continue;
      }
      const unknown =
        Object.keys(value).find((name) => didYouMean(name, variant.kinds) !== "") ?? Object.keys(value)[0];
      if (unknown === undefined) {
        faults.add(
          "E_CONFIG_VALUE",
          path,
          `is empty; it needs a ${variant.noun}: ${variant.kinds.join(", ")}`,
        );
        continue;
      }
      const guess = didYouMean(unknown, variant.kinds);
      const known = `Known: ${variant.kinds.join(", ")}`;
      faults.add(
        "E_CONFIG_KEY",
        [...path, unknown],
        `"${unknown}" is not a ${variant.noun}.${guess || ` ${known}`}`,
        true,
      );
    }
  }
  return refused;
}

/** `places` is null for a document that did not come from text. */
export function validate(root: Json, places: Places | null): ValidateResult {
  const faults = new Collector(root, places);
  const refused = checkVariants(root, faults);
  const isRefused = (path: readonly PropertyKey[]): boolean =>
    refused.some((prefix) => prefix.every((part, index) => String(part) === String(path[index])));
  const result = documentShape.safeParse(root);
  if (result.success && faults.issues.length === 0) return { ok: true, document: result.data };
  for (const issue of result.success ? [] : result.error.issues) {
    if (!isRefused(issue.path)) faults.fromZod(issue, []);
  }
  return { ok: false, issues: faults.issues };
}
