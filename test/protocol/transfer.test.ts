// Data: in capsules, by R2T and H2CData, and to the host. NVMe/TCP 1.0 §3.3.2, §3.6.2.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, blockRange, Io, Status } from "./host/command.js";
import { disableFlowControl, read, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { connect, Ns, pattern, randomFrom, startServer, withQueue } from "./host/fixture.js";
import { Fatal, h2cData, noDigests, type PduOf } from "./host/pdu.js";
import type { QueuePair } from "./host/queue-pair.js";
import type { Server } from "./host/server.js";

const writeAt = (slba: bigint, blocks: number, nsid: number = Ns.ram4k) => ({
  opcode: Io.write,
  nsid,
  ...blockRange(slba, blocks),
});

/** Submits a write whose R2Ts come to the caller. */
function writeByHand(queue: QueuePair, slba: bigint, data: Buffer) {
  const r2ts: PduOf<"r2t">[] = [];
  let wake: () => void = () => undefined;
  const command = queue.submit(writeAt(slba, data.length / 4096), {
    send: data,
    inCapsule: false,
    onR2t: (r2t) => {
      r2ts.push(r2t);
      wake();
    },
  });
  const next = async (): Promise<PduOf<"r2t">> => {
    if (r2ts.length === 0) {
      await within(
        new Promise<void>((resolve) => {
          wake = resolve;
        }),
        "R2T",
      );
    }
    const first = r2ts.shift();
    assert.ok(first !== undefined);
    return first;
  };
  return { ...command, next };
}

suite("transfer", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  for (const digests of [noDigests, { header: true, data: true }]) {
    const title = digests.header ? "with digests" : "without digests";
    test(`every length from one block to MDTS is written and read back, ${title}`, async () => {
      await withQueue(
        server,
        async (queue) => {
          for (const blocks of [1, 2, 3, 4, 7, 8, 15, 16, 31, 33, 64, 100, 255, 256]) {
            const data = pattern(blocks * 4096, blocks);
            for (const inCapsule of [true, false]) {
              if (inCapsule && data.length > 8192) continue;
              assert.equal((await write(queue, 1000n, data, 4096, { nsid: Ns.ram4k, inCapsule })).status, 0);
              const back = await read(queue, 1000n, blocks, 4096, Ns.ram4k);
              assert.equal(back.status, 0);
              assert.ok(back.data.equals(data), `${blocks} blocks, in capsule ${inCapsule}`);
            }
          }
        },
        { opening: { digests } },
      );
    });
  }

  test("a transfer longer than MDTS is refused", async () => {
    await withQueue(server, async (queue, controller) => {
      const mdts = (await controller.identify(1)).data.readUInt8(77);
      assert.ok(mdts > 0, "MDTS is explicit");
      const blocks = 2 ** mdts + 1;
      const command = { opcode: Io.read, nsid: Ns.ram4k, ...blockRange(0n, blocks) };
      const pointer = { kind: "transport", length: blocks * 4096 } as const;
      assert.equal((await queue.execute(command, { pointer })).status, Status.invalidField);
    });
  });

  test("with MAXR2T 0 there is one R2T at a time, and they cover the data in order", async () => {
    await withQueue(server, async (queue) => {
      const data = pattern(1 << 20, 11);
      const command = writeByHand(queue, 2000n, data);
      let covered = 0;
      while (covered < data.length) {
        const r2t = await command.next();
        assert.equal(r2t.offset, covered);
        covered += r2t.length;
        // Were there a second R2T outstanding, it would have come with this round trip on the same connection.
        assert.equal((await read(queue, 0n, 1, 4096, Ns.zero)).status, 0);
        queue.sendRequested(r2t, data);
      }
      assert.equal((await within(command.result, "the write")).status, 0);
      assert.ok((await read(queue, 2000n, 256, 4096, Ns.ram4k)).data.equals(data));
    });
  });

  for (const maxR2t of [1, 3, 15, 0xffffffff]) {
    test(`with MAXR2T ${maxR2t} no more R2Ts are outstanding than the host allows`, async () => {
      await withQueue(
        server,
        async (queue) => {
          const data = pattern(1 << 20, 12);
          let outstanding = 0;
          let most = 0;
          const waiting: PduOf<"r2t">[] = [];
          const command = queue.submit(writeAt(3000n, 256), {
            send: data,
            inCapsule: false,
            onR2t: (r2t) => {
              outstanding += 1;
              most = Math.max(most, outstanding);
              waiting.push(r2t);
            },
          });
          let done = false;
          const finished = command.result.then((result) => {
            done = true;
            return result;
          });
          while (!done) {
            await read(queue, 0n, 1, 4096, Ns.zero);
            const r2t = waiting.shift();
            if (r2t === undefined) continue;
            outstanding -= 1;
            queue.sendRequested(r2t, data, 100_000);
          }
          assert.equal((await finished).status, 0);
          assert.ok(most <= maxR2t + 1, `${most} outstanding`);
          assert.ok((await read(queue, 3000n, 256, 4096, Ns.ram4k)).data.equals(data));
        },
        { opening: { maxR2t } },
      );
    });
  }

  test("the data of two commands may be interleaved PDU by PDU", async () => {
    const random = randomFrom("interleaving");
    for (const opening of [{}, { maxR2t: 7 }, { digests: { header: true, data: true } }]) {
      await withQueue(
        server,
        async (queue) => {
          const buffers = [0, 1, 2, 3].map((index) => pattern(128 * 1024, 50 + index));
          const commands = buffers.map((data, index) => writeByHand(queue, BigInt(4000 + index * 32), data));
          const pending = await Promise.all(
            commands.map(async (command, index) => {
              const data = buffers[index] ?? Buffer.alloc(0);
              return queue.answers(await command.next(), data, 4096 * (1 + random(4)));
            }),
          );
          while (pending.some((pdus) => pdus.length > 0)) {
            const pdus = pending[random(4)];
            const pdu = pdus?.shift();
            if (pdu === undefined) continue;
            queue.wire.send(pdu);
            if (random(3) === 0) queue.submit({ opcode: Io.flush, nsid: Ns.ram4k });
          }
          for (const { result } of commands) assert.equal((await within(result, "a write")).status, 0);
          for (const [index, data] of buffers.entries()) {
            const back = await read(queue, BigInt(4000 + index * 32), 32, 4096, Ns.ram4k);
            assert.ok(back.data.equals(data), `command ${index}`);
          }
        },
        { opening },
      );
    }
  });

  type Wrong = {
    readonly fields: (r2t: PduOf<"r2t">) => Parameters<typeof h2cData>[0];
    readonly answer: [number, number];
  };
  const data = pattern(64 * 1024, 13);
  const proper = (r2t: PduOf<"r2t">) => ({ cccid: r2t.cccid, ttag: r2t.ttag, offset: 0, data, last: true });
  const wrongs: Record<string, Wrong> = {
    "another TTAG": {
      fields: (r2t) => ({ ...proper(r2t), ttag: r2t.ttag ^ 1 }),
      answer: [Fatal.invalidHeaderField, 10],
    },
    "another CCCID": {
      fields: (r2t) => ({ ...proper(r2t), cccid: r2t.cccid ^ 1 }),
      answer: [Fatal.invalidHeaderField, 8],
    },
    "an offset past the R2T": {
      fields: (r2t) => ({ ...proper(r2t), offset: 64 * 1024 }),
      answer: [Fatal.transferOutOfRange, 0],
    },
    "a gap": {
      fields: (r2t) => ({ ...proper(r2t), offset: 4096, data: data.subarray(4096) }),
      answer: [Fatal.transferOutOfRange, 0],
    },
    "more bytes than requested": {
      fields: (r2t) => ({ ...proper(r2t), data: Buffer.concat([data, Buffer.alloc(4)]) }),
      answer: [Fatal.transferOutOfRange, 0],
    },
    "LAST before the end": {
      fields: (r2t) => ({ ...proper(r2t), data: data.subarray(0, 4096) }),
      answer: [Fatal.invalidHeaderField, 1],
    },
    "no LAST at the end": {
      fields: (r2t) => ({ ...proper(r2t), last: false }),
      answer: [Fatal.invalidHeaderField, 1],
    },
    "more bytes than MAXH2CDATA": {
      fields: (r2t) => ({ ...proper(r2t), data: Buffer.alloc((1 << 20) + 4) }),
      answer: [Fatal.transferLimitExceeded, 0],
    },
  };
  for (const [what, { fields, answer }] of Object.entries(wrongs)) {
    test(`H2CData with ${what} ends the connection with FES ${answer[0]}, FEI ${answer[1]}`, async () => {
      await withQueue(server, async (queue) => {
        const command = writeByHand(queue, 5000n, data);
        const r2t = await command.next();
        const bytes = h2cData(fields(r2t), noDigests);
        queue.wire.send(bytes.subarray(0, Math.min(bytes.length, 60_000)));
        const expected = `terminated: FES ${answer[0]}, FEI ${answer[1]}`;
        await assert.rejects(within(command.result, "termination"), { message: expected });
        await queue.wire.closed();
      });
    });
  }

  test("an R2T is answered only once", async () => {
    await withQueue(server, async (queue) => {
      const command = writeByHand(queue, 5000n, data);
      const r2t = await command.next();
      queue.sendRequested(r2t, data);
      assert.equal((await within(command.result, "the write")).status, 0);
      const { result } = queue.submit({ opcode: Io.flush, nsid: Ns.slow });
      queue.sendRequested(r2t, data);
      await queue.wire.closed();
      await Promise.allSettled([result]);
    });
  });

  test("H2CData for an R2T of an earlier command is noticed while a later one waits for data", async () => {
    await withQueue(server, async (queue) => {
      const first = writeByHand(queue, 5000n, data);
      const stale = await first.next();
      queue.sendRequested(stale, data);
      assert.equal((await within(first.result, "the write")).status, 0);
      const { cid } = first;
      const second = queue.submit(writeAt(5000n, 16), {
        send: data,
        inCapsule: false,
        cid,
        onR2t: () => undefined,
      });
      await read(queue, 0n, 1, 4096, Ns.zero);
      queue.sendRequested(stale, data);
      await assert.rejects(within(second.result, "termination"), /FES 1, FEI 10/);
    });
  });

  test("a capsule may bring its data at an offset", async () => {
    await withQueue(server, async (queue) => {
      const block = pattern(4096, 14);
      const send = Buffer.concat([Buffer.alloc(512, 0xee), block]);
      const offset = { kind: "inCapsule", length: 4096, offset: 512 } as const;
      const result = await queue.execute(writeAt(6000n, 1), { send, pointer: offset });
      assert.equal(result.status, 0);
      assert.deepEqual((await read(queue, 6000n, 1, 4096, Ns.ram4k)).data, block);
      for (const bad of [
        { ...offset, offset: 513 },
        { ...offset, offset: 1 << 20 },
      ]) {
        const { status } = await queue.execute(writeAt(6000n, 1), { send, pointer: bad });
        assert.ok(
          status === Status.sglOffset || status === Status.dataSglLength,
          `status ${status.toString(16)}h`,
        );
      }
    });
  });

  test("a data pointer that does not fit the command is refused and its data skipped", async () => {
    await withQueue(server, async (queue) => {
      const block = pattern(4096, 15);
      const raw = (change: (bytes: Buffer) => void) => {
        const bytes = Buffer.alloc(16);
        bytes.writeUInt32LE(4096, 8);
        bytes.writeUInt8(0x01, 15);
        change(bytes);
        return { kind: "raw", bytes } as const;
      };
      const cases: [string, ReturnType<typeof raw>, number[]][] = [
        ["keyed", raw((b) => b.writeUInt8(0x40, 15)), [Status.sglDescriptorType]],
        ["an address", raw((b) => b.writeUInt8(0x00, 15)), [Status.sglDescriptorType, Status.invalidField]],
        ["a segment", raw((b) => b.writeUInt8(0x20, 15)), [Status.sglDescriptorType]],
        ["too short", raw((b) => b.writeUInt32LE(2048, 8)), [Status.dataSglLength]],
        ["nothing", raw((b) => b.writeUInt32LE(0, 8)), [Status.dataSglLength]],
      ];
      for (const [what, pointer, statuses] of cases) {
        const { status } = await queue.execute(writeAt(6000n, 1), { send: block, pointer });
        assert.ok(statuses.includes(status), `${what}: ${status.toString(16)}h`);
      }
      const prp = await queue.execute({ ...writeAt(6000n, 1), flags: 0 }, { send: block });
      assert.equal(prp.status, Status.invalidField, "PRPs");
      assert.equal(
        (await write(queue, 6000n, block, 4096, { nsid: Ns.ram4k })).status,
        0,
        "the stream is still in step",
      );
    });
  });

  test("a rejected command is answered without R2T", async () => {
    await withQueue(server, async (queue) => {
      const result = await queue.execute(writeAt(1n << 40n, 16), {
        send: data,
        inCapsule: false,
        onR2t: () => assert.fail("R2T for a command that cannot succeed"),
      });
      assert.equal(result.status, Status.lbaOutOfRange);
    });
  });

  test("without SQ flow control a read ends with the SUCCESS flag, with it by a response", async () => {
    for (const cattr of [0, disableFlowControl]) {
      await withQueue(
        server,
        async (queue) => {
          for (const blocks of [1, 256]) {
            const result = await read(queue, 0n, blocks, 4096, Ns.zero);
            assert.equal(result.status, 0);
            assert.equal(result.bySuccessFlag, cattr === disableFlowControl);
          }
          const failed = await read(queue, 1n << 40n, 1, 4096, Ns.zero);
          assert.equal(failed.status, Status.lbaOutOfRange);
        },
        { cattr },
      );
    }
  });

  test("results beyond zero are never cut off by the SUCCESS flag", async () => {
    const controller = await connect(server, { cattr: disableFlowControl });
    const features = await controller.admin.execute({
      opcode: Admin.setFeatures,
      cdw10: 7,
      cdw11: 0x00030003,
    });
    assert.equal(features.status, 0);
    assert.notEqual(features.dw0, 0);
    controller.close();
  });

  test("reads of 1 MiB flow to a host that takes them slowly", async () => {
    await withQueue(server, async (queue) => {
      const reads = Array.from({ length: 64 }, () =>
        queue.submit({ opcode: Io.read, nsid: Ns.zero, ...blockRange(0n, 256) }, { receive: 1 << 20 }),
      );
      for (let pause = 0; pause < 20; pause += 1) {
        queue.wire.pause();
        await new Promise((resolve) => setTimeout(resolve, 10));
        queue.wire.resume();
        await new Promise((resolve) => setImmediate(resolve));
      }
      for (const { result } of reads) assert.equal((await within(result, "a read", 60_000)).status, 0);
    });
  });
});
