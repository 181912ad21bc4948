// The keeper as the main process of a unit under a real systemd, in namespaces of its own: connections survive
// the death of the server, of the keeper, of both, and `systemctl restart`.

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { existsSync, readFileSync, renameSync, rmSync, writeFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { until } from "../harness/until.mjs";
import { buildServer, Host, keeperProgram, temporaryFolder } from "./keeper/fixture.mjs";
import { Manager, missing, unit } from "./keeper/manager.mjs";

const skip = missing() ?? false;

let folder = null;
let systemd = null;
const hosts = [];

const setMode = (mode) => {
  writeFileSync(join(folder, "mode.new"), mode);
  renameSync(join(folder, "mode.new"), join(folder, "mode"));
};

async function newHost() {
  const port = await until("the server's port", () => {
    const path = join(folder, "port");
    return existsSync(path) && Number(readFileSync(path, "utf8"));
  });
  const host = await Host.open(port);
  hosts.push(host);
  return host;
}

/** All connections answer, and each by the server of this boot. */
async function allAnswer(boots) {
  let fields = null;
  for (const host of hosts) fields = await host.who({ boots });
  assert.equal(Number(fields.connections), hosts.length);
  return fields;
}

before(async () => {
  if (skip) return;
  folder = temporaryFolder();
  buildServer(folder);
  setMode("ok");
  const options = "--standby=on --standby-delay=0.02 --short-life=0";
  systemd = new Manager(folder, `${keeperProgram} ${options} -- ${join(folder, "keeper-server")} ${folder}`);
  await systemd.started();
});

after(async () => {
  for (const host of hosts) host.close();
  await systemd?.close();
  if (folder !== null) rmSync(folder, { recursive: true, force: true });
});

// One story: each test goes on where the one before ended.
function step(name, body) {
  test(name, { skip, timeout: 120_000 }, async () => {
    try {
      await body();
    } catch (error) {
      console.error(
        systemd.journal.slice(-2000),
        readFileSync(join(folder, "keeper.log"), "utf8").slice(-4000),
      );
      throw error;
    }
  });
}

/** Between two keepers it is 0. */
const mainPid = () =>
  until("a main process", async () => {
    const pid = await systemd.property("MainPID");
    return pid !== "0" && pid;
  });

let boots = 1;

step(
  "the unit becomes active when the server is ready, and everything is in the descriptor store",
  async () => {
    await systemd.run("systemctl --user start keel");
    assert.equal(await systemd.property("ActiveState"), "active");
    for (let i = 0; i < 8; ++i) await newHost();
    const fields = await allAnswer(1);
    assert.equal(fields.go.reason, "start");
    assert.equal(await systemd.property("StatusText"), "serves since boot 1");
    // The ledger, the arena, the listener and eight connections.
    assert.equal(await systemd.property("NFileDescriptorStore"), "11");
  },
);

step("a killed server is replaced by the standby; the unit stays active", async () => {
  for (let i = 0; i < 3; ++i) {
    await hosts[0].ask("info");
    await until("a warm standby", async () => (await hosts[0].ask("info")).includes("standby=warm"));
    hosts[0].tell("abort");
    const fields = await allAnswer(++boots);
    assert.equal(fields.go.exit, "signal:6");
  }
  assert.equal(await systemd.property("NRestarts"), "0");
  assert.match(await systemd.property("StatusText"), /3 restarts, last: crash \(signal:6\)/);
});

step("a killed keeper is started again by systemd and finds everything", async () => {
  for (let i = 0; i < 5; ++i) {
    const main = await mainPid();
    await systemd.run(`kill -9 ${main}`);
    const fields = await allAnswer(++boots);
    assert.equal(fields.go.reason, "keeper");
    assert.equal(fields.go.restarts, "3");
    assert.notEqual(await mainPid(), main);
  }
  assert.equal(await systemd.property("NRestarts"), "5");
});

step("everything in the unit killed at once: the connections go on", async () => {
  for (let i = 0; i < 5; ++i) {
    await systemd.run("systemctl --user kill --signal=KILL keel");
    await allAnswer(++boots);
  }
});

step("systemctl restart keeps the connections", async () => {
  for (let i = 0; i < 3; ++i) {
    await systemd.run("systemctl --user restart keel");
    const fields = await allAnswer(++boots);
    assert.equal(fields.go.reason, "keeper");
  }
});

step("connections that ended leave the store, new ones enter it, ids are never used again", async () => {
  const last = Number(await hosts.at(-1).ask("id"));
  for (const host of hosts.splice(2)) host.close();
  await until("they leave the store", async () => (await systemd.property("NFileDescriptorStore")) === "5");
  const main = await mainPid();
  await systemd.run(`kill -9 ${main}`);
  await allAnswer(++boots);
  const host = await newHost();
  assert.ok(Number(await host.ask("id")) > last);
  await until("it enters the store", async () => (await systemd.property("NFileDescriptorStore")) === "6");
});

step("connections made while keeper and server were away are served", async () => {
  const port = Number(readFileSync(join(folder, "port"), "utf8"));
  const main = await mainPid();
  await systemd.run(`kill -STOP ${main}`);
  const host = await Host.open(port);
  hosts.push(host);
  await systemd.run(`kill -9 ${main}`);
  await allAnswer(++boots);
});

step("kills of keeper and server at random times: no connection that was once served is lost", async () => {
  const count = Number(process.env.KEEL_KEEPER_SYSTEMD_KILLS ?? 15);
  const fresh = [];
  for (let i = 0; i < count; ++i) {
    const main = await mainPid();
    const server = `$(cut -d' ' -f1 /proc/${main}/task/${main}/children)`;
    await systemd.run(`kill -9 ${i % 2 === 0 ? "" : server} ${main}; true`);
    await newHost();
    fresh.push(hosts.pop());
    if (i % 5 === 4) await (await newHost()).who();
  }
  for (const host of hosts) await host.who();
  // A keeper that dies in the microseconds between accepting a connection and storing it loses this one.
  let lost = 0;
  for (const host of fresh) {
    await host.who().catch(() => {
      lost += 1;
    });
  }
  console.log(`${count} kills of the keeper: ${lost} of ${fresh.length} connections made meanwhile lost`);
  for (const host of fresh) host.close();
  await hosts[0].who({ connections: hosts.length });
});

step("a planned restart of the server alone works under systemd too", async () => {
  const before = await hosts[0].who();
  hosts[0].tell("restart upgrade");
  const fields = await hosts[0].who({ boots: Number(before.boots) + 1 });
  assert.equal(fields.go.reason, "upgrade");
  for (const host of hosts) await host.who();
});

step("systemctl stop ends everything", async () => {
  await systemd.run("systemctl --user stop keel");
  assert.equal(await systemd.property("ActiveState"), "inactive");
  await until("all connections are closed", () => hosts.every((host) => host.broken !== null));
  hosts.length = 0;
});

step("a start that cannot succeed fails at once and is not repeated", async () => {
  setMode("exit 2");
  await systemd.run("systemctl --user start keel", 1);
  assert.equal(await systemd.property("ActiveState"), "failed");
  assert.equal(await systemd.property("ExecMainStatus"), "2");
  assert.equal(await systemd.property("NRestarts"), "0");
});

step("the unit file has nothing that systemd does not know", async () => {
  const result = spawnSync("systemd-analyze", ["verify", "--man=no", unit], { encoding: "utf8" });
  const complaints = result.stderr
    .split("\n")
    .filter((line) => line.includes("keel") && !/is not executable|No such file/.test(line));
  assert.deepEqual(complaints, []);
});
