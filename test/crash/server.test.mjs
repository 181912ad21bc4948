// The real server under its keeper, with hosts that check every byte: whatever happens to the server, they see no lost
// connection, no error, no wrong byte, only a pause. One story: the hosts stay from the first test to the last.
//
// KEEL_SERVER_KILLS: kills at random (12); KEEL_SERVER_RESTARTS: planned restarts (3); KEEL_SEED: the run to repeat.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";

import { ask } from "../harness/ask.mjs";
import { random, seed } from "../harness/random.mjs";
import { until } from "../harness/until.mjs";
import { freePort, Keel, notBuilt, patienceMs, sleep, startLoads } from "./keeper/keel.mjs";

const skip = notBuilt() ?? false;
const kills = Number(process.env.KEEL_SERVER_KILLS ?? 12);
const restarts = Number(process.env.KEEL_SERVER_RESTARTS ?? 3);
const timeout = 300_000 + (kills + restarts) * 10_000;

let keel = null;
let loads = [];
let connections = 0;

before(async () => {
  if (skip) return;
  console.log(`KEEL_SEED=${seed}`);
  keel = await Keel.start([
    "--standby=on",
    "--standby-delay=0.02",
    "--short-life=0",
    "--reactor-silence=3",
    "--stop-time=60",
  ]);
  ({ loads, connections } = startLoads(keel.port));
  await allMove();
});

after(async () => {
  for (const load of loads) load.child.kill("SIGKILL");
  await keel?.stop();
});

const allMove = () => Promise.all(loads.map((load) => load.moves()));

/** The next server answers, it lost nothing, and hosts go on. */
async function replaced(before) {
  const after = await keel.status("the next server", ({ pid }) => pid !== before.pid);
  const [last] = after.restarts.last;
  assert.equal(last.refused, 0, `connections were refused; seed ${seed}\n${keel.log.slice(-4000)}`);
  assert.equal(last.carried, connections, `seed ${seed}`);
  await allMove();
  return after;
}

function step(name, body) {
  test(name, { skip, timeout }, body);
}

step(`${kills} kills at random, with a warm standby or before there is one`, async () => {
  const first = await keel.status();
  let executed = 0;
  for (let kill = 0; kill < kills; kill += 1) {
    const before = random(3) === 0 ? await keel.status() : await keel.standby();
    await sleep(random(300));
    process.kill(before.pid, "SIGKILL");
    const after = await replaced(before);
    assert.equal(after.restarts.last[0].exit, "signal:9");
    executed += after.restarts.last[0].executed;
  }
  const last = await keel.status();
  assert.equal(last.restarts.crash - first.restarts.crash, kills);
  assert.equal(last.restarts.refused, 0);
  assert.ok(executed > 0, "no command was in flight at any death");
  const pauses = last.restarts.last.map(({ pauseMs }) => pauseMs).sort((a, b) => a - b);
  console.log(
    `${kills} kills: ${executed} commands executed again, recorded pause ` +
      `${pauses[pauses.length >> 1].toFixed(1)} ms (median), ${pauses.at(-1).toFixed(1)} ms (longest)`,
  );
});

step("keel restart replaces the server and says what was carried over", async () => {
  for (let i = 0; i < restarts; i += 1) {
    const before = await keel.status();
    const { status, stdout, stderr } = await keel.command("restart", "--reason", "a test");
    assert.equal(status, 0, `${stderr}\n${keel.log.slice(-4000)}`);
    assert.match(stdout, new RegExp(`^carried ${connections} connections, .* pause [\\d.]+ ms`));
    const after = await replaced(before);
    assert.equal(after.restarts.last[0].reason, "upgrade");
    assert.match(after.keeper.lastReason, /^upgrade \(a test\)/);
  }
});

step("a version that cannot start is not taken, and the old one goes on", async () => {
  for (const broken of ["exit 7", "kill -9 $$", "exec /nowhere/keel"]) {
    const before = await keel.status();
    keel.install(broken);
    const { status, stderr } = await keel.command("restart");
    assert.notEqual(status, 0, broken);
    assert.match(stderr, /E_RESTART_FAILED/);
    const after = await keel.status();
    assert.equal(after.pid, before.pid);
    assert.notEqual(after.restartFailure, null);
    await allMove();
    keel.install();
  }
  const before = await keel.status();
  const { status, stderr } = await keel.command("restart");
  assert.equal(status, 0, stderr);
  await replaced(before);
});

step("a server that hangs is replaced", async () => {
  const before = await keel.standby();
  process.kill(before.pid, "SIGSTOP");
  const after = await replaced(before);
  assert.equal(after.restarts.last[0].reason, "watchdog");
  assert.equal(after.restarts.watchdog, before.restarts.watchdog + 1);
});

/** Whether the server of that process went on with what its predecessor had prepared. */
const wasPrepared = (pid) =>
  until(
    "the server's report",
    () => {
      const lines = keel.log.split("\n").filter((line) => line.startsWith("{") && line.endsWith("}"));
      return lines.map((line) => JSON.parse(line)).find((line) => line.pid === pid && line.msg === "ready");
    },
    patienceMs,
  ).then(({ prepared }) => prepared);

step(
  "hosts go on before the configuration is read: after a kill with a standby, before there is one, after a change",
  async () => {
    const first = await keel.standby();
    process.kill(first.pid, "SIGKILL");
    const second = await replaced(first);
    assert.equal(await wasPrepared(second.pid), true);
    process.kill(second.pid, "SIGKILL"); // the next standby has not begun yet, or not long ago
    const third = await replaced(second);
    assert.equal(await wasPrepared(third.pid), true);
    const { status, stderr } = await keel.command("listen", "add", `127.0.0.1:${await freePort()}`);
    assert.equal(status, 0, stderr);
    process.kill(third.pid, "SIGKILL");
    const fourth = await replaced(third);
    assert.equal(await wasPrepared(fourth.pid), true);
    assert.equal(fourth.listeners.length, first.listeners.length + 1);
  },
);

step("status, metrics and postmortem tell of the last restart", async () => {
  const before = await keel.standby();
  process.kill(before.pid, "SIGKILL");
  const after = await replaced(before);
  const { last, restarts: total } = after.restarts;
  const text = (await keel.command("status")).stdout;
  assert.match(
    text,
    new RegExp(`restarts +${total}, the last .* ago: crash.*pause ${last[0].pauseMs.toFixed(1)} ms`),
  );
  assert.match(text, new RegExp(`${connections} connections carried`));
  assert.match(text, new RegExp(`keeper pid ${keel.keeper.pid}`));

  // With hosts under load there is a first byte, after all that comes before it.
  const complete = await until(
    "all parts of the restart",
    async () => {
      const [record] = (await keel.status()).restarts.last;
      return record.firstByteMs !== null && record.barrierMs !== null && record;
    },
    patienceMs,
  );
  assert.deepEqual(
    [complete.processMs, complete.loadedMs, complete.mappedMs],
    [null, null, null],
    "a standby's",
  );
  assert.ok(
    complete.startMs + complete.configureMs <= complete.firstByteMs + 0.001,
    JSON.stringify(complete),
  );
  assert.ok(complete.barrierMs >= complete.startMs, JSON.stringify(complete));

  const metrics = (await keel.command("metrics")).stdout;
  assert.match(metrics, /^keel_restart_last_seconds\{reached="first_byte"\} 0\.\d+$/m);
  assert.doesNotMatch(metrics, /reached="process"/);
  const value = (name) => {
    const line = metrics.split("\n").find((each) => each.startsWith(`${name} `));
    assert.notEqual(line, undefined, name);
    return Number(line.slice(name.length));
  };
  assert.equal(value('keel_restarts_total{reason="crash"}'), after.restarts.crash);
  assert.equal(value('keel_restarts_total{reason="upgrade"}'), after.restarts.upgrade);
  assert.equal(value("keel_restart_pause_seconds_count"), total);
  assert.equal(value("keel_connections_carried_total"), after.restarts.carried);
  assert.equal(value("keel_connections_not_carried_total"), 0);
  assert.equal(value("keel_commands_executed_again_total"), after.restarts.executed);
  assert.equal(value("keel_keeper_up"), 1);

  const postmortem = JSON.parse((await keel.command("postmortem", "-o", "json")).stdout);
  assert.equal(postmortem.length, connections);
  for (const connection of postmortem) {
    assert.match(connection.hostNqn, /host-\d$/);
    assert.ok(connection.pdus.length > 0);
  }
  const printed = (await keel.command("postmortem")).stdout;
  assert.match(printed, /PDU +CID +OPCODE/);
});

step("kills in the middle of keel apply: the old configuration or the new one, and hosts go on", async () => {
  const more = (suffix) => ({
    devices: Object.fromEntries([0, 1, 2].map((i) => [`extra-${suffix}${i}`, { null: "1GiB" }])),
    subsystems: Object.fromEntries(
      [0, 1, 2].map((i) => [
        `extra-${suffix}${i}`,
        { hosts: "any", namespaces: [{ id: 1, device: `extra-${suffix}${i}` }] },
      ]),
    ),
  });
  const document = (suffix) => ({
    ...keel.document,
    devices: { ...keel.document.devices, ...more(suffix).devices },
    subsystems: { ...keel.document.subsystems, ...more(suffix).subsystems },
  });
  const present = (status) =>
    status.subsystems
      .map(({ name }) => name)
      .filter((name) => name.startsWith("extra-"))
      .join(" ");
  const names = (suffix) => [0, 1, 2].map((i) => `extra-${suffix}${i}`).join(" ");
  let now = "";
  let changes = 0;
  for (let i = 0; i < 6; i += 1) {
    const next = i % 2 === 0 ? "a" : "b";
    const path = join(keel.folder, "next.yaml");
    writeFileSync(path, JSON.stringify(document(next)));
    const before = await keel.standby();
    const applying = keel.command("apply", "-f", path, "--yes");
    // It begins at some time after its program was loaded; some kills come too early, some too late.
    await sleep(150 + random(500));
    process.kill(before.pid, "SIGKILL");
    const { status, stderr } = await applying;
    assert.doesNotMatch(stderr, /E_USAGE|E_CONFIG|required option/);
    const after = await replaced(before);
    const found = present(after);
    if (status === 0) assert.equal(found, names(next), `seed ${seed}`);
    else assert.ok(found === names(next) || found === now, `half a change: ${found}; seed ${seed}`);
    const config = await ask(keel.socket, "keel.get");
    assert.equal(
      Object.keys(config.subsystems)
        .filter((name) => name.startsWith("extra-"))
        .sort()
        .join(" "),
      found,
    );
    assert.equal(after.devices.filter(({ name }) => name.startsWith("extra-")).length, found === "" ? 0 : 3);
    await until("nothing half-done is recorded", () => !keel.halfDone(), patienceMs);
    changes += found === now ? 0 : 1;
    now = found;
  }
  console.log(`${changes} of 6 changes took place`);
  const last = now === names("a") ? "b" : "a";
  writeFileSync(join(keel.folder, "next.yaml"), JSON.stringify(document(last)));
  const { status, stderr } = await keel.command("apply", "-f", join(keel.folder, "next.yaml"), "--yes");
  assert.equal(status, 0, stderr);
  assert.equal(present(await keel.status()), names(last));
});

step("what becomes of commands in flight can be said anew, and hosts notice nothing", async () => {
  const path = join(keel.folder, "policy.yaml");
  for (const policy of ["abort", "drop", "replay"]) {
    const { crash } = keel.document.subsystems;
    const subsystems = { ...keel.document.subsystems, crash: { ...crash, in_flight: policy } };
    writeFileSync(path, JSON.stringify({ ...keel.document, subsystems }));
    const { status, stdout, stderr } = await keel.command("apply", "-f", path, "--yes");
    assert.equal(status, 0, stderr);
    if (policy !== "replay") assert.match(stdout, new RegExp(`~ subsystem +crash +in flight: ${policy}`));
    await allMove();
  }
  const { keeper } = await keel.status();
  assert.equal(keeper.connections, connections);
});

step("the hosts saw no error, and all that they wrote is there", async () => {
  const results = await Promise.all(loads.map((load) => load.finish()));
  const sum = (name) => results.reduce((total, result) => total + result[name], 0);
  const longest = Math.max(...results.map((result) => result.longest_gap_ms));
  console.log(
    `${sum("reads") + sum("writes")} commands, ${sum("verified_blocks")} blocks verified, longest pause ${longest.toFixed(0)} ms`,
  );
  const { restarts: all } = await keel.status();
  assert.equal(all.refused, 0);
});
