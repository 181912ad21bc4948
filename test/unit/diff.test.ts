import assert from "node:assert/strict";
import { test } from "node:test";
import { complete } from "../../dist/config/complete.js";
import { advance, dataLost, describeStep, diff, type Step, unchangedCount } from "../../dist/config/diff.js";
import { parseDocument } from "../../dist/config/load.js";
import type { Hex128 } from "../../dist/model/ids.js";
import { type JsonObject, toJson } from "../../dist/model/json.js";
import { emptyState, type State } from "../../dist/model/state.js";
import { makeRandom, type Random } from "./random.js";

const context = {
  node: "n",
  paths: { state: "/s", rpcSocket: "/r" },
  identities: {
    server: "0123456789abcdef0123456789abcdef" as Hex128,
    namespaces: {},
    serials: {},
    volumes: {},
  },
  firmware: "0.1.0",
};
const stateOf = (raw: JsonObject): State =>
  complete(parseDocument({ version: 1, listen: [], ...raw }, "n").document, context).state;

const types = (steps: readonly Step[]): string[] => steps.map(({ type }) => type);

/** Order of lists does not matter for what a state is. */
const canonical = (state: State): string => {
  const sorted = <Value>(values: readonly Value[]): Value[] =>
    [...values].sort((a, b) => (toJson(a) < toJson(b) ? -1 : 1));
  return toJson({
    devices: sorted(state.devices),
    subsystems: sorted(state.subsystems),
    listeners: sorted(state.listeners),
    referrals: state.referrals,
  });
};

test("everything is added from below, listeners last", () => {
  const state = stateOf({
    listen: [{ "nvme-tcp": "0.0.0.0:4420" }],
    devices: { a: { delay: "b" }, b: { ram: "1MiB" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "a" }], hosts: "any" } },
  });
  assert.deepEqual(types(diff(emptyState, state)), [
    "add-device",
    "add-device",
    "add-subsystem",
    "add-namespace",
    "add-listener",
  ]);
});

test("everything is removed from above", () => {
  const state = stateOf({
    listen: [{ "nvme-tcp": "0.0.0.0:4420" }],
    devices: { a: { delay: "b" }, b: { ram: "1MiB" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "a" }], hosts: "any" } },
  });
  const steps = diff(state, emptyState);
  assert.deepEqual(types(steps), [
    "remove-listener",
    "remove-namespace",
    "remove-subsystem",
    "remove-device",
    "remove-device",
  ]);
  assert.equal(steps[3]?.type === "remove-device" && steps[3].device.name, "a");
});

test("nothing changed is no step", () => {
  const raw = {
    devices: { b: { ram: "1MiB" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "b" }] } },
  };
  const steps = diff(stateOf(raw), stateOf(raw));
  assert.deepEqual(steps, []);
  assert.equal(unchangedCount(stateOf(raw), steps), 3);
});

test("a new size is one step and keeps the namespace", () => {
  const steps = diff(
    stateOf({ devices: { b: { ram: "1MiB" } }, subsystems: { s: { namespaces: [{ id: 1, device: "b" }] } } }),
    stateOf({ devices: { b: { ram: "2MiB" } }, subsystems: { s: { namespaces: [{ id: 1, device: "b" }] } } }),
  );
  assert.deepEqual(steps.map(describeStep), ["~ device     b  1MiB → 2MiB"]);
  assert.deepEqual(steps.map(dataLost), [null]);
});

test("a file whose size is left open keeps the size that it has", () => {
  const given = stateOf({ devices: { f: { file: "/x", size: "1MiB", create: true } } });
  assert.deepEqual(diff(given, stateOf({ devices: { f: { file: "/x" } } })), []);
});

test("a device that becomes another takes its namespace and what stands on it along", () => {
  const before = stateOf({
    devices: { b: { ram: "1MiB" }, d: { delay: "b" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "d" }] } },
  });
  const after = stateOf({
    devices: { b: { ram: "1MiB", block_size: 512 }, d: { delay: "b" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "d" }] } },
  });
  const steps = diff(before, after);
  assert.deepEqual(types(steps), [
    "remove-namespace",
    "remove-device",
    "remove-device",
    "add-device",
    "add-device",
    "add-namespace",
  ]);
  assert.deepEqual(
    steps.map(dataLost).filter((text) => text !== null),
    ['the content of ram device "b" (1MiB)'],
  );
});

test("hosts, the policy for commands in flight and read-only change in place", () => {
  const before = stateOf({
    devices: { b: { ram: "1MiB" } },
    subsystems: { s: { namespaces: [{ id: 1, device: "b" }], hosts: "any" } },
  });
  const after = stateOf({
    devices: { b: { ram: "1MiB" } },
    subsystems: {
      s: {
        namespaces: [{ id: 1, device: "b", read_only: true }],
        hosts: ["nqn.2026-11.x:h"],
        in_flight: "abort",
      },
    },
  });
  assert.deepEqual(diff(before, after).map(describeStep), [
    "~ subsystem  s  in flight: abort",
    "~ subsystem  s  hosts: nqn.2026-11.x:h",
    "~ namespace  s/1  read-only",
  ]);
});

test("shrinking loses data, growing does not", () => {
  const small = stateOf({ devices: { b: { file: "/x", size: "1MiB" } } });
  const large = stateOf({ devices: { b: { file: "/x", size: "2MiB" } } });
  assert.deepEqual(diff(small, large).map(dataLost), [null]);
  assert.deepEqual(diff(large, small).map(dataLost), ['what device "b" holds beyond 1MiB']);
});

function randomState(random: Random): State {
  const devices: JsonObject = {};
  const names = ["a", "b", "c", "d", "e"];
  for (const name of names) {
    const kind = random.below(5);
    if (kind === 0) continue;
    if (kind === 1) devices[name] = { ram: `${1 + random.below(3)}MiB` };
    if (kind === 2)
      devices[name] = {
        file: `/f${random.below(2)}`,
        size: `${1 + random.below(2)}MiB`,
        read_only: random.below(2) === 0,
      };
    if (kind === 3)
      devices[name] = { null: `${1 + random.below(2)}MiB`, block_size: random.pick([512, 4096]) };
    if (kind === 4) {
      const below = names.filter((other) => other < name && devices[other] !== undefined);
      const taken = Object.values(devices).map((device) => (device as JsonObject)["delay"]);
      const free = below.filter((other) => !taken.includes(other));
      if (free.length > 0) devices[name] = { delay: random.pick(free) };
    }
  }
  const bases = Object.values(devices).map((device) => (device as JsonObject)["delay"]);
  const free = Object.keys(devices).filter((name) => !bases.includes(name));
  const subsystems: JsonObject = {};
  for (const name of ["s", "t"]) {
    if (random.below(3) === 0) continue;
    const namespaces: JsonObject[] = [];
    for (const id of [1, 2, 3]) {
      const device = free[0];
      if (device === undefined || random.below(2) === 0) continue;
      free.shift();
      namespaces.push({ id, device, read_only: random.below(2) === 0 });
    }
    subsystems[name] = {
      namespaces,
      hosts: random.pick<JsonObject[string]>([
        "any",
        [],
        ["nqn.2026-11.x:h"],
        ["nqn.2026-11.x:g", "nqn.2026-11.x:h"],
      ]),
      serial: random.pick(["S1", "S2"]),
      in_flight: random.pick(["replay", "abort"]),
    };
  }
  const listen = ["0.0.0.0:4420", "0.0.0.0:4421"]
    .filter(() => random.below(2) === 0)
    .map((text) => ({ "nvme-tcp": text }));
  const referrals = random.below(2) === 0 ? [] : [{ address: `10.0.0.${random.below(3)}:8009` }];
  return stateOf({ devices, subsystems, listen, referrals });
}

/** What the engine would refuse: things used before they are there, or removed while they are used. */
function checkOrder(start: State, steps: readonly Step[], where: string): State {
  let state = start;
  for (const step of steps) {
    const has = (name: string | null) =>
      name === null || state.devices.some((device) => device.name === name);
    const used = (name: string): boolean =>
      state.devices.some(({ base }) => base === name) ||
      state.subsystems.some(({ namespaces }) => namespaces.some(({ device }) => device === name));
    const subsystem = (nqn: string) => state.subsystems.find((one) => one.nqn === nqn);
    if (step.type === "add-device") assert.ok(!has(step.device.name) && has(step.device.base), where);
    if (step.type === "remove-device") assert.ok(has(step.device.name) && !used(step.device.name), where);
    if (step.type === "resize-device") assert.ok(has(step.name), where);
    if (step.type === "add-subsystem") assert.equal(subsystem(step.subsystem.nqn), undefined, where);
    if (step.type === "remove-subsystem") assert.deepEqual(subsystem(step.nqn)?.namespaces, [], where);
    if (step.type === "add-namespace") {
      assert.ok(has(step.namespace.device) && !used(step.namespace.device), where);
      assert.ok(
        subsystem(step.nqn)?.namespaces.every(({ nsid }) => nsid !== step.namespace.nsid),
        where,
      );
    }
    if (step.type === "remove-namespace") {
      assert.ok(
        subsystem(step.nqn)?.namespaces.some(({ nsid }) => nsid === step.nsid),
        where,
      );
    }
    state = advance(state, step);
  }
  return state;
}

test("the steps lead from any state to any other, in an order that is possible at every step", () => {
  const random = makeRandom();
  for (let round = 0; round < 1500; round += 1) {
    const where = `seed ${random.seed} round ${round}`;
    const before = randomState(random);
    const after = randomState(random);
    const steps = diff(before, after);
    const reached = checkOrder(before, steps, where);
    assert.equal(canonical(reached), canonical(after), where);
    assert.deepEqual(diff(reached, after), [], where);
  }
});

test("from wherever a plan stops there is a way back", () => {
  const random = makeRandom();
  for (let round = 0; round < 1500; round += 1) {
    const where = `seed ${random.seed} round ${round}`;
    const before = randomState(random);
    const steps = diff(before, randomState(random));
    const reached = checkOrder(before, steps.slice(0, random.below(steps.length + 1)), where);
    assert.equal(canonical(checkOrder(reached, diff(reached, before), where)), canonical(before), where);
  }
});
