// `npm run check:tidy [path …]`: clang-tidy 14 over the engine, the keeper and the tools. Slow, so not part of
// `npm run check`.

import { spawnSync } from "node:child_process";
import { architectureFlags, languageFlags, root, sources, testDefines } from "./sources.mjs";
import { findBinary } from "./system.mjs";

if (findBinary("clang-tidy-14") === null) {
  console.error("apt-get install -y --no-install-recommends clang-tidy-14");
  process.exit(1);
}
const chosen = process.argv.slice(2);
const files =
  chosen.length > 0 ? chosen : ["engine", "keeper", "tools", "support"].flatMap((l) => sources[l]());
const flags = [...languageFlags, ...architectureFlags, "-Inative", ...testDefines.map((d) => `-D${d}`)];
let failed = 0;
for (const file of files) {
  const args = ["--quiet", file, "--", ...flags];
  const result = spawnSync("clang-tidy-14", args, { cwd: root, stdio: ["ignore", "inherit", "ignore"] });
  if (result.status !== 0) failed += 1;
}
console.log(`clang-tidy: ${files.length - failed} passed, ${failed} failed, 0 skipped`);
process.exitCode = failed > 0 ? 1 : 0;
