// Builds everything: npm's `install` script, also `npm run build`. Three steps, one line each, each skipped or
// fast when nothing changed: system packages, native code (node-gyp), TypeScript.
// Options: --only=native | --only=ts, --tests (adds the native test program and the compiled tests).

import { createHash } from "node:crypto";
import { existsSync, mkdirSync, readFileSync, realpathSync, writeFileSync } from "node:fs";
import { createRequire } from "node:module";
import { availableParallelism } from "node:os";
import { dirname, join } from "node:path";
import { filesBelow, languageFlags, root, sources } from "./sources.mjs";
import { exitOnStepFailure, runLogged, StepFailed, step } from "./step.mjs";
import {
  buildPackages,
  findBinary,
  installCommand,
  installPackages,
  mayInstall,
  missing,
} from "./system.mjs";

const only = process.argv.find((a) => a.startsWith("--only="))?.slice("--only=".length) ?? null;
const withTests = process.argv.includes("--tests");
const require = createRequire(import.meta.url);

function systemPackages() {
  const absent = missing(buildPackages);
  if (absent.length === 0) return;
  if (!mayInstall()) {
    console.error(installCommand(absent));
    process.exit(1);
  }
  step(`system packages: installing ${absent.join(" ")} with apt-get`, () => {
    const problem = installPackages(absent);
    if (problem !== null) throw new StepFailed(`${problem}\n${installCommand(absent)}`);
  });
}

function nodeModulesComplete() {
  if (!existsSync(join(root, "node_modules/node-addon-api"))) {
    throw new StepFailed("the packages that the build needs are not installed; remedy: npm install");
  }
}

/** node-gyp as npm carries it: npm names it to its scripts; otherwise it is looked for beside npm. */
function nodeGyp() {
  const npm = findBinary("npm");
  const candidates = [
    process.env.npm_config_node_gyp,
    process.env.npm_execpath &&
      join(dirname(process.env.npm_execpath), "../node_modules/node-gyp/bin/node-gyp.js"),
    npm && join(dirname(realpathSync(npm)), "../node_modules/node-gyp/bin/node-gyp.js"),
  ];
  const found = candidates.find((path) => path && existsSync(path));
  if (!found)
    throw new StepFailed("node-gyp was not found beside npm; remedy: install npm, then npm install");
  return found;
}

/** Node's own headers, where this node came with them, so that nothing is downloaded. */
function headerArguments() {
  const prefix = dirname(dirname(realpathSync(process.execPath)));
  const version = `#define NODE_MAJOR_VERSION ${process.versions.node.split(".")[0]}\n`;
  const header = join(prefix, "include/node/node_version.h");
  const own = existsSync(header) && readFileSync(header, "utf8").includes(version);
  return own ? [`--nodedir=${prefix}`] : [];
}

/** Everything that decides what the makefiles say; they are written again only when it changed. */
function configurationFingerprint(extra) {
  const inputs = [
    process.version,
    process.arch,
    process.env.CC,
    process.env.CXX,
    readFileSync(join(root, "binding.gyp"), "utf8"),
    readFileSync(join(root, "scripts/sources.mjs"), "utf8"),
    languageFlags,
    filesBelow("native", ".cc"),
    extra,
  ];
  return createHash("sha256").update(JSON.stringify(inputs)).digest("hex");
}

function native() {
  if (sources.engine().length === 0) return;
  const gyp = nodeGyp();
  const variables = withTests ? ["--", "-Dtests=1"] : [];
  const stamp = join(root, "build/configured");
  const fingerprint = configurationFingerprint([gyp, headerArguments(), variables]);
  const fresh = existsSync(stamp) && readFileSync(stamp, "utf8") === fingerprint;
  const title = withTests ? "native code and its tests" : "native code";
  step(`${title}: compiling with ${process.env.CXX ?? "g++"}`, () => {
    if (!fresh) {
      const configure = [gyp, "configure", "--loglevel=warn", ...headerArguments(), ...variables];
      runLogged("configure.log", process.execPath, configure);
      mkdirSync(dirname(stamp), { recursive: true });
      writeFileSync(stamp, fingerprint);
    }
    const jobs = process.env.JOBS ?? String(availableParallelism());
    runLogged("native.log", "make", [
      "-C",
      "build",
      "BUILDTYPE=Release",
      "--no-print-directory",
      `-j${jobs}`,
    ]);
  });
}

function typescript() {
  let compiler;
  try {
    compiler = join(dirname(require.resolve("typescript/package.json")), "bin/tsc");
  } catch {
    if (existsSync(join(root, "dist/cli/main.js"))) return;
    throw new StepFailed(
      "TypeScript is a development package and was left out (--omit=dev); remedy: npm install --include=dev",
    );
  }
  const project = withTests && filesBelow("test", ".ts").length > 0 ? "tsconfig.test.json" : "tsconfig.json";
  if (filesBelow("ts", ".ts").length === 0) return;
  step("TypeScript: compiling", () => {
    runLogged("tsc.log", process.execPath, [compiler, "-b", project]);
    identify();
  });
}

/** What a server leaves for a successor of the same build is used as it is; see ts/recovery/prepared.ts. */
function identify() {
  const hash = createHash("sha256");
  for (const path of filesBelow("dist", ".js"))
    hash.update(`${path}\n`).update(readFileSync(join(root, path)));
  writeFileSync(join(root, "dist/build-id.json"), `{"id":"${hash.digest("hex").slice(0, 32)}"}\n`);
}

exitOnStepFailure(() => {
  if (only !== "ts") {
    systemPackages();
    nodeModulesComplete();
    native();
  }
  if (only !== "native") typescript();
});
