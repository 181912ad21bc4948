// Nodes on other servers: what is refused, what is remembered, and DST's command forms.

import assert from "node:assert/strict";
import { test } from "node:test";
import { built, randomPort, until } from "./harness/node.mjs";
import { ofAny, sceneOfFile } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";
const mib = 1 << 20;
const quick = { timeout: "500ms", ping: "200ms", deadline: "1s" };

const { scene, node } = sceneOfFile();

const file = (server, name, size = "32MiB") => ({ file: server.path(name), size, create: true });

test("a volume of remote nodes is refused with the reason, and nothing stays, while a node is away", {
  skip,
}, async () => {
  const near = await node("near").start({});
  const config = await near.rpc("keel.get");
  const { status, err } = await near.cli(
    "device",
    "add",
    "far",
    `{nvme-tcp: "127.0.0.1:${randomPort()}", nqn: "nqn.2026-11.example.keel:nobody:d", timeout: 200ms}`,
  );
  assert.equal(status, 5, err);
  assert.match(err, /E_UNREACHABLE {2}devices\.far: not there within/);
  assert.deepEqual(await near.rpc("keel.get"), config);
  assert.deepEqual(await near.rpc("keel.devices"), []);
});

test("a target that does not admit this server is named as the reason", { skip }, async () => {
  const far = node("closed");
  await far.start({
    devices: { d: file(far, "d.img") },
    subsystems: { d: { namespaces: [{ id: 1, device: "d" }], hosts: [] } },
  });
  const near = await node("guest").start({});
  await assert.rejects(near.rpc("keel.device.add", { device: "far", spec: far.as("d") }), (error) => {
    assert.equal(error.code, "E_UNREACHABLE");
    assert.match(error.message, /host/i);
    return true;
  });
  assert.deepEqual(await near.rpc("keel.devices"), []);
});

test("a server starts without its remote nodes and serves what it knows of them", { skip }, async () => {
  const far = node("faraway");
  await far.start({ devices: { d: file(far, "d.img") }, subsystems: { d: ofAny("d") } });
  const near = node("nearby");
  await near.start({
    devices: { r: far.as("d", { ...quick, deadline: "60s" }), other: { ram: "8MiB" } },
    subsystems: { r: ofAny("r"), other: ofAny("other") },
  });
  await until(async () => (await near.device("r"))?.state === "ok", "the remote node is there");
  await until(
    async () => (await near.status()).subsystems.every(({ namespaces }) => namespaces.length === 1),
    "both",
  );
  await far.kill();
  await near.stop();
  await near.start();
  const device = await near.device("r");
  assert.equal(device.sizeBytes, 32 * mib);
  assert.notEqual(device.state, "ok");
  const other = scene.load(near, "other", { seconds: 1, readPercent: 50, rangeBytes: "4m" });
  await other.ended;
  const load = scene.load(near, "r", { count: 500, seconds: 0, readPercent: 50, depth: 8 });
  await far.start();
  const result = await load.ended;
  assert.ok(result.verified_blocks > 0);
});

test("another medium under the same address is foreign: it is not touched until it is accepted", {
  skip,
}, async () => {
  const far = node("swapped");
  const uuids = ["7c1e6a1e-0000-4000-8000-000000000001", "7c1e6a1e-0000-4000-8000-000000000002"];
  const exporting = (uuid) => ({
    devices: { d: file(far, `${uuid}.img`) },
    subsystems: {
      d: { namespaces: [{ id: 1, device: "d", uuid, nguid: uuid.replaceAll("-", "") }], hosts: "any" },
    },
  });
  await far.start(exporting(uuids[0]));
  const near = node("careful");
  await near.start({ devices: { r: far.as("d", quick) }, subsystems: { r: ofAny("r") } });
  await until(async () => (await near.device("r"))?.state === "ok", "the remote node is there");
  await until(async () => (await near.device("r")).identity !== "", "its identity is known");
  await far.stop();
  await far.start(exporting(uuids[1]));
  await until(async () => (await near.device("r")).state === "foreign", "the other medium is noticed");
  const { reason } = await near.device("r");
  assert.match(reason, /0002; this device is [a-z]+\.[0-9a-f]+0001/);
  await near.stop();
  await near.start();
  await until(async () => (await near.device("r")).state === "foreign", "it is foreign after a restart too");
  await near.keel("device", "accept", "r");
  await until(async () => (await near.device("r")).state === "ok", "it is accepted");
});

test("a server that dies together with the node of a leg goes on with the other leg", { skip }, async () => {
  const far = node("leg");
  await far.start({ devices: { d: file(far, "d.img") }, subsystems: { d: ofAny("d") } });
  const near = node("mirroring", { keeper: true });
  await near.start({
    devices: {
      l: file(near, "l.img"),
      r: far.as("d", { ...quick, when_lost: "fail" }),
      m: { mirror: ["l", "r"], assume_clean: true },
    },
    subsystems: { m: ofAny("m") },
  });
  const states = async () => {
    const [{ parts }] = await near.rpc("keel.graph", { volume: "m" });
    return parts.map((part) => (part.state === "ok" && (part.dirtyBytes ?? 0) === 0 ? "up" : "missed"));
  };
  await until(async () => (await states()).join() === "up,up", "both legs are up");
  await near.exporting();
  const load = scene.load(near, "m", { seconds: 600, rangeBytes: "16m", rate: 2000 });
  await load.more(500);
  // Dead before it can record that it misses the leg: its successor finds two that have everything, and one of them.
  const { pid } = await near.rpc("keel.version");
  process.kill(pid, "SIGKILL");
  await far.kill();
  await until(async () => (await near.rpc("keel.version")).pid !== pid, "it has a successor");
  await load.more(1000);
  assert.equal((await near.device("m")).state, "degraded");
  assert.deepEqual(await states(), ["up", "missed"]);
  await far.start();
  await until(async () => (await states()).join() === "up,up", "the leg has everything again");
  await load.more(500);
  assert.equal((await load.finish()).errors, 0);
});

test("DST's command forms make the same volumes", { skip }, async () => {
  const far = await node("dstfar").start({});
  await far.keel("dst", "-n", "storage", "-d", far.path("disk.img"), "--create-size", "16MiB", "--export");
  const near = await node("dstnear").start({});
  const { status, err } = await near.cli("dst", "-n", "storage", "-A", "alg_linear");
  assert.equal(status, 2, err);
  await near.keel("dst", "-n", "storage", "-A", "alg_linear", "-a", "127.0.0.1", "-p", String(far.port));
  await near.keel("dst", "-n", "storage", "-d", near.path("disk.img"), "--create-size", "8MiB");
  await near.keel("dst", "-n", "storage", "--start");
  assert.equal((await near.device("storage")).sizeBytes, 24 * mib);
  const shown = await near.keel("dst", "-n", "storage");
  assert.match(shown, /storage +linear[\s\S]*├─ storage-0 +nvme[\s\S]*└─ storage-1 +file/);
  const tree = JSON.parse(await near.keel("graph", "storage", "--json"));
  assert.deepEqual(
    tree[0].parts.map(({ name, state }) => [name, state]),
    [
      ["storage-0", "ok"],
      ["storage-1", "ok"],
    ],
  );
  await near.keel("dst", "-n", "storage", "--stop");
  await near.keel("dst", "-n", "storage", "--remove");
  assert.deepEqual(await near.rpc("keel.devices"), []);
});
