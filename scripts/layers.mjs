// Who may import whom. The tables are the architecture: a folder's row names every other folder that it may
// include (C++) or import (TypeScript); what is not in a row is a fault. Folders without a row are faults too.

import { readFileSync } from "node:fs";
import { dirname, join, normalize } from "node:path";
import { filesBelow, root } from "./sources.mjs";

export const nativeLayers = {
  base: [],
  wire: ["base"],
  reactor: ["base"],
  durable: ["base", "wire", "reactor"],
  // block and nvme know of durable only the spans that the engine hands them.
  block: ["base", "wire", "reactor"],
  nvme: ["base", "wire", "reactor", "block"],
  transport: ["base", "wire", "reactor", "durable", "block", "nvme"],
  engine: ["base", "wire", "reactor", "durable", "block", "nvme", "transport"],
  binding: ["base", "wire", "reactor", "durable", "block", "nvme", "transport", "engine"],
  keeper: ["base", "wire", "durable"],
  // Of block only the layout of the memory that both share.
  tcmu: ["base", "block"],
};

/** These may include everything: they stand beside the house, not in it. Tests (*_test.cc) are like them. */
const nativeFree = ["testing", "tools"];

/** Headers that one folder alone may include. */
const nativeExclusive = { "napi.h": "binding", "node_api.h": "binding" };

/** Headers of an allowed folder that a layer still must not know: the controller is the same over every transport. */
const nativeForbidden = { nvme: ["wire/nvme_tcp.h"], block: ["wire/nvme_tcp.h"] };
/** Except here: a device that is somebody else's target speaks its transport. */
const nativeForbiddenExcept = ["native/block/initiator/"];

/** The folder "main" is ts/main.ts, which composes the program. */
export const tsLayers = {
  model: [],
  native: ["model"],
  config: ["model"],
  replication: ["model"],
  recovery: ["model", "config"],
  metrics: ["model"],
  control: ["model", "native", "config", "replication", "recovery", "metrics"],
  api: ["model", "native", "config", "replication", "recovery", "metrics", "control"],
  main: ["model", "native", "config", "replication", "recovery", "metrics", "control", "api"],
  // The command line talks to a running server over its socket; `serve` and `demo` start one.
  cli: ["model", "config", "main"],
  dashboard: ["model"],
};

const readTree = (folder, suffixes) =>
  suffixes
    .flatMap((suffix) => filesBelow(folder, suffix))
    .map((path) => ({ path, text: readFileSync(join(root, path), "utf8") }));

/** The faults in C++ files given as {path, text}, path from the repository's root ("native/nvme/admin.cc"). */
export function nativeFaults(files) {
  const faults = [];
  for (const { path, text } of files) {
    const [, layer] = path.split("/");
    if (nativeFree.includes(layer) || path.endsWith("_test.cc")) continue;
    const allowed = nativeLayers[layer];
    if (allowed === undefined) {
      faults.push(`${path}: native/${layer} has no row in the layer table`);
      continue;
    }
    for (const [, header] of text.matchAll(/^\s*#\s*include\s*[<"]([^>"]+)[>"]/gm)) {
      const [target, ...rest] = header.split("/");
      const owner = nativeExclusive[header];
      if (owner !== undefined && owner !== layer) {
        faults.push(`${path}: includes ${header}, which only native/${owner} may`);
      }
      const ours = rest.length > 0 && (target in nativeLayers || nativeFree.includes(target));
      const forbidden =
        (nativeForbidden[layer]?.includes(header) ?? false) &&
        !nativeForbiddenExcept.some((folder) => path.startsWith(folder));
      if (forbidden || (ours && target !== layer && !allowed.includes(target))) {
        faults.push(`${path}: ${layer} must not include ${header}`);
      }
    }
  }
  return faults;
}

/** The faults in TypeScript files given as {path, text}, path from the root ("ts/control/server.ts"). */
export function tsFaults(files) {
  const faults = [];
  const layerOf = (path) => path.split("/")[1].replace(/\.[jt]s$/, "");
  for (const { path, text } of files) {
    const layer = layerOf(path);
    const allowed = tsLayers[layer];
    if (allowed === undefined) {
      faults.push(`${path}: ts/${layer} has no row in the layer table`);
      continue;
    }
    for (const [, , specifier] of text.matchAll(/\b(from|import)\s*\(?\s*["'](\.[^"']+)["']/g)) {
      const target = normalize(join(dirname(path), specifier));
      if (!target.startsWith("ts/")) {
        faults.push(`${path}: imports ${specifier}, which is outside ts/`);
      } else if (layerOf(target) !== layer && !allowed.includes(layerOf(target))) {
        faults.push(`${path}: ${layer} must not import ${specifier}`);
      }
    }
  }
  return faults;
}

export const treeFaults = () => [
  ...nativeFaults(readTree("native", [".cc", ".h"])),
  ...tsFaults(readTree("ts", [".ts"])),
];
