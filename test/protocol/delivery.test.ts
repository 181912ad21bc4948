// The stream has no borders: every way to cut it into segments means the same. NVMe/TCP 1.0 §3.3.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Admin, blockRange, Io, Status } from "./host/command.js";
import {
  adminConnect,
  type Controller,
  connectCommand,
  connectData,
  connectQueue,
  hostNamed,
  read,
} from "./host/controller.js";
import { within } from "./host/deadline.js";
import { connect, Ns, pattern, randomFrom, startServer, subnqn, withQueue } from "./host/fixture.js";
import { type Digests, noDigests } from "./host/pdu.js";
import { QueuePair } from "./host/queue-pair.js";
import type { Server } from "./host/server.js";
import { Wire } from "./host/wire.js";

const both: Digests = { header: true, data: true };

suite("delivery", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  test("ICReq byte by byte is an ICReq", async () => {
    const wire = await Wire.open(server.endpoint());
    const { icReq } = await import("./host/pdu.js");
    for (const byte of icReq({ pfv: 0, hpda: 0, digests: noDigests, maxR2t: 0 })) {
      await wire.sendAlone(Buffer.of(byte));
      await turn();
    }
    assert.equal((await wire.expect("icResp")).pfv, 0);
    wire.destroy();
  });

  for (const digests of [noDigests, both]) {
    const title = digests.header ? "with digests" : "without digests";

    test(`a write split at every point of its PDU arrives whole, ${title}`, async () => {
      await withQueue(
        server,
        async (queue) => {
          const data = pattern(512, 7);
          const fields = { opcode: Io.write, nsid: Ns.ram512, ...blockRange(5n, 1) };
          const { bytes: sample, result: first } = queue.prepare(fields, { send: data });
          queue.wire.send(sample);
          assert.equal((await first).status, 0);
          for (let split = 1; split < sample.length; split += 1) {
            const { bytes, result } = queue.prepare(fields, { send: pattern(512, split) });
            await queue.wire.sendAlone(bytes.subarray(0, split));
            await turn();
            queue.wire.send(bytes.subarray(split));
            assert.equal((await within(result, `write split at ${split}`)).status, 0);
          }
          const back = await read(queue, 5n, 1, 512, Ns.ram512);
          assert.deepEqual(back.data, pattern(512, sample.length - 1));
        },
        { opening: { digests } },
      );
    });

    test(`an Identify byte by byte is answered, ${title}`, async () => {
      const controller = await connect(server, { opening: { digests } });
      const { bytes, result } = controller.admin.prepare(
        { opcode: Admin.identify, cdw10: 1 },
        { receive: 4096 },
      );
      for (const byte of bytes) {
        await controller.admin.wire.sendAlone(Buffer.of(byte));
        await turn();
      }
      assert.equal((await within(result, "Identify")).status, 0);
      controller.close();
    });

    test(`100 commands in one segment are all answered, ${title}`, async () => {
      await withQueue(
        server,
        async (queue) => {
          const commands = Array.from({ length: 100 }, (_, index) => {
            const range = blockRange(BigInt(index), 1);
            return index % 2 === 0
              ? queue.prepare({ opcode: Io.write, nsid: Ns.ram4k, ...range }, { send: pattern(4096, index) })
              : queue.prepare({ opcode: Io.read, nsid: Ns.zero, ...range }, { receive: 4096 });
          });
          queue.wire.send(Buffer.concat(commands.map((command) => command.bytes)));
          for (const { result } of commands)
            assert.equal((await within(result, "coalesced command")).status, 0);
          for (let index = 0; index < 100; index += 2) {
            const back = await read(queue, BigInt(index), 1, 4096, Ns.ram4k);
            assert.deepEqual(back.data, pattern(4096, index), `block ${index}`);
          }
        },
        { opening: { digests } },
      );
    });

    test(`a stream cut at random means the same, ${title}`, async () => {
      const random = randomFrom("random cuts");
      await withQueue(
        server,
        async (queue) => {
          const count = 60;
          const commands = Array.from({ length: count }, (_, index) => {
            const fields = {
              opcode: Io.write,
              nsid: Ns.ram4k,
              ...blockRange(BigInt(2 * index), 1 + (index % 2)),
            };
            return queue.prepare(fields, { send: pattern(4096 * (1 + (index % 2)), 1000 + index) });
          });
          const stream = Buffer.concat(commands.map((command) => command.bytes));
          for (let at = 0; at < stream.length; ) {
            const length = random(4) === 0 ? 1 + random(20) : 1 + random(30_000);
            await queue.wire.sendAlone(stream.subarray(at, at + length));
            if (random(2) === 0) await turn();
            at += length;
          }
          for (const { result } of commands) assert.equal((await within(result, "command")).status, 0);
          for (let index = 0; index < count; index += 1) {
            const blocks = 1 + (index % 2);
            const back = await read(queue, BigInt(2 * index), blocks, 4096, Ns.ram4k);
            assert.deepEqual(back.data, pattern(4096 * blocks, 1000 + index), `command ${index}`);
          }
        },
        { opening: { digests } },
      );
    });
  }

  async function withDigests(
    use: (queue: QueuePair, controller: Controller) => Promise<void>,
  ): Promise<void> {
    await withQueue(server, use, { opening: { digests: { header: false, data: true } } });
  }

  test("a data digest error in a capsule fails the command with a status to retry, and the connection goes on", async () => {
    await withDigests(async (queue) => {
      const fields = { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(100n, 1) };
      assert.equal((await queue.execute(fields, { send: pattern(4096, 1) })).status, 0);
      for (const split of [false, true]) {
        const { bytes, result } = queue.prepare(fields, { send: pattern(4096, 2) });
        bytes.writeUInt8((bytes[2000] ?? 0) ^ 1, 2000);
        if (split) await queue.wire.sendAlone(bytes.subarray(0, 1000));
        queue.wire.send(split ? bytes.subarray(1000) : bytes);
        const { status, dnr } = await within(result, "the damaged write");
        assert.deepEqual({ status, dnr }, { status: Status.transientTransport, dnr: false });
      }
      assert.deepEqual(
        (await read(queue, 100n, 1, 4096, Ns.ram4k)).data,
        pattern(4096, 1),
        "nothing was written",
      );
    });
  });

  test("a data digest error in H2CData fails the command alone", async () => {
    await withDigests(async (queue) => {
      const data = pattern(64 * 1024, 3);
      const fields = { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(200n, 16) };
      assert.equal((await queue.execute(fields, { send: data, inCapsule: false })).status, 0);
      for (const damaged of [0, 1, 3]) {
        const other = pattern(64 * 1024, 4);
        const result = await queue.execute(fields, {
          send: other,
          inCapsule: false,
          onR2t: (r2t) => {
            const pdus = queue.answers(r2t, other, 16 * 1024);
            const pdu = pdus[damaged];
            assert.ok(pdu !== undefined);
            pdu.writeUInt8((pdu[pdu.length - 1] ?? 0) ^ 0x80, pdu.length - 1);
            queue.wire.send(Buffer.concat(pdus));
          },
        });
        assert.equal(result.status, Status.transientTransport, `piece ${damaged}`);
        assert.deepEqual((await read(queue, 200n, 16, 4096, Ns.ram4k)).data, data, "nothing was written");
      }
    });
  });

  test("a Connect with damaged data fails and may be repeated on the same connection", async () => {
    const wire = await Wire.start(server.endpoint(), { digests: both });
    const queue = new QueuePair(wire, 0, 32);
    const fields = { ...adminConnect, subnqn, host: hostNamed("damaged") };
    const { bytes, result } = queue.prepare(connectCommand(fields), { send: connectData(fields) });
    bytes.writeUInt8((bytes[300] ?? 0) ^ 4, 300);
    wire.send(bytes);
    assert.equal((await within(result, "Connect")).status, Status.transientTransport);
    assert.equal((await connectQueue(queue, fields)).status, 0);
    wire.destroy();
  });
});
