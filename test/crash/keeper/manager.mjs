// A real systemd (a user manager) in namespaces of its own, with the unit of packaging/ in it.

import assert from "node:assert/strict";
import { spawn, spawnSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { root } from "../../../scripts/sources.mjs";
import { until } from "../../harness/until.mjs";
import { keeperProgram } from "./fixture.mjs";

const manager = "/lib/systemd/systemd";
export const unit = join(root, "packaging/systemd/keel.service");

/** Why this cannot be run here, or null. */
export function missing() {
  if (!existsSync(keeperProgram)) return `${keeperProgram} is not built: npm run build:native`;
  if (process.getuid() !== 0) return "needs root, for namespaces";
  if (!existsSync(manager)) return "needs systemd: apt-get install systemd";
  const probe = spawnSync("unshare", [
    "-m",
    "-p",
    "-f",
    "-C",
    "--mount-proc",
    "mount",
    "-t",
    "cgroup2",
    "none",
    "/sys/fs/cgroup",
  ]);
  return probe.status === 0
    ? null
    : `namespaces or cgroup2 cannot be had here: ${String(probe.stderr).trim()}`;
}

/** The manager and a shell beside it. */
export class Manager {
  /** `command`: what the unit runs; the keeper's log goes to keeper.log in the folder. */
  constructor(folder, command) {
    this.folder = folder;
    const dropIn = join(folder, "test.conf");
    // The unit as it is installed, but for the command and what would hide the test's folder.
    writeFileSync(
      dropIn,
      [
        "[Service]",
        "ExecStart=",
        `ExecStart=${command}`,
        "PrivateTmp=no",
        "ProtectSystem=no",
        "ProtectHome=no",
        "StateDirectory=",
        "RuntimeDirectory=",
        `StandardError=append:${join(folder, "keeper.log")}`,
        "",
      ].join("\n"),
    );
    this.shell = spawn(
      "unshare",
      [
        "-m",
        "-p",
        "-f",
        "-C",
        "--mount-proc",
        "--kill-child",
        "sh",
        join(root, "test/crash/keeper/systemd.sh"),
        unit,
        dropIn,
      ],
      { stdio: ["pipe", "pipe", "pipe"] },
    );
    this.output = "";
    this.journal = "";
    this.shell.stdout.setEncoding("utf8").on("data", (text) => {
      this.output += text;
    });
    this.shell.stderr.setEncoding("utf8").on("data", (text) => {
      this.journal += text;
    });
    this.exit = new Promise((resolve) => this.shell.on("exit", resolve));
  }

  async started() {
    return this.answer();
  }

  /** Runs a line of shell inside; its output. */
  async run(line, expected = 0) {
    this.output = "";
    this.shell.stdin.write(`${line}\n`);
    return this.answer(expected);
  }

  async answer(expected = 0) {
    const match = await until(
      `systemd's answer:\n${this.output}${this.journal}`,
      () => {
        if (this.shell.exitCode !== null)
          throw new Error(`the manager ended:\n${this.output}${this.journal}`);
        return /^(\d+) done$/m.exec(this.output);
      },
      60_000,
    );
    assert.equal(Number(match[1]), expected, this.output);
    return this.output.slice(0, match.index);
  }

  async property(name) {
    return (await this.run(`systemctl --user show keel -P ${name}`)).trim();
  }

  async close() {
    this.shell.stdin.end();
    this.shell.kill("SIGKILL");
    await this.exit;
  }
}
