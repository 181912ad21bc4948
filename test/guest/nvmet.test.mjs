// The Linux kernel as a remote node: the guest's target (nvmet) has the media, the real server uses them as devices of
// kind `nvme-tcp`, exports them and a mirror over one of them again, and the verifying load runs against that.
//
// A guest of its own: it is killed on the way.

import assert from "node:assert/strict";
import { createHash, randomBytes } from "node:crypto";
import { mkdirSync, truncateSync, writeFileSync } from "node:fs";
import { after, afterEach, test } from "node:test";
import { built, until } from "../volumes/harness/node.mjs";
import { ofAny, Scene } from "../volumes/harness/scene.mjs";
import { Guest } from "./harness/guest.mjs";
import { prepareKernel, requirePrograms, Unavailable } from "./harness/kernel.mjs";
import { KernelTarget, MEDIA, TARGET_NQN, uuidOf } from "./harness/kernel-target.mjs";
import { openNetwork } from "./harness/network.mjs";
import { NvmeHost } from "./harness/nvme-host.mjs";

const HOST_NQN = "nqn.2026-11.example.keel:front";
const STRANGER_NQN = "nqn.2026-11.example.keel:stranger";
const mib = 1 << 20;
const load = (node, name, count, more = {}) =>
  scene.load(node, name, { seconds: 0, count, depth: 8, readPercent: 40, rangeBytes: "16m", ...more });

let scene = null;
let guest = null;
let network = null;
let target = null;
let host = null;
let skip = built ? false : "not built: npm run build";
if (skip === false) {
  try {
    requirePrograms();
    const kernel = prepareKernel();
    network = await openNetwork(2);
    scene = new Scene();
    const disks = [MEDIA.disk512, MEDIA.disk4096].map(({ mib: size, blockBytes }) => {
      const path = `${scene.directory}/disk-${blockBytes}`;
      writeFileSync(path, "");
      truncateSync(path, size * mib);
      return { path, blockBytes };
    });
    mkdirSync(`${scene.directory}/guest`);
    guest = new Guest({ kernel, network, directory: `${scene.directory}/guest`, disks });
    await guest.boot();
    target = new KernelTarget(guest);
    await target.open([HOST_NQN]);
  } catch (error) {
    if (!(error instanceof Unavailable)) throw error;
    skip = error.message;
  }
}

const nodes = [];
afterEach(async () => {
  for (const node of nodes.splice(0)) await node.stop();
});
after(async () => {
  await scene?.close();
  await guest?.powerOff();
  network?.close();
});

/** A device that is a namespace of the kernel's target. */
function medium({ nsid }, more = {}) {
  const { address, port } = network.target;
  const patient = { timeout: "5s", ping: "500ms", deadline: "120s", keep_alive: "5s" };
  return { "nvme-tcp": `${address}:${port}`, nqn: TARGET_NQN, nsid, host_nqn: HOST_NQN, ...patient, ...more };
}

/** A medium whose loss is noticed soon, as a mirror wants it. */
const leg = (of) => medium(of, { timeout: "2s", deadline: "3s", keep_alive: "2s" });

async function started(name, config, more = {}) {
  const node = scene.node({ name, place: { name: "host", prefix: network.prefix }, ...more });
  nodes.push(node);
  await node.start(config);
  return await node.exporting();
}

async function mirrored(name, far, localMib) {
  await target.wipe(far);
  const node = await started(name, {}, { keeper: true });
  const near = { file: node.path("near.img"), size: `${localMib}MiB`, create: true };
  await node.rpc("keel.device.add", { device: "near", spec: near });
  await node.rpc("keel.device.add", { device: "far", spec: leg(far) });
  await node.rpc("keel.device.add", { device: "m", spec: { mirror: ["near", "far"], assume_clean: true } });
  await node.rpc("keel.set", { path: "subsystems.m", value: ofAny("m") });
  await whole(node);
  return await node.exporting();
}

const parts = async (node) => (await node.rpc("keel.graph", { volume: "m" }))[0].parts;
const isUp = ({ state, dirtyBytes }) => state === "ok" && !dirtyBytes;
const whole = (node) => until(async () => (await parts(node)).every(isUp), "all legs have everything");
const missed = (node, name) =>
  until(async () => !isUp((await parts(node)).find((part) => part.name === name)), `${name} is missed`);

async function withoutDifferences(node) {
  assert.match(await node.keel("mirror", "scrub", "m", "--wait"), /is done: no differences/);
}

test("a kernel target's namespaces are found with their sizes, blocks and identities", { skip }, async () => {
  const devices = Object.fromEntries(Object.entries(MEDIA).map(([name, of]) => [name, medium(of)]));
  const node = await started("facts", { devices });
  for (const [name, { nsid, mib: size, blockBytes }] of Object.entries(MEDIA)) {
    const device = await until(async () => {
      const it = await node.device(name);
      return it?.state === "ok" && it;
    }, `${name} is there`);
    assert.deepEqual([device.sizeBytes, device.blockBytes], [size * mib, blockBytes], name);
    assert.match(device.identity, new RegExp(uuidOf(nsid).replaceAll("-", "-?")), name);
  }
});

test("a kernel target that does not admit this server, or lacks the namespace, is named as the reason", {
  skip,
}, async () => {
  const refused = [
    ["stranger", medium(MEDIA.disk512, { host_nqn: STRANGER_NQN }), /host/i],
    ["nowhere", medium({ nsid: 99 }), /namespace/i],
  ];
  const attempts = refused.map(async ([name, spec, reason]) => {
    const node = await started(name, {});
    await assert.rejects(node.rpc("keel.device.add", { device: "d", spec }), (error) => {
      assert.equal(error.code, "E_UNREACHABLE");
      assert.match(error.message, reason);
      return true;
    });
    assert.deepEqual(await node.rpc("keel.devices"), []);
  });
  await Promise.all(attempts);
});

for (const digests of ["off", "header", "data", "both"]) {
  test(`what is written through the server is in the kernel's media, digests ${digests}`, {
    skip,
  }, async () => {
    const devices = {
      small: medium(MEDIA.memory512, { digests }),
      large: medium(MEDIA.memory4096, { digests }),
      disk: medium(MEDIA.disk512, { digests }),
    };
    const subsystems = { small: ofAny("small"), large: ofAny("large"), disk: ofAny("disk") };
    const node = await started("through", { devices, subsystems });
    const digest = digests === "off" ? {} : { dataDigest: true, headerDigest: true };
    const loads = [
      load(node, "small", 1500, { ioBytes: 512, flushEvery: 16, ...digest }),
      load(node, "large", 600, { ioBytes: "128k", fua: true, ...digest }),
      load(node, "disk", 600, { ioBytes: "20k", flushEvery: 8, ...digest }),
    ];
    for (const each of loads) {
      const { errors, verified_blocks: verified } = await each.ended;
      assert.equal(errors, 0);
      assert.ok(verified > 0);
    }
  });
}

test("deallocate, write zeroes and flush arrive at the kernel's media as the kernel as host sends them", {
  skip,
}, async () => {
  const names = ["memory512", "memory4096"];
  const node = await started("passing", {
    devices: Object.fromEntries(names.map((name) => [name, medium(MEDIA[name])])),
    subsystems: Object.fromEntries(names.map((name) => [name, ofAny(name)])),
  });
  host ??= new NvmeHost(guest, () => null);
  await host.prepare();
  const place = { address: network.dial, port: node.port };
  const zeroes = createHash("sha256")
    .update(Buffer.alloc(4 * mib))
    .digest("hex");
  for (const name of names) {
    const { path } = MEDIA[name];
    const nqn = node.nqn(name);
    const random = randomBytes(8).toString("hex");
    const device = await host.attach(nqn, { place, queues: 2 });
    await host.run(
      `set -e
       openssl enc -aes-128-ctr -K ${random}${random} -iv 00000000000000000000000000000000 </dev/zero 2>/dev/null | head -c 16M >/tmp/content
       dd if=/tmp/content of=${device} bs=1M oflag=direct 2>/dev/null
       blkdiscard -o 4M -l 4M ${device}
       blkdiscard -z -o 12M -l 4M ${device}
       sync ${device}`,
    );
    const content = await target.digests("/tmp/content", 4, 4);
    assert.ok(content.every((digest) => digest !== zeroes));
    const expected = [content[0], zeroes, content[2], zeroes];
    assert.deepEqual(await target.digests(path, 4, 4), expected, `${name}, in the medium`);
    assert.deepEqual(await target.digests(device, 4, 4), expected, `${name}, through the server`);
    await host.disconnect(nqn);
  }
});

test("a growing namespace is noticed, and its hosts are told", { skip }, async () => {
  const node = await started("growing", {
    devices: { d: medium(MEDIA.file) },
    subsystems: { d: ofAny("d") },
  });
  const before = (await node.device("d")).sizeBytes;
  const running = load(node, "d", 1500, { rangeBytes: "8m" });
  await running.more(200);
  await target.growFile(before / mib + 8);
  await until(async () => (await node.device("d")).sizeBytes === before + 8 * mib, "the device is larger");
  const [namespace] = (await node.status()).subsystems[0].namespaces;
  assert.equal(namespace.sizeBytes, before + 8 * mib);
  assert.equal((await running.ended).errors, 0);
  await load(node, "d", 300, { rangeOffset: before, rangeBytes: "8m" }).ended;
});

test("another medium at the kernel's target is foreign until it is the right one again", {
  skip,
}, async () => {
  const { nsid, path } = MEDIA.memory4096;
  const node = await started("foreign", {
    devices: { d: medium(MEDIA.memory4096) },
    subsystems: { d: ofAny("d") },
  });
  await until(async () => (await node.device("d")).identity !== "", "its identity is known");
  const running = load(node, "d", 1500, { ioBytes: "4k" });
  await running.more(200);
  const content = await target.digests("/dev/nullb0", 2, 16);
  await target.exchange(nsid, "/dev/nullb0", uuidOf(9));
  await until(async () => (await node.device("d")).state === "foreign", "the other medium is noticed");
  assert.deepEqual(await target.digests("/dev/nullb0", 2, 16), content, "it was not touched");
  await target.exchange(nsid, path, uuidOf(nsid));
  await until(async () => (await node.device("d")).state === "ok", "the right one is taken");
  assert.equal((await running.ended).errors, 0);
});

test("what was in flight is sent again when the kernel's target was away", { skip }, async () => {
  const node = await started("resending", {
    devices: { d: medium(MEDIA.disk4096), alone: { ram: "8MiB" } },
    subsystems: { d: ofAny("d"), alone: ofAny("alone") },
  });
  const running = load(node, "d", 1_000_000, { ioBytes: "8k", rate: 600 });
  const absences = [
    ["its port", () => target.silence(), () => target.listen()],
    ["its link", () => target.cutLink(), () => target.mendLink(network.gateway)],
    ["the machine", () => guest.powerOff(), () => guest.boot().then(() => target.open([HOST_NQN]))],
  ];
  for (const [what, goes, comes] of absences) {
    await running.more(300);
    await goes();
    await until(async () => (await node.device("d")).state !== "ok", `${what} is missed`);
    await load(node, "alone", 500, { rangeBytes: "4m" }).ended;
    await comes();
    await running.more(600);
    await until(async () => (await node.device("d")).state === "ok", `${what} is there again`);
  }
  assert.equal(running.errors, 0);
  running.kill();
});

test("a mirror over a local disk and a kernel target: no byte and no error is lost as the target goes and comes", {
  skip,
}, async () => {
  const node = await mirrored("mirrored", MEDIA.disk512, 48);
  const running = load(node, "m", 1_000_000, { rate: 600 });
  await running.more(500);
  await target.silence();
  await missed(node, "far");
  await running.more(300);
  await target.listen();
  await whole(node);
  await target.cutLink();
  await missed(node, "far");
  await running.more(300);
  await node.kill();
  await running.more(300);
  await target.mendLink(network.gateway);
  await whole(node);
  await guest.powerOff();
  await missed(node, "far");
  await running.more(300);
  await guest.boot();
  await target.open([HOST_NQN]);
  await whole(node);
  await node.kill();
  await running.more(300);
  await whole(node);
  await withoutDifferences(node);
  assert.equal(running.errors, 0);
  running.kill();
  // The kernel's leg alone has it all: what the load wrote last is read through it.
  await node.keel("mirror", "detach", "m", "near");
  const after = load(node, "m", 2000);
  assert.equal((await after.ended).errors, 0);
});

test("the memory of a kernel target that was booted again is empty, which a mirror sees", {
  skip,
}, async () => {
  const node = await mirrored("emptied", MEDIA.memory512, 48);
  const running = load(node, "m", 1_000_000, { rate: 400 });
  await running.more(400);
  await guest.powerOff();
  await missed(node, "far");
  await running.more(200);
  await guest.boot();
  await target.open([HOST_NQN]);
  const far = await until(async () => {
    const it = (await parts(node)).find(({ name }) => name === "far");
    return (isUp(it) || /foreign|empty|unknown/.test(`${it.state} ${it.reason ?? ""}`)) && it;
  }, "it is told from the leg that it was");
  if (!isUp(far)) {
    await node.keel("mirror", "attach", "m", "far", "--force", "--wait");
    await whole(node);
  }
  await withoutDifferences(node);
  await running.more(200);
  assert.equal(running.errors, 0);
  running.kill();
});

test("a server that is killed again and again under load finds the kernel's target again", {
  skip,
}, async () => {
  const node = await started(
    "killed",
    {
      devices: { small: medium(MEDIA.memory512, { digests: "both" }), large: medium(MEDIA.disk4096) },
      subsystems: { small: ofAny("small"), large: ofAny("large") },
    },
    { keeper: true },
  );
  const loads = [
    load(node, "small", 1_000_000, { ioBytes: "4k", rate: 500 }),
    load(node, "large", 1_000_000, { ioBytes: "32k", rate: 200 }),
  ];
  for (let kill = 0; kill < 5; ++kill) {
    for (const each of loads) await each.more(150);
    await node.kill();
  }
  for (const each of loads) {
    await each.more(150);
    assert.equal(each.errors, 0);
    each.kill();
  }
});
