// The server dies at each marked step of a migration and of the exchange of a device, under a verifying load: what its
// successor finds is one of the two places, whole, or the migration, which goes on; never both, never neither.

import assert from "node:assert/strict";
import { existsSync, renameSync, writeFileSync } from "node:fs";
import { test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { ofAny, sceneOfFile } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";
const verifying = { readPercent: 40, depth: 8, rangeBytes: "12m", rate: 2000 };
const endless = { seconds: 600, ...verifying };

const { scene, node: nodeOfTest } = sceneOfFile();

/** A server under a keeper that dies when it passes the step that the file `armed` names. */
async function mortal(name, config) {
  const armed = `${scene.directory}/${name}.armed`;
  const node = nodeOfTest(name, { keeper: true, environment: { KEEL_CRASH_POINT: `@${armed}` } });
  await node.start(config);
  await node.exporting();
  const arm = (point) => {
    writeFileSync(`${armed}.new`, point);
    renameSync(`${armed}.new`, armed);
  };
  /** Does `act`, which the server does not survive; resolves when the next one answers. */
  const dyingAt = async (point, act) => {
    const { pid } = await node.rpc("keel.version");
    arm(point);
    await act();
    await until(() => !existsSync(armed), `it dies at ${point}`);
    await until(async () => (await node.rpc("keel.version")).pid !== pid, "it has a successor");
  };
  return { node, dyingAt };
}

const place = (node, name) => ({ file: node.path(name), size: "16MiB", create: true });

/** What the configuration, the devices and the jobs say about `d`; they have to agree. */
async function truth(node) {
  const spec = await node.rpc("keel.get", { path: "devices.d" });
  const devices = await node.rpc("keel.devices");
  const names = devices.map(({ name }) => name).sort();
  const { kind } = devices.find(({ name }) => name === "d");
  if (spec.migration !== undefined) {
    assert.deepEqual([kind, names], ["migration", ["d", "d@destination", "d@source"]]);
    return "migration";
  }
  assert.deepEqual(names, ["d"]);
  assert.equal(kind, spec.file === undefined ? "ram" : "file");
  return kind;
}

const running = async (node) => (await node.rpc("keel.jobs")).filter(({ state }) => state === "running");

/** Until the migration that began has ended, at the destination. */
async function arrived(node, kind) {
  await until(async () => (await truth(node)) === kind, `it is of kind ${kind}`);
  await until(async () => (await running(node)).length === 0, "no job is left");
}

// Each with what may be found after the death. Before the destination is recorded it is the migration or what was there
// before it; after that the destination alone.
const steps = [
  ["engine.migration.beginning", ["ram", "migration"]],
  ["engine.migration.begun", ["ram", "migration"]],
  ["migration.write.counted:40", ["migration", "file"]],
  ["migration.write.answered:40", ["migration", "file"]],
  ["migration.write.ended:40", ["migration", "file"]],
  ["migration.region.written:9", ["migration", "file"]],
  ["migration.region.copied:9", ["migration", "file"]],
  ["engine.migration.drained", ["migration", "file"]],
  ["engine.migration.prepared", ["migration", "file"]],
  ["engine.migration.committing", ["file"]],
  ["engine.migration.closed", ["file"]],
  ["engine.migration.switched", ["file"]],
  ["engine.migration.discarded", ["file"]],
];

test("a migration dies at each of its steps, and the next server goes on or is done", {
  skip,
}, async (context) => {
  const { node, dyingAt } = await mortal("moving", {
    devices: { d: { ram: "16MiB" } },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(node, "s", endless);
  await load.more(300);
  for (const [index, [point, possible]] of steps.entries()) {
    const to = JSON.stringify(place(node, `${index}.img`));
    await dyingAt(point, () => node.cli("device", "migrate", "d", to, "--rate", "24MiB"));
    const found = await truth(node);
    context.diagnostic(`${point}: ${found}`);
    assert.ok(possible.includes(found), `${found} after ${point}`);
    await load.more(100);
    if (found === "ram") await node.cli("device", "migrate", "d", to);
    await arrived(node, "file");
    await load.more(100);
    await node.keel("device", "migrate", "d", JSON.stringify({ ram: "16MiB" }), "--wait");
    await arrived(node, "ram");
  }
  assert.equal((await load.finish()).errors, 0);
});

test("the calling off of a migration dies at each of its steps, and the source is the truth", {
  skip,
}, async (context) => {
  const { node, dyingAt } = await mortal("staying", {
    devices: { d: { ram: "16MiB" } },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(node, "s", endless);
  await load.more(300);
  for (const point of ["closed", "switched", "discarded"].map((step) => `engine.migration.${step}`)) {
    const to = JSON.stringify(place(node, `${point}.img`));
    await node.keel("device", "migrate", "d", to, "--rate", "1MiB");
    await dyingAt(point, () => node.cli("device", "migrate", "d", "--cancel"));
    const found = await truth(node);
    context.diagnostic(`${point}: ${found}`);
    assert.notEqual(found, "file");
    await load.more(100);
    if (found === "migration") await node.keel("device", "migrate", "d", "--cancel");
    await arrived(node, "ram");
    await load.more(100);
  }
  assert.equal((await load.finish()).errors, 0);
});

test("a migration that fails dies while that is recorded, and the source goes on alone", {
  skip,
}, async () => {
  const { node, dyingAt } = await mortal("failing", {
    devices: {
      disk: { ram: "16MiB" },
      d: { error: "disk", on: ["read"], offset: String(14 << 20), length: "4096" },
    },
    subsystems: { s: ofAny("d") },
  });
  const load = scene.load(node, "s", endless);
  await load.more(300);
  const before = await node.rpc("keel.get", { path: "devices" });
  // Once it is recorded nothing is copied any more, although the source might be readable by now.
  const reasons = { failing: /cannot be read/, failed: /since an earlier failure/ };
  for (const [round, [step, reason]] of Object.entries(reasons).entries()) {
    const to = JSON.stringify(place(node, `${step}.img`));
    await dyingAt(`migration.${step}`, () => node.cli("device", "migrate", "d", to));
    await until(async () => (await node.device("d")).kind === "error", "the source has its name again");
    assert.deepEqual(await node.rpc("keel.get", { path: "devices" }), before);
    const job = (await node.rpc("keel.jobs")).find(({ id }) => id === round + 1);
    assert.equal(job.state, "failed");
    assert.match(job.message, reason);
    await load.more(100);
  }
  assert.equal((await load.finish()).errors, 0);
});

test("the exchange of a device dies at each of its steps, and the one or the other serves", {
  skip,
}, async (context) => {
  const { node, dyingAt } = await mortal("exchanged", { devices: {} });
  const file = place(node, "disk.img");
  await node.rpc("keel.device.add", { device: "disk", spec: file });
  await node.rpc("keel.device.add", { device: "d", spec: { delay: "disk" } });
  await node.rpc("keel.set", { path: "subsystems.s", value: ofAny("d") });
  await node.exporting();
  const load = scene.load(node, "s", endless);
  await load.more(300);
  for (const point of ["closed", "replaced"].map((step) => `engine.device.${step}`)) {
    for (const delay of ["2ms", "0"]) {
      await dyingAt(point, () => node.cli("set", "devices.d.write", delay));
      const spec = await node.rpc("keel.get", { path: "devices.d" });
      context.diagnostic(`${point}: write ${spec.write ?? "-"}`);
      await load.more(100);
      await node.keel("set", "devices.d.write", delay);
      await load.more(100);
    }
  }
  assert.equal((await load.finish()).errors, 0);
});
