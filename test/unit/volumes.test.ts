import assert from "node:assert/strict";
import { test } from "node:test";
import { complete } from "../../dist/config/complete.js";
import { describeStep, diff, mirrorOfShrunk, mirrorsOfGrown, type Step } from "../../dist/config/diff.js";
import { addNode, removeNode, removeStorage, startStorage } from "../../dist/config/dst.js";
import { parseDocument, parseSources } from "../../dist/config/load.js";
import { Reconciler } from "../../dist/control/reconciler.js";
import { KeelError } from "../../dist/model/errors.js";
import type { Hex128 } from "../../dist/model/ids.js";
import type { JsonObject } from "../../dist/model/json.js";
import { type DeviceWanted, emptyState, type State } from "../../dist/model/state.js";
import { formatMedia, knownFacts, parseMedia, remembered } from "../../dist/recovery/media.js";
import { FakeEngine } from "./fake-engine.js";

const context = {
  node: "n",
  paths: { state: "/s", rpcSocket: "/r" },
  identities: {
    server: "0123456789abcdef0123456789abcdef" as Hex128,
    namespaces: {},
    serials: {},
    volumes: { safe: "00000000000000000000000000000abc" },
  },
  firmware: "0.1.0",
};
const stateOf = (devices: JsonObject, namespaces: readonly string[] = []): State =>
  complete(
    parseDocument(
      {
        version: 1,
        listen: [],
        devices,
        subsystems: {
          s: { namespaces: namespaces.map((device, index) => ({ id: index + 1, device })), hosts: "any" },
        },
      },
      "n",
    ).document,
    context,
  ).state;

const words = (step: Step): string => describeStep(step).replaceAll(/ +/g, " ");
const change = (before: State, after: State, inPlace: readonly string[] = []): string[] =>
  diff(before, after, new Set(inPlace)).map(words);

const deviceOf = (state: State, name: string): DeviceWanted => {
  const device = state.devices.find((one) => one.name === name);
  assert.ok(device, name);
  return device;
};

/** The messages of a refused document. */
function faults(devices: JsonObject): string[] {
  try {
    stateOf(devices);
  } catch (thrown) {
    assert.ok(thrown instanceof KeelError);
    return thrown.message.split("\n");
  }
  return [];
}

const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};
const ram = { ram: "1MiB" };
const far = { "nvme-tcp": "10.0.0.9:4420", nqn: "nqn.2026-11.example.keel:far:d" };

test("a mirror waits five seconds for a remote leg, on whatever way it stands on it; who has no other leg a minute", () => {
  const state = stateOf({
    a: ram,
    b: { ...far, nsid: 2 },
    under: { linear: ["b"] },
    safe: { mirror: ["a", "under"] },
    alone: far,
  });
  assert.equal(deviceOf(state, "b").remote?.deadlineMs, 5_000);
  assert.equal(deviceOf(state, "alone").remote?.deadlineMs, 60_000);
});

test("every kind of volume is completed with its defaults", () => {
  const state = stateOf({
    a: ram,
    b: ram,
    c: ram,
    d: ram,
    big: { linear: ["a", { device: "b", start: "4KiB", size: "8KiB" }] },
    fast: { stripe: ["c", "d"] },
    safe: { mirror: ["big", "far"], checksums: true, resync_rate: "100MiB" },
    far: { ...far, addresses: ["[fd00::9]:4420"], digests: "both", deadline: "90s", when_lost: "freeze" },
    q: { tcmu: "qcow", path: "/srv/x.qcow2", when_lost: "fail" },
  });
  assert.deepEqual(deviceOf(state, "big").parts, [
    { device: "a", startBytes: 0n, sizeBytes: 0n },
    { device: "b", startBytes: 4096n, sizeBytes: 8192n },
  ]);
  assert.equal(deviceOf(state, "fast").chunkBytes, 65536n);
  assert.deepEqual(deviceOf(state, "safe").mirror, {
    volume: "00000000000000000000000000000abc",
    regionBytes: 0,
    checksums: true,
    assumeClean: false,
    whenLost: "freeze",
    resyncBytesPerSecond: 100n << 20n,
  });
  const { remote } = deviceOf(state, "far");
  assert.deepEqual(remote?.addresses, ["10.0.0.9:4420", "[fd00::9]:4420"]);
  assert.equal(remote.hostnqn.slice(-36).replaceAll("-", ""), remote.hostid);
  assert.ok(remote.headerDigest && remote.dataDigest);
  assert.equal(remote.deadlineMs, 90_000);
  assert.deepEqual(deviceOf(state, "q").tcmu, {
    handler: "qcow",
    library: "",
    configuration: "/srv/x.qcow2",
    timeoutMs: 30_000,
    whenLost: "fail",
  });
  const order = state.devices.map(({ name }) => name);
  assert.ok(order.indexOf("safe") > order.indexOf("big") && order.indexOf("big") > order.indexOf("a"));
});

test("a host NQN made of a UUID brings its identifier", () => {
  const uuid = "7c1e6a1e-0000-4000-8000-000000000001";
  const { remote } = deviceOf(
    stateOf({ far: { ...far, host_nqn: `nqn.2014-08.org.nvmexpress:uuid:${uuid}` } }),
    "far",
  );
  assert.equal(remote?.hostid, uuid.replaceAll("-", ""));
});

test("circles are refused with the way named", () => {
  assert.match(
    faults({ a: { linear: ["b"] }, b: { mirror: ["c", "d"] }, c: { delay: "a" }, d: ram }).join("\n"),
    /devices stack in a circle: a → b → c → a/,
  );
});

test("a device is part of one thing only", () => {
  assert.match(
    faults({ a: ram, b: ram, x: { linear: ["a"] }, y: { mirror: ["a", "b"] } }).join("\n"),
    /device "a" is used by device "x" already/,
  );
  assert.match(faults({ a: ram, y: { mirror: ["a", "a"] } }).join("\n"), /device "a" stands here twice/);
});

test("ranges that overlap or leave their device are refused at their place", () => {
  const range = (start: string, size?: string) => ({
    device: "a",
    start,
    ...(size === undefined ? {} : { size }),
  });
  assert.match(
    faults({ a: ram, x: { linear: [range("0", "8KiB"), range("4KiB", "8KiB")] } })[0] ?? "",
    /linear\[1\]: overlaps/,
  );
  assert.match(faults({ a: ram, x: { linear: [range("0"), range("4KiB", "8KiB")] } })[0] ?? "", /overlaps/);
  assert.deepEqual(faults({ a: ram, x: { linear: [range("0", "4KiB"), range("4KiB")] } }), []);
  assert.deepEqual(faults({ a: ram, x: { linear: [range("8KiB"), range("0", "8KiB")] } }), []);
  assert.match(faults({ a: ram, x: { linear: [range("1MiB")] } })[0] ?? "", /beyond the end of device "a"/);
  assert.match(faults({ a: ram, x: { linear: [range("0", "2MiB")] } })[0] ?? "", /beyond the end/);
  assert.match(faults({ a: ram, x: { linear: [range("512")] } })[0] ?? "", /not a multiple of 4KiB/);
});

test("parts with different block sizes are refused", () => {
  assert.match(
    faults({ a: ram, b: { ram: "1MiB", block_size: 512 }, m: { mirror: ["a", "b"] } })[0] ?? "",
    /"b" has blocks of 512 bytes, "a" of 4096/,
  );
});

test("a fault in a volume is reported with its line", () => {
  const text = "version: 1\ndevices:\n  a: { ram: 1MiB }\n  m:\n    mirror: [a, bb]\n  b: { ram: 1MiB }\n";
  assert.throws(
    () => parseSources([{ file: "k.yaml", text }], "n"),
    /k\.yaml:5:17 {2}devices\.m\.mirror\[1\]: there is no device "bb"\. Did you mean "b"\?/,
  );
  const kind = "version: 1\ndevices:\n  m: { miror: [a, b] }\n";
  assert.throws(() => parseSources([{ file: "k.yaml", text: kind }], "n"), /Did you mean "mirror"\?/);
});

test("legs come and go without taking the mirror away", () => {
  const three = { a: ram, b: ram, c: ram };
  const before = stateOf({ ...three, safe: { mirror: ["a", "b"] } }, ["safe"]);
  const added = stateOf({ ...three, safe: { mirror: ["a", "b", "c"] } }, ["safe"]);
  assert.deepEqual(change(before, added), ["~ device safe add leg c"]);
  assert.deepEqual(change(added, before), ["~ device safe remove leg c"]);
  const { c: _c, ...two } = three;
  assert.deepEqual(change(added, stateOf({ ...two, safe: { mirror: ["a", "b"] } }, ["safe"])), [
    "~ device safe remove leg c",
    "- device c ram 1MiB",
  ]);
  const { a: _a, ...others } = three;
  assert.deepEqual(change(before, stateOf({ ...others, safe: { mirror: ["c", "b"] } }, ["safe"])), [
    "~ device safe add leg c",
    "~ device safe remove leg a",
    "- device a ram 1MiB",
  ]);
  assert.deepEqual(change(before, stateOf({ ...three, safe: { mirror: ["c", "b"] } }, ["safe"])), [
    "~ device safe replace leg a c",
  ]);
  assert.deepEqual(
    change(before, stateOf({ ...three, safe: { mirror: ["a", "b"], resync_rate: "1MiB" } }, ["safe"])),
    ["~ device safe set rate 1048576"],
  );
});

test("a leg is replaced in one change: the new one is taken first, unless it needs what the old one has", () => {
  const file = (path: string) => ({ file: path, size: "1MiB" });
  const before = stateOf({ a: file("/a"), b: ram, safe: { mirror: ["a", "b"] } }, ["safe"]);
  const legs = (devices: Record<string, unknown>) =>
    change(before, stateOf({ ...devices, b: ram, safe: { mirror: ["c", "b"] } }, ["safe"])).map((line) =>
      line.split(" ").slice(0, 5).join(" "),
    );
  assert.deepEqual(legs({ c: file("/c") }), [
    "+ device c file /c",
    "~ device safe add leg",
    "~ device safe remove leg",
    "- device a file /a",
  ]);
  const renamed = [
    "~ device safe remove leg",
    "+ device c file /a",
    "~ device safe add leg",
    "- device a file /a",
  ];
  assert.deepEqual(legs({ c: file("/a") }).toSorted(), renamed.toSorted());
  assert.equal(legs({ c: file("/a") })[0], "~ device safe remove leg");
  assert.equal(legs({ c: { delay: "d" }, d: file("/a") })[0], "~ device safe remove leg");
});

test("a leg of a mirror does not shrink, also one that stands on others, and the mirror grows with all of them", () => {
  const before = stateOf({ a: ram, b: ram, c: { delay: "b" }, d: ram, safe: { mirror: ["a", "c"] } }, [
    "safe",
  ]);
  const sized = (size: string, ...names: string[]): State => {
    const others = Object.fromEntries(names.map((name) => [name, { ram: size }]));
    const devices = { a: ram, b: ram, c: { delay: "b" }, d: ram, ...others };
    return stateOf({ ...devices, safe: { mirror: ["a", "c"] } }, ["safe"]);
  };
  const shrunk = (name: string): ReturnType<typeof mirrorOfShrunk> =>
    mirrorOfShrunk(diff(before, sized("64KiB", name)), before);
  assert.deepEqual(shrunk("a"), { leg: "a", mirror: "safe" });
  assert.deepEqual(shrunk("b"), { leg: "b", mirror: "safe" });
  assert.equal(shrunk("d"), null);
  const grown = (...names: string[]): string[] => {
    const after = sized("2MiB", ...names);
    assert.equal(mirrorOfShrunk(diff(before, after), before), null);
    return mirrorsOfGrown(diff(before, after), after);
  };
  assert.deepEqual(grown("a", "b"), ["safe"]);
  assert.deepEqual(grown("a"), []);
  assert.deepEqual(grown("d"), []);
});

test("a leg that is set free can be used elsewhere in the same change", () => {
  const before = stateOf({ a: ram, b: ram, safe: { mirror: ["a", "b"] } }, ["safe"]);
  const after = stateOf({ a: ram, b: ram, safe: { mirror: ["a"] }, x: { delay: "b" } }, ["safe", "x"]);
  assert.deepEqual(change(before, after), [
    "~ device safe remove leg b",
    "+ device x delay b",
    "+ namespace s/2 device x",
  ]);
});

test("a linear volume grows at its end and is made anew otherwise", () => {
  const two = { a: ram, b: ram };
  const before = stateOf({ ...two, big: { linear: ["a"] } }, ["big"]);
  const grown = stateOf({ ...two, big: { linear: ["a", "b"] } }, ["big"]);
  assert.deepEqual(change(before, grown), ["~ device big grow b 0 0"]);
  assert.deepEqual(
    diff(before, stateOf({ ...two, big: { linear: ["b", "a"] } }, ["big"])).map(({ type }) => type),
    ["remove-namespace", "remove-device", "add-device", "add-namespace"],
  );
});

test("how a remote namespace is reached changes under whoever uses it; another namespace is another device", () => {
  const before = stateOf({ far }, ["far"]);
  const moved = stateOf({ far: { ...far, "nvme-tcp": "10.0.0.10:4420", queues: 4 } }, ["far"]);
  assert.deepEqual(
    diff(before, moved).map(({ type }) => type),
    ["replace-device"],
  );
  const other = stateOf({ far: { ...far, nsid: 2 } }, ["far"]);
  assert.deepEqual(
    diff(before, other).map(({ type }) => type),
    ["remove-namespace", "remove-device", "add-device", "add-namespace"],
  );
  assert.deepEqual(
    diff(before, other, new Set(["far"])).map(({ type }) => type),
    ["replace-device"],
  );
});

test("suspending and going on are one step each", () => {
  const before = stateOf({ a: ram }, ["a"]);
  const after = stateOf({ a: { ...ram, suspended: true } }, ["a"]);
  assert.deepEqual(change(before, after), ["~ device a suspended"]);
  assert.deepEqual(change(after, before), ["~ device a resumed"]);
});

const copying = { migration: { source: ram, destination: { file: "/d", size: "1MiB" }, rate: "10MiB" } };

test("copying to another place begins, ends and is called off without taking the device away", () => {
  const before = stateOf({ a: ram }, ["a"]);
  const during = stateOf({ a: copying }, ["a"]);
  const after = stateOf({ a: { file: "/d", size: "1MiB" } }, ["a"]);
  assert.deepEqual(
    diff(before, during).map(({ type }) => type),
    ["begin-migration"],
  );
  assert.deepEqual(change(during, after), ["~ device a is file /d 1MiB"]);
  assert.deepEqual(change(during, before), ["~ device a stays ram 1MiB"]);
});

test("after a restart a device that is being copied is three", () => {
  const steps = diff(emptyState, stateOf({ a: copying }, ["a"]));
  const made = steps.flatMap((step) => (step.type === "add-device" ? [step.device] : []));
  assert.deepEqual(
    made.map(({ name, kind, memoryName }) => [name, kind, memoryName]),
    [
      ["a@source", "ram", "a"],
      ["a@destination", "file", null],
      ["a", "migration", null],
    ],
  );
});

const mediumOf = (state: State, name: string): DeviceWanted => deviceOf(state, name);

test("what is known of a medium is found again under another name and address, and forgotten with it", () => {
  const state = stateOf({ far });
  const facts = { sizeBytes: 1n << 40n, blockBytes: 4096, identity: "uuid.1" };
  const media = remembered({}, state.devices, new Map([["far", facts]]));
  const renamed = stateOf({ away: { ...far, "nvme-tcp": "10.0.0.11:4420" } });
  assert.deepEqual(knownFacts(media, mediumOf(renamed, "away")), facts);
  assert.equal(knownFacts(media, mediumOf(stateOf({ far: { ...far, nsid: 2 } }), "far")), null);
  assert.equal(remembered(media, renamed.devices, new Map()), media);
  assert.deepEqual(remembered(media, [], new Map()), {});
  assert.deepEqual(parseMedia(formatMedia(media)), media);
  assert.equal(parseMedia({ version: 1, media: { x: { sizeBytes: "-1" } } }), null);
});

test("a change that needs a remote device waits for it", async () => {
  const engine = new FakeEngine();
  const reconciler = new Reconciler(engine, quiet);
  const done = reconciler.strict(stateOf({ far }, ["far"]), { readyMs: 20_000 });
  const poll = setInterval(() => {
    const device = engine.devices.get("far");
    if (device === undefined) return;
    device.sizeBytes = 1n << 30n;
    reconciler.deviceChanged();
  }, 5);
  await done;
  clearInterval(poll);
  assert.deepEqual(engine.take().slice(0, 1), ["addDevice far nvme 0"]);
});

test("a remote device that does not come in time is refused with the engine's reason, and nothing stays", async () => {
  const engine = new FakeEngine();
  const reconciler = new Reconciler(engine, quiet);
  const before = stateOf({ a: ram }, ["a"]);
  await reconciler.strict(before, { readyMs: 0 });
  engine.take();
  await assert.rejects(
    reconciler.strict(stateOf({ a: ram, far }, ["a", "far"]), { readyMs: 30 }),
    (error: unknown) => {
      assert.ok(error instanceof KeelError);
      assert.equal(error.code, "E_UNREACHABLE");
      assert.match(error.message, /devices\.far: not there within 0\.03 s \(ok\)/);
      return true;
    },
  );
  assert.deepEqual(engine.take(), ["addDevice far nvme 0", "removeDevice far"]);
  assert.deepEqual(reconciler.actual, before);
});

test("a foreign medium is refused at once", async () => {
  const engine = new FakeEngine();
  const { made } = { made: engine.addDevice };
  engine.addDevice = async (spec) => {
    const status = await made(spec);
    Object.assign(status, { state: "foreign", reason: "uuid.2 instead of uuid.1" });
    return status;
  };
  const reconciler = new Reconciler(engine, quiet);
  await assert.rejects(
    reconciler.strict(stateOf({ far }), { readyMs: 20_000 }),
    /uuid\.2 instead of uuid\.1/,
  );
  assert.deepEqual(reconciler.actual.devices, []);
});

test("at a start nothing waits for a remote device, and a namespace over it is tried again", async () => {
  const engine = new FakeEngine();
  const reconciler = new Reconciler(engine, quiet);
  engine.failures = [{ match: /^addNamespace/, code: "E_NOT_READY", message: "the size is not known yet" }];
  const wanted = stateOf({ a: ram, far }, ["far"]);
  await reconciler.lenient(wanted);
  assert.equal(reconciler.actual.devices.length, 2);
  // A change elsewhere goes through meanwhile.
  const changed = stateOf({ far }, ["far"]);
  await reconciler.strict(changed, { readyMs: 50 });
  assert.deepEqual(
    reconciler.actual.devices.map(({ name }) => name),
    ["far"],
  );
  engine.failures = [];
  assert.deepEqual(
    (await reconciler.lenient(changed)).map(({ type }) => type),
    ["add-namespace"],
  );
});

test("known facts are given back with the device", async () => {
  const engine = new FakeEngine();
  const facts = { sizeBytes: 1n << 20n, blockBytes: 512, identity: "uuid.1" };
  const reconciler = new Reconciler(engine, quiet, () => facts);
  await reconciler.lenient(stateOf({ far }, ["far"]));
  assert.deepEqual(engine.specs.get("far")?.known, facts);
});

test("DST's command forms build the same volumes", () => {
  const raw: JsonObject = { version: 1 };
  const remote = (address: string) => ({ address, port: 4420, nqn: null, nsid: null });
  const whole = { start: null, size: null };
  assert.equal(addNode(raw, "storage", "alg_mirror", remote("10.0.0.1"), whole), "storage-0");
  assert.equal(
    addNode(raw, "storage", null, { path: "/dev/sdb", kind: "blockdev", size: null }, whole),
    "storage-1",
  );
  startStorage(raw, "storage", []);
  const nqn = "nqn.2026-11.example.keel:dst:storage";
  assert.deepEqual(raw, {
    version: 1,
    devices: {
      "storage-0": { "nvme-tcp": "10.0.0.1:4420", nqn },
      "storage-1": { blockdev: "/dev/sdb" },
      storage: { mirror: ["storage-0", "storage-1"] },
    },
    subsystems: { storage: { nqn, namespaces: [{ id: 1, device: "storage" }], hosts: "any" } },
  });
  parseDocument(raw, "n");
  removeNode(raw, "storage", remote("10.0.0.1"));
  assert.deepEqual((raw["devices"] as JsonObject)["storage"], { mirror: ["storage-1"] });
  assert.throws(() => removeNode(raw, "storage", remote("10.0.0.7")), /no such node/);
  removeStorage(raw, "storage");
  assert.deepEqual(raw["devices"], {});
});

test("a node of a linear storage is not taken away: it holds a part of the content", () => {
  const raw: JsonObject = { version: 1 };
  const disk = (path: string) => ({ path, kind: "file" as const, size: null });
  addNode(raw, "s", "alg_linear", disk("/a"), { start: "4KiB", size: "8KiB" });
  addNode(raw, "s", null, disk("/b"), { start: null, size: null });
  const storage = (raw["devices"] as JsonObject)["s"];
  assert.deepEqual(storage, { linear: [{ device: "s-0", start: "4KiB", size: "8KiB" }, "s-1"] });
  assert.throws(() => removeNode(raw, "s", disk("/b")), /holds a part/);
});
