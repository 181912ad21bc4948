// A qcow2 image behind the packaged tcmu-runner handler, served over NVMe/TCP: what a host writes is what
// qemu-img finds, and neither the death of the server nor that of the handler's process shows to the host.
//
// KEEL_TCMU_KILLS: kills at random (6), of the server and of the handler's process; KEEL_SEED: the run to repeat.

import assert from "node:assert/strict";
import {
  copyFileSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  truncateSync,
  writeFileSync,
} from "node:fs";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { handlerPackages, missing } from "../../scripts/system.mjs";

import { random, seed } from "../harness/random.mjs";
import { until } from "../harness/until.mjs";
import { Keel, Load, notBuilt, nqn, patienceMs, run, sleep } from "./keeper/keel.mjs";

const absent = missing(handlerPackages);
const skip = notBuilt() ?? (absent.length > 0 ? `Debian packages are missing: ${absent.join(" ")}` : false);
const kills = Number(process.env.KEEL_TCMU_KILLS ?? 6);
const timeout = 240_000 + kills * 20_000;
const mib = 1 << 20;
const bytes = 64 * mib;

let folder = null;
let keel = null;

const path = (name) => join(folder, name);

async function succeeds(command, args) {
  const { status, stdout, stderr } = await run(command, args);
  assert.equal(status, 0, `${command} ${args.join(" ")}: ${stdout}${stderr}`);
  return stdout;
}

before(async () => {
  if (skip) return;
  console.log(`KEEL_SEED=${seed}`);
  folder = mkdtempSync("/var/tmp/keel-tcmu-");
  for (const name of ["image", "stressed"]) {
    await succeeds("qemu-img", ["create", "-q", "-f", "qcow2", path(`${name}.qcow2`), String(bytes)]);
  }
  writeFileSync(path("raw.img"), "");
  truncateSync(path("raw.img"), bytes);
  const devices = {
    image: { tcmu: "qcow", path: path("image.qcow2") },
    stressed: { tcmu: "qcow", path: path("stressed.qcow2") },
    raw: { tcmu: "file", path: path("raw.img"), block_size: 512 },
  };
  const namespaces = Object.keys(devices).map((device, index) => ({ id: index + 1, device }));
  keel = await Keel.start(["--standby=on", "--standby-delay=0.02", "--short-life=0", "--stop-time=60"], {
    devices,
    subsystems: { crash: { nqn, hosts: "any", namespaces } },
  });
});

after(async () => {
  await keel?.stop();
  if (folder !== null) rmSync(folder, { recursive: true, force: true });
});

const deviceStatus = async (name) =>
  (await keel.status()).devices?.find?.((device) => device.name === name) ?? null;

/** Waits until hosts can use the namespace. */
const serves = (name) =>
  until(`${name} is well`, async () => (await deviceStatus(name))?.state === "ok", patienceMs).catch(
    (error) => {
      throw new Error(`${error.message}\n${keel.log.slice(-4000)}`);
    },
  );

test("a qcow2 image and a raw file that got the same writes have the same content", {
  skip,
  timeout,
}, async () => {
  await serves("image");
  await serves("raw");
  const writes = ["--seed", String(seed), "--count", "3000", "--seconds", "0", "--read-percent", "30"];
  for (const nsid of [1, 3]) {
    const result = JSON.parse(
      await succeeds(join(import.meta.dirname, "../../build/Release/keel-load"), [
        ...["--port", String(keel.port), "--subnqn", nqn, "--hostnqn", "nqn.2026-11.example.keel:writer"],
        ...["--nsid", String(nsid), "--depth", "1", "--io-bytes", "16k", "--range-bytes", "16m"],
        ...["--flush-every", "500", "--verify", ...writes],
      ]),
    );
    assert.ok(result.ok && result.verified_blocks > 0, `namespace ${nsid}; seed ${seed}`);
  }
});

test(`${kills} kills, of the server or the handler's process, under a host that verifies`, {
  skip,
  timeout,
}, async () => {
  await serves("stressed");
  const load = new Load(keel.port, 1, {
    values: { nsid: 2, queues: 2, depth: 8, "io-bytes": 8192, "range-bytes": 32 * mib, "stall-timeout": 120 },
  });
  await load.moves();
  for (let kill = 0; kill < kills; kill += 1) {
    await sleep(random(200));
    if (kill % 2 === 0) {
      const before = await keel.status();
      process.kill(before.pid, "SIGKILL");
      await keel.status("the next server", ({ pid }) => pid !== before.pid);
    } else {
      const pids = await handlerProcesses();
      assert.equal(pids.length, 1, "one process has the image open");
      process.kill(pids[0], "SIGKILL");
    }
    await load.moves();
  }
  await load.finish();
});

/** Of the stressed image; once an old one has ended. */
function handlerProcesses() {
  const serves = (pid) => {
    try {
      const words = readFileSync(`/proc/${pid}/cmdline`, "utf8").split("\0");
      return words[1] === "serve" && words.includes(path("stressed.qcow2"));
    } catch {
      return false; // it has ended
    }
  };
  return until("a process for the image", () => {
    const pids = readdirSync("/proc").filter((name) => /^[0-9]+$/.test(name) && serves(name));
    return pids.length === 1 ? pids.map(Number) : null;
  });
}

test("qemu-img finds both images sound, and the first equal to the raw file", { skip, timeout }, async () => {
  keel.keeper.kill("SIGTERM");
  await keel.ended;
  for (const name of ["image.qcow2", "stressed.qcow2"]) {
    await until(
      `nobody has ${name} open`,
      async () => (await run("qemu-img", ["info", path(name)])).status === 0,
      patienceMs,
    );
    await succeeds("qemu-img", ["check", path(name)]);
  }
  await succeeds("qemu-img", ["compare", path("image.qcow2"), path("raw.img")]);
  // And it is not equal because both are empty.
  copyFileSync(path("raw.img"), path("other.img"));
  truncateSync(path("other.img"), 0);
  truncateSync(path("other.img"), bytes);
  assert.notEqual((await run("qemu-img", ["compare", path("image.qcow2"), path("other.img")])).status, 0);
});
