// Writes ts/native/values.generated.ts, the limits, codes and states that C++ and TypeScript share, as
// native/tools/print_values.cc prints them. With --check it only says whether the file is up to date.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./sources.mjs";

const target = "ts/native/values.generated.ts";
const generator = join(root, "build/Release/print_values");

if (!existsSync(generator)) {
  console.error("build/Release/print_values is not built; remedy: npm run build");
  process.exit(1);
}
const printed = spawnSync(generator, { encoding: "utf8" });
if (printed.status !== 0) {
  console.error(`print_values ended with ${printed.status ?? printed.signal}: ${printed.stderr}`);
  process.exit(1);
}
const path = join(root, target);
const fresh = existsSync(path) && readFileSync(path, "utf8") === printed.stdout;
if (process.argv.includes("--check")) {
  if (!fresh) console.error(`${target} is stale; remedy: npm run build && npm run generate`);
  process.exit(fresh ? 0 : 1);
}
if (!fresh) writeFileSync(path, printed.stdout);
