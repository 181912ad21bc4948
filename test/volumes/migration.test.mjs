// Live migration of a real server: under a verifying load, over kills at random moments and at each step.

import assert from "node:assert/strict";
import { existsSync } from "node:fs";
import { test } from "node:test";
import { random, seed } from "../harness/random.mjs";
import { built, until } from "./harness/node.mjs";
import { ofAny, sceneOfFile } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";
const endless = { seconds: 600, rate: 3000, readPercent: 50, depth: 8 };

const { scene, node } = sceneOfFile();

const place = (server, name) => JSON.stringify({ file: server.path(name), size: "48MiB", create: true });
const copied = async (server) => Number((await server.device("d")).details.copied_bytes ?? 0);

test("a migration goes on over kills, and the hosts lose nothing", { skip }, async () => {
  const server = await node("moving", { keeper: true }).start({
    devices: { d: { ram: "48MiB" } },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(server, "s", endless);
  await load.more(500);
  await server.keel("device", "migrate", "d", place(server, "first.img"), "--rate", "12MiB");
  assert.equal((await server.device("d")).kind, "migration");
  let before = 0;
  for (let kill = 0; kill < 2; ++kill) {
    await until(async () => (await copied(server)) > before + (4 << 20), "something is copied");
    before = await copied(server);
    await server.kill();
    const device = await server.device("d");
    assert.equal(device.kind, "migration");
    assert.ok(Number(device.details.copied_bytes) >= before - (4 << 20), "it goes on where it was");
    await load.more(500);
  }
  await until(async () => (await server.device("d")).kind === "file", "the file has taken its place");
  await server.kill();
  assert.equal((await server.device("d")).kind, "file");
  await load.more(500);
  // Back into memory, without a limit; killed as soon as it is asked for.
  await server.keel("device", "migrate", "d", JSON.stringify({ ram: "48MiB" }));
  await server.kill();
  await until(async () => (await server.device("d")).kind === "ram", "memory has taken its place");
  await load.more(500);
  await server.kill();
  assert.equal((await server.device("d")).kind, "ram");
  await load.more(500);
  load.kill();
  assert.equal(load.errors, 0);
});

test("kills at random moments of short migrations leave one of the two, whole", { skip }, async (context) => {
  context.diagnostic(`KEEL_SEED=${seed}`);
  const rounds = Number(process.env.KEEL_KILLS ?? 6);
  const server = await node("between", { keeper: true }).start({
    devices: { d: { ram: "48MiB" } },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(server, "s", endless);
  await load.more(500);
  for (let round = 0; round < rounds; ++round) {
    const toFile = round % 2 === 0;
    const to = toFile ? place(server, `${round}.img`) : JSON.stringify({ ram: "48MiB" });
    await server.keel("device", "migrate", "d", to);
    const moment = random(1200);
    context.diagnostic(`round ${round}: killed after ${moment} ms`);
    await new Promise((resolve) => setTimeout(resolve, moment));
    await server.kill();
    const kind = toFile ? "file" : "ram";
    await until(async () => (await server.device("d")).kind === kind, `it is of kind ${kind}`);
    await load.more(300);
  }
  load.kill();
  assert.equal(load.errors, 0);
});

test("a migration is cancelled, also after a kill, and a bad place is refused", { skip }, async () => {
  const server = await node("staying", { keeper: true }).start({
    devices: { d: { ram: "48MiB" } },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(server, "s", endless);
  await load.more(500);
  const small = JSON.stringify({ file: server.path("small.img"), size: "8MiB", create: true });
  const refused = await server.cli("device", "migrate", "d", small);
  assert.notEqual(refused.status, 0);
  assert.equal((await server.device("d")).kind, "ram");
  await server.keel("device", "migrate", "d", place(server, "slow.img"), "--rate", "1MiB");
  await until(async () => (await copied(server)) > 0, "something is copied");
  await server.kill();
  await server.keel("device", "migrate", "d", "--cancel");
  assert.equal((await server.device("d")).kind, "ram");
  assert.ok(existsSync(server.path("slow.img")));
  await load.more(500);
  await server.kill();
  assert.equal((await server.device("d")).kind, "ram");
  await load.more(500);
  load.kill();
  assert.equal(load.errors, 0);
});

test("linear volumes and stripes serve through a restart; a linear one grows under load", {
  skip,
}, async () => {
  const server = await node("parts", { keeper: true }).start({
    devices: {
      a: { ram: "16MiB" },
      b: { ram: "16MiB" },
      c: { ram: "16MiB" },
      e: { ram: "16MiB" },
      l: { linear: ["a", { device: "b", start: "4MiB", size: "8MiB" }] },
      s: { stripe: ["c", "e"], chunk: "64KiB" },
    },
    subsystems: { l: ofAny("l"), s: ofAny("s") },
  });
  const loads = ["l", "s"].map((name) =>
    scene.load(server, name, { ...endless, ioBytes: 131072, rate: 800 }),
  );
  for (const load of loads) await load.more(200);
  await server.kill();
  for (const load of loads) await load.more(200);
  await server.keel("device", "add", "f", JSON.stringify({ ram: "16MiB" }));
  await server.keel("device", "grow", "l", "f");
  assert.equal((await server.device("l")).sizeBytes, (16 + 8 + 16) * (1 << 20));
  await server.kill();
  assert.equal((await server.device("l")).sizeBytes, (16 + 8 + 16) * (1 << 20));
  for (const load of loads) {
    await load.more(200);
    load.kill();
    assert.equal(load.errors, 0);
  }
});

test("a block that cannot be read ends a migration by its number, the source goes on, and a later one succeeds", {
  skip,
}, async () => {
  const bad = 5 << 20;
  const server = await node("unreadable", { keeper: true }).start({
    devices: {
      disk: { ram: "16MiB" },
      d: { error: "disk", on: ["read"], offset: String(bad), length: "4096" },
    },
    subsystems: { s: ofAny("d") },
  });
  await server.exporting();
  const load = scene.load(server, "s", { ...endless, rangeBytes: "4m" });
  await load.more(500);
  const before = await server.rpc("keel.get", { path: "devices" });
  const to = JSON.stringify({ file: server.path("whole.img"), size: "16MiB", create: true });
  const { status, out, err } = await server.cli("device", "migrate", "d", to, "--wait");
  assert.notEqual(status, 0);
  const { blockBytes } = await server.device("disk");
  const reason = `the source cannot be read at block ${bad / blockBytes} (byte ${bad}): medium_error`;
  assert.ok(`${out}${err}`.includes(reason), `${out}${err}`);
  const [job] = await server.rpc("keel.jobs");
  assert.equal(job.state, "failed");
  assert.ok(job.message.includes(reason), job.message);
  assert.deepEqual(await server.rpc("keel.get", { path: "devices" }), before);
  assert.deepEqual((await server.rpc("keel.devices")).map(({ name }) => name).sort(), ["d", "disk"]);
  await load.more(500);
  // Once it can be read again the same command succeeds, over a kill.
  await server.keel("device", "replace", "d", "{error: disk, on: [deallocate]}");
  await server.keel("device", "migrate", "d", to, "--rate", "16MiB");
  await server.kill();
  await until(async () => (await server.device("d")).kind === "file", "the file has taken its place");
  await load.more(500);
  assert.equal((await load.finish()).errors, 0);
});
