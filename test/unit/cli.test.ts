import assert from "node:assert/strict";
import { type ChildProcess, spawn, spawnSync } from "node:child_process";
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { tableText } from "../../dist/cli/output.js";
import { buildProgram } from "../../dist/cli/program.js";
import {
  addListener,
  addNamespace,
  findSubsystem,
  getPath,
  parsePath,
  removeDevice,
  removeListener,
  resizeDevice,
  setPath,
  share,
  unshare,
} from "../../dist/config/edit.js";
import { prettyLine } from "../../dist/main/logger.js";
import { errorTable, KeelError } from "../../dist/model/errors.js";
import type { Json, JsonObject } from "../../dist/model/json.js";
import { makeRandom } from "./random.js";

const main = fileURLToPath(new URL("../../dist/cli/main.js", import.meta.url));
const nobody = { ...process.env, KEEL_SOCKET: "/nonexistent/rpc.sock" };

const keel = (...args: string[]): { status: number | null; out: string; err: string } => {
  const { status, stdout, stderr } = spawnSync(process.execPath, [main, ...args], {
    encoding: "utf8",
    env: nobody,
    timeout: 30_000,
  });
  return { status, out: stdout, err: stderr };
};

test("exit statuses: 0 help, 2 usage, 3 not found, 5 no server", () => {
  assert.equal(keel("--help").status, 0);
  assert.equal(keel("--version").status, 0);
  assert.equal(keel("explain", "E_DATA_LOSS").status, 0);
  assert.equal(keel("share").status, 2);
  assert.equal(keel("ls", "-o", "xml").status, 2);
  assert.equal(keel("explain", "E_NOTHING").status, 3);
  assert.equal(keel("ls").status, 5);
  assert.equal(keel("demo", "--size", "lots").status, 2);
  assert.equal(keel("demo", "--port", "99999").status, 2);
  assert.equal(keel("ns", "remove", "pg", "one").status, 2);
  assert.equal(keel("serve", "-c", "/nonexistent/keel.yaml").status, 2);
});

test("an error says what, why and what to do, and shows no stack", () => {
  const { err } = keel("status");
  assert.match(
    err,
    /^error E_UNREACHABLE {2}cannot reach the server at \/nonexistent\/rpc\.sock \(ENOENT\)\n {2}cause .+\n {2}fix .+\n$/,
  );
  assert.match(keel("exlpain").err, /Did you mean explain/);
  assert.match(keel("status", "--debug").err, /\n +at /);
});

test("a faulty file is refused with its place before any server is asked", () => {
  const directory = mkdtempSync(join(tmpdir(), "keel-cli-"));
  try {
    const file = join(directory, "keel.yaml");
    writeFileSync(file, "version: 1\ndevices:\n  d: { ram: lots }\n");
    for (const args of [
      ["apply", "-f", file],
      ["serve", "-c", file],
    ]) {
      const { status, err } = keel(...args);
      assert.equal(status, 2);
      assert.ok(err.includes(`${file}:3:13  devices.d.ram: "lots" is not a size`), err);
    }
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("arguments of any kind end with an exit status from 0 to 6 and never with a stack", async () => {
  const random = makeRandom();
  const words = [
    "share",
    "ls",
    "-o",
    "json",
    "apply",
    "-f",
    "/dev/null",
    "--socket",
    "",
    "hosts",
    "add",
    "ns",
    "listen",
    "\u0001",
    "🙂",
    "--",
    "-",
    "get",
    "set",
    "a.b[",
    "=",
    "--yes",
    "x".repeat(5000),
    "disconnect",
    "explain",
    "top",
  ];
  for (let round = 0; round < 25; round += 1) {
    const args = Array.from({ length: 1 + random.below(4) }, () => random.pick(words));
    const { status, err } = keel(...args);
    const where = `seed ${random.seed}: ${JSON.stringify(args)}: ${err}`;
    assert.ok(status !== null && status >= 0 && status <= 6, where);
    assert.ok(!/\n +at /.test(err) && !err.includes("E_INTERNAL"), where);
  }
});

test("every command has a description and every list can be printed for programs", () => {
  const visit = (command: ReturnType<typeof buildProgram>): void => {
    assert.notEqual(command.description(), "", command.name());
    for (const inner of command.commands) visit(inner);
  };
  const program = buildProgram();
  visit(program);
  for (const name of ["ls", "status"]) {
    const command = program.commands.find((one) => one.name() === name);
    assert.ok(
      command?.options.some(({ long }) => long === "--output"),
      name,
    );
  }
});

/** A server that answers every request with the same result and remembers what it was asked. */
async function withAnswers(
  result: Json,
  work: (path: string, asked: JsonObject[]) => Promise<void>,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "keel-cli-"));
  const path = join(directory, "rpc.sock");
  const asked: JsonObject[] = [];
  const server = createServer((socket) => {
    socket.on("error", () => undefined);
    socket.on("data", (data) => {
      const request = JSON.parse(data.toString("utf8")) as JsonObject;
      asked.push(request);
      socket.write(`${JSON.stringify({ jsonrpc: "2.0", id: request["id"], result })}\n`);
    });
  });
  await new Promise<void>((resolve) => server.listen(path, resolve));
  try {
    await work(path, asked);
  } finally {
    await new Promise<void>((resolve) => server.close(() => resolve()));
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Asynchronously: the server lives in this process. */
function keelAt(socket: string, ...args: string[]): Promise<{ status: number | null; out: string }> {
  return new Promise((resolve, reject) => {
    const child: ChildProcess = spawn(process.execPath, [main, ...args], {
      env: { ...process.env, KEEL_SOCKET: socket },
    });
    let out = "";
    child.stdout?.setEncoding("utf8").on("data", (chunk: string) => {
      out += chunk;
    });
    child.once("error", reject);
    child.once("close", (status) => resolve({ status, out }));
  });
}

test("commands become the requests that they mean", async () => {
  const done = {
    applied: true,
    steps: ["+ x"],
    unchanged: 3,
    lost: [],
    needsRestart: [],
    nsid: 2,
    name: "pg",
    nqn: "nqn.x",
    sizeBytes: 1024,
    listeners: [],
  };
  await withAnswers(done, async (path, asked) => {
    const cases: [string[], string, JsonObject][] = [
      [["hosts", "add", "pg", "any"], "keel.hosts.add", { subsystem: "pg", host: "any" }],
      [
        ["ns", "add", "pg", "d2", "--id", "5", "--read-only"],
        "keel.namespace.add",
        { subsystem: "pg", device: "d2", id: 5, read_only: true },
      ],
      [
        ["ns", "resize", "pg", "1", "20GiB", "--yes"],
        "keel.namespace.resize",
        { subsystem: "pg", id: 1, size: "20GiB", yes: true },
      ],
      [
        ["listen", "add", "[::]:4421", "--discovery"],
        "keel.listener.add",
        { address: "[::]:4421", discovery: true },
      ],
      [
        ["set", "subsystems.pg.hosts", "[a, b]"],
        "keel.set",
        { path: "subsystems.pg.hosts", value: ["a", "b"] },
      ],
      [
        ["set", "log.level", "debug", "--dry-run"],
        "keel.set",
        { path: "log.level", value: "debug", dry_run: true },
      ],
      [["set", "log", "--delete"], "keel.set", { path: "log" }],
      [
        ["share", "/srv/x.img", "--allow", "a", "--allow", "b", "--size", "1GiB"],
        "keel.share",
        { path: "/srv/x.img", allow: ["a", "b"], size: "1GiB" },
      ],
      [["--socket", path, "unshare", "pg"], "keel.unshare", { name: "pg" }],
    ];
    for (const [args, method, params] of cases) {
      const { status } = await keelAt(path, ...args);
      assert.equal(status, 0, args.join(" "));
      const request = asked.pop();
      assert.equal(request?.["method"], method);
      assert.deepEqual(request?.["params"], params);
    }
    assert.deepEqual(JSON.parse((await keelAt(path, "hosts", "add", "pg", "x", "-o", "json")).out), done);
  });
});

test("a dry run prints the command that does it, every word of it", async () => {
  const plan = { applied: false, steps: ["+ x"], unchanged: 3, lost: ["y"], needsRestart: [], listeners: [] };
  await withAnswers(plan, async (path) => {
    const again = async (...args: string[]): Promise<string> =>
      /Apply: (.*)\n/.exec((await keelAt(path, ...args)).out)?.[1] ?? "";
    assert.equal(
      await again("share", "/srv/a b.img", "--name", "pg", "--dry-run", "--allow", "any"),
      "keel share '/srv/a b.img' --name pg --allow any --yes",
    );
    assert.equal(
      await again("device", "add", "m", "{mirror: [a, b]}", "--dry-run"),
      "keel device add m '{mirror: [a, b]}' --yes",
    );
    assert.equal(
      await again("set", "log.level", "info", "--yes", "--dry-run"),
      "keel set log.level info --yes",
    );
  });
});

test("a word that a group of commands does not have is named, and nothing is listed instead", () => {
  for (const group of ["hosts", "listen", "device", "jobs", "ns"]) {
    const { status, err } = keel(group, "lst");
    assert.equal(status, 2);
    assert.match(err, /unknown command 'lst' Did you mean "ls"\?/);
    assert.equal(keel(group).status, 5);
    assert.equal(keel(group, "-o", "json").status, 5);
  }
});

test("the commands that errors tell people to type exist", () => {
  const program = buildProgram();
  for (const [code, { fix }] of Object.entries(errorTable)) {
    for (const [, name = "", inner] of fix.matchAll(/\bkeel ([a-z]+)(?: ([a-z]+))?/g)) {
      const command = program.commands.find((one) => one.name() === name);
      assert.ok(command !== undefined || name === "help", `${code}: keel ${name}`);
      const known = command?.commands.map((one) => one.name()) ?? [];
      if (known.length > 0 && inner !== undefined)
        assert.ok(known.includes(inner), `${code}: keel ${name} ${inner}`);
    }
  }
});

test("paths into the configuration are read with quotes and indices", () => {
  assert.deepEqual(parsePath("subsystems.pg.hosts[0]"), ["subsystems", "pg", "hosts", 0]);
  assert.deepEqual(parsePath('devices."a.b".ram'), ["devices", "a.b", "ram"]);
  assert.deepEqual(parsePath(""), []);
  for (const text of [".a", "a..b", "a[x]", 'a."b', "a b", "a]"]) assert.equal(parsePath(text), null, text);
});

const raw = (): JsonObject => ({
  version: 1,
  devices: { d: { ram: "1MiB" }, e: { delay: "d" } },
  subsystems: { s: { namespaces: [{ id: 1, device: "e" }], hosts: [] } },
});

test("a device that something stands on is not removed, and the error says who", () => {
  const busy = (user: RegExp) => (error: unknown) =>
    error instanceof KeelError && error.code === "E_BUSY" && user.test(error.message);
  assert.throws(() => removeDevice(raw(), "d"), busy(/used by device "e"/));
  assert.throws(() => removeDevice(raw(), "e"), busy(/used by subsystem "s"/));
});

test("get and set reach every place, and neither reaches outside the document", () => {
  assert.deepEqual(getPath(raw(), "subsystems.s.namespaces[0].device"), "e");
  assert.throws(() => getPath(raw(), "subsystem.s"), /Did you mean "subsystems"\?/);
  assert.throws(
    () => getPath(raw(), "constructor"),
    (error: unknown) => error instanceof KeelError && error.code === "E_NOT_FOUND",
  );
  assert.equal(getPath(setPath(raw(), "log.level", "debug"), "log.level"), "debug");
  assert.deepEqual(
    getPath(setPath(raw(), "subsystems.s.namespaces[0]", undefined), "subsystems.s.namespaces"),
    [],
  );
  for (const path of [
    "__proto__.polluted",
    "devices.__proto__",
    "version.x",
    "subsystems.s.namespaces[5]",
    "",
  ]) {
    assert.throws(() => setPath(raw(), path, "x"), KeelError, path);
  }
  assert.equal(({} as Record<string, unknown>)["polluted"], undefined);
});

test("share makes all the links and unshare removes what nothing else uses", () => {
  const shared = share(raw(), "new", { file: "/x" }, ["any"], false);
  assert.deepEqual(getPath(shared, "subsystems.new"), {
    namespaces: [{ id: 1, device: "new" }],
    hosts: "any",
  });
  assert.throws(
    () => share(shared, "new", { file: "/y" }, [], false),
    (error: unknown) => error instanceof KeelError && error.code === "E_EXISTS",
  );
  assert.deepEqual(unshare(raw(), "n", "s"), { version: 1, devices: {}, subsystems: {} });
  const kept = setPath(raw(), "subsystems.t", { namespaces: [{ id: 1, device: "d" }] });
  assert.deepEqual(getPath(unshare(kept, "n", "s"), "devices"), { d: { ram: "1MiB" } });
});

test("subsystems are found by name and NQN, namespaces get the lowest free id", () => {
  assert.equal(findSubsystem(raw(), "n", "nqn.2026-11.example.keel:n:s").name, "s");
  assert.throws(() => findSubsystem(raw(), "n", "t"), /there is no subsystem "t"\. Did you mean "s"\?/);
  const document = raw();
  assert.equal(addNamespace(document, "n", "s", { device: "d" }), 2);
  assert.throws(() => addNamespace(document, "n", "s", { device: "d", id: 2 }), KeelError);
});

test("adding a listener writes the default ones down first", () => {
  assert.deepEqual(getPath(addListener({ version: 1 }, { "nvme-tcp": "[::]:4420" }), "listen"), [
    { "nvme-tcp": "0.0.0.0:4420" },
    { discovery: "0.0.0.0:8009" },
    { "nvme-tcp": "[::]:4420" },
  ]);
  assert.deepEqual(getPath(removeListener({ version: 1 }, "0.0.0.0:8009"), "listen"), [
    { "nvme-tcp": "0.0.0.0:4420" },
  ]);
  assert.throws(() => addListener({ version: 1 }, { discovery: "0.0.0.0:4420" }), KeelError);
});

test("only devices with a size of their own can be given one", () => {
  assert.equal(getPath(resizeDevice(raw(), "d", "2MiB"), "devices.d.ram"), "2MiB");
  assert.throws(
    () => resizeDevice(raw(), "e", "2MiB"),
    (error: unknown) => error instanceof KeelError && error.code === "E_DEVICE_SIZE",
  );
});

test("tables line up and let no control character through", () => {
  const rows = [
    { name: "a\u001b[31m", size: 5 },
    { name: "longer", size: 12345 },
  ];
  const text = tableText(rows, [
    { title: "NAME", value: (row) => row.name },
    { title: "SIZE", value: (row) => row.size, right: true },
  ]);
  assert.equal(text, "NAME     SIZE\na?[31m      5\nlonger  12345".replace("NAME     SIZE", "NAME     SIZE"));
});

test("log lines for a terminal are one line each", () => {
  const line = prettyLine(
    '{"level":40,"time":"2026-11-20T12:01:22.123Z","pid":1,"msg":"hello","host":"x"}\n',
  );
  assert.equal(line, "12:01:22.123 warn  hello  host=x\n");
});
