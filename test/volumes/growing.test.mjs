// A mirror grows with its legs, under load, and over kills at each step of it: hosts see the new size, and nothing of
// what was there is lost.

import assert from "node:assert/strict";
import { existsSync, readFileSync, renameSync, writeFileSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { Scene } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";

let scene;
let server;
before(() => {
  if (built) scene = new Scene();
});
after(() => scene?.close());
afterEach(() => server?.stop());

const MiB = 1 << 20;
const size = async () => (await server.device("m")).sizeBytes;
const state = async () => (await server.device("m")).state;
/** What the file says from now on, applied. */
const apply = (bytes) => {
  server.configure(configuration(bytes));
  return server.rpc("keel.apply", { config: JSON.parse(readFileSync(server.configPath, "utf8")) });
};
const configuration = (bytes) => ({
  devices: {
    a: { file: server.path("a.img"), size: bytes, create: true },
    b: { file: server.path("b.img"), size: bytes, create: true },
    m: { mirror: ["a", "b"], checksums: true, assume_clean: true },
  },
  subsystems: { m: { namespaces: [{ id: 1, device: "m" }], hosts: "any" } },
});

test("keel apply with larger legs grows the mirror under load; a smaller one is refused", {
  skip,
}, async () => {
  server = scene.node({ name: "grow", keeper: true });
  await server.start(configuration("32MiB"));
  await server.exporting();
  const load = scene.load(server, "m", {
    seconds: 0,
    count: 8000,
    rate: 2000,
    readPercent: 50,
    depth: 8,
    rangeBytes: "16m",
  });
  await load.more(1000);
  const first = await size();
  assert.ok(first > 31 * MiB && first < 32 * MiB);
  await apply("64MiB");
  const second = await size();
  assert.ok(second > 62 * MiB && second < 64 * MiB, `${second}`);
  await assert.rejects(apply("48MiB"), /can grow only/);
  server.configure(configuration("64MiB"));
  assert.equal(await size(), second);
  await server.kill();
  await load.more(1000);
  await until(async () => (await state()) === "ok", "the mirror is well");
  assert.equal(await size(), second);
  const ended = await load.ended;
  assert.equal(ended.errors, 0);
  assert.match(await server.keel("mirror", "scrub", "m", "--wait"), /no differences/);
});

const steps = [
  "mirror.leg.grown",
  "mirror.leg.grown:2",
  "mirror.grow.begun",
  "mirror.grow.copied",
  "mirror.grow.writing",
  "mirror.grow.recording",
  "mirror.grow.recorded",
  "mirror.grow.cleaned",
];

test("killed at any step of it the mirror has one size or the other, and grows when it is asked again", {
  skip,
}, async () => {
  const armed = `${scene.directory}/grow.armed`;
  server = scene.node({ name: "killed", keeper: true, environment: { KEEL_CRASH_POINT: `@${armed}` } });
  let megabytes = 32;
  await server.start(configuration(`${megabytes}MiB`));
  await server.exporting();
  const load = scene.load(server, "m", {
    seconds: 600,
    rate: 1000,
    readPercent: 50,
    depth: 8,
    rangeBytes: "16m",
  });
  await load.more(500);
  for (const step of steps) {
    const before = await size();
    megabytes += 16;
    const { pid } = await server.rpc("keel.version");
    writeFileSync(`${armed}.new`, step.includes(":") ? step : `${step}:1`);
    renameSync(`${armed}.new`, armed);
    await apply(`${megabytes}MiB`).catch(() => null);
    await until(() => !existsSync(armed), `it dies at ${step}`);
    await until(async () => (await server.rpc("keel.version")).pid !== pid, "it has a successor");
    await until(async () => (await state()) === "ok", `after ${step} the mirror is well`);
    const after = await size();
    assert.ok(after >= before, `${step}: ${before}, then ${after}`);
    await apply(`${megabytes}MiB`);
    if ((await size()) <= (megabytes - 2) * MiB) await server.keel("mirror", "grow", "m");
    const grown = await size();
    assert.ok(grown > (megabytes - 2) * MiB && grown < megabytes * MiB, `${step}: ${grown}`);
    await until(async () => (await state()) === "ok", `after growing the mirror is well (${step})`);
  }
  await load.more(500);
  const ended = await load.finish();
  assert.equal(ended.errors, 0);
  assert.match(await server.keel("mirror", "scrub", "m", "--wait"), /no differences/);
});
