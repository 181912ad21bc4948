// Connect and its rejections: status, and where the parameter at fault lies. NVM Express Base 2.0 §6.3.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { type Completion, Fabrics, fabrics, Status } from "./host/command.js";
import {
  adminConnect,
  type ConnectFields,
  connectCommand,
  connectData,
  connectQueue,
  discoveryNqn,
  hostNamed,
} from "./host/controller.js";
import { until } from "./host/deadline.js";
import { connect, startServer, subnqn } from "./host/fixture.js";
import { QueuePair } from "./host/queue-pair.js";
import { freePort, Server } from "./host/server.js";
import { Wire } from "./host/wire.js";

const host = hostNamed("connect");
const proper: ConnectFields = { ...adminConnect, subnqn, host };

const inCommand = (offset: number): number => offset;
const inData = (offset: number): number => offset | 0x10000;

suite("connect", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  async function attempt(fields: ConnectFields, data = connectData(fields)): Promise<Completion> {
    const wire = await Wire.start(server.endpoint());
    const queue = new QueuePair(wire, fields.qid, Math.max(2, fields.sqsize + 1));
    try {
      return await queue.execute(connectCommand(fields), { send: data });
    } finally {
      wire.destroy();
    }
  }

  const rejections: [string, Partial<ConnectFields>, number, number | null][] = [
    ["record format 1", { recfmt: 1 }, Status.connectIncompatible, null],
    ["SQSIZE 0", { sqsize: 0 }, Status.connectInvalid, inCommand(44)],
    ["SQSIZE 1024, more than MQES", { sqsize: 1024 }, Status.connectInvalid, inCommand(44)],
    ["SQSIZE FFFFh", { sqsize: 0xffff }, Status.connectInvalid, inCommand(44)],
    [
      "an unknown subsystem",
      { subnqn: "nqn.2014-08.org.nvmexpress:uuid:nobody" },
      Status.connectInvalid,
      inData(256),
    ],
    ["an empty subsystem NQN", { subnqn: "" }, Status.connectInvalid, inData(256)],
    ["an empty host NQN", { host: { ...host, nqn: "" } }, Status.connectInvalid, inData(512)],
    [
      "a host NQN of 224 bytes",
      { host: { ...host, nqn: `nqn.2014-08.org:${"x".repeat(208)}` } },
      Status.connectInvalid,
      inData(512),
    ],
    ["a static controller id", { cntlid: 5 }, Status.connectInvalid, inData(16)],
    ["an I/O queue of no controller", { qid: 1, cntlid: 0xffef }, Status.connectInvalid, inData(16)],
    ["an I/O queue of the dynamic controller", { qid: 1, cntlid: 0xffff }, Status.connectInvalid, inData(16)],
  ];
  for (const [what, change, status, dw0] of rejections) {
    test(`${what} is rejected`, async () => {
      const answer = await attempt({ ...proper, ...change });
      assert.equal(answer.status, status, `status ${answer.status.toString(16)}h`);
      if (dw0 !== null) assert.equal(answer.dw0, dw0, `dword 0 ${answer.dw0.toString(16)}h`);
    });
  }

  test("names that are not terminated within their field are rejected", async () => {
    for (const offset of [256, 512]) {
      const data = connectData(proper);
      data.fill(0x61, offset, offset + 256);
      const answer = await attempt(proper, data);
      assert.deepEqual([answer.status, answer.dw0], [Status.connectInvalid, inData(offset)]);
    }
  });

  test("Connect data of a wrong length is rejected, and the connection goes on", async () => {
    const wire = await Wire.start(server.endpoint());
    const queue = new QueuePair(wire, 0, 32);
    for (const length of [4, 512, 1020]) {
      const { status } = await queue.execute(connectCommand(proper), { send: Buffer.alloc(length) });
      assert.notEqual(status, 0, `${length} bytes`);
    }
    assert.equal((await connectQueue(queue, proper)).status, 0);
    wire.destroy();
  });

  test("a rejected Connect may be followed by a proper one", async () => {
    const wire = await Wire.start(server.endpoint());
    const queue = new QueuePair(wire, 0, 32);
    assert.equal(
      (await connectQueue(queue, { ...proper, subnqn: "nqn.2014-08.org.nvmexpress:none" })).status,
      Status.connectInvalid,
    );
    assert.equal((await connectQueue(queue, proper)).status, 0);
    assert.equal(
      (await connectQueue(queue, proper)).status,
      Status.commandSequence,
      "but not by a second one",
    );
    wire.destroy();
  });

  test("each controller has its own id", async () => {
    const ids = new Set<number>();
    const controllers = [];
    for (let count = 0; count < 20; count += 1) {
      const controller = await connect(server);
      controllers.push(controller);
      assert.ok(controller.cntlid >= 1 && controller.cntlid <= 0xffef);
      ids.add(controller.cntlid);
    }
    assert.equal(ids.size, 20);
    for (const controller of controllers) controller.close();
  });

  test("an I/O queue belongs to the host that made the controller", async () => {
    const controller = await connect(server, { host });
    const io: ConnectFields = { ...proper, qid: 1, cntlid: controller.cntlid };
    const other = hostNamed("other");
    const wrong: [Partial<ConnectFields>, number, number][] = [
      [{ host: { ...host, nqn: other.nqn } }, Status.connectInvalid, inData(512)],
      [{ host: { ...host, id: other.id } }, Status.connectInvalid, inData(0)],
      [{ qid: 65 }, Status.connectInvalid, inCommand(42)],
      [{ qid: 0xffff }, Status.connectInvalid, inCommand(42)],
    ];
    for (const [change, status, dw0] of wrong) {
      const answer = await attempt({ ...io, ...change });
      assert.deepEqual([answer.status, answer.dw0], [status, dw0], JSON.stringify(change));
    }
    await controller.openQueue(1);
    const again = await attempt(io);
    assert.notEqual(again.status, 0, "the queue exists already");
    controller.close();
  });

  test("no I/O queue before the controller is enabled", async () => {
    const controller = await connect(server, { host, enable: false });
    const answer = await attempt({ ...proper, qid: 1, cntlid: controller.cntlid });
    assert.notEqual(answer.status, 0);
    assert.equal(answer.dnr, false, "the host may try again");
    await controller.enable();
    await controller.openQueue(1);
    controller.close();
  });

  test("a queue id is free again when its connection has ended", async () => {
    const controller = await connect(server, { host });
    for (let round = 0; round < 20; round += 1) {
      const queue = await until(async () => {
        try {
          return await controller.openQueue(1);
        } catch {
          return null; // the server has not seen the end of the connection before
        }
      }, "queue 1 again");
      if (round % 2 === 0) queue.wire.reset();
      else queue.wire.finish();
    }
    controller.close();
  });

  test("an I/O queue is deleted by Disconnect", async () => {
    const controller = await connect(server, { host });
    const queue = await controller.openQueue(1);
    assert.equal(
      (await queue.execute(fabrics(Fabrics.disconnect, { cdw10: 1 }))).status,
      Status.connectIncompatible,
    );
    assert.equal((await queue.execute(fabrics(Fabrics.disconnect, {}))).status, 0);
    await queue.wire.closed();
    assert.equal((await controller.identify(1)).status, 0, "the controller stays");
    assert.notEqual(
      (await controller.admin.execute(fabrics(Fabrics.disconnect, {}))).status,
      0,
      "not for the admin queue",
    );
    controller.close();
  });

  test("the discovery port serves discovery alone", async () => {
    const wire = await Wire.start(server.endpoint(1));
    const queue = new QueuePair(wire, 0, 32);
    const answer = await connectQueue(queue, proper);
    assert.deepEqual([answer.status, answer.dw0], [Status.connectInvalid, inData(256)]);
    assert.equal((await connectQueue(queue, { ...proper, subnqn: discoveryNqn })).status, 0);
    wire.destroy();
  });

  test("a discovery controller has no I/O queues", async () => {
    const controller = await connect(server, { host, subnqn: discoveryNqn });
    const answer = await attempt({ ...proper, subnqn: discoveryNqn, qid: 1, cntlid: controller.cntlid });
    assert.equal(answer.status, Status.connectInvalid);
    controller.close();
  });
});

suite("allowed hosts", () => {
  const friend = hostNamed("friend");
  const stranger = hostNamed("stranger");
  let server: Server;
  let port = 0;
  const config = (hosts: string[]) => ({
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }],
    devices: { zero: { null: "1GiB" } },
    subsystems: { main: { nqn: subnqn, hosts, namespaces: [{ id: 1, device: "zero" }] } },
  });
  before(async () => {
    port = await freePort();
    server = await Server.start(config([friend.nqn]));
  });
  after(async () => server?.stop());

  async function attempt(who: typeof friend): Promise<Completion> {
    const wire = await Wire.start(server.endpoint());
    const answer = await connectQueue(new QueuePair(wire, 0, 32), { ...proper, host: who });
    wire.destroy();
    return answer;
  }

  test("a host that is not on the list gets Connect Invalid Host", async () => {
    assert.equal((await attempt(friend)).status, 0);
    assert.equal((await attempt(stranger)).status, Status.connectInvalidHost);
  });

  test("a host taken off the list is disconnected, one put on it may connect", async () => {
    const controller = await connect(server, { host: friend });
    const queue = await controller.openQueue(1);
    await server.apply(config([stranger.nqn]));
    await controller.admin.wire.closed();
    await queue.wire.closed();
    assert.equal((await attempt(friend)).status, Status.connectInvalidHost);
    assert.equal((await attempt(stranger)).status, 0);
    controller.close();
  });
});
