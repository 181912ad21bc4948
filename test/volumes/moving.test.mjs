// Volumes of a real server that grow and move to another place under a verifying load, with a kill in the midst.

import assert from "node:assert/strict";
import { test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { ofAny, sceneOfFile } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";
const mib = 1 << 20;

const { scene, node } = sceneOfFile();

test("a linear volume grows while it is used", { skip }, async () => {
  const server = await node("growing").start({
    devices: { a: { ram: "8MiB" }, b: { ram: "8MiB" }, big: { linear: ["a"] } },
    subsystems: { big: ofAny("big") },
  });
  await server.exporting();
  const load = scene.load(server, "big", { seconds: 3, readPercent: 50 });
  await load.more(500);
  await server.keel("device", "grow", "big", "b", "--size", "4MiB");
  assert.equal((await server.device("big")).sizeBytes, 12 * mib);
  const [namespace] = (await server.status()).subsystems[0].namespaces;
  assert.equal(namespace.sizeBytes, 12 * mib);
  await load.ended;
  await server.stop();
  await server.start();
  assert.equal((await server.device("big")).sizeBytes, 12 * mib);
});

test("a device moves to another place under load, and the server dies in the midst of it", {
  skip,
}, async () => {
  const server = await node("moving", { keeper: true }).start({
    devices: { d: { ram: "64MiB" } },
    subsystems: { d: ofAny("d") },
  });
  await server.exporting();
  const load = scene.load(server, "d", { seconds: 0, count: 60_000, readPercent: 30, depth: 8, rate: 5000 });
  await load.more(1000);
  const image = server.path("d.img");
  const out = await server.keel(
    "device",
    "migrate",
    "d",
    `{file: "${image}", size: 64MiB, create: true}`,
    "--rate",
    "20MiB",
  );
  assert.match(out, /job 1 runs/);
  await until(async () => ((await server.rpc("keel.jobs"))[0].doneBytes ?? 0) > 8 * mib, "a part is copied");
  await server.kill();
  const jobs = JSON.parse(await server.keel("jobs", "-o", "json"));
  assert.deepEqual([jobs[0].id, jobs[0].kind, jobs[0].state], [1, "migrate", "running"]);
  await load.more(1000);
  await server.keel("jobs", "wait", "1");
  assert.deepEqual((await server.rpc("keel.get", { path: "devices.d" })).file, image);
  await load.more(1000);
  await load.ended;
  assert.equal((await server.device("d")).kind, "file");
  assert.deepEqual(
    (await server.rpc("keel.devices")).map(({ name }) => name),
    ["d"],
  );
});

test("a migration is called off under load, and the device stays where it was", { skip }, async () => {
  const server = await node("staying", { keeper: true }).start({
    devices: { d: { ram: "64MiB" }, spare: { ram: "64MiB" } },
    subsystems: { d: ofAny("d") },
  });
  const before = await server.rpc("keel.get", { path: "devices.d" });
  await server.exporting();
  const load = scene.load(server, "d", { seconds: 4, readPercent: 50, depth: 8 });
  await load.more(500);
  await server.keel("device", "migrate", "d", "--to", "spare", "--rate", "4MiB", "--yes");
  await until(async () => ((await server.rpc("keel.jobs"))[0].doneBytes ?? 0) > mib, "a part is copied");
  await server.keel("jobs", "cancel", "1");
  assert.deepEqual(await server.rpc("keel.get", { path: "devices.d" }), before);
  assert.equal((await server.rpc("keel.jobs"))[0].state, "cancelled");
  assert.deepEqual(
    (await server.rpc("keel.devices")).map(({ name }) => name),
    ["d"],
  );
  await load.ended;
});
