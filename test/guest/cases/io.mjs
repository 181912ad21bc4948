// Reads and writes under load with verification, and every other I/O command.
import assert from "node:assert/strict";
import { file, NQN, oneDisk, ram } from "../harness/config.mjs";
import { fioCommand, fioResult } from "../harness/fio.mjs";

const MIB = 1 << 20;

/** Each load on a RAM disk; those with `file` on a file too. */
const LOADS = [
  {
    name: "4 KiB random writes on 512 byte blocks",
    blockBytes: 512,
    connect: { queues: 2 },
    job: { rw: "randwrite", bs: "4k" },
  },
  {
    name: "4 KiB random writes on 4096 byte blocks with both digests",
    blockBytes: 4096,
    connect: { queues: 2, headerDigest: true, dataDigest: true },
    job: { rw: "randwrite", bs: "4k" },
    file: true,
  },
  {
    name: "mixed sizes from 512 bytes to 128 KiB",
    blockBytes: 512,
    connect: { queues: 2 },
    job: { rw: "randrw", bsrange: "512-128k" },
    file: true,
  },
  {
    name: "mixed sizes with both digests",
    blockBytes: 512,
    connect: { headerDigest: true, dataDigest: true },
    job: { rw: "randrw", bsrange: "512-128k" },
  },
  {
    name: "1 MiB writes",
    blockBytes: 4096,
    connect: { queues: 2 },
    job: { rw: "randwrite", bs: "1m", iodepth: 8, size: "96m" },
    file: true,
  },
  {
    name: "1 MiB writes with both digests",
    blockBytes: 512,
    connect: { headerDigest: true, dataDigest: true },
    job: { rw: "randwrite", bs: "1m", iodepth: 8, size: "96m" },
  },
  {
    name: "1 MiB writes, more at once than the server has memory for",
    blockBytes: 4096,
    connect: { queues: 2 },
    job: {
      rw: "randwrite",
      bs: "1m",
      iodepth: 120,
      iodepth_batch: 120,
      iodepth_batch_complete_min: 120,
      size: "120m",
    },
    file: true,
  },
];

const BACKINGS = {
  ram: (_directory, blockBytes) => ram(128, blockBytes),
  file: (directory, blockBytes) => file(`${directory}/disk`, 128, blockBytes),
};

export function ioCases(suite) {
  for (const [kind, device] of Object.entries(BACKINGS)) {
    for (const { name, blockBytes, connect, job } of LOADS.filter((load) => kind === "ram" || load.file)) {
      suite.case(
        `fio verifies ${name} (${kind})`,
        { config: (directory) => oneDisk(device(directory, blockBytes)) },
        async ({ host }) => {
          const path = await host.attach(NQN, connect);
          const text = await host.run(
            fioCommand(path, {
              size: "48m",
              verify: "crc32c",
              verify_fatal: 1,
              do_verify: 1,
              randrepeat: 0,
              ...job,
            }),
            { deadlineS: 200 },
          );
          assert.ok(fioResult(text).writes > 0, text);
        },
      );
    }
  }

  suite.case(
    "a verified load on four jobs at queue depth 32 has no error",
    { config: oneDisk(ram(128, 4096)) },
    async ({ host }) => {
      const path = await host.attach(NQN, { queues: 2 });
      const text = await host.run(
        fioCommand(path, {
          rw: "randwrite",
          numjobs: 4,
          size: "24m",
          offset_increment: "24m",
          iodepth: 32,
          verify: "crc32c",
          verify_fatal: 1,
          do_verify: 1,
        }),
        { deadlineS: 200 },
      );
      assert.ok(fioResult(text).writes >= 4 * 24 * 256);
    },
  );

  suite.case(
    "one read and one write move 1 MiB and more at once",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      const limit = Number(await host.run(`cat /sys/block/$(basename ${device})/queue/max_hw_sectors_kb`));
      assert.ok(limit >= 128, `the host may send ${limit} KiB in one command`);
      await host.run(`set -e; echo $(cat /sys/block/$(basename ${device})/queue/max_hw_sectors_kb) >/sys/block/$(basename ${device})/queue/max_sectors_kb
      head -c 32M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=4M oflag=direct status=none; forget_cache ${device}
      dd if=${device} bs=4M count=8 iflag=direct status=none | cmp - /tmp/data`);
    },
  );

  suite.case(
    "a trimmed range reads as zeroes and its neighbours stay",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      assert.notEqual(
        await host.run(`cat /sys/block/$(basename ${device})/queue/discard_max_bytes`),
        "0",
        "discard is announced",
      );
      await host.run(`set -e; head -c 8M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct status=none
      blkdiscard -o 2M -l 4M ${device}; forget_cache ${device}; dd if=${device} of=/tmp/back bs=1M count=8 iflag=direct status=none
      head -c 4M /dev/zero | dd of=/tmp/data bs=1M seek=2 conv=notrunc status=none; cmp /tmp/data /tmp/back`);
    },
  );

  suite.case(
    "dataset management with several ranges frees each of them",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      await host.run(`set -e; head -c 1M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct status=none
      nvme dsm ${device} -n 1 -d -s 0,64,1000 -b 8,16,24; forget_cache ${device}; dd if=${device} of=/tmp/back bs=1M count=1 iflag=direct status=none
      for range in 0:8 64:16 1000:24; do dd if=/dev/zero of=/tmp/data bs=512 seek=\${range%:*} count=\${range#*:} conv=notrunc status=none; done; cmp /tmp/data /tmp/back`);
    },
  );

  suite.case(
    "write zeroes clears exactly its range",
    { config: (directory) => oneDisk(file(`${directory}/disk`, 64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      assert.notEqual(
        await host.run(`cat /sys/block/$(basename ${device})/queue/write_zeroes_max_bytes`),
        "0",
        "write zeroes is announced",
      );
      await host.run(`set -e; head -c 8M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct status=none
      nvme write-zeroes ${device} -n 1 -s 100 -c 49; nvme write-zeroes ${device} -n 1 -s 300 -c 9 -d; fallocate -z -o 3M -l 2M ${device}
      forget_cache ${device}; dd if=${device} of=/tmp/back bs=1M count=8 iflag=direct status=none
      for range in 100:50 300:10 6144:4096; do dd if=/dev/zero of=/tmp/data bs=512 seek=\${range%:*} count=\${range#*:} conv=notrunc status=none; done; cmp /tmp/data /tmp/back`);
    },
  );

  suite.case("compare tells equal from different", { config: oneDisk(ram(64)) }, async ({ host }) => {
    const device = await host.attach(NQN);
    await host.run(
      `head -c 64k /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=64k oflag=direct status=none`,
    );
    await host.run(`nvme compare ${device} -s 0 -c 127 -z 65536 -d /tmp/data`);
    await host.run(
      "cp /tmp/data /tmp/other; printf X | dd of=/tmp/other bs=1 seek=40000 conv=notrunc status=none; ! cmp -s /tmp/data /tmp/other",
    );
    const different = await host.try(`nvme compare ${device} -s 0 -c 127 -z 65536 -d /tmp/other`);
    assert.notEqual(different.status, 0);
    assert.match(different.stdout + different.stderr, /compare fail|0x[0-9a-f]*285/i);
  });

  suite.case(
    "verify accepts a range of the namespace and refuses one beyond it",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      await host.run(`nvme verify ${device} -n 1 -s 0 -c 255`);
      const beyond = await host.try(`nvme verify ${device} -n 1 -s ${(64 * MIB) / 512 - 8} -c 15`);
      assert.notEqual(beyond.status, 0);
      assert.match(beyond.stdout + beyond.stderr, /LBA.*range|0x[0-9a-f]*80/i);
    },
  );

  suite.case(
    "copy moves ranges inside the namespace",
    { config: (directory) => oneDisk(file(`${directory}/disk`, 64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      await host.run(`set -e; head -c 1M /dev/urandom >/tmp/data; dd if=/tmp/data of=${device} bs=1M oflag=direct status=none
      nvme copy ${device} -n 1 --sdlba=8192 --blocks=15,31 --slbs=0,100; forget_cache ${device}
      dd if=${device} of=/tmp/back bs=512 skip=8192 count=48 iflag=direct status=none
      { dd if=/tmp/data bs=512 count=16 status=none; dd if=/tmp/data bs=512 skip=100 count=32 status=none; } | cmp - /tmp/back`);
    },
  );

  suite.case(
    "a read or write beyond the end is refused with the right status",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      const end = (64 * MIB) / 512;
      await host.run("head -c 4096 /dev/zero >/tmp/zeroes");
      for (const command of [
        `read ${device} -s ${end} -c 0 -z 512`,
        `read ${device} -s ${end - 4} -c 7 -z 4096`,
        `write ${device} -s ${end - 4} -c 7 -z 4096 -d /tmp/zeroes`,
      ]) {
        const { status, stdout, stderr } = await host.try(`nvme ${command}`);
        assert.notEqual(status, 0, command);
        assert.match(stdout + stderr, /LBA.*range|0x[0-9a-f]*80/i, command);
      }
    },
  );

  suite.case(
    "write uncorrectable and an unknown opcode are refused, and the queue goes on",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      const unknown = await host.try(`nvme io-passthru ${device} -o 0x7e -n 1 -r -l 4096`);
      assert.notEqual(unknown.status, 0);
      assert.match(unknown.stdout + unknown.stderr, /opcode|0x[0-9a-f]*001/i);
      await host.run(`dd if=${device} of=/dev/null bs=4k count=16 iflag=direct status=none`);
    },
  );
}
