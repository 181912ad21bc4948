// The real server in the unit as it is shipped, under a real systemd: whether the server dies, the keeper, everything
// in the unit, or `systemctl restart` is said, hosts that check every byte keep their connections and see no error.
//
// KEEL_SYSTEMD_ROUNDS: how often each of them (3).

import assert from "node:assert/strict";
import { readFileSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { ask } from "../harness/ask.mjs";
import { random, seed } from "../harness/random.mjs";
import { until } from "../harness/until.mjs";
import { keeperProgram, temporaryFolder } from "./keeper/fixture.mjs";
import { configuration, freePort, notBuilt, patienceMs, program, sleep, startLoads } from "./keeper/keel.mjs";
import { Manager, missing } from "./keeper/manager.mjs";

const skip = notBuilt() ?? missing() ?? false;
const rounds = Number(process.env.KEEL_SYSTEMD_ROUNDS ?? 3);
const timeout = 240_000 + rounds * 60_000;

let folder = null;
let systemd = null;
let loads = [];
let connections = 0;

before(async () => {
  if (skip) return;
  console.log(`KEEL_SEED=${seed}`);
  folder = temporaryFolder();
  const config = join(folder, "keel.yaml");
  const port = await freePort();
  writeFileSync(config, JSON.stringify(configuration(folder, port)));
  const options = "--standby=on --standby-delay=0.02 --short-life=0";
  const server = `${process.execPath} ${program} serve --config ${config}`;
  systemd = new Manager(folder, `${keeperProgram} ${options} -- ${server}`);
  await systemd.started();
  await systemd.run("systemctl --user start keel");
  ({ loads, connections } = startLoads(port));
  await allMove();
});

after(async () => {
  for (const load of loads) load.child.kill("SIGKILL");
  await systemd?.close();
  if (folder !== null) rmSync(folder, { recursive: true, force: true });
});

const allMove = () => Promise.all(loads.map((load) => load.moves()));

const status = (what, wanted = () => true) =>
  until(
    what,
    async () => {
      const answer = await ask(join(folder, "rpc.sock"), "keel.status").catch(() => null);
      return answer !== null && wanted(answer) && answer;
    },
    patienceMs,
  );

const mainPid = () =>
  until("a main process", async () => {
    const pid = await systemd.property("MainPID");
    return pid !== "0" && pid;
  });

/** Does it again and again; each time another server goes on with all connections, for this reason. */
async function again(line, reason, ready = () => true) {
  for (let round = 0; round < rounds; round += 1) {
    const earlier = await status("the server", ready);
    await sleep(random(300));
    const command = typeof line === "string" ? line : await line(earlier);
    await systemd.run(command);
    const later = await status("the next server", ({ startedMs }) => startedMs > earlier.startedMs);
    const [last] = later.restarts.last;
    assert.equal(last.reason, reason);
    assert.equal(last.refused, 0);
    assert.equal(last.carried, connections);
    await allMove();
  }
}

function step(name, body) {
  test(name, { skip, timeout }, async () => {
    try {
      await body();
    } catch (error) {
      const log = readFileSync(join(folder, "keeper.log"), "utf8");
      console.error(`seed ${seed}\n${systemd.journal.slice(-2000)}\n${log.slice(-6000)}`);
      throw error;
    }
  });
}

const warm = ({ keeper }) => keeper?.standby === "warm";

step("the unit is active, and the store holds all connections", async () => {
  assert.equal(await systemd.property("ActiveState"), "active");
  const { keeper } = await status("the server");
  assert.ok(keeper.systemd);
  assert.equal(keeper.connections, connections);
});

step("the server is killed", async () => {
  await again(({ pid }) => `kill -9 ${pid}`, "crash", warm);
  assert.equal(await systemd.property("NRestarts"), "0");
});

step("the keeper is killed, and its servers with it", async () => {
  await again(async () => `kill -9 ${await mainPid()}`, "keeper");
  assert.equal(await systemd.property("NRestarts"), String(rounds));
});

step("everything in the unit is killed at once", () =>
  again("systemctl --user kill --signal=KILL keel", "keeper"),
);

step("systemctl restart", () => again("systemctl --user restart keel", "keeper"));

step("the hosts saw no error, and all that they wrote is there", async () => {
  const results = await Promise.all(loads.map((load) => load.finish()));
  const sum = (name) => results.reduce((total, result) => total + result[name], 0);
  const longest = Math.max(...results.map((result) => result.longest_gap_ms));
  console.log(
    `${sum("reads") + sum("writes")} commands, ${sum("verified_blocks")} blocks verified, longest pause ${longest.toFixed(0)} ms`,
  );
});

step("systemctl stop ends it in order", async () => {
  await systemd.run("systemctl --user stop keel");
  assert.equal(await systemd.property("ActiveState"), "inactive");
  assert.equal(await systemd.property("Result"), "success");
});
