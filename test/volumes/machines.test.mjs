// Three servers, each on a machine of its own as far as the network is concerned: a mirror over two remote nodes under
// the verifying load, while cables are cut, servers killed, a leg is slow, and a leg is suspended. No acknowledged byte
// is lost, and no error is seen as long as one leg is there.

import assert from "node:assert/strict";
import { after, before, test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { canLink } from "./harness/place.mjs";
import { ofAny, Scene } from "./harness/scene.mjs";

const skip = !built ? "not built: npm run build" : canLink() ? false : "needs root and network namespaces";
const quick = { timeout: "500ms", ping: "250ms", deadline: "12s", when_lost: "fail" };
const verifying = { readPercent: 40, depth: 8, rate: 2000, rangeBytes: "16m" };

let scene;
let front;
let left;
let right;
let toLeft;
let toRight;

before(async () => {
  if (skip !== false) return;
  scene = new Scene();
  const places = [await scene.place("front"), await scene.place("left"), await scene.place("right")];
  toLeft = scene.cable(places[0], places[1], 1);
  toRight = scene.cable(places[0], places[2], 2);
  left = scene.node({ name: "left", place: places[1], address: toLeft.rightAddress });
  right = scene.node({ name: "right", place: places[2], address: toRight.rightAddress });
  for (const node of [left, right]) {
    await node.start({
      devices: {
        disk: { file: node.path("disk.img"), size: "32MiB", create: true },
        d: { delay: "disk" },
      },
      subsystems: { d: ofAny("d") },
    });
  }
  front = scene.node({ name: "front", place: places[0], keeper: true });
  await front.start({
    devices: {
      l: left.as("d", quick),
      r: right.as("d", quick),
      m: { mirror: ["l", "r"], assume_clean: true, when_lost: "freeze" },
      alone: { ram: "16MiB" },
    },
    subsystems: { m: ofAny("m"), alone: ofAny("alone") },
  });
  await bothUp();
  await front.exporting();
});
after(() => scene?.close());

async function leg(name) {
  const [tree] = await front.rpc("keel.graph", { volume: "m" });
  return tree.parts.find((part) => part.name === name);
}

const isUp = (part) => part.state === "ok" && (part.dirtyBytes ?? 0) === 0;

async function bothUp() {
  await until(async () => isUp(await leg("l")) && isUp(await leg("r")), "both legs have everything");
}

const lost = (name) => until(async () => !isUp(await leg(name)), `leg ${name} is missed`);

test("a cut cable costs no byte and no error, and the leg comes back by itself", { skip }, async () => {
  const load = scene.load(front, "m", { seconds: 0, count: 12_000, ...verifying });
  await load.more(1000);
  toLeft.cut();
  await lost("l");
  await load.more(1000);
  const shown = await front.keel("status");
  assert.match(shown, /device m|device l/);
  toLeft.mend();
  await bothUp();
  await load.more(500);
  toRight.cut();
  await lost("r");
  await load.more(1000);
  toRight.mend();
  await bothUp();
  const result = await load.ended;
  assert.equal(result.errors, 0);
  assert.ok(result.verified_blocks > 0);
});

test("a server that is killed costs no byte and no error", { skip }, async () => {
  const load = scene.load(front, "m", { seconds: 0, count: 12_000, ...verifying });
  await load.more(1000);
  await right.kill();
  await lost("r");
  await load.more(1000);
  await right.start();
  await bothUp();
  await load.more(500);
  await front.kill();
  await load.more(500);
  await bothUp();
  await left.kill();
  await lost("l");
  await load.more(500);
  await left.start();
  await bothUp();
  assert.equal((await load.ended).errors, 0);
});

test("a volume without any leg waits, and goes on when one is back", { skip }, async () => {
  const load = scene.load(front, "m", { seconds: 0, count: 6_000, ...verifying });
  await load.more(500);
  toLeft.cut();
  await lost("l");
  await load.more(200);
  toRight.cut();
  await lost("r");
  toRight.mend();
  await load.more(500);
  toLeft.mend();
  await bothUp();
  assert.equal((await load.ended).errors, 0);
});

test("a slow leg slows writes and loses nothing", { skip }, async () => {
  const load = scene.load(front, "m", { seconds: 0, count: 5_000, ...verifying });
  await load.more(500);
  await left.keel("set", "devices.d.write", "20ms");
  await load.more(200);
  assert.ok(isUp(await leg("l")), "a slow leg is no lost leg");
  await left.keel("set", "devices.d.write", "--delete");
  assert.equal((await load.ended).errors, 0);
});

// On a busy machine the p99 of a second is anything from 50 µs to 80 ms, suspended or not: what the suspension itself
// costs would be in every sample, so the best of each kind are compared.
test("suspending a leg leaves the latency of other volumes alone", { skip }, async (context) => {
  const options = { seconds: 1, readPercent: 50, depth: 4, rate: 2000 };
  const p99 = async () => (await scene.load(front, "alone", options).ended).latency.p99_us;
  const load = scene.load(front, "m", { seconds: 600, ...verifying });
  const quiet = [];
  const beside = [];
  for (let round = 0; round < 3; ++round) {
    await load.more(200);
    quiet.push(await p99());
    await front.keel("device", "suspend", "l");
    beside.push(await p99());
    if (round < 2) await front.keel("device", "resume", "l");
  }
  await front.keel("mirror", "detach", "m", "l");
  await load.more(500);
  await front.keel("device", "resume", "l");
  await front.keel("mirror", "attach", "m", "l");
  await bothUp();
  assert.equal((await load.finish()).errors, 0);
  const shown = `p99 ${quiet.map(Math.round).join(", ")} µs, beside a suspended leg ${beside.map(Math.round).join(", ")} µs`;
  context.diagnostic(shown);
  assert.ok(Math.min(...beside) < Math.min(...quiet) * 10 + 10_000, shown);
});

test("a leg is replaced by another device while the volume is used", { skip }, async () => {
  const load = scene.load(front, "m", { seconds: 0, count: 12_000, ...verifying });
  await load.more(500);
  await front.keel("device", "add", "new", `{file: "${front.path("new.img")}", size: 32MiB, create: true}`);
  await front.keel("mirror", "replace", "m", "l", "new", "--wait");
  const names = (await front.rpc("keel.graph", { volume: "m" }))[0].parts.map(({ name }) => name);
  assert.deepEqual(names, ["new", "r"]);
  await front.keel("device", "remove", "l");
  await right.kill();
  await load.more(500);
  await right.start();
  assert.equal((await load.ended).errors, 0);
});

test("scrubbing finds nothing on legs that nobody touched", { skip }, async () => {
  await until(
    async () => (await front.rpc("keel.graph", { volume: "m" }))[0].parts.every(isUp),
    "all legs are up",
  );
  const out = await front.keel("mirror", "scrub", "m", "--wait");
  assert.match(out, /is done: no differences/);
});
