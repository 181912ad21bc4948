// What changes while a host is connected: sizes, namespaces, the controller itself, the connection.
import assert from "node:assert/strict";
import { file, NQN, OTHER_NQN, offer, oneDisk, ram, subsystem } from "../harness/config.mjs";
import { fioCommand, fioResult } from "../harness/fio.mjs";

export function changeCases(suite) {
  suite.case(
    "a grown namespace is seen by the host without a reconnect",
    { config: (directory) => oneDisk(file(`${directory}/disk`, 64)) },
    async ({ host, target, directory }) => {
      const device = await host.attach(NQN);
      await host.run(
        `head -c 1M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct status=none`,
      );
      await target.apply(oneDisk(file(`${directory}/disk`, 96)));
      await host.waitFor(`[ "$(device_bytes ${device})" = ${96 << 20} ]`, {
        deadlineS: 60,
        what: `${device} has grown to 96 MiB`,
      });
      await host.run(`set -e; dd if=/tmp/data of=${device} bs=1M seek=90 oflag=direct status=none; forget_cache ${device}
      for offset in 0 90; do dd if=${device} bs=1M skip=$offset count=1 iflag=direct status=none | cmp - /tmp/data; done`);
    },
  );

  suite.case(
    "a file system grows with its namespace while it is mounted",
    { config: (directory) => oneDisk(file(`${directory}/disk`, 320)) },
    async ({ host, target, directory }) => {
      const device = await host.attach(NQN);
      await host.run(
        `set -e; mkfs.xfs -q -f ${device}; mount ${device} /mnt; head -c 8M /dev/urandom >/mnt/file; sha256sum /mnt/file >/run/checksum`,
      );
      await target.apply(oneDisk(file(`${directory}/disk`, 512)));
      await host.waitFor(`[ "$(device_bytes ${device})" = ${512 << 20} ]`, {
        deadlineS: 60,
        what: `${device} has grown`,
      });
      await host.run(
        `set -e; xfs_growfs /mnt >/dev/null; [ $(df --output=size -B1M /mnt | tail -1) -gt 400 ]; sha256sum --quiet -c /run/checksum; umount /mnt`,
      );
    },
  );

  suite.case(
    "a namespace that is added appears, and one that is removed goes",
    { config: offer({ disk: subsystem([ram(64)]) }) },
    async ({ host, target }) => {
      const first = await host.attach(NQN);
      await target.apply(offer({ disk: subsystem([ram(64), ram(32, 4096), ram(48)]) }));
      const second = await host.device(NQN, 2, 60);
      const third = await host.device(NQN, 3, 60);
      assert.equal(
        await host.run(`device_bytes ${second}; device_bytes ${third}`),
        `${32 << 20}\n${48 << 20}`,
      );
      await host.run(`dd if=/dev/zero of=${second} bs=1M count=4 oflag=direct status=none`);

      const fewer = offer({ disk: subsystem([ram(64), ram(32, 4096), ram(48)]) });
      fewer.subsystems.disk.namespaces.delete(2);
      await target.apply(fewer);
      await host.waitFor(`! namespace_device ${NQN} 2`, { deadlineS: 60, what: "namespace 2 is gone" });
      await host.run(
        `dd if=${first} of=/dev/null bs=1M count=4 iflag=direct status=none; dd if=${third} of=/dev/null bs=1M count=4 iflag=direct status=none`,
      );
    },
  );

  suite.case(
    "a subsystem without namespaces can be connected and filled later",
    { config: offer({ disk: subsystem([]) }) },
    async ({ host, target }) => {
      await host.connect(NQN);
      await target.apply(oneDisk(ram(64)));
      await host.device(NQN, 1, 60);
    },
  );

  suite.case(
    "namespaces come and go under load on another one",
    { config: offer({ disk: subsystem([ram(128)]) }), deadlineMs: 200_000 },
    async ({ host, target }) => {
      const device = await host.attach(NQN, { queues: 2 });
      const load = host.start(
        fioCommand(device, {
          rw: "randwrite",
          size: "96m",
          verify: "crc32c",
          verify_fatal: 1,
          time_based: 1,
          runtime: 15,
          do_verify: 1,
          verify_backlog: 512,
        }),
        { deadlineS: 120 },
      );
      for (let round = 0; round < 5; round++) {
        await target.apply(offer({ disk: subsystem([ram(128), ram(32)]) }));
        await host.device(NQN, 2, 60);
        await target.apply(offer({ disk: subsystem([ram(128)]) }));
        await host.waitFor(`! namespace_device ${NQN} 2`, { deadlineS: 60, what: "namespace 2 is gone" });
      }
      const { status, stdout, stderr } = await load.done;
      assert.equal(status, 0, stdout + stderr);
      assert.ok(fioResult(stdout).writes > 0);
    },
  );

  suite.case(
    "nvme reset brings the controller back, idle and under load",
    {
      config: oneDisk(ram(128)),
      allow: [/resetting controller|no usable path - requeuing|callbacks suppressed/],
    },
    async ({ host }) => {
      const controller = await host.connect(NQN, { queues: 2 });
      const device = await host.device(NQN);
      await host.run(`nvme reset /dev/${controller}`);
      await host.waitLive(controller);
      const load = host.start(
        fioCommand(device, {
          rw: "randwrite",
          size: "96m",
          verify: "crc32c",
          verify_fatal: 1,
          time_based: 1,
          runtime: 12,
          do_verify: 1,
          verify_backlog: 512,
        }),
        { deadlineS: 120 },
      );
      for (let round = 0; round < 4; round++) {
        await host.run(`sleep 1; nvme reset /dev/${controller}`);
        await host.waitLive(controller);
      }
      const { status, stdout, stderr } = await load.done;
      assert.equal(status, 0, stdout + stderr);
      assert.ok(fioResult(stdout).writes > 0);
    },
  );

  // Both share what one host may have of the memory, and far more is asked for at once.
  suite.case(
    "a controller that is reset under bursts holds up no other one when memory is short",
    {
      config: (directory) =>
        offer(
          {
            disk: subsystem([ram(64, 4096)]),
            other: subsystem([file(`${directory}/disk`, 64, 4096)], { nqn: OTHER_NQN }),
          },
          { limits: { memory: "4MiB" } },
        ),
      allow: [/resetting controller|no usable path - requeuing|failed to send request|callbacks suppressed/],
    },
    async ({ host }) => {
      const bursts = { bsrange: "4k-1m", iodepth: 64, iodepth_batch: 64, time_based: 1, runtime: 4 };
      const steady = await host.attach(NQN, { queues: 2 });
      const controller = await host.connect(OTHER_NQN, { queues: 2 });
      const disturbed = await host.device(OTHER_NQN);
      // A request that takes longer is a line of trouble in the kernel's log.
      await host.run("for limit in /sys/block/nvme*/queue/io_timeout; do echo 10000 >$limit; done");
      const loads = [steady, disturbed].map((device) =>
        host.start(fioCommand(device, { rw: "randrw", size: "60m", ...bursts }), { deadlineS: 120 }),
      );
      for (let round = 0; round < 2; round++) {
        await host.run(`sleep 1; nvme reset /dev/${controller}`);
        await host.waitLive(controller);
      }
      for (const load of loads) {
        const { status, stdout, stderr } = await load.done;
        assert.equal(status, 0, stdout + stderr);
        assert.ok(fioResult(stdout).writes > 0);
      }
    },
  );

  suite.case(
    "a disconnect under load ends the load, and a reconnect finds all that was flushed",
    { config: oneDisk(ram(128)), allow: [/error|I\/O|lost|async page/i] },
    async ({ host }) => {
      let device = await host.attach(NQN, { queues: 2 });
      await host.run(
        `set -e; head -c 16M /dev/urandom >/run/data; dd if=/run/data of=${device} bs=1M seek=100 oflag=direct conv=fsync status=none`,
      );
      for (let round = 0; round < 3; round++) {
        const load = host.start(
          fioCommand(device, {
            rw: "randrw",
            size: "96m",
            time_based: 1,
            runtime: 30,
            numjobs: 2,
            iodepth: 32,
          }),
          { deadlineS: 60 },
        );
        await host.waitFor("[ $(inflight) -gt 8 ]", { what: "requests are in flight" });
        await host.disconnect(NQN);
        assert.notEqual((await load.done).status, 0, "fio must have met the end of its device");
        device = await host.attach(NQN, { queues: 2, dataDigest: round === 1 });
        await host.run(`dd if=${device} bs=1M skip=100 count=16 iflag=direct status=none | cmp - /run/data`);
      }
    },
  );

  suite.case(
    "a host that is rebooted without a goodbye finds its data again",
    { config: oneDisk(ram(64)) },
    async ({ guest, host, kernelLog, mark }) => {
      let device = await host.attach(NQN, { queues: 2 });
      await host.run(
        `set -e; seq 1 1000000 | head -c 4M >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct conv=fsync status=none`,
      );
      await guest.reboot();
      await kernelLog.renew(mark);
      await host.prepare();
      device = await host.attach(NQN, { queues: 2 });
      await host.run(`seq 1 1000000 | head -c 4M | cmp -n 4194304 - ${device}`);
    },
  );
}
