// `npm run fuzz -- [seconds | -runs=N] [target …]`: builds the fuzz targets (test/fuzz/<target>.cc) under the
// address and undefined-behaviour sanitizers and runs them one after the other. What libFuzzer finds new is
// collected in build/fuzz/<target>; the seeds are test/fuzz/corpus/<target>. With --replay every seed is run
// once, with --merge what was found is reduced into the seeds.

import { spawnSync } from "node:child_process";
import { existsSync, mkdirSync, readdirSync } from "node:fs";
import { join } from "node:path";
import { canFuzz, fuzzTargets, makeArguments } from "./native.mjs";
import { root } from "./sources.mjs";
import { installCommand, missing, unitPackages } from "./system.mjs";

const secondsDefault = "60";
const args = process.argv.slice(2);
const replay = args.includes("--replay");
const merge = args.includes("--merge");
const amount = args.find((a) => /^(\d+|-runs=\d+)$/.test(a)) ?? secondsDefault;
const known = fuzzTargets();
const named = args.filter((a) => /^[a-z_]/.test(a));
const targets = named.length > 0 ? named : known;

const unknown = targets.filter((name) => !known.includes(name));
if (unknown.length > 0 || targets.length === 0) {
  console.error(`no fuzz target ${unknown.join(", ")}; there are: ${known.join(", ") || "none yet"}`);
  process.exit(2);
}
if (!canFuzz()) {
  console.error(installCommand(missing(unitPackages)));
  process.exit(1);
}
const make = makeArguments(
  "asan",
  targets.map((name) => `fuzz/${name}`),
);
if (spawnSync("make", make, { cwd: root, stdio: ["ignore", "ignore", "inherit"] }).status !== 0)
  process.exit(1);

const limit = amount.startsWith("-runs=") ? amount : `-max_total_time=${amount}`;
const counts = { passed: 0, failed: 0 };
for (const name of targets) {
  const seeds = join(root, "test/fuzz/corpus", name);
  const found = join(root, "build/fuzz", name);
  for (const folder of [seeds, found]) mkdirSync(folder, { recursive: true });
  const crashes = `-artifact_prefix=${found}/../${name}-`;
  const inputs = readdirSync(seeds).map((file) => join(seeds, file));
  const common = ["-rss_limit_mb=2048", "-timeout=10", crashes];
  const dictionary = join(root, "test/fuzz", `${name}.dict`);
  if (existsSync(dictionary)) common.push(`-dict=${dictionary}`);
  let work = [limit, "-print_final_stats=1", found, seeds];
  if (merge) work = ["-merge=1", seeds, found];
  if (replay) work = inputs;
  const start = performance.now();
  const options = { cwd: root, encoding: "utf8", stdio: ["ignore", "inherit", replay ? "pipe" : "inherit"] };
  const result = spawnSync(join(root, "build/asan/fuzz", name), [...common, ...work], {
    maxBuffer: 64 << 20,
    ...options,
  });
  const passed = result.status === 0 && (!replay || inputs.length > 0);
  counts[passed ? "passed" : "failed"] += 1;
  if (!passed)
    console.log(
      inputs.length === 0 && replay ? `${name}: no seeds in test/fuzz/corpus` : (result.stderr ?? ""),
    );
  const took = ((performance.now() - start) / 1000).toFixed(0);
  console.log(
    `  ${passed ? "ok    " : "FAILED"} ${name}: ${replay ? `${inputs.length} inputs replayed` : limit} (${took} s)`,
  );
}
console.log(`fuzz: ${counts.passed} passed, ${counts.failed} failed, 0 skipped`);
process.exitCode = counts.failed > 0 ? 1 : 0;
