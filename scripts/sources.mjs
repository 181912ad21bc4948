// What is compiled from what, and how: the one list that binding.gyp, the sanitizer builds and the checks share.
// As a program it prints one value per line for gyp: node scripts/sources.mjs engine | keeper | flags | …

import { readdirSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

export const root = dirname(dirname(fileURLToPath(import.meta.url)));

/** Layers that make up the engine library, in the order in which they may know each other. */
export const engineLayers = ["base", "wire", "reactor", "durable", "block", "nvme", "transport", "engine"];

/** Language and warnings of all our C++, the same in every build. Optimisation is each build's own. */
export const languageFlags = [
  "-std=c++20",
  "-fno-exceptions",
  "-fno-rtti",
  "-fno-strict-aliasing",
  "-fno-plt",
  "-Wall",
  "-Wextra",
  "-Wconversion",
  "-Wshadow",
  "-Werror",
];

export const testDefines = ["DOCTEST_CONFIG_NO_EXCEPTIONS_BUT_WITH_ALL_ASSERTS"];

/** The oldest processor that is supported; what is newer is chosen at run time. */
export const architectureFlags = process.arch === "x64" ? ["-march=x86-64-v2"] : [];

export const libraries = ["-luring", "-lisal"];

/** Files below a folder of the repository, as sorted paths relative to it; none if the folder is absent. */
export function filesBelow(folder, suffix) {
  let entries;
  try {
    entries = readdirSync(join(root, folder), { recursive: true, withFileTypes: true });
  } catch (error) {
    if (error.code === "ENOENT") return [];
    throw error;
  }
  return entries
    .filter((entry) => entry.isFile() && entry.name.endsWith(suffix))
    .map((entry) => join(entry.parentPath ?? entry.path, entry.name).slice(root.length + 1))
    .sort();
}

const ownHandlers = "native/tcmu/handlers";
const testHandlers = "native/testing/tcmu";

/** What keel-tcmu lets handlers import from it. */
export const tcmuExports = "native/tcmu/exports.txt";

const isTest = (path) => path.endsWith("_test.cc");

export const sources = {
  engine: () =>
    engineLayers.flatMap((layer) => filesBelow(`native/${layer}`, ".cc")).filter((p) => !isTest(p)),
  binding: () => filesBelow("native/binding", ".cc").filter((p) => !isTest(p)),
  keeper: () => filesBelow("native/keeper", ".cc").filter((p) => !isTest(p)),
  /** keel-tcmu, which runs one handler of tcmu-runner; stands alone but for the layout of shared memory. */
  tcmu: () => filesBelow("native/tcmu", ".cc").filter((p) => !isTest(p) && !p.startsWith(ownHandlers)),
  /** Our own handlers, each a shared object handler_<name>.so beside keel-tcmu. */
  handlers: () => filesBelow(ownHandlers, ".cc"),
  /** Handlers that misbehave on demand. */
  "test-handlers": () => filesBelow(testHandlers, ".cc"),
  tools: () => filesBelow("native/tools", ".cc"),
  /** keel-load, the load generator and verifier. */
  load: () => filesBelow("bench/io", ".cc").filter((p) => !isTest(p)),
  /** Support code that test programs, fuzzers and benchmarks link; main.cc belongs to test programs alone. */
  support: () =>
    filesBelow("native/testing", ".cc").filter(
      (p) => !isTest(p) && p !== testMain && !p.startsWith(testHandlers),
    ),
  tests: () => filesBelow("native", ".cc").filter(isTest),
  /** Native tests that stand outside native/: test/sim/*_test.cc and the like. */
  suite: (name) => filesBelow(`test/${name}`, ".cc").filter(isTest),
  fuzz: () => filesBelow("test/fuzz", ".cc"),
  /** All our C++, headers too: what clang-format looks after. */
  everything: () =>
    ["native", "test", "bench"].flatMap((folder) =>
      [".cc", ".h"].flatMap((suffix) => filesBelow(folder, suffix)),
    ),
};

export const testMain = "native/testing/main.cc";

function printed(what) {
  switch (what) {
    case "flags":
      return [...languageFlags, ...architectureFlags];
    case "libraries":
      return libraries;
    case "test-defines":
      return testDefines;
    case "napi-include":
      return [join(root, "node_modules/node-addon-api")];
    case "native-tests":
      return [...sources.tests(), ...sources.support(), testMain];
    default:
      return sources[what]();
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [what, count] = process.argv.slice(2);
  const values = printed(what);
  console.log(count === "--count" ? values.length : values.join("\n"));
}
