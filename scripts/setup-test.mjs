// Gets ready for the tests: the system packages that the suites need, the npm packages, an up-to-date build.
// Works in a fresh clone. What cannot be installed is named with the command that installs it: packages that
// only some tests need are then reported and those tests skip, the others are required.

import { spawnSync } from "node:child_process";
import { existsSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "./sources.mjs";
import {
  buildPackages,
  checkPackages,
  guestPackages,
  handlerPackages,
  installCommand,
  installPackages,
  mayInstall,
  missing,
  unitPackages,
} from "./system.mjs";

const optional = new Set([...guestPackages, ...handlerPackages]);

function systemPackages(wanted) {
  let absent = missing(wanted);
  if (absent.length === 0) return true;
  if (mayInstall()) {
    console.log(`  system packages: installing ${absent.join(" ")} with apt-get`);
    const problem = installPackages(absent);
    if (problem !== null) console.log(problem);
    absent = missing(absent);
  }
  if (absent.length === 0) return true;
  const required = absent.some((name) => !optional.has(name));
  console.log(
    `  ${required ? "missing" : "missing, tests that need them will be skipped"}: ${installCommand(absent)}`,
  );
  return !required;
}

/** The packages of the lock file are there when npm's own record of what it installed names all of them. */
function nodeModulesCurrent() {
  const record = join(root, "node_modules/.package-lock.json");
  if (!existsSync(record)) return false;
  const installed = JSON.parse(readFileSync(record, "utf8")).packages;
  const locked = JSON.parse(readFileSync(join(root, "package-lock.json"), "utf8")).packages;
  return Object.entries(locked).every(
    ([path, { version, optional }]) => path === "" || optional || installed[path]?.version === version,
  );
}

const run = (command, args) =>
  spawnSync(command, args, { cwd: root, stdio: ["ignore", "inherit", "inherit"] }).status === 0;

/** True when the given suites can run. */
export function setUp(suites) {
  const guest = suites.some((name) => ["guest", "crash", "volumes"].includes(name));
  const handlers = guest || suites.includes("unit");
  const packages = [
    ...buildPackages,
    ...checkPackages,
    ...unitPackages,
    ...(guest ? guestPackages : []),
    ...(handlers ? handlerPackages : []),
  ];
  if (!systemPackages(packages)) return false;
  if (!nodeModulesCurrent() && !run("npm", ["ci", "--ignore-scripts", "--no-audit", "--no-fund"]))
    return false;
  return run(process.execPath, ["scripts/build.mjs", "--tests"]);
}
