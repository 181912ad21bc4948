// The server is killed again and again while its configuration changes: what a command acknowledged holds in the next
// server, what it did not acknowledge took place as a whole or not at all, and nothing is left half-done.
//
// KEEL_KILLS: how many kills (12); KEEL_SEED: the run to repeat.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { mkdtempSync, openSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ask } from "../harness/ask.mjs";
import { random, seed } from "../harness/random.mjs";
import { eventually } from "../harness/until.mjs";
import { keeperProgram } from "./keeper/fixture.mjs";
import { notBuilt, patienceMs, program } from "./keeper/keel.mjs";

const missing = notBuilt();
const built = missing === null;
const skip = missing ?? false;
const kills = Number(process.env.KEEL_KILLS ?? 12);

let directory;
let keeper;
let socketPath;

before(() => {
  if (!built) return;
  directory = mkdtempSync(join(tmpdir(), "keel-configuration-"));
  socketPath = join(directory, "rpc.sock");
  const port = 21_000 + Math.floor(Math.random() * 10_000);
  const config = {
    version: 1,
    node: "n",
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }],
    state: join(directory, "state"),
    sockets: directory,
  };
  writeFileSync(join(directory, "keel.yaml"), JSON.stringify(config));
  const log = openSync(join(directory, "log"), "w");
  const server = [process.execPath, program, "serve", "-c", join(directory, "keel.yaml")];
  // No patience between deaths that follow each other closely: here they are meant.
  keeper = spawn(keeperProgram, ["--short-life=0", "--", ...server], { stdio: ["ignore", log, log] });
});

after(async () => {
  if (!built) return;
  if (keeper.exitCode === null && keeper.signalCode === null) {
    const ended = new Promise((resolve) => keeper.once("exit", resolve));
    keeper.kill("SIGTERM");
    await ended;
  }
  rmSync(directory, { recursive: true, force: true });
});

/** What is configured, by the server's own document and by what the engine really has. */
async function picture() {
  const config = await ask(socketPath, "keel.get");
  const status = await ask(socketPath, "keel.status");
  const wanted = Object.keys(config.subsystems ?? {}).sort();
  assert.deepEqual(status.subsystems.map(({ name }) => name).sort(), wanted, `subsystems; seed ${seed}`);
  assert.deepEqual(
    status.devices.map(({ name }) => name).sort(),
    Object.keys(config.devices ?? {}).sort(),
    `devices; seed ${seed}`,
  );
  for (const { name, namespaces, hosts } of status.subsystems) {
    assert.deepEqual(
      namespaces.map(({ nsid }) => nsid),
      config.subsystems[name].namespaces.map(({ id }) => id),
      `namespaces of ${name}; seed ${seed}`,
    );
    assert.ok(
      namespaces.every(({ state }) => state === "ok"),
      `a namespace of ${name} is not there; seed ${seed}`,
    );
    assert.deepEqual(
      [...hosts].sort(),
      [...config.subsystems[name].hosts].sort(),
      `hosts of ${name}; seed ${seed}`,
    );
  }
  return {
    pid: status.pid,
    subsystems: config.subsystems ?? {},
    identities: status.subsystems.flatMap(({ name, namespaces }) =>
      namespaces.map(({ nsid, uuid }) => [`${name}/${nsid}`, uuid]),
    ),
  };
}

test(`configuration survives ${kills} kills in the middle of changes`, {
  skip,
  timeout: 600_000,
}, async () => {
  console.log(`seed ${seed}`);
  /** name → "here" or "gone" as acknowledged; "either" while nobody knows. */
  const known = new Map();
  const uuids = new Map();
  let { pid } = await eventually(`the server's start; seed ${seed}`, picture, patienceMs);
  let acknowledged = 0;
  for (let kill = 0; kill < kills; kill += 1) {
    let dead = false;
    const change = async () => {
      const name = `s${random(6)}`;
      const before = known.get(name) ?? "gone";
      try {
        known.set(name, "either");
        if (before === "gone") {
          const allow = random(2) === 0 ? [] : [`nqn.2026-11.example:h${random(5)}`];
          await ask(socketPath, "keel.share", {
            path: join(directory, `${name}.img`),
            name,
            size: "1MiB",
            allow,
          });
          known.set(name, "here");
        } else {
          await ask(socketPath, "keel.unshare", { name, yes: true });
          known.set(name, "gone");
        }
        acknowledged += 1;
      } catch (error) {
        if (error.refused) known.set(name, before);
        else dead = true;
      }
    };
    const timer = setTimeout(() => process.kill(pid, "SIGKILL"), random(400));
    const deadline = Date.now() + 20_000;
    while (!dead && Date.now() < deadline) await change();
    clearTimeout(timer);
    assert.ok(dead, `the server was not killed; seed ${seed}`);
    const killed = pid;
    const successor = async () => {
      const { pid: present } = await ask(socketPath, "keel.version");
      return present === killed ? null : picture();
    };
    const now = await eventually(`a successor; seed ${seed}`, successor, patienceMs);
    pid = now.pid;
    for (const [name, expected] of known) {
      const here = Object.hasOwn(now.subsystems, name);
      if (expected !== "either")
        assert.equal(
          here,
          expected === "here",
          `kill ${kill}: ${name} was acknowledged as ${expected}; seed ${seed}`,
        );
      known.set(name, here ? "here" : "gone");
    }
    for (const [name, uuid] of now.identities) {
      assert.equal(
        uuids.get(name) ?? uuid,
        uuid,
        `kill ${kill}: the identity of ${name} changed; seed ${seed}`,
      );
      uuids.set(name, uuid);
    }
  }
  const record = JSON.parse(readFileSync(join(directory, "state/changes.json"), "utf8"));
  assert.equal(record.previous, null, "a change is left half-done");
  console.log(`${acknowledged} changes acknowledged`);
  assert.ok(acknowledged > 0);
});
