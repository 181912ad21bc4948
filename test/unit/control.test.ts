import assert from "node:assert/strict";
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { completeSettings } from "../../dist/config/complete.js";
import { addDevice, addHost, getPath, setPath, share, unshare } from "../../dist/config/edit.js";
import { parseDocument } from "../../dist/config/load.js";
import { admit } from "../../dist/control/admission.js";
import { withDeadline } from "../../dist/control/deadline.js";
import { DurableDirectory } from "../../dist/control/durable-directory.js";
import { goOn } from "../../dist/control/going-on.js";
import { Server } from "../../dist/control/server.js";
import { KeelError } from "../../dist/model/errors.js";
import type { JsonObject } from "../../dist/model/json.js";
import type { Takeover } from "../../dist/native/addon.js";
import { parseKept, preparedIn } from "../../dist/recovery/kept-configuration.js";
import { type Prepared, stillHolds } from "../../dist/recovery/prepared.js";
import { FakeEngine } from "./fake-engine.js";

const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

type Bench = { engine: FakeEngine; server: Server; directory: DurableDirectory; path: string };

/** A directory for one test, and servers on it one after the other. */
async function withDirectory(work: (path: string) => Promise<void>): Promise<void> {
  const path = mkdtempSync(join(tmpdir(), "keel-control-"));
  try {
    await work(path);
  } finally {
    rmSync(path, { recursive: true, force: true });
  }
}

async function startServer(
  path: string,
  raw: JsonObject,
  prepare: (engine: FakeEngine) => void = () => undefined,
  takeover?: Takeover,
  prepared: Prepared | null = null,
): Promise<Bench> {
  const engine = new FakeEngine();
  prepare(engine);
  const directory = await DurableDirectory.open(path);
  const context = { node: "n", paths: { state: path, rpcSocket: "/r" }, firmware: "0.1.0" };
  const file = parseDocument({ version: 1, listen: [], ...raw }, "n");
  const parts = {
    engine,
    directory,
    log: quiet,
    context,
    version: "0",
    build: "b",
    settings: completeSettings(file.document, "n", context.paths),
    layout: file.raw,
    configFile: null,
    setLogLevel: () => undefined,
  };
  const gone =
    prepared !== null && stillHolds(prepared, directory.changes)
      ? await goOn(engine, directory, prepared.state, quiet)
      : null;
  const server = new Server(parts, file, gone);
  try {
    engine.start((event) => server.onEvent(event));
    await server.start(takeover ?? (await engine.takeOver()));
  } catch (thrown) {
    await directory.close();
    throw thrown;
  }
  return { engine, server, directory, path };
}

async function end({ server, directory }: Bench): Promise<void> {
  await server.stop();
  await directory.close();
}

const plain = { dryRun: false, allowDataLoss: false };
const nqn = (name: string) => `nqn.2026-11.example.keel:n:${name}`;
const oneShare: JsonObject = {
  devices: { d: { file: "/d" } },
  subsystems: { s: { namespaces: [{ id: 1, device: "d" }], hosts: "any" } },
};

test("start-up tells hosts to wait until everything is there", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, { ...oneShare, listen: [{ "nvme-tcp": "127.0.0.1:4420" }] });
    assert.deepEqual(bench.engine.take(), [
      "start",
      "setLoading true",
      "addDevice d file 0",
      `addSubsystem ${nqn("s")} any`,
      `addNamespace ${nqn("s")} 1 d`,
      "addListener nvme-tcp 127.0.0.1:4420",
      "adopt",
      "setLoading false",
    ]);
    await end(bench);
  });
});

test("a change is carried out, recorded, and there again after a restart", async () => {
  await withDirectory(async (path) => {
    const first = await startServer(path, {});
    await first.server.change((raw) => share(raw, "new", { file: "/new" }, ["any"], false), plain);
    assert.deepEqual(first.engine.take().slice(4), [
      "addDevice new file 0",
      `addSubsystem ${nqn("new")} any`,
      `addNamespace ${nqn("new")} 1 new`,
    ]);
    await end(first);
    const second = await startServer(path, {});
    assert.ok(second.engine.take().includes(`addNamespace ${nqn("new")} 1 new`));
    await second.server.change((raw) => unshare(raw, "n", "new"), plain);
    assert.deepEqual(second.engine.take(), [
      `removeNamespace ${nqn("new")} 1`,
      `removeSubsystem ${nqn("new")}`,
      "removeDevice new",
    ]);
    assert.deepEqual(second.directory.changes.changes, []);
    await end(second);
  });
});

test("a step that fails undoes what came before it, in reverse, and leaves no record", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, {});
    bench.engine.take();
    bench.engine.failures = [{ match: /^addNamespace/, code: "E_BUSY", message: "claimed by another" }];
    await assert.rejects(
      bench.server.change((raw) => share(raw, "x", { file: "/x" }, [], false), plain),
      (error: unknown) => {
        assert.ok(error instanceof KeelError);
        assert.equal(error.code, "E_BUSY");
        assert.equal(error.message, "subsystems.x.namespaces (id 1): claimed by another");
        return true;
      },
    );
    assert.deepEqual(bench.engine.take(), [
      "addDevice x file 0",
      `addSubsystem ${nqn("x")} `,
      `addNamespace ${nqn("x")} 1 x`,
      `removeSubsystem ${nqn("x")}`,
      "removeDevice x",
    ]);
    assert.deepEqual(bench.server.configuration, { version: 1, listen: [] });
    assert.deepEqual(bench.directory.changes, { changes: [], previous: null });
    await end(bench);
  });
});

test("an undo that fails says so, and the difference is mended later", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, {});
    bench.engine.failures = [
      { match: /^addNamespace/, code: "E_IO", message: "no" },
      { match: /^removeDevice/, code: "E_BUSY", message: "held" },
    ];
    await assert.rejects(
      bench.server.change((raw) => share(raw, "x", { file: "/x" }, [], false), plain),
      /undoing it failed at: devices\.x/,
    );
    bench.engine.failures = [];
    bench.engine.take();
    await bench.server.change((raw) => addDevice(raw, "y", { file: "/y" }), plain);
    assert.deepEqual(bench.engine.take(), ["removeDevice x", "addDevice y file 0"]);
    await end(bench);
  });
});

test("a change that would lose data is refused unless it is meant", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, { devices: { r: { ram: "1MiB" } } });
    bench.engine.take();
    const remove = (raw: JsonObject): JsonObject => ({ ...raw, devices: {} });
    await assert.rejects(
      bench.server.change(remove, plain),
      (error: unknown) => error instanceof KeelError && error.code === "E_DATA_LOSS" && error.exitCode === 6,
    );
    assert.deepEqual(bench.engine.take(), []);
    await bench.server.change(remove, { dryRun: false, allowDataLoss: true });
    assert.deepEqual(bench.engine.take(), ["removeDevice r"]);
    await end(bench);
  });
});

test("a mirror moves to another place, and what it was keeps its identity", async () => {
  await withDirectory(async (path) => {
    const devices = { a: { file: "/a" }, b: { file: "/b" }, m: { mirror: ["a", "b"] } };
    const bench = await startServer(path, { devices });
    const { volume } = bench.engine.specs.get("m")?.mirror ?? {};
    bench.engine.take();
    const spec = { file: "/c", size: "1MiB" };
    await bench.server.volumes.migrate("m", { spec }, null, { ...plain, dryRun: true });
    await bench.server.volumes.migrate("m", { spec }, null, plain);
    assert.deepEqual(
      bench.engine.take().filter((call) => call.startsWith("begin")),
      ["beginMigration m m@destination file 0"],
    );
    const kept = getPath(bench.server.configuration, "devices.m.migration.source.volume");
    assert.equal(String(kept).replaceAll("-", ""), volume);
    await end(bench);
  });
});

test("what a connected host uses is taken away by no kind of change, unless that is meant", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, oneShare);
    const host = { subsystem: nqn("s"), hostNqn: "nqn.2026-11.example:h" };
    bench.engine.controllers.push({ ...host } as (typeof bench.engine.controllers)[number]);
    bench.engine.take();
    const without = { version: 1, listen: [], devices: {}, subsystems: {} };
    const ways = [
      () => bench.server.apply(without, plain),
      () => bench.server.change((raw) => unshare(raw, "n", "s"), plain),
      () => bench.server.change((raw) => setPath(raw, "subsystems.s.serial", "X"), plain),
      () => bench.server.change((raw) => setPath(raw, "subsystems.s.namespaces", []), plain),
      () => bench.server.reload(() => parseDocument(without, "n")),
    ];
    for (const way of ways) await assert.rejects(way(), /1 connected host\(s\) use s/);
    assert.deepEqual(bench.engine.take(), []);
    assert.equal((await bench.server.apply(without, { ...plain, dryRun: true })).applied, false);
    await bench.server.apply(without, { dryRun: false, allowDataLoss: true });
    assert.ok(bench.engine.take().includes(`removeSubsystem ${nqn("s")}`));
    await end(bench);
  });
});

test("a dry run says the steps and touches nothing", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, {});
    bench.engine.take();
    const files = readdirSync(path).map((name) => [name, readFileSync(join(path, name), "utf8")]);
    const result = await bench.server.apply(
      { version: 1, ...oneShare },
      { dryRun: true, allowDataLoss: false },
    );
    assert.equal(result.applied, false);
    assert.equal(result.steps.length, 3 + 2, "the default listeners come with it");
    assert.deepEqual(bench.engine.take(), []);
    assert.deepEqual(
      readdirSync(path).map((name) => [name, readFileSync(join(path, name), "utf8")]),
      files,
    );
    await end(bench);
  });
});

test("apply names what only a restart can change", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, {});
    const result = await bench.server.apply(
      { version: 1, listen: [], limits: { connections: 7 }, http: { listen: "127.0.0.1:9" } },
      plain,
    );
    assert.deepEqual(result.needsRestart.sort(), [
      "httpListen",
      "limits.connections",
      "limits.connectionsPerHost",
    ]);
    await end(bench);
  });
});

test("changes wait for each other", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, oneShare);
    bench.engine.take();
    let release: () => void = () => undefined;
    const released = new Promise<void>((resolve) => {
      release = resolve;
    });
    bench.engine.stuck = { match: /^addDevice one/, release: released };
    const first = bench.server.change((raw) => addDevice(raw, "one", { file: "/1" }), plain);
    const second = bench.server.change((raw) => addDevice(raw, "two", { file: "/2" }), plain);
    const third = bench.server.change(
      (raw) => addHost({ ...raw, subsystems: { s: { hosts: [] } } }, "n", "s", "nqn.2026-11.x:h"),
      plain,
    );
    release();
    await Promise.all([first, second, third]);
    const calls = bench.engine.take();
    assert.ok(calls.indexOf("addDevice one file 0") < calls.indexOf("addDevice two file 0"));
    assert.ok(calls.indexOf("addDevice two file 0") < calls.indexOf(`setHosts ${nqn("s")} nqn.2026-11.x:h`));
    await end(bench);
  });
});

test("a device that is missing at the start waits and does not disturb changes elsewhere", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, oneShare, (engine) => {
      engine.failures = [{ match: /^addDevice d /, code: "E_DEVICE_MISSING", message: "/d does not exist" }];
    });
    assert.deepEqual(bench.engine.take().slice(2), [
      "addDevice d file 0",
      `addSubsystem ${nqn("s")} any`,
      "adopt",
      "setLoading false",
    ]);
    const status = await bench.server.status();
    assert.deepEqual(
      status.devices.map(({ name, state, reason }) => [name, state, reason]),
      [["d", "waiting", "devices.d: /d does not exist"]],
    );
    await bench.server.change((raw) => addDevice(raw, "e", { file: "/e" }), plain);
    assert.deepEqual(bench.engine.take(), ["addDevice e file 0"]);
    bench.engine.failures = [];
    const deadline = Date.now() + 60_000;
    while (!bench.engine.calls.includes(`addNamespace ${nqn("s")} 1 d`)) {
      assert.ok(Date.now() < deadline, "the device was not tried again");
      await new Promise((resolve) => setTimeout(resolve, 20));
    }
    await end(bench);
  });
});

test("a listener that cannot be had fails the start", async () => {
  await withDirectory(async (path) => {
    await assert.rejects(
      startServer(path, { listen: [{ "nvme-tcp": "127.0.0.1:4420" }] }, (engine) => {
        engine.failures = [{ match: /^addListener/, code: "E_PORT_IN_USE", message: "in use" }];
      }),
      (error: unknown) => error instanceof KeelError && error.code === "E_PORT_IN_USE",
    );
  });
});

/** What a server that was killed in the middle of a change leaves behind. */
const halfDone = (path: string, now: JsonObject): void => {
  const changes = [{ object: "devices/x", file: null, now }];
  writeFileSync(join(path, "changes.json"), JSON.stringify({ version: 1, changes, previous: [] }));
};

test("a change that was under way at a kill is finished at the next start", async () => {
  await withDirectory(async (path) => {
    await end(await startServer(path, {}));
    halfDone(path, { file: "/x" });
    const bench = await startServer(path, {});
    assert.ok(bench.engine.take().includes("addDevice x file 0"));
    assert.equal(bench.directory.changes.previous, null);
    assert.equal(bench.directory.changes.changes.length, 1);
    await end(bench);
  });
});

test("a change that was under way at a kill and cannot be finished is undone", async () => {
  await withDirectory(async (path) => {
    await end(await startServer(path, {}));
    halfDone(path, { file: "/x" });
    const bench = await startServer(path, {}, (engine) => {
      engine.failures = [{ match: /^addDevice x/, code: "E_DEVICE_MISSING", message: "gone" }];
    });
    assert.deepEqual(bench.directory.changes, { changes: [], previous: null });
    assert.deepEqual(bench.server.configuration, { version: 1, listen: [] });
    await end(bench);
  });
});

test("run-time changes that do not fit an edited file are dropped, and the file holds", async () => {
  await withDirectory(async (path) => {
    const first = await startServer(path, { devices: { d: { file: "/d" } } });
    await first.server.change(
      (raw) => ({ ...raw, subsystems: { s: { namespaces: [{ id: 1, device: "d" }] } } }),
      plain,
    );
    await end(first);
    const second = await startServer(path, {});
    assert.ok(!second.engine.calls.some((call) => call.startsWith("addSubsystem")));
    assert.deepEqual(second.directory.changes.changes, []);
    await end(second);
  });
});

test("identities stay when the configuration's order and the derivation's inputs change", async () => {
  await withDirectory(async (path) => {
    const first = await startServer(path, oneShare);
    const { identities } = first.directory;
    assert.equal(Object.keys(identities.namespaces).length, 1);
    await end(first);
    const second = await startServer(path, {
      ...oneShare,
      subsystems: { a: {}, ...(oneShare["subsystems"] as JsonObject) },
    });
    assert.deepEqual(second.directory.identities.namespaces, identities.namespaces);
    assert.equal(second.directory.identities.server, identities.server);
    assert.equal(second.directory.identities.serials[nqn("s")], identities.serials[nqn("s")]);
    await end(second);
  });
});

test("a host is admitted by the list, and by nothing else", () => {
  const subsystem = {
    name: "s",
    nqn: "nqn.2026-11.x:s",
    serial: "",
    model: "",
    firmware: "",
    inFlight: "replay" as const,
    cntlidMin: 1,
    cntlidMax: 2,
    namespaces: [],
  };
  const state = (allowAnyHost: boolean, hosts: string[]) => ({
    devices: [],
    listeners: [],
    referrals: [],
    subsystems: [{ ...subsystem, allowAnyHost, hosts }],
  });
  const request = { subsystem: "nqn.2026-11.x:s", hostNqn: "nqn.2026-11.x:h" };
  assert.equal(admit(state(true, []), request).allow, true);
  assert.equal(admit(state(false, ["nqn.2026-11.x:h"]), request).allow, true);
  assert.equal(admit(state(false, ["nqn.2026-11.x:H"]), request).allow, false);
  assert.equal(admit(state(true, []), { ...request, subsystem: "nqn.2026-11.x:other" }).allow, false);
});

test("a Connect is answered at once, also while the server stops", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, oneShare);
    const connect = {
      type: "connect",
      subsystem: nqn("s"),
      hostNqn: "nqn.2026-11.x:h",
      hostId: "",
      peerAddress: "127.0.0.1",
      peerPort: 1,
    } as const;
    bench.engine.emit({ ...connect, request: 1 });
    await end(bench);
    bench.engine.emit({ ...connect, request: 2 });
    assert.deepEqual(
      bench.engine.admissions.map(({ request, allow }) => [request, allow]),
      [
        [1, true],
        [2, false],
      ],
    );
  });
});

test("the discovery generation never starts below what hosts have seen", async () => {
  await withDirectory(async (path) => {
    const first = await DurableDirectory.open(path);
    const start = DurableDirectory.firstGeneration(path);
    await first.reserveGeneration(start + 1000n);
    await first.close();
    const second = await DurableDirectory.open(path);
    assert.ok(DurableDirectory.firstGeneration(path) > start + 1000n);
    await second.close();
  });
});

test("one directory has one server", async () => {
  await withDirectory(async (path) => {
    const first = await DurableDirectory.open(path);
    await assert.rejects(
      DurableDirectory.open(path),
      (error: unknown) => error instanceof KeelError && error.code === "E_ALREADY_RUNNING",
    );
    await first.close();
    await (await DurableDirectory.open(path)).close();
  });
});

test("damaged state is refused by name and never overwritten", async () => {
  const damages = [
    "",
    "{",
    "[]",
    '{"version":2}',
    '{"version":1}',
    '{"version":1,"server":"x","namespaces":{},"serials":{}}',
    '{"version":1,"server":"0123456789abcdef0123456789abcdef","namespaces":{"a 1":{}},"serials":{}}',
  ];
  for (const text of damages) {
    await withDirectory(async (path) => {
      writeFileSync(join(path, "identity.json"), text);
      await assert.rejects(
        DurableDirectory.open(path),
        (error: unknown) =>
          error instanceof KeelError &&
          error.code === "E_STATE_CORRUPT" &&
          error.message.includes("identity.json"),
      );
      assert.equal(readFileSync(join(path, "identity.json"), "utf8"), text);
    });
  }
});

test("a directory that cannot be made is an error with its name", async () => {
  await assert.rejects(
    DurableDirectory.open("/proc/nothing/here"),
    (error: unknown) => error instanceof KeelError && error.code === "E_STATE_DIRECTORY",
  );
});

test("a wait ends at its deadline and hears how the work ended after all", async () => {
  let finish: () => void = () => undefined;
  const work = new Promise<void>((resolve) => {
    finish = resolve;
  });
  let hear: (succeeded: boolean) => void = () => undefined;
  const heard = new Promise<boolean>((resolve) => {
    hear = resolve;
  });
  await assert.rejects(
    withDeadline(work, 5, "the work", (succeeded) => hear(succeeded)),
    /the work took longer than/,
  );
  finish();
  assert.equal(await heard, true);
});

test("a predecessor's connections go on after the configuration is in place and before hosts are let in", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(
      path,
      { ...oneShare, listen: [{ "nvme-tcp": "127.0.0.1:4420" }] },
      undefined,
      {
        kept: true,
        carried: true,
        reason: "crash",
        exit: "signal:9",
        previousPid: 1,
        restarts: 3,
      },
    );
    const calls = bench.engine.take();
    const adopted = calls.indexOf("adopt");
    assert.ok(adopted > calls.indexOf(`addNamespace ${nqn("s")} 1 d`));
    assert.ok(adopted > calls.indexOf("addListener nvme-tcp 127.0.0.1:4420"));
    assert.ok(adopted < calls.indexOf("setLoading false"));
    assert.deepEqual(parseKept(bench.engine.texts.get("configuration") ?? null)?.readAgain, false);
    await bench.server.restart("test");
    assert.deepEqual(parseKept(bench.engine.texts.get("configuration") ?? null)?.readAgain, true);
    bench.engine.emit({ type: "restart-failed", reason: "damaged" });
    assert.equal((await bench.server.status()).restartFailure?.reason, "damaged");
    assert.deepEqual(parseKept(bench.engine.texts.get("configuration") ?? null)?.readAgain, false);
    await end(bench);
  });
});

test("hosts of a successor go on with what was prepared, and reading the configuration finds nothing left to do", async () => {
  await withDirectory(async (path) => {
    const takeover = { kept: true, carried: true, reason: "crash", exit: "", previousPid: 1, restarts: 1 };
    const first = await startServer(path, oneShare, undefined, takeover);
    await first.server.change((raw) => addDevice(raw, "late", { ram: "1PiB" }), plain);
    const configured = first.engine.take().filter((call) => /^add/.test(call));
    const text = first.engine.texts.get("configuration") ?? null;
    await end(first);
    const prepared = preparedIn(text, "b");
    assert.deepEqual(
      prepared?.state.devices.map(({ sizeBytes }) => sizeBytes),
      [0n, 1n << 50n],
    );

    const next = await startServer(path, oneShare, undefined, takeover, prepared);
    const calls = next.engine.take();
    assert.deepEqual(calls.filter((call) => /^add/.test(call)).sort(), configured.sort());
    assert.equal(calls.filter((call) => call === "adopt").length, 1);
    assert.ok(calls.indexOf("adopt") > Math.max(...configured.map((call) => calls.indexOf(call))));
    assert.deepEqual(preparedIn(next.engine.texts.get("configuration") ?? null, "b"), prepared);
    await end(next);
  });
});

test("what was prepared does not count for another build, after a change that it does not contain, or in a change", async () => {
  await withDirectory(async (path) => {
    const takeover = { kept: true, carried: true, reason: "crash", exit: "", previousPid: 1, restarts: 1 };
    const { engine, server, directory } = await startServer(path, oneShare, undefined, takeover);
    const prepared = preparedIn(engine.texts.get("configuration") ?? null, "b");
    assert.ok(prepared !== null && stillHolds(prepared, directory.changes));
    assert.equal(preparedIn(engine.texts.get("configuration") ?? null, "c"), null);
    assert.equal(preparedIn(engine.texts.get("configuration") ?? null, null), null);
    let during: boolean | null = null;
    engine.stuck = {
      match: /^addDevice late/,
      get release() {
        const now = preparedIn(engine.texts.get("configuration") ?? null, "b");
        during = now !== null && stillHolds(now, directory.changes);
        return Promise.resolve();
      },
    };
    await server.change((raw) => addDevice(raw, "late", { ram: "1MiB" }), plain);
    assert.equal(during, false);
    assert.ok(!stillHolds(prepared, directory.changes));
    await server.restart("test");
    assert.equal(preparedIn(engine.texts.get("configuration") ?? null, "b"), null, "the file is read again");
    await end({ engine, server, directory, path });
  });
});

test("a reload changes no name and no limit of the running server, and its successor after a crash neither", async () => {
  await withDirectory(async (path) => {
    const takeover = { kept: true, carried: false, reason: "start", exit: "", previousPid: 0, restarts: 0 };
    const bench = await startServer(path, oneShare, undefined, takeover);
    bench.engine.take();
    const next = { version: 1, node: "other", listen: [], limits: { connections: 7 }, ...oneShare };
    const result = await bench.server.reload(() => parseDocument(next, "n"));
    assert.deepEqual(bench.engine.take(), [], "the default NQN has the old name in it");
    assert.deepEqual(result.needsRestart, ["node", "limits.connections", "limits.connectionsPerHost"]);
    const kept = parseKept(bench.engine.texts.get("configuration") ?? null);
    assert.deepEqual(kept?.file, next);
    assert.deepEqual(kept?.layout, { version: 1, listen: [], ...oneShare });
    await end(bench);
  });
});

const migrated: JsonObject = {
  devices: { d: { ram: "1MiB" } },
  subsystems: { s: { namespaces: [{ id: 1, device: "d" }], hosts: "any" } },
};

test("a migration is recorded before it begins and is true from one record on when it ends", async () => {
  await withDirectory(async (path) => {
    const { engine, server, directory } = await startServer(path, migrated);
    engine.take();
    const begun = await server.volumes.migrate("d", { spec: { file: "/new", size: "1MiB" } }, "5MiB", plain);
    assert.deepEqual(engine.take(), ["beginMigration d d@destination file 5242880"]);
    assert.equal(begun.job, 1);
    let recorded = "";
    engine.prepareMigration = async () => {
      engine.calls.push("prepareMigration d");
    };
    engine.commitMigration = async () => {
      recorded = JSON.stringify(directory.changes);
      engine.calls.push("commitMigration d");
    };
    await server.volumes.finishMigration("d");
    assert.deepEqual(engine.take(), ["prepareMigration d", "commitMigration d"]);
    const { previous, changes } = JSON.parse(recorded) as { previous: unknown; changes: { now: unknown }[] };
    assert.equal(previous, null);
    assert.deepEqual(
      changes.map(({ now }) => now),
      [{ file: "/new", size: "1MiB" }],
    );
    await end({ engine, server, directory, path });
  });
});

test("a migration that cannot be recorded goes on as it was", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, migrated);
    await bench.server.volumes.migrate("d", { spec: { file: "/new", size: "1MiB" } }, null, plain);
    bench.engine.take();
    bench.directory.writeChanges = () => Promise.reject(new KeelError("E_STATE_WRITE", "full"));
    await assert.rejects(bench.server.volumes.finishMigration("d"), /full/);
    // Hosts have not noticed.
    assert.deepEqual(bench.engine.take(), []);
    await end(bench);
  });
});

test("a destination that the engine did not wait for is prepared again", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, migrated);
    await bench.server.volumes.migrate("d", { spec: { file: "/new", size: "1MiB" } }, null, plain);
    bench.engine.take();
    let refusals = 1;
    const { engine } = bench;
    const commit = engine.commitMigration;
    engine.commitMigration = async (name) => {
      await commit(name);
      refusals -= 1;
      if (refusals === 0) throw { code: "E_NOT_READY", message: "not prepared", errorNumber: 0 };
    };
    await bench.server.volumes.finishMigration("d");
    const ended = ["prepareMigration d", "commitMigration d"];
    assert.deepEqual(engine.take(), [...ended, ...ended]);
    await end(bench);
  });
});

test("a migration goes on after a restart, with its job, and can be called off then", async () => {
  await withDirectory(async (path) => {
    const first = await startServer(path, migrated);
    await first.server.volumes.migrate("d", { spec: { ram: "2MiB" } }, null, plain);
    await end(first);
    const second = await startServer(path, migrated);
    const made = second.engine.take().filter((call) => call.startsWith("addDevice"));
    assert.deepEqual(made, [
      "addDevice d@source ram 1048576",
      "addDevice d@destination ram 2097152",
      "addDevice d migration 0",
    ]);
    assert.equal(second.engine.specs.get("d@source")?.memoryName, "d");
    assert.equal(second.engine.specs.get("d@destination")?.memoryName, "d@2");
    assert.deepEqual(
      second.directory.jobs.jobs.map(({ id, state }) => [id, state]),
      [[1, "running"]],
    );
    await second.server.volumes.cancelJob(1);
    assert.deepEqual(second.engine.take(), ["cancelMigration d"]);
    assert.deepEqual(second.directory.changes.changes, []);
    assert.deepEqual(
      second.directory.jobs.jobs.map(({ state }) => state),
      ["cancelled"],
    );
    await end(second);
  });
});

test("what is being copied cannot be changed from the side", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, migrated);
    await bench.server.volumes.migrate("d", { spec: { file: "/new", size: "1MiB" } }, null, plain);
    await assert.rejects(
      bench.server.change((raw) => {
        (raw["devices"] as JsonObject)["d"] = { file: "/new", size: "1MiB" };
        return raw;
      }, plain),
      /is being copied/,
    );
    await assert.rejects(
      bench.server.volumes.migrate("d", { spec: { ram: "1MiB" } }, null, plain),
      /already/,
    );
    await end(bench);
  });
});

test("a suspended device is suspended again after a restart", async () => {
  await withDirectory(async (path) => {
    const first = await startServer(path, migrated);
    first.engine.take();
    await first.server.volumes.suspend("d");
    assert.deepEqual(first.engine.take(), ["suspendDevice d"]);
    await end(first);
    const second = await startServer(path, migrated);
    assert.equal(second.engine.specs.get("d")?.suspended, true);
    second.engine.take();
    await second.server.volumes.resume("d");
    assert.deepEqual(second.engine.take(), ["resumeDevice d"]);
    assert.deepEqual(second.directory.changes.changes, []);
    await end(second);
  });
});

test("a mirror has the same volume after a restart, and another one of the same name has another", async () => {
  await withDirectory(async (path) => {
    const raw: JsonObject = {
      devices: { a: { ram: "1MiB" }, b: { ram: "1MiB" }, m: { mirror: ["a", "b"] } },
    };
    const prepare = (engine: FakeEngine): void => {
      engine.sizes.set("m", 1n << 20n);
    };
    const first = await startServer(path, raw, prepare);
    const volume = first.engine.specs.get("m")?.mirror?.volume;
    assert.match(volume ?? "", /^[0-9a-f]{32}$/);
    await end(first);
    const second = await startServer(path, raw, prepare);
    assert.equal(second.engine.specs.get("m")?.mirror?.volume, volume);
    await second.server.change((now) => {
      delete (now["devices"] as JsonObject)["m"];
      return now;
    }, plain);
    await second.server.change((now) => {
      (now["devices"] as JsonObject)["m"] = { mirror: ["a", "b"] };
      return now;
    }, plain);
    assert.notEqual(second.engine.specs.get("m")?.mirror?.volume, volume);
    await end(second);
  });
});

test("size and identity of a remote medium are given back at the next start", async () => {
  await withDirectory(async (path) => {
    const raw: JsonObject = {
      devices: { far: { "nvme-tcp": "10.0.0.9:4420", nqn: "nqn.2026-11.example.keel:far:d" } },
    };
    const first = await startServer(path, raw, (engine) => engine.sizes.set("far", 1n << 20n));
    const device = first.engine.devices.get("far");
    assert.ok(device);
    device.identity = "uuid.77";
    first.engine.emit({ type: "device", device: "far", state: "ok", reason: "" });
    await first.server.change((now) => now, plain);
    await end(first);
    const second = await startServer(path, raw);
    const known = { sizeBytes: 1n << 20n, blockBytes: 4096, identity: "uuid.77" };
    assert.deepEqual(second.engine.specs.get("far")?.known, known);
    await second.server.volumes.accept("far");
    assert.deepEqual(second.engine.specs.get("far")?.known, { ...known, identity: "" });
    await end(second);
  });
});

test("a migration that has copied everything is finished, and its job ends", async () => {
  await withDirectory(async (path) => {
    const bench = await startServer(path, migrated);
    await bench.server.volumes.migrate("d", { spec: { file: "/new", size: "1MiB" } }, null, plain);
    const spec = bench.engine.specs.get("d");
    assert.ok(spec);
    await bench.engine.addDevice({ ...spec, kind: "migration" });
    const device = bench.engine.devices.get("d");
    assert.ok(device);
    device.details = [["state", "copied"]];
    bench.engine.emit({ type: "device", device: "d", state: "ok", reason: "copied" });
    const deadline = Date.now() + 20_000;
    while (bench.directory.jobs.jobs[0]?.state === "running") {
      assert.ok(Date.now() < deadline, "the job ends");
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    assert.equal(bench.directory.jobs.jobs[0]?.state, "done");
    assert.ok(bench.engine.take().includes("commitMigration d"));
    assert.deepEqual(bench.server.configuration["devices"], { d: { file: "/new", size: "1MiB" } });
    await end(bench);
  });
});
