// The admin side as nvme-cli shows it: identify data, log pages, features.
import assert from "node:assert/strict";
import { file, NQN, offer, oneDisk, ram, subsystem } from "../harness/config.mjs";

export function adminCases(suite) {
  suite.case(
    "identify controller has all that a 2.0 fabrics controller must say",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const id = await host.json(`id-ctrl /dev/${controller}`);
      assert.equal(id.subnqn, NQN);
      assert.equal(id.cntlid, Number(await host.attribute(controller, "cntlid")));
      for (const field of ["sn", "mn", "fr"]) assert.notEqual(id[field].trim(), "", `${field} is empty`);
      assert.equal(id.cntrltype, 1);
      assert.ok(id.ver >= 0x10400, `version ${id.ver.toString(16)}`);
      assert.ok(id.kas > 0, "keep-alive is supported");
      assert.ok(id.mdts >= 5 && id.mdts <= 10, `mdts ${id.mdts}`);
      assert.equal(id.sqes, 0x66);
      assert.equal(id.cqes, 0x44);
      assert.ok(id.maxcmd > 0 && id.nn >= 1 && id.ioccsz >= 4 && id.iorcsz === 1 && id.icdoff === 0);
      assert.equal(id.vwc & 1, 1, "a volatile write cache");
      const oncs = { compare: 0, dataset: 2, writeZeroes: 3, verify: 7, copy: 8 };
      for (const [name, bit] of Object.entries(oncs))
        assert.equal((id.oncs >> bit) & 1, 1, `optional command: ${name}`);
      assert.equal(id.fuses & 1, 1, "fused compare and write");
    },
  );

  suite.case(
    "identify namespace shows size, format and identifiers, stable over reconnects",
    { config: offer({ disk: subsystem([ram(64, 512), ram(96, 4096)]) }) },
    async ({ host }) => {
      const look = async () => {
        await host.connect(NQN);
        const seen = [];
        for (const nsid of [1, 2]) {
          const device = await host.device(NQN, nsid);
          const id = await host.json(`id-ns ${device}`);
          const uuid = await host.run(
            `cat /sys/block/$(basename ${device})/uuid /sys/block/$(basename ${device})/nguid`,
          );
          seen.push({ nsze: id.nsze, lbads: id.lbafs[id.flbas & 15].ds, nguid: id.nguid, uuid });
        }
        await host.disconnect(NQN);
        return seen;
      };
      const first = await look();
      assert.deepEqual(
        first.map(({ nsze, lbads }) => [nsze, lbads]),
        [
          [(64 << 20) / 512, 9],
          [(96 << 20) / 4096, 12],
        ],
      );
      assert.notEqual(first[0].nguid, first[1].nguid);
      assert.doesNotMatch(first[0].nguid, /^0+$/);
      assert.deepEqual(await look(), first);
    },
  );

  suite.case(
    "nvme list and list-subsys show the namespace and its path",
    { config: oneDisk(ram(64)) },
    async ({ host, target }) => {
      const device = await host.attach(NQN);
      const { Devices } = await host.json("list");
      assert.ok(JSON.stringify(Devices).includes(device), JSON.stringify(Devices));
      const subsystems = JSON.stringify(await host.json("list-subsys"));
      assert.ok(
        subsystems.includes(NQN) && subsystems.includes(`trsvcid=${target.places.io.port}`),
        subsystems,
      );
      assert.match(subsystems, /optimized|live/);
    },
  );

  suite.case("the SMART log counts what the host does", { config: oneDisk(ram(64)) }, async ({ host }) => {
    const controller = await host.connect(NQN);
    const device = await host.device(NQN);
    const before = await host.json(`smart-log /dev/${controller}`);
    await host.run(
      `dd if=/dev/zero of=${device} bs=1M count=32 oflag=direct status=none; dd if=${device} of=/dev/null bs=1M count=16 iflag=direct status=none`,
    );
    const after = await host.json(`smart-log /dev/${controller}`);
    assert.equal(after.critical_warning, 0);
    const grown = (field) => Number(after[field]) - Number(before[field]);
    // Units of 1000 × 512 bytes, rounded up.
    assert.ok(
      grown("data_units_written") >= 65 && grown("data_units_written") <= 70,
      `written ${grown("data_units_written")}`,
    );
    assert.ok(
      grown("data_units_read") >= 32 && grown("data_units_read") <= 60,
      `read ${grown("data_units_read")}`,
    );
    assert.ok(grown("host_write_commands") >= 32 && grown("host_read_commands") >= 16);
  });

  suite.case(
    "the error log tells of a command that failed",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const device = await host.device(NQN);
      const count = async () => Number((await host.json(`smart-log /dev/${controller}`)).num_err_log_entries);
      const before = await count();
      const failed = await host.try(`nvme read ${device} -s 9999999 -c 0 -z 512`);
      assert.notEqual(failed.status, 0, "a read past the end must fail");
      assert.equal(await count(), before + 1);
      const { errors } = await host.json(`error-log /dev/${controller} -e 1`);
      assert.equal(Number(errors[0].error_count), before + 1);
      // Without the "more" and "do not retry" bits: LBA out of range.
      assert.equal(Number(errors[0].status_field) & 0x7ff, 0x80, JSON.stringify(errors[0]));
      assert.equal(Number(errors[0].lba), 9999999);
      assert.equal(Number(errors[0].nsid), 1);
    },
  );

  suite.case(
    "the ANA log has one optimized group with all namespaces",
    { config: offer({ disk: subsystem([ram(64), ram(64)]) }) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const log = await host.json(`ana-log /dev/${controller}`);
      const groups = log["ANA DESC LIST "] ?? log["ANA DESC LIST"] ?? log.descriptors;
      assert.equal(groups.length, 1, JSON.stringify(log));
      assert.equal(groups[0].state, "optimized");
      assert.equal(groups[0].nnsids ?? groups[0].NSIDS.length, 2, JSON.stringify(log));
    },
  );

  suite.case(
    "the effects log lists the commands that the controller claims",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const log = Buffer.from(
        await host.run(`nvme get-log /dev/${controller} -i 5 -l 4096 -b | base64 -w0`),
        "base64",
      );
      const admin = {
        getLogPage: 0x02,
        identify: 0x06,
        abort: 0x08,
        setFeatures: 0x09,
        getFeatures: 0x0a,
        asyncEvent: 0x0c,
        keepAlive: 0x18,
      };
      const io = {
        flush: 0x00,
        write: 0x01,
        read: 0x02,
        compare: 0x05,
        writeZeroes: 0x08,
        dataset: 0x09,
        verify: 0x0c,
        copy: 0x19,
      };
      for (const [name, opcode] of Object.entries(admin))
        assert.equal(log.readUInt32LE(opcode * 4) & 1, 1, `admin command ${name} is supported`);
      for (const [name, opcode] of Object.entries(io))
        assert.equal(log.readUInt32LE(1024 + opcode * 4) & 1, 1, `I/O command ${name} is supported`);
      for (const name of ["write", "writeZeroes", "dataset", "copy"])
        assert.equal((log.readUInt32LE(1024 + io[name] * 4) >> 1) & 1, 1, `${name} changes content`);
      await host.run(`nvme effects-log /dev/${controller}`);
    },
  );

  suite.case(
    "every log page that is claimed can be read, and the raw bytes are not all zero where they must not be",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      for (const page of [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0c, 0x12]) {
        const { status, stderr } = await host.try(
          `nvme get-log /dev/${controller} -i ${page} -l 512 -b >/tmp/log && [ "$(stat -c %s /tmp/log)" = 512 ]`,
        );
        assert.equal(status, 0, `log page ${page}: ${stderr}`);
      }
      await host.run(`nvme fw-log /dev/${controller}`);
      const supported = Buffer.from(
        await host.run(`nvme get-log /dev/${controller} -i 0 -l 1024 -b | base64 -w0`),
        "base64",
      );
      for (const page of [0x00, 0x01, 0x02, 0x03, 0x05, 0x0c])
        assert.equal(supported[page * 4] & 1, 1, `log page ${page} is listed as supported`);
    },
  );

  suite.case(
    "an unknown log page, feature and identify selector are refused as invalid fields",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const refused = [
        ["get-log -i 0x5f -l 512", /109\)|Invalid Log Page|Invalid Field/i],
        ["get-feature -f 0x7f", /0x4002|Invalid Field/i],
        ["admin-passthru -o 6 --cdw10=0x7e -r -l 4096", /0x4002|Invalid Field/i],
        ["admin-passthru -o 0x7e -r -l 4096", /0x4001|Invalid Command Opcode|INVALID_OPCODE/i],
      ];
      for (const [command, expected] of refused) {
        const [verb, ...rest] = command.split(" ");
        const { status, stdout, stderr } = await host.try(
          `nvme ${verb} /dev/${controller} ${rest.join(" ")}`,
        );
        assert.notEqual(status, 0, command);
        assert.match(stdout + stderr, expected, command);
      }
    },
  );

  suite.case(
    "features can be read, and what can be set keeps its value",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN, { keepAliveS: 7 });
      const value = async (feature, extra = "") => {
        const text = await host.run(`nvme get-feature /dev/${controller} -f ${feature} ${extra}`);
        const found = /(?:Current )?value:\s*(?:0x)?([0-9a-f]+)/i.exec(text);
        assert.ok(found, text);
        return Number.parseInt(found[1], 16);
      };
      // arbitration, power management, temperature threshold, volatile write cache, queues, async events, keep-alive
      for (const feature of [1, 2, 4, 6, 7, 0x0b, 0x0f]) await value(feature);
      await host.run(`nvme set-feature /dev/${controller} -n 1 -f 5 -v 0x10`);
      assert.equal(await value(5, "-n 1"), 0x10, "error recovery of the namespace");
      assert.equal(await value(0x0f), 7000, "keep-alive timeout in ms");
      const queues = await value(7);
      assert.ok((queues & 0xffff) >= 1 && queues >> 16 >= 1, `queues ${queues.toString(16)}`);
      assert.equal(await value(6), 1, "the write cache is on");

      await host.run(`nvme set-feature /dev/${controller} -f 4 -v 0x0150`);
      assert.equal(await value(4), 0x150, "temperature threshold");
      // timestamp: milliseconds since 1970 in a data structure of 8 bytes
      await host.run(
        `printf '\\100\\342\\001\\000\\220\\001\\000\\000' >/tmp/timestamp; nvme set-feature /dev/${controller} -f 0x0e -l 8 -d /tmp/timestamp`,
      );
      await host.run(
        `nvme get-feature /dev/${controller} -f 0x0e -l 8 -b | head -c 6 >/tmp/now; [ "$(stat -c %s /tmp/now)" = 6 ]`,
      );
    },
  );

  suite.case(
    "the registers that fabrics has can be shown",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN);
      const property = async (offset) =>
        BigInt(
          `0x${/value:\s*(?:0x)?([0-9a-f]+)/i.exec(await host.run(`nvme get-property /dev/${controller} -o ${offset}`))[1]}`,
        );
      const capabilities = await property(0x00);
      assert.ok((capabilities & 0xffffn) >= 127n, `queues of ${(capabilities & 0xffffn) + 1n} entries`);
      assert.equal((capabilities >> 16n) & 1n, 1n, "contiguous queues required");
      assert.equal((capabilities >> 37n) & 1n, 1n, "NVM command set");
      assert.ok((await property(0x08)) >= 0x10400n, "version");
      assert.equal((await property(0x14)) & 1n, 1n, "enabled");
      assert.equal((await property(0x1c)) & 3n, 1n, "ready and not failed");
    },
  );

  suite.case(
    "the write cache is announced to the block layer, and flush and FUA work",
    { config: (directory) => oneDisk(file(`${directory}/disk`, 64)) },
    async ({ host, target }) => {
      const device = await host.attach(NQN);
      /** What the server's device has done, by action. */
      const done = async () => {
        const { devices } = await target.json("status");
        const [read, write, flush] = devices[0].completed;
        return { read, write, flush };
      };
      const queue = `/sys/block/$(basename ${device})/queue`;
      assert.equal(await host.run(`cat ${queue}/write_cache`), "write back");
      assert.equal(await host.run(`cat ${queue}/fua`), "1");
      const idle = await done();
      await host.run(`nvme flush ${device} -n 1`);
      const flushed = await done();
      assert.equal(flushed.flush - idle.flush, 1, "one Flush of the host is one flush of the device");
      await host.run(
        `fio --name=durable --filename=${device} --rw=randwrite --bs=4k --size=8M --ioengine=sync --direct=1 --sync=1 --fsync=16 --number_ios=256 --output=/dev/null`,
      );
      const after = await done();
      assert.ok(after.write - flushed.write >= 256, JSON.stringify({ flushed, after }));
      assert.ok(after.flush - flushed.flush >= 16, JSON.stringify({ flushed, after }));
    },
  );
}
