// `npm run format`: rewrites every source file as the formatters want it (clang-format 14, biome).

import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { root, sources } from "./sources.mjs";
import { checkPackages, installCommand, missing } from "./system.mjs";

const absent = missing(checkPackages);
if (absent.length > 0) {
  console.error(installCommand(absent));
  process.exit(1);
}
const run = (command, args) => spawnSync(command, args, { cwd: root, stdio: "inherit" }).status ?? 1;
const cppFiles = sources.everything();
const cpp = cppFiles.length > 0 ? run("clang-format-14", ["-i", ...cppFiles]) : 0;
const biome = join(root, "node_modules/@biomejs/biome/bin/biome");
process.exit(cpp || run(process.execPath, [biome, "check", "--write"]));
