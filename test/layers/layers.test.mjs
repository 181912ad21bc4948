import assert from "node:assert/strict";
import { test } from "node:test";
import { nativeFaults, nativeLayers, treeFaults, tsFaults, tsLayers } from "../../scripts/layers.mjs";

test("every include and import of the tree is in the layer table", () => {
  assert.deepEqual(treeFaults(), []);
});

test("the layer tables have no cycle and name only folders that have a row", () => {
  for (const table of [nativeLayers, tsLayers]) {
    const reaches = (from, to) => table[from].some((next) => next === to || reaches(next, to));
    for (const [layer, allowed] of Object.entries(table)) {
      for (const name of allowed) assert.ok(name in table, `${layer} names ${name}, which has no row`);
      assert.ok(!reaches(layer, layer), `${layer} reaches itself`);
    }
  }
});

const oneNative = (path, text) => nativeFaults([{ path, text }]);
const oneTs = (path, text) => tsFaults([{ path, text }]);

test("an include of a layer further up is a fault", () => {
  assert.deepEqual(oneNative("native/nvme/admin.cc", '#include "transport/tcp.h"\n'), [
    "native/nvme/admin.cc: nvme must not include transport/tcp.h",
  ]);
  assert.deepEqual(oneNative("native/block/ram.cc", '#  include "durable/arena.h"\n'), [
    "native/block/ram.cc: block must not include durable/arena.h",
  ]);
  assert.equal(oneNative("native/keeper/main.cc", '#include "reactor/reactor.h"\n').length, 1);
});

test("the controller's code must not know the PDUs of a transport", () => {
  assert.equal(oneNative("native/nvme/connect.cc", '#include "wire/nvme_tcp.h"\n').length, 1);
  assert.deepEqual(oneNative("native/transport/tcp.cc", '#include "wire/nvme_tcp.h"\n'), []);
});

test("includes of the own layer, of layers below and of the system are allowed", () => {
  const text =
    '#include "nvme/slot.h"\n#include "block/device.h"\n#include <sys/mman.h>\n#include <vector>\n';
  assert.deepEqual(oneNative("native/nvme/admin.cc", text), []);
});

test("napi.h outside the binding is a fault", () => {
  assert.equal(oneNative("native/engine/engine.cc", "#include <napi.h>\n").length, 1);
  assert.deepEqual(oneNative("native/binding/addon.cc", "#include <napi.h>\n"), []);
});

test("product code that includes test support is a fault, a test that does is not", () => {
  assert.equal(oneNative("native/nvme/admin.cc", '#include "testing/host.h"\n').length, 1);
  assert.deepEqual(oneNative("native/nvme/admin_test.cc", '#include "testing/host.h"\n'), []);
});

test("a folder without a row is a fault in both languages", () => {
  assert.equal(oneNative("native/helpers/a.cc", "").length, 1);
  assert.equal(oneTs("ts/helpers/a.ts", "").length, 1);
});

test("a TypeScript import of a layer further up is a fault, in every form of import", () => {
  for (const statement of [
    'import { a } from "../control/server.js";',
    'import type { A } from "../control/server.js";',
    'export * from "../control/server.js";',
    'import "../control/server.js";',
    'const a = await import("../control/server.js");',
  ]) {
    assert.equal(oneTs("ts/config/schema.ts", statement).length, 1, statement);
  }
});

test("TypeScript imports of packages, of the own layer and of layers below are allowed", () => {
  const text = 'import { z } from "zod";\nimport { a } from "./a.js";\nimport { b } from "../model/b.js";\n';
  assert.deepEqual(oneTs("ts/config/schema.ts", text), []);
  assert.deepEqual(oneTs("ts/main.ts", 'import { api } from "./api/server.js";\n'), []);
});
