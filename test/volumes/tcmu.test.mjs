// A qcow2 image behind the packaged handler, exported, written under verification, and judged by qemu-img.

import assert from "node:assert/strict";
import { execFileSync } from "node:child_process";
import { existsSync, writeFileSync } from "node:fs";
import { after, before, test } from "node:test";
import { built, until } from "./harness/node.mjs";
import { Scene } from "./harness/scene.mjs";

const handler = "/usr/lib/x86_64-linux-gnu/tcmu-runner/handler_qcow.so";
const hasImages = (() => {
  try {
    execFileSync("qemu-img", ["--version"], { stdio: "ignore" });
    return true;
  } catch {
    return false;
  }
})();
const skip = !built
  ? "not built: npm run build"
  : !existsSync(handler)
    ? `${handler} is not installed`
    : hasImages
      ? false
      : "qemu-img is not installed";

let scene;
before(() => {
  if (built) scene = new Scene();
});
after(() => scene?.close());

const image = (...args) => execFileSync("qemu-img", args, { encoding: "utf8" });

test("a qcow2 image is written through the target and is whole afterwards", { skip }, async () => {
  const server = scene.node({ name: "images", keeper: true });
  const path = server.path("disk.qcow2");
  image("create", "-f", "qcow2", "-o", "compat=0.10", path, "64M");
  await server.start({});
  await server.keel("device", "add", "q", `{tcmu: qcow, path: "${path}", block_size: 512}`);
  assert.equal((await server.device("q")).sizeBytes, 64 << 20);
  await server.rpc("keel.set", {
    path: "subsystems.q",
    value: { namespaces: [{ id: 1, device: "q" }], hosts: "any" },
  });
  const load = scene.load(server, "q", { seconds: 0, count: 3_000, readPercent: 40, depth: 8 });
  await load.more(300);
  await server.kill();
  await until(async () => (await server.device("q")).state === "ok", "the handler is there again");
  assert.equal((await load.ended).errors, 0);
  await server.keel("device", "suspend", "q");
  await server.stop();
  assert.match(image("check", path), /No errors were found/);
});

test("an unknown handler is refused by name", { skip }, async () => {
  const server = scene.node({ name: "unknown" });
  await server.start({});
  const { status, err } = await server.cli("device", "add", "q", "{tcmu: nosuch, path: /x}");
  assert.notEqual(status, 0);
  assert.match(err, /nosuch/);
  assert.deepEqual(await server.rpc("keel.devices"), []);
});

const rbd = "/usr/lib/x86_64-linux-gnu/tcmu-runner/handler_rbd.so";
const loads = (library) => {
  try {
    return !execFileSync("ldd", [library], { encoding: "utf8" }).includes("not found");
  } catch {
    return false;
  }
};
const rbdSkip = !built
  ? "not built: npm run build"
  : loads(rbd)
    ? false
    : `${rbd} or librbd1 is not installed`;

test("the rbd handler without a cluster says itself what is wrong, and disturbs nobody", {
  skip: rbdSkip,
}, async () => {
  const server = scene.node({ name: "cephless", keeper: true });
  const silent = server.path("silent.conf");
  writeFileSync(
    silent,
    "[global]\nmon_host = 127.0.0.1:1\nclient_mount_timeout = 2\nauth_client_required = none\n",
  );
  const absent = server.path("absent.conf");
  const using = (path) => ({ tcmu: "rbd", path, size: "16MiB", block_size: 512 });
  const reasons = {
    a: ["nonsense", /cannot open "nonsense".*image name/],
    b: [`pool/image;conf=${absent}`, /Could not read config .*absent\.conf/],
    c: [`pool/image;conf=${silent}`, /Could not connect to cluster/],
  };
  await server.start({
    devices: {
      other: { ram: "16MiB" },
      ...Object.fromEntries(Object.entries(reasons).map(([name, [path]]) => [name, using(path)])),
    },
    subsystems: { other: { namespaces: [{ id: 1, device: "other" }], hosts: "any" } },
  });
  await server.exporting();
  const load = scene.load(server, "other", { seconds: 600, rate: 1000, readPercent: 50 });
  for (const [name, [path, reason]] of Object.entries(reasons)) {
    const failed = async () => {
      const device = await server.device(name);
      return device.state === "failed" && reason.test(device.reason);
    };
    await until(failed, `${path} is failed: ${reason}`);
  }
  await assert.rejects(server.rpc("keel.device.add", { device: "d", spec: using("nonsense") }), (error) => {
    assert.equal(error.code, "E_UNREACHABLE");
    assert.match(error.message, reasons.a[1]);
    return true;
  });
  assert.equal(await server.device("d"), null);
  // An attempt that is under way does not hide how the one before it ended.
  assert.match((await server.device("c")).reason, reasons.c[1]);
  await load.more(500);
  assert.equal((await load.finish()).errors, 0);
});
