// Volumes of a real server: what goes on under a verifying load, over kills, and what is refused.

import assert from "node:assert/strict";
import { test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { ofAny, sceneOfFile } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";

const { scene, node } = sceneOfFile();

const counted = (count) => ({ seconds: 0, count, readPercent: 50, depth: 8 });

const file = (server, name, size = "32MiB") => ({ file: server.path(name), size, create: true });

test("a suspended device holds back its own users alone, also over a restart", { skip }, async () => {
  const server = await node("holding", { keeper: true }).start({
    devices: { a: { ram: "16MiB" }, b: { ram: "16MiB" } },
    subsystems: { a: ofAny("a"), b: ofAny("b") },
  });
  const options = { seconds: 0, count: 400_000, rate: 4000, readPercent: 50, depth: 8 };
  const one = scene.load(server, "a", options);
  const two = scene.load(server, "b", options);
  await one.more(500);
  await server.keel("device", "suspend", "a");
  const frozen = one.completed;
  await two.more(4000);
  assert.ok(
    one.completed <= frozen + 2000,
    `${one.completed - frozen} commands completed on a suspended device`,
  );
  const { out } = await server.cli("graph", "a");
  assert.match(out, /suspended/);
  await server.kill();
  assert.equal((await server.device("a")).suspended, true);
  const still = one.completed;
  await two.more(2000);
  assert.ok(one.completed <= still + 200, "it is suspended after a restart, too");
  await server.keel("device", "resume", "a");
  await one.more(2000);
  one.kill();
  two.kill();
  assert.equal(one.errors + two.errors, 0);
});

test("a device below is made anew under load, again and again", { skip }, async () => {
  const server = node("slow");
  await server.start({
    devices: { disk: file(server, "d.img"), d: { delay: "disk" } },
    subsystems: { d: ofAny("d") },
  });
  await server.exporting();
  const load = scene.load(server, "d", { ...counted(6_000), rate: 2000, rangeBytes: "16m" });
  await load.more(200);
  for (const delay of ["5ms", "0", "10ms", "1ms"]) {
    await server.keel("set", "devices.d.write", delay);
    await load.more(100);
  }
  assert.equal((await load.ended).errors, 0);
});

test("legs of a mirror come and go under load, and it is the same volume after a kill", {
  skip,
}, async () => {
  const server = node("legs", { keeper: true });
  await server.start({
    devices: {
      a: file(server, "a.img"),
      b: file(server, "b.img"),
      c: file(server, "c.img"),
      m: { mirror: ["a", "b"], assume_clean: true },
    },
    subsystems: { m: ofAny("m") },
  });
  const legs = async () => (await server.rpc("keel.graph", { volume: "m" }))[0].parts;
  const up = () =>
    until(
      async () => (await legs()).every(({ state, dirtyBytes }) => state === "ok" && !dirtyBytes),
      "all legs are up",
    );
  await up();
  await server.exporting();
  const load = scene.load(server, "m", { ...counted(60_000), rate: 2000, rangeBytes: "16m" });
  await load.more(500);
  await server.keel("mirror", "detach", "m", "b");
  assert.equal((await legs()).find(({ name }) => name === "b").state, "detached");
  assert.match(await server.keel("status"), /device m +degraded/);
  await load.more(500);
  await server.kill();
  // The leg is read first.
  await until(
    async () => (await legs()).find(({ name }) => name === "b").state === "detached",
    "it is detached after a kill, too",
  );
  await server.keel("mirror", "attach", "m", "b", "--wait");
  await up();
  assert.match(await server.keel("mirror", "add", "m", "c", "--wait"), /job \d+ \(resync\) is done/);
  assert.deepEqual(
    (await legs()).map(({ name }) => name),
    ["a", "b", "c"],
  );
  await server.keel("mirror", "remove", "m", "a");
  await server.keel("device", "remove", "a");
  await server.kill();
  await load.more(500);
  assert.deepEqual(
    (await legs()).map(({ name }) => name),
    ["b", "c"],
  );
  await server.keel("mirror", "invalidate", "m", "c", "--wait");
  const scrub = await server.keel("mirror", "scrub", "m", "--wait");
  assert.match(scrub, /no differences/);
  const status = await server.status();
  const volume = status.devices.find(({ name }) => name === "m").details.volume;
  assert.ok(volume);
  load.kill();
  assert.equal(load.errors, 0);
});

test("a leg of another volume is refused and keeps its content", { skip }, async () => {
  const server = node("foreign");
  await server.start({
    devices: {
      a: file(server, "a.img"),
      b: file(server, "b.img"),
      c: file(server, "c.img"),
      m: { mirror: ["a", "b"], assume_clean: true },
      other: { mirror: ["c"], assume_clean: true },
    },
  });
  await until(async () => (await server.device("other")).state === "ok", "the other volume is there");
  await server.keel("device", "remove", "other");
  const { status, err } = await server.cli("mirror", "add", "m", "c");
  assert.notEqual(status, 0);
  assert.match(err, /volume|foreign|belongs/);
  assert.deepEqual((await server.rpc("keel.get", { path: "devices.m" })).mirror, ["a", "b"]);
});
