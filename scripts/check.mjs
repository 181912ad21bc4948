// `npm run check`: everything that can be judged without running the product. Each check is a line; all of them
// run, so that one call names all faults. Arguments choose checks by name.

import { spawnSync } from "node:child_process";
import { existsSync } from "node:fs";
import { join } from "node:path";
import { filesBelow, root, sources } from "./sources.mjs";
import { checkPackages, installCommand, missing } from "./system.mjs";

const bin = (name) => join(root, "node_modules", name);
const cppFiles = sources.everything();
const node = (...args) => [process.execPath, args];
const testTypes = filesBelow("test", ".ts").length > 0;

/** Name, the command, and whether there is anything to check. */
const checks = [
  ["layers", node("--test", "test/layers/layers.test.mjs"), true],
  ["clang-format", ["clang-format-14", ["--dry-run", "-Werror", ...cppFiles]], cppFiles.length > 0],
  ["biome", node(bin("@biomejs/biome/bin/biome"), "ci", "--colors=off"), true],
  [
    "types",
    node(bin("typescript/bin/tsc"), "-b", testTypes ? "tsconfig.test.json" : "tsconfig.json"),
    filesBelow("ts", ".ts").length > 0,
  ],
  [
    "generated",
    node("scripts/generate.mjs", "--check"),
    existsSync(join(root, "native/tools/print_values.cc")),
  ],
];

/** The first faults are the ones to mend; hundreds of lines would hide the other checks. */
function printHead(text, linesMax = 60) {
  const lines = text.trimEnd().split("\n");
  console.log(lines.slice(0, linesMax).join("\n"));
  if (lines.length > linesMax) console.log(`… ${lines.length - linesMax} more lines`);
}

const absent = missing(checkPackages);
if (absent.length > 0) {
  console.error(installCommand(absent));
  process.exit(1);
}

const chosen = process.argv.slice(2);
const counts = { passed: 0, failed: 0 };
for (const [name, [command, args], applies] of checks) {
  if (!applies || (chosen.length > 0 && !chosen.includes(name))) continue;
  const result = spawnSync(command, args, { cwd: root, encoding: "utf8", maxBuffer: 64 << 20 });
  const passed = result.status === 0;
  counts[passed ? "passed" : "failed"] += 1;
  console.log(`  ${passed ? "ok    " : "FAILED"} ${name}`);
  if (!passed) printHead(`${result.stdout ?? ""}${result.stderr ?? ""}${result.error?.message ?? ""}`);
}
console.log(`check: ${counts.passed} passed, ${counts.failed} failed, 0 skipped`);
// Not process.exit: it would cut off what a pipe has not taken yet.
process.exitCode = counts.failed > 0 || counts.passed === 0 ? 1 : 0;
