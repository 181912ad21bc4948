// The submission queue as a host sees it: SQHD, its size, command identifiers. NVM Express Base 2.0 §3.3.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { blockRange, Io, Status } from "./host/command.js";
import { disableFlowControl, read } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { connect, Ns, startServer, withQueue } from "./host/fixture.js";
import type { Submitted } from "./host/queue-pair.js";
import type { Server } from "./host/server.js";

const readZero = { opcode: Io.read, nsid: Ns.zero, ...blockRange(0n, 1) };
const readSlow = { opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 1) };

suite("queue", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  test("SQHD counts the commands taken, modulo the size of the queue", async () => {
    for (const entries of [2, 4, 32, 128, 1000]) {
      await withQueue(
        server,
        async (queue) => {
          for (let count = 2; count < 3 * entries + 3 && count < 300; count += 1) {
            const { sqhd } = await queue.execute(readZero, { receive: 4096 });
            assert.equal(
              sqhd,
              queue.submitted % entries,
              `after ${queue.submitted} commands on ${entries} entries`,
            );
          }
        },
        { entries },
      );
    }
  });

  test("the SQHD of a command that took long is the present one", async () => {
    await withQueue(
      server,
      async (queue) => {
        const slow = queue.submit(readSlow, { receive: 4096 });
        for (let count = 0; count < 50; count += 1) await queue.execute(readZero, { receive: 4096 });
        const { sqhd } = await within(slow.result, "the slow read");
        assert.equal(sqhd, queue.submitted % 32);
      },
      { entries: 32 },
    );
  });

  test("a queue without flow control works at its full depth", async () => {
    await withQueue(
      server,
      async (queue) => {
        for (let round = 0; round < 20; round += 1) {
          const reads = Array.from({ length: 31 }, () => queue.submit(readZero, { receive: 4096 }));
          for (const { result } of reads) assert.equal((await within(result, "a read")).status, 0);
        }
      },
      { entries: 32, cattr: disableFlowControl },
    );
  });

  test("many more commands than the queue has entries are a protocol error, not growth", async () => {
    for (const entries of [2, 32, 128, 1024]) {
      await withQueue(
        server,
        async (queue) => {
          const reads: Submitted[] = [];
          // Twice the slots of an admin queue are there in any case: one is free only once its response has left.
          const many = 3 * Math.max(entries, 32) + 3;
          for (let count = 0; count < many; count += 1) reads.push(queue.submit(readSlow, { receive: 4096 }));
          await queue.wire.closed();
          const results = await Promise.allSettled(reads.map(({ result }) => result));
          assert.ok(results.some(({ status }) => status === "rejected"));
        },
        { entries },
      );
    }
  });

  for (const entries of [128, 1024]) {
    test(`a host that keeps a queue of ${entries} entries full is never taken for a cheater`, async () => {
      for (const blocks of [1, 16]) {
        await withQueue(
          server,
          async (queue) => {
            const total = entries * 8;
            let started = 0;
            const lane = async (): Promise<void> => {
              while (started < total) {
                started += 1;
                const fields = { opcode: Io.read, nsid: Ns.zero, ...blockRange(0n, blocks) };
                assert.equal((await queue.submit(fields, { receive: blocks * 4096 }).result).status, 0);
              }
            };
            await within(Promise.all(Array.from({ length: entries - 1 }, lane)), "all reads", 60_000);
          },
          { entries },
        );
      }
    });
  }

  test("a CID that is in use is refused, and the first command is not disturbed", async () => {
    await withQueue(server, async (queue) => {
      const first = queue.prepare(readSlow, { receive: 4096, cid: 77 });
      queue.wire.send(first.bytes);
      const statuses: number[] = [];
      const waiting = new Promise<void>((resolve) => {
        const second = queue.prepare(readZero, { receive: 4096, cid: 77 });
        queue.wire.deliver({
          take: (pdu) => {
            if (pdu.kind === "response") statuses.push((pdu.cqe.readUInt16LE(14) >> 1) & 0x7ff);
            if (statuses.length === 2) resolve();
          },
          end: () => resolve(),
        });
        queue.wire.send(second.bytes);
      });
      await within(waiting, "two responses");
      assert.deepEqual(statuses, [Status.commandIdConflict, 0]);
    });
  });

  test("all CIDs are usable, with a generation in their upper bits as Linux has it", async () => {
    await withQueue(server, async (queue) => {
      for (const cid of [0, 1, 0x0fff, 0x1000, 0x7fff, 0x8000, 0xf000, 0xfffe, 0xffff]) {
        const result = await queue.execute(readZero, { receive: 4096, cid });
        assert.equal(result.cid, cid);
        assert.equal(result.status, 0);
      }
    });
  });

  test("64 queues of one controller serve side by side", async () => {
    const controller = await connect(server);
    for (let qid = 1; qid <= 64; qid += 1) await controller.openQueue(qid, 16);
    const all = controller.queues.flatMap((queue) =>
      Array.from({ length: 15 }, () => queue.submit(readZero, { receive: 4096 }).result),
    );
    for (const result of await within(Promise.all(all), "reads on all queues"))
      assert.equal(result.status, 0);
    controller.close();
  });

  test("the end of one I/O queue leaves the others alone", async () => {
    const controller = await connect(server);
    const [first, second] = [await controller.openQueue(1), await controller.openQueue(2)];
    first.submit(readSlow, { receive: 4096 });
    first.wire.reset();
    assert.equal((await read(second, 0n, 1, 4096, Ns.zero)).status, 0);
    assert.equal((await controller.identify(1)).status, 0);
    controller.close();
  });
});
