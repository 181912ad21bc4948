// The test runner: `npm test` runs all suites from the bottom of the ladder to its top and stops at the first
// rung that fails; `npm run test:<suite> [-- filter]` runs one. A suite is a list of programs; every program's
// own summary is counted. The last line is the sum: "N passed, N failed, N skipped".

import { spawn } from "node:child_process";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { canFuzz, fuzzTargets, makeArguments, nativeSuites } from "../scripts/native.mjs";
import { setUp } from "../scripts/setup-test.mjs";
import { filesBelow, root, sources } from "../scripts/sources.mjs";

const ladder = ["check", "unit", "fuzz", "protocol", "guest", "crash", "volumes", "sim"];

/** Run by name only: `npm run test:threads` compiles everything once more. */
const besides = ["threads"];

/** Suites whose tests need the machine for themselves: one file at a time. */
const exclusive = new Set(["guest", "crash", "volumes"]);

const zero = () => ({ passed: 0, failed: 0, skipped: 0 });

/** Runs a program with its output passed through; resolves to its exit status and what it printed. */
function run(command, args, { quiet = false } = {}) {
  return new Promise((resolve) => {
    const env = { UBSAN_OPTIONS: "print_stacktrace=1", ...process.env };
    const child = spawn(command, args, { cwd: root, env, stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const [stream, sink] of [
      [child.stdout, process.stdout],
      [child.stderr, process.stderr],
    ]) {
      stream.on("data", (chunk) => {
        output += chunk;
        if (!quiet) sink.write(chunk);
      });
    }
    child.on("error", (error) => resolve({ status: 1, output: `${output}${error.message}` }));
    child.on("close", (status, signal) => resolve({ status: status ?? signal, output }));
  });
}

/** Counts from a summary line; a program that failed without counting a failure counts as one. */
function counted(result, pattern) {
  const match = [...result.output.matchAll(pattern)].at(-1)?.groups ?? {};
  const counts = zero();
  for (const key of Object.keys(counts)) counts[key] = Number(match[key] ?? 0);
  if (result.status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

const doctestSummary = /test cases:\s*\d+ \|\s*(?<passed>\d+) passed \|\s*(?<failed>\d+) failed/g;
const ownSummary = /: (?<passed>\d+) passed, (?<failed>\d+) failed, (?<skipped>\d+) skipped/g;

async function doctest(program, filter) {
  const chosen = filter ? [`--test-case=*${filter}*`] : [];
  return counted(await run(program, chosen), doctestSummary);
}

async function sanitized(program, filter, flavour = "asan") {
  // The tests of upgrades go back and forth between this version and one with another layout of the arena.
  const flavours = program === "suite/crash" ? ["layout2", flavour] : [flavour];
  let built = { status: 0, output: "" };
  for (const each of flavours) {
    if (built.status === 0) built = await run("make", makeArguments(each, [program]), { quiet: true });
  }
  if (built.status !== 0) {
    console.log(built.output.split("\n").slice(-40).join("\n"));
    return { ...zero(), failed: 1 };
  }
  return doctest(join("build", flavour, program), filter);
}

/** The compiled tests of a suite; a filter is a part of a file's path or else of a test's name. */
async function nodeTests(suite, filter) {
  const compiled = filesBelow(`test/${suite}`, ".test.ts").map(
    (path) => `dist-${path.replace(/\.ts$/, ".js")}`,
  );
  const all = [...compiled, ...filesBelow(`test/${suite}`, ".test.mjs")];
  const named = filter ? all.filter((path) => path.includes(filter)) : [];
  const files = named.length > 0 ? named : all;
  if (files.length === 0) return zero();
  const report = join(root, "build/log", `${suite}.tap`);
  mkdirSync(join(root, "build/log"), { recursive: true });
  rmSync(report, { force: true });
  const args = ["--test", "--enable-source-maps"];
  args.push("--test-reporter=spec", "--test-reporter-destination=stdout");
  args.push("--test-reporter=tap", `--test-reporter-destination=${report}`);
  if (exclusive.has(suite)) args.push("--test-concurrency=1");
  if (filter && named.length === 0) args.push(`--test-name-pattern=${filter}`);
  const { status } = await run(process.execPath, [...args, ...files]);
  const tap = existsSync(report) ? readFileSync(report, "utf8") : "";
  const sum = (...names) =>
    names.reduce(
      (total, name) => total + Number(new RegExp(`^# ${name} (\\d+)$`, "m").exec(tap)?.[1] ?? 0),
      0,
    );
  const counts = { passed: sum("pass"), failed: sum("fail", "cancelled"), skipped: sum("skipped", "todo") };
  if (status !== 0 && counts.failed === 0) counts.failed = 1;
  return counts;
}

async function fuzzReplay(filter) {
  if (!canFuzz()) return { ...zero(), skipped: fuzzTargets().length };
  const targets = fuzzTargets().filter((name) => !filter || name.includes(filter));
  return counted(await run(process.execPath, ["scripts/fuzz.mjs", "--replay", ...targets]), ownSummary);
}

/** The programs of a suite as [title, start]; none means that the suite has no tests yet. */
function programsOf(suite, filter) {
  if (suite === "check") {
    const checks = filter ? [filter] : [];
    return [
      [
        "check",
        async () => counted(await run(process.execPath, ["scripts/check.mjs", ...checks]), ownSummary),
      ],
    ];
  }
  if (suite === "fuzz")
    return fuzzTargets().length > 0 ? [["fuzz, corpus replayed", () => fuzzReplay(filter)]] : [];
  if (suite === "threads")
    return [["unit, C++ with thread sanitizer", () => sanitized("native_tests", filter, "tsan")]];
  const programs = [];
  if (suite === "unit" && sources.tests().length > 0) {
    programs.push(["unit, C++", () => doctest("build/Release/native_tests", filter)]);
    programs.push(["unit, C++ with sanitizers", () => sanitized("native_tests", filter)]);
  }
  if (nativeSuites().includes(suite)) {
    programs.push([`${suite}, C++ with sanitizers`, () => sanitized(`suite/${suite}`, filter)]);
  }
  const scripted = [".test.ts", ".test.mjs"].some((suffix) => filesBelow(`test/${suite}`, suffix).length > 0);
  if (scripted) programs.push([`${suite}, TypeScript`, () => nodeTests(suite, filter)]);
  return programs;
}

function printTable(rows) {
  const width = Math.max(...rows.map((row) => row.title.length));
  console.log(`\n${"suite".padEnd(width)}  passed  failed  skipped  seconds`);
  for (const { title, counts, seconds } of rows) {
    const cells = counts
      ? [counts.passed, counts.failed, counts.skipped, seconds.toFixed(1)]
      : ["-", "-", "-", "not run"];
    const widths = [6, 6, 7, 7];
    console.log(
      [title.padEnd(width), ...cells.map((cell, i) => String(cell).padStart(widths[i]))].join("  "),
    );
  }
  console.log("");
}

async function main() {
  const [name = null, ...words] = process.argv.slice(2);
  if (name !== null && ![...ladder, ...besides].includes(name)) {
    console.error(`no suite "${name}"; there are: ${[...ladder, ...besides].join(", ")}`);
    return 2;
  }
  const suites = name === null ? ladder : [name];
  const filter = words.join(" ") || null;
  const rows = [];
  const total = zero();
  if (!setUp(suites)) {
    total.failed = 1;
    rows.push({ title: "set-up", counts: total, seconds: 0 });
  } else {
    for (const suite of suites) {
      const blocked = total.failed > 0;
      for (const [title, start] of programsOf(suite, filter)) {
        if (blocked) {
          rows.push({ title, counts: null, seconds: 0 });
          continue;
        }
        console.log(`\n── ${title}`);
        const begin = performance.now();
        const counts = await start();
        rows.push({ title, counts, seconds: (performance.now() - begin) / 1000 });
        for (const key of Object.keys(total)) total[key] += counts[key];
      }
    }
  }
  if (rows.length > 0) printTable(rows);
  const nothing = total.passed + total.failed === 0;
  if (nothing) console.log(`nothing ran${filter ? `: no test matches "${filter}"` : ""}`);
  console.log(`${total.passed} passed, ${total.failed} failed, ${total.skipped} skipped`);
  return total.failed > 0 || nothing ? 1 : 0;
}

process.exitCode = await main();
