// A mirror with checksums whose leg rots below it: what is read stays right, the leg is named, and a scrub mends it.

import assert from "node:assert/strict";
import { closeSync, fsyncSync, openSync, readSync, writeSync } from "node:fs";
import { after, afterEach, before, test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { Scene } from "./harness/scene.mjs";

const skip = built ? false : "not built: npm run build";
const blockBytes = 4096;

let scene;
let server;
before(() => {
  if (built) scene = new Scene();
});
after(() => scene?.close());
afterEach(() => server?.stop());

/** Other bytes in blocks of a file, behind the server's back. */
function rot(path, blocks) {
  const file = openSync(path, "r+");
  for (const block of blocks)
    writeSync(file, Buffer.alloc(blockBytes, 0xee), 0, blockBytes, block * blockBytes);
  fsyncSync(file);
  closeSync(file);
}

function isRotten(path, block) {
  const file = openSync(path, "r");
  const content = Buffer.alloc(blockBytes);
  readSync(file, content, 0, blockBytes, block * blockBytes);
  closeSync(file);
  return content.every((byte) => byte === 0xee);
}

test("a leg rots under load, over a kill: no read is wrong, it is counted, and a scrub mends the rest", {
  skip,
}, async () => {
  server = scene.node({ name: "rot", keeper: true });
  const file = (name) => ({ file: server.path(name), size: "32MiB", create: true });
  await server.start({
    devices: {
      a: file("a.img"),
      b: file("b.img"),
      m: { mirror: ["a", "b"], checksums: true, assume_clean: true },
    },
    subsystems: { m: { namespaces: [{ id: 1, device: "m" }], hosts: "any" } },
  });
  await server.exporting();
  const legs = async () => (await server.rpc("keel.graph", { volume: "m" }))[0].parts;
  const errors = async (name) => (await legs()).find((leg) => leg.name === name).errors;
  // Everything has a checksum once it was looked at.
  assert.match(await server.keel("mirror", "scrub", "m", "--wait"), /no differences/);
  const load = scene.load(server, "m", {
    seconds: 0,
    count: 40_000,
    rate: 2000,
    readPercent: 60,
    depth: 8,
    rangeBytes: "16m",
  });
  await load.more(4000);
  const every = (count, step, first) => Array.from({ length: count }, (_, index) => first + index * step);
  rot(server.path("a.img"), every(64, 61, 3));
  await until(async () => (await errors("a")) > 0, "the errors of the leg are counted");
  await load.more(2000);
  await server.kill();
  await load.more(2000);
  rot(server.path("b.img"), every(64, 53, 4097)); // where the load does not come
  rot(server.path("a.img"), every(64, 61, 7));
  await load.more(4000);
  const ended = await load.ended;
  assert.equal(ended.errors, 0);
  assert.match(await server.keel("mirror", "scrub", "m", "--wait"), /block\(s\) differ/);
  assert.ok(isRotten(server.path("b.img"), 4097), "it was not asked to repair");
  await server.keel("mirror", "scrub", "m", "--repair", "--wait");
  assert.match(await server.keel("mirror", "scrub", "m", "--wait"), /no differences/);
  assert.ok(!isRotten(server.path("b.img"), 4097));
  assert.ok((await errors("b")) >= 64);
  const { details } = await server.device("m");
  assert.equal(details["checksums.lost_blocks"], 0);
});
