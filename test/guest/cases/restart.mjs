// The server is killed again and again under a keeper: fio finds no wrong byte, and the host's kernel says nothing about its connection.
// The moments of the kills are random; EVENKEEL_SEED repeats a run's.
import assert from "node:assert/strict";
import { setTimeout as delay } from "node:timers/promises";
import { randomNumbers } from "../../harness/random.mjs";
import { file, NQN, offer, oneDisk, ram, subsystem } from "../harness/config.mjs";
import { fioCommand, fioResult } from "../harness/fio.mjs";
import { LATE_KEEP_ALIVE } from "../harness/kernel-log.mjs";

const LOADS = [
  {
    name: "4 KiB random writes on ram",
    device: () => ram(128, 4096),
    connect: { queues: 2 },
    job: { bs: "4k" },
  },
  {
    name: "4 KiB random writes on a file with both digests",
    device: (directory) => file(`${directory}/disk`, 128, 4096),
    connect: { queues: 2, headerDigest: true, dataDigest: true },
    job: { bs: "4k" },
  },
  {
    name: "1 MiB writes on a file",
    device: (directory) => file(`${directory}/disk`, 128),
    connect: { queues: 2 },
    job: { bs: "1m", iodepth: 8 },
  },
  {
    name: "mixed sizes on ram with both digests",
    device: () => ram(128),
    connect: { headerDigest: true, dataDigest: true },
    job: { bsrange: "512-128k" },
  },
];

/** Kills the server at random moments until `until` settles. @returns {Promise<number>} how often */
async function killUntil(target, until, t) {
  const seed = Number(process.env.EVENKEEL_SEED ?? Date.now() % 1_000_000);
  t.diagnostic(`EVENKEEL_SEED=${seed}`);
  const random = randomNumbers(seed);
  let over = false;
  const end = until.finally(() => {
    over = true;
  });
  end.catch(() => {});
  let kills = 0;
  for (;;) {
    await Promise.race([delay(200 + 1500 * random()), end.catch(() => {})]);
    if (over) return kills;
    await target.crash();
    kills += 1;
  }
}

/** The promise of this project: the host's kernel did not notice. */
async function assertUnnoticed({ kernelLog }, mark) {
  assert.deepEqual(await kernelLog.interruptionsSince(mark), [], "the host's kernel noticed an interruption");
}

export function restartCases(suite) {
  for (const { name, device, connect, job } of LOADS) {
    suite.case(
      `a host does not notice that the server is killed under ${name}`,
      { config: (directory) => oneDisk(device(directory)), keeper: true, allow: [LATE_KEEP_ALIVE] },
      async (context) => {
        const { host, target, kernelLog, t } = context;
        const path = await host.attach(NQN, connect);
        const connected = await kernelLog.mark();
        const load = host.start(
          fioCommand(path, {
            rw: "randwrite",
            size: "96m",
            verify: "crc32c",
            verify_fatal: 1,
            do_verify: 1,
            verify_backlog: 256,
            time_based: 1,
            runtime: 20,
            randrepeat: 0,
            ...job,
          }),
          { deadlineS: 120 },
        );
        const kills = await killUntil(target, load.done, t);
        const { status, stdout, stderr } = await load.done;
        assert.equal(status, 0, stdout + stderr);
        const { writes, longestMs } = fioResult(stdout);
        t.diagnostic(`${kills} kills, ${writes} writes, longest completion ${Math.round(longestMs)} ms`);
        assert.ok(kills >= 3, `${kills} kills`);
        await assertUnnoticed(context, connected);
      },
    );
  }

  suite.case(
    "a host that is idle for a minute does not notice that the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async (context) => {
      const { host, target, kernelLog, t } = context;
      const path = await host.attach(NQN, { keepAliveS: 3 });
      const connected = await kernelLog.mark();
      const idle = host.start("sleep 60", { deadlineS: 120 });
      const kills = await killUntil(target, idle.done, t);
      await host.run(`dd if=${path} of=/dev/null bs=4k count=1 iflag=direct status=none`);
      t.diagnostic(`${kills} kills`);
      await assertUnnoticed(context, connected);
    },
  );

  suite.case(
    "a RAM disk keeps its content over kills",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async (context) => {
      const { host, target, kernelLog } = context;
      const path = await host.attach(NQN);
      const connected = await kernelLog.mark();
      await host.run(
        `head -c 32M /dev/urandom >/tmp/data; dd if=/tmp/data of=${path} bs=1M oflag=direct status=none`,
      );
      for (let round = 0; round < 3; round++) await target.crash();
      await host.run(
        `forget_cache ${path}; dd if=${path} bs=1M count=32 iflag=direct status=none | cmp - /tmp/data`,
      );
      await assertUnnoticed(context, connected);
    },
  );

  suite.case(
    "connects and disconnects succeed while the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async ({ host, target, t }) => {
      const rounds = host.start(
        `set -e; for round in $(seq 12); do ${host.connectCommand(NQN)} >/dev/null
         until namespace_device ${NQN} 1 >/dev/null; do sleep 0.02; done
         dd if=$(namespace_device ${NQN} 1) of=/dev/null bs=4k count=4 iflag=direct status=none; nvme disconnect -n ${NQN} >/dev/null; done`,
        { deadlineS: 240 },
      );
      const kills = await killUntil(target, rounds.done, t);
      const { status, stdout, stderr } = await rounds.done;
      t.diagnostic(`${kills} kills`);
      assert.equal(status, 0, stdout + stderr);
    },
  );

  suite.case(
    "nvme reset succeeds while the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE, /resetting controller/] },
    async ({ host, target, t }) => {
      const controller = await host.connect(NQN, { queues: 2 });
      const resets = host.start(
        `set -e; for round in $(seq 10); do nvme reset /dev/${controller}; until [ "$(cat /sys/class/nvme/${controller}/state)" = live ]; do sleep 0.05; done; done`,
        { deadlineS: 120 },
      );
      const kills = await killUntil(target, resets.done, t);
      const { status, stdout, stderr } = await resets.done;
      t.diagnostic(`${kills} kills`);
      assert.equal(status, 0, stdout + stderr);
      await host.run(
        `dd if=$(namespace_device ${NQN} 1) of=/dev/null bs=4k count=4 iflag=direct status=none`,
      );
    },
  );

  suite.case(
    "discovery succeeds while the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async ({ host, target, t }) => {
      const rounds = host.start(
        `set -e; for round in $(seq 12); do ${host.discoverCommand()} | grep -q ${NQN}; done`,
        { deadlineS: 120 },
      );
      const kills = await killUntil(target, rounds.done, t);
      const { status, stdout, stderr } = await rounds.done;
      t.diagnostic(`${kills} kills`);
      assert.equal(status, 0, stdout + stderr);
    },
  );

  suite.case(
    "namespaces come and go while the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async (context) => {
      const { host, target, kernelLog, t } = context;
      await host.attach(NQN);
      const connected = await kernelLog.mark();
      const one = oneDisk(ram(64));
      const two = offer({ disk: subsystem([ram(64), ram(32, 4096)]) });
      for (let round = 0; round < 4; round++) {
        await target.apply(two);
        await target.crash();
        const second = await host.device(NQN, 2, 60);
        await host.run(`dd if=${second} of=/dev/null bs=4k count=4 iflag=direct status=none`);
        await target.apply(one);
        await target.crash();
        await host.waitFor(`! namespace_device ${NQN} 2 >/dev/null`, {
          deadlineS: 60,
          what: "namespace 2 is gone",
        });
      }
      t.diagnostic("8 kills");
      await assertUnnoticed(context, connected);
    },
  );

  suite.case(
    "64 connections go on when the server is killed",
    { config: oneDisk(ram(64)), keeper: true, allow: [LATE_KEEP_ALIVE] },
    async (context) => {
      const { host, target, kernelLog, t } = context;
      const path = await host.attach(NQN, { queues: 1 });
      for (let more = 1; more < 32; more++) await host.connectDuplicate(NQN);
      const { connections } = await target.json("status");
      assert.ok(connections.length >= 64, `${connections.length} connections`);
      const connected = await kernelLog.mark();
      const load = host.start(
        fioCommand(path, {
          rw: "randwrite",
          bs: "4k",
          size: "32m",
          verify: "crc32c",
          verify_fatal: 1,
          do_verify: 1,
        }),
        { deadlineS: 120 },
      );
      const kills = await killUntil(target, load.done, t);
      const { status, stdout, stderr } = await load.done;
      assert.equal(status, 0, stdout + stderr);
      await target.crash();
      t.diagnostic(`${kills + 1} kills, ${connections.length} connections`);
      await assertUnnoticed(context, connected);
    },
  );
}
