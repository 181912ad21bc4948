// A controller's life: properties, enabling, reset, shutdown, keep alive. NVM Express Base 2.0 §3.1.3, §3.5, §3.9.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, blockRange, Io, Status } from "./host/command.js";
import { ccEnabled, Property, propertyGet, propertySet } from "./host/controller.js";
import { until, within } from "./host/deadline.js";
import { connect, Ns, startServer, withQueue } from "./host/fixture.js";
import type { Server } from "./host/server.js";

suite("controller", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  test("CAP, VS and CRTO agree with each other", async () => {
    const controller = await connect(server, { enable: false });
    const cap = await controller.property(Property.cap, 8);
    const mqes = Number(cap & 0xffffn);
    assert.ok(mqes + 1 >= 128 && mqes + 1 <= 1024, `MQES ${mqes}`);
    assert.equal((cap >> 16n) & 1n, 1n, "CQR");
    assert.ok(((cap >> 24n) & 0xffn) > 0n, "TO");
    assert.equal((cap >> 37n) & 1n, 1n, "NVM command set");
    assert.equal((cap >> 48n) & 0xfn, 0n, "MPSMIN: 4 KiB");
    const vs = await controller.property(Property.vs, 4);
    assert.ok(vs === 0x20000n || vs === 0x10400n, `VS ${vs.toString(16)}`);
    if (((cap >> 59n) & 3n) !== 0n) assert.notEqual(await controller.property(Property.crto, 4), 0n, "CRTO");
    controller.close();
  });

  test("CC.EN brings CSTS.RDY and takes it away", async () => {
    const controller = await connect(server, { enable: false });
    assert.equal(await controller.property(Property.csts, 4), 0n);
    assert.equal((await controller.identify(1)).status, Status.commandSequence, "Identify before CC.EN");
    for (let round = 0; round < 5; round += 1) {
      await controller.enable();
      assert.equal(await controller.property(Property.cc, 4), BigInt(ccEnabled));
      assert.equal((await controller.identify(1)).status, 0);
      await controller.setProperty(Property.cc, BigInt(ccEnabled) & ~1n);
      await until(
        async () => ((await controller.property(Property.csts, 4)) === 0n ? true : null),
        "RDY to go",
      );
    }
    controller.close();
  });

  test("a reset ends the I/O queues and what they were doing", async () => {
    await withQueue(server, async (queue, controller) => {
      queue.submit({ opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 1) }, { receive: 4096 });
      await controller.setProperty(Property.cc, BigInt(ccEnabled) & ~1n);
      await queue.wire.closed();
      await until(
        async () => ((await controller.property(Property.csts, 4)) === 0n ? true : null),
        "RDY to go",
      );
      await controller.enable();
      const again = await until(async () => {
        try {
          return await controller.openQueue(1);
        } catch {
          return null;
        }
      }, "queue 1 after the reset");
      assert.equal((await again.execute({ opcode: Io.flush, nsid: Ns.ram4k })).status, 0);
    });
  });

  test("a shutdown is complete when SHST says so, and the controller can be enabled again", async () => {
    for (const kind of [1n, 2n]) {
      await withQueue(server, async (_queue, controller) => {
        await controller.setProperty(Property.cc, BigInt(ccEnabled) | (kind << 14n));
        await until(
          async () => (((await controller.property(Property.csts, 4)) >> 2n) & 3n) === 2n || null,
          "SHST: shutdown complete",
        );
        await controller.setProperty(Property.cc, BigInt(ccEnabled) & ~1n);
        await until(
          async () => ((await controller.property(Property.csts, 4)) & 1n) === 0n || null,
          "RDY to go",
        );
        await controller.enable();
        assert.equal((await controller.identify(1)).status, 0);
      });
    }
  });

  test("properties that do not exist, or in a wrong size, are refused", async () => {
    const controller = await connect(server);
    const wrong = [
      propertyGet(0x1000, 4),
      propertyGet(Property.cap + 1, 4),
      propertyGet(0xffffffff, 8),
      propertyGet(Property.cap, 4),
      propertyGet(Property.vs, 8),
      propertySet(Property.cap, 1n),
      propertySet(Property.csts, 1n),
      propertySet(Property.vs, 1n),
      propertySet(0x1000, 1n),
      propertySet(Property.cc, BigInt(ccEnabled), 8),
      { ...propertyGet(Property.vs, 4), cdw10: 7 },
    ];
    for (const [index, fields] of wrong.entries()) {
      const { status } = await controller.admin.execute(fields);
      assert.notEqual(status, 0, `case ${index}`);
    }
    controller.close();
  });

  test("properties are not for I/O queues", async () => {
    await withQueue(server, async (queue) => {
      assert.notEqual((await queue.execute(propertyGet(Property.vs, 4))).status, 0);
    });
  });

  test("a CC that the controller cannot follow does not make it ready", async () => {
    for (const cc of [0x00460071n, 0x00460001n | (0xfn << 7n), 0x00000001n]) {
      const controller = await connect(server, { enable: false });
      const { status } = await controller.admin.execute(propertySet(Property.cc, cc));
      if (status === 0) {
        const csts = await controller.property(Property.csts, 4);
        assert.ok((csts & 1n) === 0n || (csts & 2n) !== 0n, `CC ${cc.toString(16)}: CSTS ${csts}`);
      }
      controller.close();
    }
  });
});

suite("keep alive", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  test("a host that falls silent is disconnected after KATO, on all its queues, and not before", async () => {
    const controller = await connect(server, { kato: 1000 });
    const queue = await controller.openQueue(1);
    // From before the last word: the server counts from when it came.
    const silent = performance.now();
    await controller.keepAlive();
    await Promise.all([controller.admin.wire.closed(), queue.wire.closed()]);
    const waited = performance.now() - silent;
    assert.ok(waited >= 990, `after ${waited.toFixed(0)} ms`);
    controller.close();
  });

  test("Keep Alive keeps it connected", async () => {
    const controller = await connect(server, { kato: 2000 });
    const end = performance.now() + 5000;
    while (performance.now() < end) {
      assert.equal((await controller.keepAlive()).status, 0);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.equal(controller.admin.wire.ended, false);
    controller.close();
  });

  test("traffic keeps it connected too, on an I/O queue alone, as CTRATT.TBKAS says", async () => {
    const controller = await connect(server, { kato: 2000 });
    const ctratt = (await controller.identify(1)).data.readUInt32LE(96);
    assert.ok((ctratt & (1 << 6)) !== 0, "TBKAS");
    const queue = await controller.openQueue(1);
    const end = performance.now() + 5000;
    while (performance.now() < end) {
      assert.equal((await queue.execute({ opcode: Io.flush, nsid: Ns.ram4k })).status, 0);
      await new Promise((resolve) => setTimeout(resolve, 200));
    }
    assert.equal(controller.admin.wire.ended, false);
    controller.close();
  });

  test("KATO can be changed by Set Features, and 0 switches it off", async () => {
    const controller = await connect(server, { kato: 1000 });
    const set = (ms: number) =>
      controller.admin.execute({ opcode: Admin.setFeatures, cdw10: 0x0f, cdw11: ms });
    const get = async () => (await controller.admin.execute({ opcode: Admin.getFeatures, cdw10: 0x0f })).dw0;
    assert.equal(await get(), 1000);
    assert.equal((await set(0)).status, 0);
    assert.equal(await get(), 0);
    await new Promise((resolve) => setTimeout(resolve, 2000));
    assert.equal(controller.admin.wire.ended, false);
    assert.equal((await set(500)).status, 0);
    assert.ok((await get()) >= 500);
    await controller.admin.wire.closed();
    controller.close();
  });

  test("Keep Alive is not for I/O queues", async () => {
    await withQueue(server, async (queue) => {
      assert.equal((await queue.execute({ opcode: Admin.keepAlive })).status, Status.invalidOpcode);
    });
  });

  test("keep-alive answers and I/O do not wait for the control plane", async () => {
    const controller = await connect(server, { kato: 10_000 });
    const queue = await controller.openQueue(1);
    // A request that occupies the control plane's thread: thousands of calls in one go.
    const request = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "rpc_get_methods" });
    const { createConnection } = await import("node:net");
    const socket = createConnection(server.rpcSocket);
    let answered = 0;
    socket.on("data", (chunk: Buffer) => {
      answered += chunk.length;
    });
    socket.on("error", () => undefined);
    socket.write(`${request}\n`.repeat(20_000));
    let worst = 0;
    const end = performance.now() + 1500;
    while (performance.now() < end) {
      const begin = performance.now();
      const both = [controller.keepAlive(), queue.execute({ opcode: Io.flush, nsid: Ns.ram4k })];
      for (const { status } of await within(Promise.all(both), "keep alive under load"))
        assert.equal(status, 0);
      worst = Math.max(worst, performance.now() - begin);
      await new Promise((resolve) => setImmediate(resolve));
    }
    socket.destroy();
    assert.ok(answered > 0, "the control plane had work");
    assert.ok(worst < 5000, `the slowest answer took ${worst.toFixed(0)} ms`);
    controller.close();
  });
});
