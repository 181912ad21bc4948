// One line per step: what is done, then how it ended and how long it took. The tools' own output goes to a log
// file; its end is shown only when the tool fails.

import { spawnSync } from "node:child_process";
import { closeSync, mkdirSync, openSync, readFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import { root } from "./sources.mjs";

const tailLines = 40;

export class StepFailed extends Error {}

/** Runs one step; `work` returns the words for "how it ended" or nothing. */
export function step(title, work) {
  process.stdout.write(`  ${title} … `);
  const start = performance.now();
  try {
    const outcome = work();
    const seconds = (performance.now() - start) / 1000;
    const time = seconds < 1 ? "" : ` (${seconds.toFixed(0)} s)`;
    console.log(`${outcome ?? "done"}${time}`);
  } catch (error) {
    console.log("failed");
    throw error;
  }
}

/** Runs a tool with its output in a log file below build/; throws StepFailed with the log's end. */
export function runLogged(logName, command, args, options = {}) {
  const log = join(root, "build", "log", logName);
  mkdirSync(dirname(log), { recursive: true });
  const file = openSync(log, "w");
  const result = spawnSync(command, args, { cwd: root, stdio: ["ignore", file, file], ...options });
  closeSync(file);
  if (result.status === 0) return;
  const lines = readFileSync(log, "utf8").trimEnd().split("\n");
  const why = result.error ? result.error.message : `${command} ended with ${result.status ?? result.signal}`;
  throw new StepFailed(`${lines.slice(-tailLines).join("\n")}\n${why}; full log: ${relative(root, log)}`);
}

/** Ends the process with the text of a failed step; other errors are our own bugs and keep their stack. */
export function exitOnStepFailure(work) {
  try {
    work();
  } catch (error) {
    if (!(error instanceof StepFailed)) throw error;
    console.error(error.message);
    process.exitCode = 1;
  }
}
