import assert from "node:assert/strict";
import { test } from "node:test";
import type { JsonObject } from "../../dist/model/json.js";
import { sameJson } from "../../dist/model/json.js";
import { changesBetween, mergeChanges } from "../../dist/recovery/changes.js";
import { formatKept, parseKept } from "../../dist/recovery/kept-configuration.js";
import { makeRandom } from "./random.js";

const file: JsonObject = { version: 1, devices: { a: { ram: "1MiB" } }, subsystems: { s: { hosts: "any" } } };

test("a run-time change holds while the file stays as it was", () => {
  const effective: JsonObject = { ...file, devices: { a: { ram: "2MiB" }, b: { ram: "1MiB" } } };
  const changes = changesBetween(file, effective);
  assert.deepEqual(
    changes.map(({ object }) => object),
    ["devices/a", "devices/b"],
  );
  const merge = mergeChanges(file, changes);
  assert.ok(sameJson(merge.raw, effective));
  assert.equal(merge.dropped.length, 0);
});

test("removal at run time holds too", () => {
  const { devices: _devices, ...effective } = file;
  const merge = mergeChanges(file, changesBetween(file, effective));
  assert.equal(merge.raw["devices"], undefined);
});

test("an edit of the file overtakes the change of the same object and of no other", () => {
  const effective: JsonObject = {
    ...file,
    devices: { a: { ram: "2MiB" } },
    subsystems: { s: { hosts: [] } },
  };
  const edited: JsonObject = { ...file, devices: { a: { ram: "8MiB" } } };
  const merge = mergeChanges(edited, changesBetween(file, effective));
  assert.deepEqual(
    merge.dropped.map(({ object }) => object),
    ["devices/a"],
  );
  assert.ok(
    sameJson(merge.raw, { ...file, devices: { a: { ram: "8MiB" } }, subsystems: { s: { hosts: [] } } }),
  );
});

test("a change that the file has caught up with is forgotten", () => {
  const effective: JsonObject = { ...file, devices: { a: { ram: "2MiB" } } };
  const merge = mergeChanges(effective, changesBetween(file, effective));
  assert.deepEqual([merge.kept, merge.dropped], [[], []]);
});

test("what a restart decides is never a run-time change", () => {
  assert.deepEqual(changesBetween(file, { ...file, limits: { connections: 5 }, state: "/x" }), []);
});

test("changes between any two documents lead from the one to the other", () => {
  const random = makeRandom();
  const make = (): JsonObject => {
    const devices: JsonObject = {};
    const subsystems: JsonObject = {};
    for (const name of ["a", "b", "c"])
      if (random.below(2) === 0) devices[name] = { ram: `${random.below(3)}MiB` };
    for (const name of ["s", "t"])
      if (random.below(2) === 0) subsystems[name] = { hosts: random.pick(["any", "x"]) };
    const raw: JsonObject = { version: 1 };
    if (Object.keys(devices).length > 0) raw["devices"] = devices;
    if (Object.keys(subsystems).length > 0) raw["subsystems"] = subsystems;
    if (random.below(2) === 0) raw["listen"] = [{ "nvme-tcp": `0.0.0.0:${random.below(3)}` }];
    return raw;
  };
  for (let round = 0; round < 1000; round += 1) {
    const from = make();
    const to = make();
    const merge = mergeChanges(from, changesBetween(from, to));
    assert.ok(
      sameJson(merge.raw, to),
      `seed ${random.seed} round ${round}: ${JSON.stringify([from, to, merge.raw])}`,
    );
    assert.equal(merge.dropped.length, 0);
  }
});

test("what a keeper holds for a successor reads back, and nonsense is nothing", () => {
  const kept = { file, layout: file, readAgain: true, prepared: null };
  assert.deepEqual(parseKept(formatKept(kept)), kept);
  const nonsense = [
    null,
    "",
    "{",
    "[]",
    '{"version":2,"file":{},"readAgain":false}',
    '{"version":1,"file":[],"readAgain":false}',
    '{"version":1,"file":{}}',
  ];
  for (const text of nonsense) assert.equal(parseKept(text), null, String(text));
});
