// Builds native test programs, fuzzers and benchmarks without Node, one folder below build/ per flavour:
//   node scripts/native.mjs asan|tsan|debug|release|layout2 [target …]
// Targets: native_tests (the default), suite/<name> (test/<name>/**/*_test.cc), fuzz/<name>, bench/<name>
// (bench/<name>/*.cc), print_values, or any of their groups: fuzz, suites, benches. Sources and flags: sources.mjs.
// It writes a makefile and runs make, so that only what changed is compiled.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync, readFileSync, writeFileSync } from "node:fs";
import { availableParallelism } from "node:os";
import { basename, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import {
  architectureFlags,
  filesBelow,
  languageFlags,
  libraries,
  root,
  sources,
  tcmuExports,
  testDefines,
  testMain,
} from "./sources.mjs";
import { findBinary } from "./system.mjs";

// Asked when it is needed: the set-up of the tests may just have installed it.
const clang = () => findBinary("clang++-14");

/** Flavours with `fuzzer` carry coverage counters; libFuzzer itself comes only with the clang compiler. */
const flavours = {
  asan: {
    get compiler() {
      return clang() ?? "g++";
    },
    get flags() {
      return [
        "-O1",
        "-g",
        "-fno-omit-frame-pointer",
        "-D_GLIBCXX_ASSERTIONS",
        "-fsanitize=address,undefined",
        "-fno-sanitize-recover=all",
        ...(clang() ? ["-fsanitize=fuzzer-no-link"] : []),
      ];
    },
    get fuzzer() {
      return clang() !== null;
    },
  },
  tsan: { compiler: "g++", flags: ["-O1", "-g", "-fsanitize=thread"], fuzzer: false },
  debug: { compiler: "g++", flags: ["-O0", "-g", "-D_GLIBCXX_ASSERTIONS"], fuzzer: false },
  release: { compiler: "g++", flags: ["-O2", "-g"], fuzzer: false },
  // Plays the next version, whose arena has another layout, in the tests of upgrades.
  layout2: { compiler: "g++", flags: ["-O2", "-g", "-DKEEL_TEST_LAYOUT=2"], fuzzer: false },
};

const programName = (path) => basename(path, ".cc");

/** Names of the suites below test/ that have native tests. */
export function nativeSuites() {
  return readdirSync(join(root, "test"), { withFileTypes: true })
    .filter((entry) => entry.isDirectory() && sources.suite(entry.name).length > 0)
    .map((entry) => entry.name);
}

export const fuzzTargets = () => sources.fuzz().map(programName);

function benchmarks() {
  const folders = new Set(filesBelow("bench", ".cc").map(dirname));
  return [...folders].map((folder) => ({ name: basename(folder), files: filesBelow(folder, ".cc") }));
}

/** keel-tcmu and handlers for it, beside the tests that run them. */
function handlerPrograms() {
  const handlers = [...sources.handlers(), ...sources["test-handlers"]()];
  return [
    { name: "keel-tcmu", files: sources.tcmu(), link: [`-Wl,--dynamic-list=${tcmuExports}`], alone: true },
    ...handlers.map((path) => ({
      name: `handler_${programName(path)}.so`,
      files: [path],
      link: ["-shared"],
      alone: true,
    })),
  ];
}

/** Every program of a flavour: its name below build/<flavour>/, its own sources, what it adds to the link. */
function programs(flavour) {
  const support = sources.support();
  return [
    { name: "native_tests", files: [...sources.tests(), ...support, testMain], link: [] },
    ...nativeSuites().map((suite) => ({
      name: `suite/${suite}`,
      files: [...sources.suite(suite), ...support, testMain],
      link: [],
    })),
    ...(flavour.fuzzer
      ? sources.fuzz().map((path) => ({
          name: `fuzz/${programName(path)}`,
          files: [path, ...support],
          link: ["-fsanitize=fuzzer"],
        }))
      : []),
    ...benchmarks().map(({ name, files }) => ({
      name: `bench/${name}`,
      files: [...files, ...support],
      link: [],
    })),
    { name: "print_values", files: sources.tools(), link: [] },
    ...handlerPrograms(),
  ].filter((program) => program.files.length > 0);
}

function makefile(name, flavour) {
  const out = `build/${name}`;
  const object = (path) => `${out}/obj/${path.replace(/\.cc$/, ".o")}`;
  const engine = sources.engine().map(object);
  const list = programs(flavour);
  const objects = [...new Set([...engine, ...list.flatMap((program) => program.files.map(object))])];
  const defines = testDefines.map((define) => `-D${define}`);
  const flags = [
    ...languageFlags,
    ...architectureFlags,
    "-Inative",
    "-pthread",
    ...defines,
    ...flavour.flags,
  ];
  const group = (prefix) => list.filter((p) => p.name.startsWith(`${prefix}/`)).map((p) => p.name);
  return `# Written by scripts/native.mjs.
FLAGS := ${flags.join(" ")}
.PHONY: ${list.map((p) => p.name).join(" ")} fuzz suites benches
${list.map((p) => `${p.name}: ${out}/${p.name}`).join("\n")}
native_tests: ${handlerPrograms()
    .map((p) => p.name)
    .join(" ")}
fuzz: ${group("fuzz").join(" ")}
suites: ${group("suite").join(" ")}
benches: ${group("bench").join(" ")}
${out}/engine.a: ${engine.join(" ")} ${out}/Makefile
\t@rm -f $@
\t@ar rcs $@ $(filter %.o,$^)
${list
  .map(
    (p) => `${out}/${p.name}: ${p.files.map(object).join(" ")} ${p.alone ? "" : `${out}/engine.a`}
\t@mkdir -p $(@D)
\t@echo "  LINK ${name} ${p.name}"
\t@${flavour.compiler} $(FLAGS) ${p.link.join(" ")} -o $@ $(filter %.o,$^) ${p.alone ? "" : `${out}/engine.a ${libraries.join(" ")}`}`,
  )
  .join("\n")}
${handlerPrograms()
  .filter((p) => p.link.includes("-shared"))
  .map((p) => `${p.files.map(object).join(" ")}: FLAGS += -fPIC`)
  .join("\n")}
${out}/obj/%.o: %.cc ${out}/flags
\t@mkdir -p $(@D)
\t@echo "  CXX ${name} $<"
\t@${flavour.compiler} $(FLAGS) -MMD -MP -c -o $@ $<
-include ${objects.map((path) => path.replace(/\.o$/, ".d")).join(" ")}
`;
}

/** Make goes by time stamps: a file that says nothing new is left alone. */
function writeIfChanged(path, text) {
  if (!existsSync(path) || readFileSync(path, "utf8") !== text) writeFileSync(path, text);
}

/** Writes what make reads, and returns the makefile's path relative to the repository. */
function prepare(name) {
  const folder = join(root, "build", name);
  const text = makefile(name, flavours[name]);
  mkdirSync(folder, { recursive: true });
  writeIfChanged(join(folder, "Makefile"), text);
  // Objects depend on the flags alone, so that a new source file does not compile the others again.
  writeIfChanged(join(folder, "flags"), `${flavours[name].compiler} ${/^FLAGS := .*$/m.exec(text)[0]}\n`);
  return `build/${name}/Makefile`;
}

/** Arguments for make that build the targets of a flavour. */
export const makeArguments = (name, targets) => [
  "--no-print-directory",
  `-j${process.env.JOBS ?? availableParallelism()}`,
  "-f",
  prepare(name),
  ...targets,
];

export const canFuzz = () => flavours.asan.fuzzer;

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [name, ...targets] = process.argv.slice(2);
  if (!Object.hasOwn(flavours, name ?? "")) {
    console.error(`usage: node scripts/native.mjs ${Object.keys(flavours).join("|")} [target …]`);
    process.exit(2);
  }
  const args = makeArguments(name, targets.length > 0 ? targets : ["native_tests"]);
  process.exit(spawnSync("make", args, { cwd: root, stdio: "inherit" }).status ?? 1);
}
