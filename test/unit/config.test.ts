import assert from "node:assert/strict";
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { complete } from "../../dist/config/complete.js";
import { loadFile, parseSources } from "../../dist/config/load.js";
import { defaultPaths, nodeOfHost } from "../../dist/config/naming.js";
import { jsonSchema } from "../../dist/config/schema.js";
import { KeelError } from "../../dist/model/errors.js";
import type { Hex128 } from "../../dist/model/ids.js";
import { toJson } from "../../dist/model/json.js";
import type { Desired } from "../../dist/model/state.js";
import { makeRandom } from "./random.js";

const context = {
  node: "stor1",
  paths: { state: "/var/lib/keel", rpcSocket: "/run/keel/rpc.sock" },
  identities: {
    server: "0123456789abcdef0123456789abcdef" as Hex128,
    namespaces: {},
    serials: {},
    volumes: {},
  },
  firmware: "0.1.0",
};

const parse = (text: string) => parseSources([{ file: "keel.yaml", text }], "stor1");
const desired = (text: string): Desired => complete(parse(text).document, context);

/** The error's lines. */
function faults(text: string): { code: string; lines: string[] } {
  try {
    parse(text);
  } catch (thrown) {
    assert.ok(thrown instanceof KeelError);
    return { code: thrown.code, lines: thrown.message.split("\n") };
  }
  assert.fail("the configuration was accepted");
}

const full = `# comment
version: 1
node: stor1
listen:
  - nvme-tcp: 0.0.0.0:4420
    digests: required
    advertise: 10.0.0.5
  - nvme-tcp: 0.0.0.0:4421
  - discovery: "[::]:8009"
devices:
  fast0: { blockdev: /dev/disk/by-id/nvme-A }
  pg:    { file: /srv/pg.img, size: 10GiB, create: true, block_size: 512 }
  tmp:   { ram: 1GiB }
  zero:  { null: 1TiB }
  slow:  { delay: tmp, read: 5ms, write: 10ms }
  bad:   { error: zero, on: [read], status: medium_error, offset: 1MiB, length: 4KiB, count: 3 }
subsystems:
  pg:
    namespaces: [{ id: 1, device: pg }, { id: 2, device: slow, read_only: true }]
    hosts: ["nqn.2014-08.org.nvmexpress:uuid:7c1e6a1e-0000-4000-8000-000000000001"]
  open:
    nqn: nqn.2026-11.com.example:open
    serial: S1
    model: Disk
    namespaces: [{ id: 7, device: bad, uuid: 7c1e6a1e-0000-4000-8000-000000000002, nguid: 0123456789abcdef0123456789abcdef }]
    hosts: any
referrals: [{ address: "10.0.0.9:8009" }]
limits: { connections: 100, memory: 64MiB, in_capsule: 16KiB, connect_timeout: 5s }
state: /srv/state
sockets: /srv/run
log: { level: debug }
http: { listen: 127.0.0.1:9850 }
`;

test("a full configuration is completed: nothing is left to decide", () => {
  const { settings, state, logLevel } = desired(full);
  assert.equal(logLevel, "debug");
  assert.equal(settings.rpcSocket, "/srv/run/rpc.sock");
  assert.equal(settings.stateDirectory, "/srv/state");
  assert.equal(settings.limits.connections, 100);
  assert.equal(settings.limits.connectionsPerHost, 100);
  assert.equal(settings.limits.memoryBytes, 64n << 20n);
  assert.equal(settings.limits.connectTimeoutMs, 5000);
  assert.deepEqual(settings.httpListen, { address: "127.0.0.1", family: "ipv4", port: 9850 });
  assert.deepEqual(
    state.listeners.map(({ id, digests }) => [id, digests]),
    [
      ["discovery [::]:8009", "optional"],
      ["nvme-tcp 0.0.0.0:4420", "required"],
      ["nvme-tcp 0.0.0.0:4421", "optional"],
    ],
  );

  const names = state.devices.map(({ name }) => name);
  assert.ok(names.indexOf("tmp") < names.indexOf("slow"), "what others stand on comes first");
  assert.ok(names.indexOf("zero") < names.indexOf("bad"));
  const device = (name: string) => state.devices.find((one) => one.name === name);
  assert.equal(device("fast0")?.blockBytes, 0);
  assert.deepEqual(
    [device("pg")?.sizeBytes, device("pg")?.blockBytes, device("pg")?.create],
    [10n << 30n, 512, true],
  );
  assert.deepEqual(
    [device("slow")?.readDelayUs, device("slow")?.writeDelayUs, device("slow")?.flushDelayUs],
    [5000, 10000, 0],
  );
  assert.deepEqual(device("bad")?.errorActions, ["read"]);
  assert.equal(device("bad")?.errorCount, 3n);

  const [open, pg] = state.subsystems;
  assert.equal(pg?.nqn, "nqn.2026-11.example.keel:stor1:pg");
  assert.equal(open?.nqn, "nqn.2026-11.com.example:open");
  assert.deepEqual([open?.serial, open?.model, open?.allowAnyHost], ["S1", "Disk", true]);
  assert.equal(open?.namespaces[0]?.uuid, "7c1e6a1e000040008000000000000002");
  assert.equal(pg?.allowAnyHost, false);
  assert.match(pg?.serial ?? "", /^EK/);
  assert.equal(pg?.namespaces[1]?.readOnly, true);
  assert.deepEqual(state.referrals, [
    {
      address: "10.0.0.9",
      family: "ipv4",
      port: 8009,
      portId: 1,
      nqn: "nqn.2014-08.org.nvmexpress.discovery",
    },
  ]);
});

test("the smallest configuration listens on the usual ports and admits nobody", () => {
  const { state, settings } = desired("version: 1\nsubsystems: { a: {} }\n");
  assert.deepEqual(
    state.listeners.map(({ port, discoveryOnly }) => [port, discoveryOnly]),
    [
      [8009, true],
      [4420, false],
    ],
  );
  assert.deepEqual([state.subsystems[0]?.allowAnyHost, state.subsystems[0]?.hosts], [false, []]);
  assert.equal(settings.rpcSocket, "/run/keel/rpc.sock");
});

test("JSON is accepted, because it is YAML", () => {
  const { raw } = parse(full);
  assert.equal(toJson(desired(JSON.stringify(raw))), toJson(desired(full)));
});

test("recorded identities win over derived ones", () => {
  const identities = {
    ...context.identities,
    namespaces: { "nqn.2026-11.example.keel:stor1:a 1": { uuid: "1".repeat(32), nguid: "2".repeat(32) } },
    serials: { "nqn.2026-11.example.keel:stor1:a": "OLD" },
  };
  const { document } = parse(
    "version: 1\ndevices: {d: {ram: 1MiB}}\nsubsystems: {a: {namespaces: [{id: 1, device: d}]}}",
  );
  const [subsystem] = complete(document, { ...context, identities }).state.subsystems;
  assert.equal(subsystem?.serial, "OLD");
  assert.equal(subsystem?.namespaces[0]?.uuid, "1".repeat(32));
});

/** Each class of error: the text, the code, and the line that people see. */
const classes: [string, string, string, string][] = [
  ["bad indentation", "version: 1\nlisten:\n  - a: 1\n   b: 2\n", "E_CONFIG_SYNTAX", "keel.yaml:4:"],
  ["an open quote", 'version: 1\nnode: "stor\n', "E_CONFIG_SYNTAX", "keel.yaml:3:1  "],
  [
    "a key twice",
    "version: 1\nnode: a\nnode: b\n",
    "E_CONFIG_SYNTAX",
    'keel.yaml:3:1  the key "node" stands here twice',
  ],
  ["a tag", "version: 1\nnode: !!js/function x\n", "E_CONFIG_SYNTAX", "keel.yaml:2:"],
  ["two documents", "version: 1\n---\nversion: 1\n", "E_CONFIG_SYNTAX", "keel.yaml:"],
  [
    "a list at the top",
    "- version: 1\n",
    "E_CONFIG_VALUE",
    "keel.yaml:1:1  a configuration is a mapping (key: value)",
  ],
  ["no version", "node: a\n", "E_CONFIG_VERSION", "keel.yaml:1:1  version: missing; expected 1"],
  ["another version", "version: 2\n", "E_CONFIG_VERSION", "keel.yaml:1:10  version: 2 is not 1."],
  [
    "a version in quotes",
    "version: '1'\n",
    "E_CONFIG_VERSION",
    'keel.yaml:1:10  version: "1" is text, not 1: write it without quotes',
  ],
  [
    "a number in quotes",
    "version: 1\nlimits: { connections: '5' }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:2:24  limits.connections: "5" is not a number: write it without quotes',
  ],
  [
    "a device of nothing",
    "version: 1\ndevices: { d: { ram: 0 } }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:2:22  devices.d.ram: 0 bytes are no device: it has at least one block of 4096",
  ],
  [
    "an unknown key",
    "version: 1\nsubsytems: {}\n",
    "E_CONFIG_KEY",
    'keel.yaml:2:1  subsytems: there is no such key. Did you mean "subsystems"?',
  ],
  [
    "an unknown key deep down",
    "version: 1\nlimits:\n  conections: 5\n",
    "E_CONFIG_KEY",
    'keel.yaml:3:3  limits.conections: there is no such key. Did you mean "connections"?',
  ],
  [
    "an unknown key of a device",
    "version: 1\ndevices:\n  d: { ram: 1MiB, sise: 2 }\n",
    "E_CONFIG_KEY",
    "keel.yaml:3:19  devices.d.sise: there is no such key. Allowed here: ram, block_size, read_only",
  ],
  [
    "an unknown device kind",
    "version: 1\ndevices:\n  d: { blokdev: /dev/sda }\n",
    "E_CONFIG_KEY",
    'keel.yaml:3:8  devices.d.blokdev: "blokdev" is not a device kind. Did you mean "blockdev"?',
  ],
  [
    "a device of two kinds",
    "version: 1\ndevices:\n  d: { ram: 1MiB, file: /x }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:3:6  devices.d: has two kinds, ram and file; one is allowed",
  ],
  [
    "a device without kind",
    "version: 1\ndevices:\n  d: {}\n",
    "E_CONFIG_VALUE",
    "keel.yaml:3:6  devices.d: is empty; it needs a device kind: ram, file, blockdev, null, delay, error",
  ],
  [
    "a wrong listener",
    "version: 1\nlisten:\n  - nvme-tpc: 0.0.0.0:4420\n",
    "E_CONFIG_KEY",
    'keel.yaml:3:5  listen[0].nvme-tpc: "nvme-tpc" is not a kind of listener. Did you mean "nvme-tcp"?',
  ],
  [
    "a bad size",
    "version: 1\ndevices:\n  d:\n    ram: 10 gallons\n",
    "E_CONFIG_VALUE",
    'keel.yaml:4:10  devices.d.ram: "10 gallons" is not a size such as 10GiB, 512MiB or a number of bytes',
  ],
  [
    "a size that is no multiple",
    "version: 1\ndevices:\n  d: { ram: 1000 }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:3:13  devices.d.ram: 1000 bytes is not a multiple of the block size 4096",
  ],
  [
    "a bad endpoint",
    "version: 1\nlisten:\n  - nvme-tcp: stor1:4420\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:15  listen[0].nvme-tcp: "stor1:4420" is not ADDRESS:PORT',
  ],
  [
    "a wrong type",
    "version: 1\nlimits:\n  connections: many\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:16  limits.connections: "many" is not a number',
  ],
  [
    "out of range",
    "version: 1\nlimits:\n  connections: 0\n",
    "E_CONFIG_VALUE",
    "keel.yaml:3:16  limits.connections: 0 is not at least 1",
  ],
  [
    "a wrong word",
    "version: 1\nlog:\n  level: debgu\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:10  log.level: "debgu" is not one of debug, info, warn, error. Did you mean "debug"?',
  ],
  [
    "a relative path",
    "version: 1\nstate: var/lib\n",
    "E_CONFIG_VALUE",
    'keel.yaml:2:8  state: "var/lib" is not an absolute path',
  ],
  [
    "a bad NQN",
    "version: 1\nsubsystems:\n  a: { nqn: iqn.2020-01.x }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:13  subsystems.a.nqn: "iqn.2020-01.x" is not an NVMe qualified name',
  ],
  [
    "a bad host",
    "version: 1\nsubsystems:\n  a: { hosts: [somebody] }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:16  subsystems.a.hosts[0]: "somebody" is not an NVMe qualified name',
  ],
  [
    "hosts of a wrong kind",
    "version: 1\nsubsystems:\n  a: { hosts: all }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:15  subsystems.a.hosts: "all": expected "any" or a list of host NQNs',
  ],
  [
    "a bad name",
    "version: 1\ndevices:\n  a/b: { ram: 1MiB }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:3:3  devices."a/b": "a/b" is not a name',
  ],
  [
    "a device that is not there",
    "version: 1\ndevices: { disk: { ram: 1MiB } }\nsubsystems:\n  a: { namespaces: [{ id: 1, device: dsik }] }\n",
    "E_CONFIG_REFERENCE",
    'keel.yaml:4:38  subsystems.a.namespaces[0].device: there is no device "dsik". Did you mean "disk"?',
  ],
  [
    "a base that is not there",
    "version: 1\ndevices:\n  d: { delay: nothing }\n",
    "E_CONFIG_REFERENCE",
    'keel.yaml:3:15  devices.d.delay: there is no device "nothing".',
  ],
  [
    "a circle",
    "version: 1\ndevices:\n  a: { delay: b }\n  b: { delay: a }\n",
    "E_CONFIG_REFERENCE",
    "keel.yaml:3:15  devices.a.delay: devices stack in a circle: a → b → a",
  ],
  [
    "a device with two owners",
    "version: 1\ndevices: { d: { ram: 1MiB } }\nsubsystems:\n  a: { namespaces: [{ id: 1, device: d }] }\n  b: { namespaces: [{ id: 1, device: d }] }\n",
    "E_CONFIG_REFERENCE",
    'keel.yaml:5:38  subsystems.b.namespaces[0].device: device "d" is used by subsystem "a" namespace 1 already; one owner alone may write',
  ],
  [
    "a namespace twice",
    "version: 1\ndevices: { d: { ram: 1MiB }, e: { ram: 1MiB } }\nsubsystems:\n  a: { namespaces: [{ id: 1, device: d }, { id: 1, device: e }] }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:4:49  subsystems.a.namespaces[1].id: namespace 1 exists twice",
  ],
  [
    "an NQN twice",
    "version: 1\nsubsystems:\n  a: { nqn: nqn.2026-11.x:y }\n  b: { nqn: nqn.2026-11.x:y }\n",
    "E_CONFIG_VALUE",
    'keel.yaml:4:13  subsystems.b.nqn: subsystem "a" has the NQN nqn.2026-11.x:y already',
  ],
  [
    "the discovery NQN",
    "version: 1\nsubsystems:\n  a: { nqn: nqn.2014-08.org.nvmexpress.discovery }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:3:13  subsystems.a.nqn: this NQN belongs to discovery",
  ],
  [
    "a listener twice",
    "version: 1\nlisten:\n  - nvme-tcp: 0.0.0.0:4420\n  - discovery: 0.0.0.0:4420\n",
    "E_CONFIG_VALUE",
    "keel.yaml:4:16  listen[1].discovery: 0.0.0.0:4420 stands here twice",
  ],
  [
    "memory out of range",
    "version: 1\nlimits: { memory: 1MiB }\n",
    "E_CONFIG_VALUE",
    "keel.yaml:2:19  limits.memory: is not between 4MiB and 1TiB",
  ],
];

for (const [what, text, code, line] of classes) {
  test(`refused with its place: ${what}`, () => {
    const found = faults(text);
    assert.equal(found.code, code, found.lines.join("\n"));
    assert.ok(found.lines[0]?.startsWith(line), found.lines.join("\n"));
  });
}

test("every fault is named, in the order of the file", () => {
  const { lines } = faults(
    "version: 1\nnoed: x\ndevices:\n  d: { ram: nonsense }\n  e: { flie: /x }\nlimits: { connections: -1 }\n",
  );
  assert.deepEqual(
    lines.map((line) => line.split("  ")[0]),
    ["keel.yaml:2:1", "keel.yaml:4:13", "keel.yaml:5:8", "keel.yaml:6:24"],
  );
});

test("the key null is a device kind, not a null", () => {
  assert.equal(desired("version: 1\ndevices: { z: { null: 1GiB } }").state.devices[0]?.kind, "null");
});

test("a device that nobody writes may be exported twice", () => {
  const { state } = desired(
    "version: 1\ndevices: { d: { file: /x, read_only: true } }\nsubsystems:\n  a: { namespaces: [{ id: 1, device: d }] }\n  b: { namespaces: [{ id: 1, device: d }] }\n",
  );
  assert.equal(state.subsystems.length, 2);
});

test("aliases work and cannot blow up", () => {
  const anchors = desired("version: 1\ndevices: { a: &disk { ram: 1MiB }, b: *disk }");
  assert.equal(anchors.state.devices.length, 2);
  const levels = Array.from(
    { length: 12 },
    (_, index) => `  l${index + 1}: &l${index + 1} [${Array(9).fill(`*l${index}`).join(", ")}]`,
  );
  const bomb = `version: 1\ndevices:\n  l0: &l0 [x, x, x, x, x, x, x, x, x]\n${levels.join("\n")}\n`;
  const started = Date.now();
  assert.equal(faults(bomb).code, "E_CONFIG_SYNTAX");
  assert.ok(Date.now() - started < 5000);
});

test("brackets without end are refused in plain words", () => {
  for (const levels of [70, 100_000]) {
    const { code, lines } = faults(`version: 1\nnode: ${"[".repeat(levels)}${"]".repeat(levels)}\n`);
    assert.equal(code, "E_CONFIG_SYNTAX");
    assert.match(lines.join(), /nested deeper than 64 levels/);
  }
});

test("a mapping that contains itself is refused", () => {
  assert.equal(faults("version: 1\ndevices: &d\n  a: *d\n").code, "E_CONFIG_SYNTAX");
});

test("files of conf.d are joined, and what is said twice names both places", () => {
  const directory = mkdtempSync(join(tmpdir(), "keel-config-"));
  try {
    const main = join(directory, "keel.yaml");
    mkdirSync(join(directory, "conf.d"));
    writeFileSync(main, "version: 1\nlisten: [{ nvme-tcp: 0.0.0.0:4420 }]\ndevices: { a: { ram: 1MiB } }\n");
    writeFileSync(
      join(directory, "conf.d/10-b.yaml"),
      "devices: { b: { ram: 2MiB } }\nlisten: [{ discovery: 0.0.0.0:8009 }]\n",
    );
    writeFileSync(join(directory, "conf.d/ignored.txt"), "nonsense: [");
    const { state } = complete(loadFile(main, "stor1").document, context);
    assert.deepEqual(
      state.devices.map(({ name }) => name),
      ["a", "b"],
    );
    assert.equal(state.listeners.length, 2);

    writeFileSync(join(directory, "conf.d/20-c.yaml"), "listen: [{ discovery: nonsense }]\n");
    assert.throws(
      () => loadFile(main, "stor1"),
      (error: unknown) => {
        assert.ok(error instanceof KeelError);
        assert.match(error.message, /conf\.d\/20-c\.yaml:1:23 {2}listen\[2\]\.discovery: "nonsense"/);
        return true;
      },
    );
    writeFileSync(join(directory, "conf.d/20-c.yaml"), "devices:\n  a: { ram: 4MiB }\n");
    assert.throws(
      () => loadFile(main, "stor1"),
      /20-c\.yaml:2:3 {2}devices\.a: is given twice; it stands in .*keel\.yaml:3 already/,
    );
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("a configuration file that cannot be read says which and why", () => {
  assert.throws(
    () => loadFile("/nonexistent/keel.yaml", "stor1"),
    /cannot read \/nonexistent\/keel\.yaml \(ENOENT\)/,
  );
  assert.throws(
    () => loadFile("/", "stor1"),
    (error: unknown) => error instanceof KeelError && error.code === "E_CONFIG_READ",
  );
  // It has no end, and says that it has no bytes.
  assert.throws(() => loadFile("/dev/zero", "stor1"), /\/dev\/zero is larger than 4 MiB/);
});

test("no text makes the parser fail in another way than with its own error", () => {
  const random = makeRandom();
  const pieces = [
    "version: 1\n",
    "devices:",
    "{",
    "}",
    "[",
    "]",
    ": ",
    "- ",
    "\n",
    "  ",
    "&a ",
    "*a",
    "!!x ",
    "null",
    "ram",
    "'",
    '"',
    "|\n",
    ">",
    "---\n",
    "...",
    "#",
    "?",
    "\u0000",
    "\ufeff",
    "\t",
    "%",
    "@",
    "__proto__",
    "constructor",
    "1e999",
    "0x",
    ".inf",
    "<<",
    "subsystems",
    "hosts",
    "any",
    "listen",
    "nvme-tcp",
  ];
  for (let round = 0; round < 3000; round += 1) {
    const text = Array.from({ length: random.below(30) }, () => random.pick(pieces)).join("");
    try {
      parse(text);
    } catch (thrown) {
      assert.ok(
        thrown instanceof KeelError,
        `seed ${random.seed} round ${round}: ${String(thrown)}\n${JSON.stringify(text)}`,
      );
      assert.notEqual(thrown.code, "E_INTERNAL", JSON.stringify(text));
    }
  }
});

test("a mutated configuration is accepted or refused with a place", () => {
  const random = makeRandom();
  for (let round = 0; round < 2000; round += 1) {
    const bytes = [...full];
    for (let count = 1 + random.below(4); count > 0; count -= 1) {
      bytes.splice(random.below(bytes.length), random.below(3), random.pick([...full]));
    }
    try {
      complete(parse(bytes.join("")).document, context);
    } catch (thrown) {
      assert.ok(thrown instanceof KeelError, `seed ${random.seed}: ${String(thrown)}`);
      assert.match(thrown.message, /^keel\.yaml:\d+:\d+ {2}/, `seed ${random.seed}`);
    }
  }
});

test("the published JSON Schema is the one that the code checks by", () => {
  const published = JSON.parse(
    readFileSync(new URL("../../schema/keel.schema.json", import.meta.url), "utf8"),
  ) as unknown;
  assert.deepEqual(
    published,
    JSON.parse(JSON.stringify(jsonSchema())),
    "remedy: node dist/cli/main.js schema > schema/keel.schema.json",
  );
});

test("paths default to the system's for root and to the user's own otherwise", () => {
  assert.deepEqual(defaultPaths({ root: true, runtimeDir: "/run/user/0", stateHome: null, home: "/root" }), {
    state: "/var/lib/keel",
    rpcSocket: "/run/keel/rpc.sock",
  });
  assert.deepEqual(
    defaultPaths({ root: false, runtimeDir: "/run/user/7", stateHome: null, home: "/home/a" }),
    {
      state: "/home/a/.local/state/keel",
      rpcSocket: "/run/user/7/keel/rpc.sock",
    },
  );
  assert.equal(nodeOfHost("Stor-1.example.com"), "Stor-1");
  assert.equal(nodeOfHost("..."), "keel");
});
