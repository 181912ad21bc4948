// Identify, log pages, features, Abort and asynchronous events as a 2.0 controller must answer them, with the checks
// that the Linux host makes. NVM Express Base 2.0 §5.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, blockRange, Io, Status } from "./host/command.js";
import { type Controller, discoveryNqn, read, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { connect, Ns, pattern, ramBytes, startServer, subnqn, withQueue } from "./host/fixture.js";
import {
  anaLog,
  dwords,
  identifyController,
  identifyNamespace,
  namespaceIdentifiers,
} from "./host/layout.js";
import type { Server } from "./host/server.js";

const everyNsid = [1, 2, 3, 4, 5, 6, 7];

suite("admin", () => {
  let server: Server;
  let controller: Controller;
  before(async () => {
    server = await startServer();
    controller = await connect(server);
  });
  after(async () => {
    controller?.close();
    await server.stop();
  });

  const admin = (opcode: number, fields: object = {}, receive?: number) =>
    controller.admin.execute({ opcode, ...fields }, receive === undefined ? {} : { receive });

  test("Identify Controller says what Linux, SPDK and ESXi insist on", async () => {
    const id = identifyController((await controller.identify(1)).data);
    assert.equal(id.cntlid, controller.cntlid);
    assert.equal(id.subnqn, subnqn);
    for (const name of ["serial", "model", "firmware"] as const) assert.notEqual(id[name], "", name);
    assert.equal(BigInt(id.version), await controller.property(8, 4));
    assert.equal(id.controllerType, 1);
    assert.ok(id.kas > 0, "KAS");
    assert.ok((id.cmic & 0b1010) === 0b1010, "several controllers, ANA");
    assert.ok(id.mdts >= 5 && id.mdts <= 8, `MDTS ${id.mdts}`);
    assert.equal(id.sqes, 0x66);
    assert.equal(id.cqes, 0x44);
    assert.equal(id.icdoff, 0);
    assert.ok(id.ioccsz >= 4 + 8192 / 16, `IOCCSZ ${id.ioccsz}`);
    assert.equal(id.iorcsz, 1);
    assert.equal(id.msdbd, 1);
    assert.equal(id.sgls & 3, 1, "SGLS");
    assert.ok((id.sgls & (1 << 20)) !== 0, "offsets in capsules");
    assert.ok(id.mnan > 0 && id.mnan <= id.nn && id.nn >= 7, `NN ${id.nn}, MNAN ${id.mnan}`);
    assert.ok(id.anagrpmax > 0 && id.nanagrpid > 0 && id.nanagrpid <= id.anagrpmax && id.anatt > 0);
    const cap = await controller.property(0, 8);
    assert.ok(id.maxcmd > 0 && id.maxcmd <= Number(cap & 0xffffn) + 1, `MAXCMD ${id.maxcmd}`);
    assert.equal(id.fuses & 1, 1, "Compare and Write");
    assert.equal(id.oncs & 0x10d, 0x10d, "Compare, DSM, Write Zeroes, Copy");
    assert.ok((id.oncs & 0x80) !== 0, "Verify");
    assert.ok(id.acl >= 3 && id.aerl >= 3 && id.elpe >= 63);
    assert.ok((id.lpa & 0b100110) === 0b100110, `LPA ${id.lpa}`);
    assert.ok((id.oaes & 0x900) === 0x900, `OAES ${id.oaes.toString(16)}`);
    assert.ok((id.ctratt & 0x41) === 0x41, `CTRATT ${id.ctratt.toString(16)}`);
  });

  test("every CNS that a 2.0 controller has is answered, every other one refused", async () => {
    for (const [cns, nsid] of [
      [0x00, 1],
      [0x01, 0],
      [0x02, 0],
      [0x03, 1],
      [0x05, 1],
      [0x06, 0],
      [0x07, 0],
      [0x08, 1],
      [0x10, 0],
      [0x11, 1],
      [0x12, 1],
      [0x13, 0],
      [0x1c, 0],
    ] as const) {
      const cntid = cns === 0x1c ? 0xffff : 0;
      const { status } = await controller.identify(cns, { nsid, cntid });
      assert.equal(status, 0, `CNS ${cns.toString(16)}h, NSID ${nsid}: ${status.toString(16)}h`);
    }
    const known = new Set([
      0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 0x0a, 0x10, 0x11, 0x12, 0x13, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1a,
      0x1b, 0x1c,
    ]);
    for (let cns = 0; cns < 256; cns += 1) {
      if (known.has(cns)) continue;
      assert.equal(
        (await controller.identify(cns, { nsid: 1 })).status,
        Status.invalidField,
        `CNS ${cns.toString(16)}h`,
      );
    }
  });

  test("namespaces that do not exist are told apart from those that are not there", async () => {
    for (const nsid of [0, 0xfffffffe]) {
      for (const cns of [0, 3, 5]) {
        const { status } = await controller.identify(cns, { nsid });
        assert.equal(status, Status.invalidNamespace, `CNS ${cns}, NSID ${nsid.toString(16)}h`);
      }
    }
    const absent = await controller.identify(0, { nsid: 100 });
    assert.equal(absent.status, 0, "inactive: a page of zeroes");
    assert.ok(absent.data.every((byte) => byte === 0));
  });

  test("the active list is in order and starts after the given NSID", async () => {
    assert.deepEqual(dwords((await controller.identify(2)).data), everyNsid);
    assert.deepEqual(dwords((await controller.identify(2, { nsid: 3 })).data), [4, 5, 6, 7]);
    assert.deepEqual(dwords((await controller.identify(2, { nsid: 7 })).data), []);
    assert.deepEqual(dwords((await controller.identify(7)).data), everyNsid, "for the NVM command set");
    assert.equal((await controller.identify(2, { nsid: 0xffffffff })).status, Status.invalidNamespace);
  });

  test("each namespace says its size, format and identifiers", async () => {
    const nguids = new Set<string>();
    const sizes = new Map([
      [Ns.ram4k, [BigInt(ramBytes / 4096), 4096]],
      [Ns.ram512, [BigInt((16 << 20) / 512), 512]],
      [Ns.zero, [1n << 28n, 4096]],
      [Ns.file, [BigInt((16 << 20) / 4096), 4096]],
    ] as [number, [bigint, number]][]);
    for (const nsid of everyNsid) {
      const ns = identifyNamespace((await controller.identify(0, { nsid })).data);
      const size = sizes.get(nsid);
      if (size !== undefined) assert.deepEqual([ns.nsze, ns.blockBytes], size, `namespace ${nsid}`);
      assert.equal(ns.ncap, ns.nsze);
      assert.equal(ns.metadataBytes, 0);
      assert.equal(ns.nmic & 1, 1, "may be attached to several controllers");
      assert.ok(ns.anagrpid > 0);
      const ids = namespaceIdentifiers((await controller.identify(3, { nsid })).data);
      assert.equal(ids.get(2), ns.nguid);
      assert.equal(ids.get(3)?.length, 32, "UUID");
      assert.equal(ids.get(4), "00", "CSI");
      assert.notEqual(ns.nguid, "0".repeat(32));
      nguids.add(ns.nguid);
      assert.equal((ns.nsattr & 1) === 1, nsid === Ns.readOnly, `write protection of namespace ${nsid}`);
    }
    assert.equal(nguids.size, everyNsid.length, "NGUIDs are unique");
  });

  test("two controllers see the same identifiers", async () => {
    const other = await connect(server);
    for (const nsid of everyNsid) {
      const [mine, theirs] = [await controller.identify(3, { nsid }), await other.identify(3, { nsid })];
      assert.deepEqual(mine.data, theirs.data);
    }
    assert.notEqual(other.cntlid, controller.cntlid);
    other.close();
  });

  test("the supported log pages are exactly those that can be read", async () => {
    const { data, status } = await controller.logPage(0, 1024);
    assert.equal(status, 0);
    const supported = (lid: number) => (data.readUInt32LE(4 * lid) & 1) === 1;
    for (const lid of [0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0c, 0x12])
      assert.ok(supported(lid), `LID ${lid}`);
    for (let lid = 0; lid < 256; lid += 1) {
      const answer = await controller.logPage(lid, 512, { nsid: 0xffffffff });
      const expected = supported(lid) ? 0 : Status.invalidLogPage;
      const acceptable =
        answer.status === expected || (!supported(lid) && answer.status === Status.invalidField);
      assert.ok(acceptable, `LID ${lid.toString(16)}h: ${answer.status.toString(16)}h`);
    }
  });

  test("log pages are read in pieces, and an offset past their end is refused", async () => {
    const whole = (await controller.logPage(5, 4096)).data;
    for (const offset of [0, 4, 512, 1024, 4092]) {
      const piece = await controller.logPage(5, 4, { offset: BigInt(offset) });
      assert.equal(piece.status, 0);
      assert.deepEqual(piece.data, whole.subarray(offset, offset + 4), `offset ${offset}`);
    }
    for (const offset of [8192n, 1n << 20n, 1n << 40n, (1n << 64n) - 4n, 2n, 1n]) {
      const { status } = await controller.logPage(5, 4, { offset });
      assert.equal(status, Status.invalidField, `offset ${offset}`);
    }
  });

  test("the effects log names what is supported and nothing else", async () => {
    const { data } = await controller.logPage(5, 4096);
    const supported = (at: number) => (data.readUInt32LE(at) & 1) === 1;
    for (const opcode of Object.values(Admin)) assert.ok(supported(4 * opcode), `admin ${opcode}`);
    for (const opcode of [0, 1, 2, 5, 8, 9, 0x0c, 0x19])
      assert.ok(supported(1024 + 4 * opcode), `I/O ${opcode}`);
    for (let opcode = 0; opcode < 256; opcode += 1) {
      if (opcode === 0x7f || opcode === Admin.asyncEvent || supported(4 * opcode)) continue;
      const { status } = await admin(opcode, { nsid: 1 });
      assert.equal(status, Status.invalidOpcode, `admin opcode ${opcode.toString(16)}h`);
    }
  });

  test("SMART counts what was read and written", async () => {
    const units = async () => {
      const { data, status } = await controller.logPage(2, 512, { nsid: 0xffffffff });
      assert.equal(status, 0);
      assert.equal(data.readUInt8(0), 0, "no critical warning");
      const kelvin = data.readUInt16LE(1);
      assert.ok(kelvin > 273 && kelvin < 353, `${kelvin} K`);
      return {
        read: data.readBigUInt64LE(32),
        written: data.readBigUInt64LE(48),
        reads: data.readBigUInt64LE(64),
        writes: data.readBigUInt64LE(80),
      };
    };
    const start = await units();
    await withQueue(server, async (queue) => {
      for (let round = 0; round < 8; round += 1) {
        await write(queue, 0n, pattern(1 << 20), 4096, { nsid: Ns.ram4k });
        await read(queue, 0n, 256, 4096, Ns.ram4k);
      }
    });
    const end = await units();
    assert.ok(end.reads - start.reads >= 8n && end.writes - start.writes >= 8n);
    // Units of 1000 × 512 bytes, rounded up.
    for (const grown of [end.read - start.read, end.written - start.written])
      assert.ok(grown >= 15n && grown <= 20n, `${grown}`);
  });

  test("an error is found in the error log with its command", async () => {
    await withQueue(server, async (queue, own) => {
      const failed = await read(queue, 1n << 40n, 1, 4096, Ns.ram4k);
      assert.equal(failed.status, Status.lbaOutOfRange);
      const { data, status } = await own.logPage(1, 64);
      assert.equal(status, 0);
      assert.notEqual(data.readBigUInt64LE(0), 0n, "error count");
      assert.equal(data.readUInt16LE(8), 1, "SQID");
      assert.equal(data.readUInt16LE(10), failed.cid);
      assert.equal((data.readUInt16LE(12) >> 1) & 0x7ff, Status.lbaOutOfRange);
      assert.equal(data.readBigUInt64LE(16), 1n << 40n, "LBA");
      assert.equal(data.readUInt32LE(24), Ns.ram4k);
    });
  });

  test("the ANA log has one optimized group with all namespaces", async () => {
    const { data, status } = await controller.logPage(0x0c, 4096);
    assert.equal(status, 0);
    const ana = anaLog(data);
    assert.deepEqual(
      { groups: ana.groups, state: ana.state, namespaces: ana.namespaces },
      { groups: 1, state: 1, namespaces: everyNsid },
    );
    assert.equal(ana.namespaceCount, everyNsid.length);
    const groupsOnly = anaLog((await controller.logPage(0x0c, 4096, { lsp: 1 })).data);
    assert.equal(groupsOnly.namespaceCount, 0);
  });

  test("features keep what was set, and refuse what cannot be", async () => {
    const get = async (fid: number, sel = 0) => admin(Admin.getFeatures, { cdw10: fid | (sel << 8) });
    const set = async (fid: number, value: number) => admin(Admin.setFeatures, { cdw10: fid, cdw11: value });
    const numberOfQueues = await set(7, 0x00070007);
    assert.equal(numberOfQueues.status, 0);
    assert.equal(numberOfQueues.dw0, 0x00070007);
    assert.ok(((await set(7, 0x03ff03ff)).dw0 & 0xffff) <= 63, "64 queues at most");
    assert.equal((await set(7, 0xffff0001)).status, Status.invalidField);
    assert.equal((await set(0x0b, 0x900)).status, 0);
    assert.equal((await get(0x0b)).dw0, 0x900);
    for (const fid of [0x01, 0x02, 0x04, 0x06, 0x07, 0x0b, 0x0f]) {
      assert.equal((await get(fid)).status, 0, `feature ${fid.toString(16)}h`);
      assert.equal((await get(fid, 3)).status, 0, `capabilities of feature ${fid.toString(16)}h`);
    }
    assert.equal((await get(0x05)).status, Status.invalidNamespace, "error recovery belongs to a namespace");
    assert.equal((await admin(Admin.getFeatures, { cdw10: 0x05, nsid: 1 })).status, 0);
    assert.equal((await get(0x60)).status, Status.invalidField);
    assert.equal((await set(0x60, 0)).status, Status.invalidField);
    assert.equal(
      (await admin(Admin.setFeatures, { cdw10: 0x0b | 0x80000000, cdw11: 0 })).status,
      Status.featureNotSaveable,
    );
  });

  test("timestamp, host behaviour and host identifier travel as data", async () => {
    const stamp = Buffer.alloc(8);
    stamp.writeUIntLE(1_700_000_000_000, 0, 6);
    const set = await controller.admin.execute({ opcode: Admin.setFeatures, cdw10: 0x0e }, { send: stamp });
    assert.equal(set.status, 0);
    const got = await admin(Admin.getFeatures, { cdw10: 0x0e }, 8);
    const elapsed = got.data.readUIntLE(0, 6) - 1_700_000_000_000;
    assert.ok(elapsed >= 0 && elapsed < 60_000, `${elapsed} ms`);
    const behaviour = Buffer.alloc(512);
    behaviour[0] = 1;
    assert.equal(
      (await controller.admin.execute({ opcode: Admin.setFeatures, cdw10: 0x16 }, { send: behaviour }))
        .status,
      0,
    );
    assert.equal((await admin(Admin.getFeatures, { cdw10: 0x16 }, 512)).data[0], 1);
    const hostId = await admin(Admin.getFeatures, { cdw10: 0x81, cdw11: 1 }, 16);
    assert.equal(hostId.status, 0);
    assert.deepEqual(hostId.data, controller.host.id);
  });

  test("Abort ends a read that waits, and says when it did not", async () => {
    await withQueue(server, async (queue, own) => {
      const slow = queue.submit({ opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 1) }, { receive: 4096 });
      await queue.execute({ opcode: Io.flush, nsid: Ns.ram4k });
      const abort = await own.admin.execute({ opcode: Admin.abort, cdw10: (slow.cid << 16) | 1 });
      assert.deepEqual([abort.status, abort.dw0 & 1], [0, 0], "aborted");
      assert.equal((await within(slow.result, "the aborted read")).status, Status.abortRequested);
      const nothing = await own.admin.execute({ opcode: Admin.abort, cdw10: (4711 << 16) | 1 });
      assert.deepEqual([nothing.status, nothing.dw0 & 1], [0, 1], "not aborted");
      const noQueue = await own.admin.execute({ opcode: Admin.abort, cdw10: (1 << 16) | 9 });
      assert.ok(noQueue.status !== 0 || (noQueue.dw0 & 1) === 1, "no such queue");
    });
  });

  test("five event requests are one too many, and Abort takes one back", async () => {
    const own = await connect(server);
    const events = Array.from({ length: 4 }, () => own.admin.submit({ opcode: Admin.asyncEvent }));
    assert.equal((await own.admin.execute({ opcode: Admin.asyncEvent })).status, Status.asyncEventLimit);
    const [first] = events;
    assert.ok(first !== undefined);
    const abort = await own.admin.execute({ opcode: Admin.abort, cdw10: first.cid << 16 });
    assert.deepEqual([abort.status, abort.dw0 & 1], [0, 0]);
    assert.equal((await within(first.result, "the aborted request")).status, Status.abortRequested);
    own.close();
  });

  test("a discovery controller has its own smaller set of commands", async () => {
    const discovery = await connect(server, { subnqn: discoveryNqn });
    const id = identifyController((await discovery.identify(1)).data);
    assert.equal(id.controllerType, 2);
    assert.equal(id.subnqn, discoveryNqn);
    assert.equal((await discovery.logPage(0x70, 1024)).status, 0);
    assert.notEqual((await discovery.logPage(2, 512)).status, 0, "no SMART");
    assert.notEqual((await discovery.identify(0, { nsid: 1 })).status, 0, "no namespaces");
    discovery.close();
  });
});
