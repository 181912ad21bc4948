// What a standby does while it waits, and when what it came to may be used.

import assert from "node:assert/strict";
import { mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { completeSettings } from "../../dist/config/complete.js";
import { parseDocument } from "../../dist/config/load.js";
import { calm } from "../../dist/control/calm.js";
import { DurableDirectory } from "../../dist/control/durable-directory.js";
import { rehearse } from "../../dist/control/rehearsal.js";
import type { JsonObject } from "../../dist/model/json.js";
import { type Ahead, isAhead } from "../../dist/recovery/ahead.js";

const never = (): boolean => false;
const share = {
  version: 1,
  listen: [],
  devices: { d: { file: "/d" } },
  subsystems: { s: { namespaces: [{ id: 1, device: "d" }], hosts: "any" } },
};
const mirror = {
  version: 1,
  listen: [],
  devices: { a: { ram: "1MiB" }, b: { ram: "1MiB" }, m: { mirror: ["a", "b"] } },
};

async function withDirectory(work: (directory: DurableDirectory, path: string) => Promise<void>) {
  const path = mkdtempSync(join(tmpdir(), "keel-standby-"));
  const directory = await DurableDirectory.open(path);
  try {
    await work(directory, path);
  } finally {
    await directory.close();
    rmSync(path, { recursive: true, force: true });
  }
}

async function aheadIn(path: string, raw: JsonObject, over = never): Promise<Ahead | null> {
  const paths = { state: path, rpcSocket: "/r" };
  const loaded = parseDocument(structuredClone(raw), "n");
  const settings = completeSettings(loaded.document, "n", paths);
  return rehearse(loaded, { node: "n", paths, firmware: "0.1.0" }, settings, over);
}

test("a standby knows the state that it will bring up, as long as the directory records nothing else", async () => {
  await withDirectory(async (directory, path) => {
    const ahead = await aheadIn(path, share);
    assert.ok(ahead !== null);
    assert.deepEqual(
      ahead.state.subsystems.map(({ namespaces }) => namespaces.map(({ device }) => device)),
      [["d"]],
    );
    assert.ok(isAhead(ahead, directory));

    const change = { object: "devices/e", file: null, now: { ram: "1MiB" } };
    await directory.writeChanges({ changes: [change], previous: [] });
    assert.ok(!isAhead(ahead, directory), "a change is under way");
    assert.equal(await aheadIn(path, share), null);
    await directory.writeChanges({ changes: [change], previous: null });
    assert.ok(!isAhead(ahead, directory), "a change was made");
    const next = await aheadIn(path, share);
    assert.ok(next !== null && isAhead(next, directory));
    assert.deepEqual(
      next.state.devices.map(({ name }) => name),
      ["d", "e"],
    );

    await directory.writeIdentities({ ...directory.identities, serials: { other: "1" } });
    assert.ok(!isAhead(next, directory), "an identity was given out");
  });
});

test("a standby leaves to the start what is to be recorded first: a change that the file overtook, a mirror's volume", async () => {
  await withDirectory(async (directory, path) => {
    const old = { object: "devices/d", file: { file: "/before" }, now: { file: "/changed" } };
    await directory.writeChanges({ changes: [old], previous: null });
    assert.equal(await aheadIn(path, share), null);

    await directory.writeChanges({ changes: [], previous: null });
    assert.equal(await aheadIn(path, mirror), null);
    const volumes = { m: "00112233445566778899aabbccddeeff" };
    await directory.writeIdentities({ ...directory.identities, volumes });
    assert.equal((await aheadIn(path, mirror))?.state.devices.at(-1)?.mirror?.volume, volumes.m);
  });
});

test("a standby that is to serve prepares no longer", async () => {
  await withDirectory(async (_directory, path) => {
    let asked = 0;
    const ahead = await aheadIn(path, share, () => {
      asked += 1;
      return asked > 1;
    });
    assert.ok(ahead !== null);
    assert.equal(asked, 2, "one round");
    assert.equal(await aheadIn(path, share, () => true), null);
  });
  await calm(() => true);
});

test("a process is calm once it uses no processor, and nobody waits for that for ever", async () => {
  await calm(never);
  let busy = true;
  const spin = (): void => {
    const end = performance.now() + 2;
    while (performance.now() < end);
    if (busy) setImmediate(spin);
  };
  spin();
  await calm(never);
  busy = false;
});
