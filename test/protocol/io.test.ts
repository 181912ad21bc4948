// The I/O commands of the NVM Command Set, with their data and with every way to get them wrong, for blocks of 512 and
// of 4096 bytes. NVM Command Set 1.0 §3.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import {
  allNamespaces,
  blockRange,
  type CommandFields,
  deallocateBit,
  Fuse,
  forceUnitAccess,
  Io,
  psdtSgl,
  Status,
} from "./host/command.js";
import { read, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { Ns, pattern, ramBytes, randomFrom, startServer, withQueue } from "./host/fixture.js";
import type { PduOf } from "./host/pdu.js";
import type { QueuePair } from "./host/queue-pair.js";
import type { Server } from "./host/server.js";

/** DSM ranges: attributes, length, start. */
function ranges(...list: [bigint, number][]): Buffer {
  const bytes = Buffer.alloc(16 * list.length);
  for (const [index, [slba, blocks]] of list.entries()) {
    bytes.writeUInt32LE(blocks, 16 * index + 4);
    bytes.writeBigUInt64LE(slba, 16 * index + 8);
  }
  return bytes;
}

/** Copy's source ranges, descriptor format 0. */
function sources(...list: [bigint, number][]): Buffer {
  const bytes = Buffer.alloc(32 * list.length);
  for (const [index, [slba, blocks]] of list.entries()) {
    bytes.writeBigUInt64LE(slba, 32 * index + 8);
    bytes.writeUInt16LE(blocks - 1, 32 * index + 16);
  }
  return bytes;
}

const deallocate = (nsid: number, list: Buffer): CommandFields => ({
  opcode: Io.datasetManagement,
  nsid,
  cdw10: list.length / 16 - 1,
  cdw11: 4,
});

const copyTo = (nsid: number, slba: bigint, count: number): CommandFields => ({
  opcode: Io.copy,
  nsid,
  cdw10: Number(slba & 0xffffffffn),
  cdw11: Number(slba >> 32n),
  cdw12: count - 1,
});

suite("I/O commands", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  for (const { nsid, blockBytes, title } of [
    { nsid: Ns.ram4k, blockBytes: 4096, title: "ram, 4096-byte blocks" },
    { nsid: Ns.ram512, blockBytes: 512, title: "ram, 512-byte blocks" },
    { nsid: Ns.file, blockBytes: 4096, title: "file, 4096-byte blocks" },
  ]) {
    suite(title, () => {
      const io = (use: (queue: QueuePair) => Promise<void>) => withQueue(server, use);
      const put = (queue: QueuePair, slba: bigint, data: Buffer) =>
        write(queue, slba, data, blockBytes, { nsid });
      const get = (queue: QueuePair, slba: bigint, blocks: number) =>
        read(queue, slba, blocks, blockBytes, nsid);

      async function contents(queue: QueuePair, slba: bigint, expected: Buffer, what: string): Promise<void> {
        const back = await get(queue, slba, expected.length / blockBytes);
        assert.equal(back.status, 0, what);
        assert.ok(back.data.equals(expected), what);
      }

      test("what was written is read, block by block, in any grouping", async () => {
        const random = randomFrom(`grouping, ${title}`);
        await io(async (queue) => {
          const model = Buffer.alloc(64 * blockBytes);
          await put(queue, 0n, model);
          for (let round = 0; round < 100; round += 1) {
            const slba = random(64);
            const blocks = 1 + random(Math.min(32, 64 - slba));
            const data = pattern(blocks * blockBytes, round + 1);
            assert.equal((await put(queue, BigInt(slba), data)).status, 0);
            data.copy(model, slba * blockBytes);
            const from = random(64);
            const length = 1 + random(64 - from);
            await contents(
              queue,
              BigInt(from),
              model.subarray(from * blockBytes, (from + length) * blockBytes),
              `round ${round}`,
            );
          }
        });
      });

      test("FUA and Flush are accepted", async () => {
        await io(async (queue) => {
          const fields = { opcode: Io.write, nsid, ...blockRange(3n, 1) };
          const data = pattern(blockBytes, 9);
          assert.equal(
            (await queue.execute({ ...fields, cdw12: forceUnitAccess }, { send: data })).status,
            0,
          );
          assert.equal((await queue.execute({ opcode: Io.flush, nsid })).status, 0);
          await contents(queue, 3n, data, "after FUA");
        });
      });

      test("Write Zeroes leaves zeroes, with and without deallocation", async () => {
        await io(async (queue) => {
          for (const bits of [0, deallocateBit, forceUnitAccess]) {
            const data = pattern(16 * blockBytes, 5);
            await put(queue, 100n, data);
            const range = blockRange(104n, 8);
            const fields = { opcode: Io.writeZeroes, nsid, ...range, cdw12: (range.cdw12 ?? 0) | bits };
            assert.equal((await queue.execute(fields)).status, 0);
            data.fill(0, 4 * blockBytes, 12 * blockBytes);
            await contents(queue, 100n, data, `bits ${bits}`);
          }
        });
      });

      test("Dataset Management deallocates its ranges and no others", async () => {
        await io(async (queue) => {
          const data = pattern(64 * blockBytes, 6);
          await put(queue, 200n, data);
          const list = ranges([200n, 8], [216n, 16], [263n, 1]);
          assert.equal((await queue.execute(deallocate(nsid, list), { send: list })).status, 0);
          for (const [slba, blocks] of [
            [208n, 8],
            [232n, 31],
          ] as const) {
            const from = Number(slba - 200n) * blockBytes;
            await contents(
              queue,
              slba,
              data.subarray(from, from + blocks * blockBytes),
              "outside of the ranges",
            );
          }
          const gone = await get(queue, 200n, 8);
          assert.equal(gone.status, 0);
          const unchanged = gone.data.equals(data.subarray(0, 8 * blockBytes));
          assert.ok(unchanged || gone.data.every((byte) => byte === 0), "zeroes, or as it was");
        });
      });

      test("256 ranges come by R2T too, and none may be out of range", async () => {
        await io(async (queue) => {
          const list = ranges(
            ...Array.from({ length: 256 }, (_, index): [bigint, number] => [BigInt(index * 2), 1]),
          );
          for (const inCapsule of [true, false]) {
            assert.equal((await queue.execute(deallocate(nsid, list), { send: list, inCapsule })).status, 0);
          }
          for (const bad of [
            ranges([1n << 40n, 1]),
            ranges([0n, 1], [(1n << 64n) - 1n, 2]),
            ranges([0n, 0xffffffff]),
          ]) {
            const { status } = await queue.execute(deallocate(nsid, bad), { send: bad });
            assert.ok(status === Status.lbaOutOfRange || status === Status.sizeLimit, status.toString(16));
          }
        });
      });

      test("Compare tells equal from different", async () => {
        await io(async (queue) => {
          for (const blocks of [1, 16, (256 * 4096) / blockBytes]) {
            const data = pattern(blocks * blockBytes, 7);
            await put(queue, 300n, data);
            const fields = { opcode: Io.compare, nsid, ...blockRange(300n, blocks) };
            assert.equal(
              (await queue.execute(fields, { send: data, inCapsule: data.length <= 8192 })).status,
              0,
            );
            for (const at of [0, data.length / 2, data.length - 1]) {
              const other = Buffer.from(data);
              other.writeUInt8((other[at] ?? 0) ^ 1, at);
              const answer = await queue.execute(fields, { send: other, inCapsule: data.length <= 8192 });
              assert.equal(answer.status, Status.compareFailure, `byte ${at}`);
            }
          }
        });
      });

      test("Verify reads without telling", async () => {
        await io(async (queue) => {
          assert.equal((await queue.execute({ opcode: Io.verify, nsid, ...blockRange(0n, 256) })).status, 0);
          const past = await queue.execute({ opcode: Io.verify, nsid, ...blockRange(1n << 40n, 1) });
          assert.equal(past.status, Status.lbaOutOfRange);
        });
      });

      test("Copy gathers its sources, also where they overlap the destination", async () => {
        await io(async (queue) => {
          const data = pattern(64 * blockBytes, 8);
          await put(queue, 400n, data);
          const list = sources([400n, 4], [432n, 8], [410n, 1]);
          assert.equal((await queue.execute(copyTo(nsid, 500n, 3), { send: list })).status, 0);
          const part = (from: number, blocks: number) =>
            data.subarray(from * blockBytes, (from + blocks) * blockBytes);
          await contents(queue, 500n, Buffer.concat([part(0, 4), part(32, 8), part(10, 1)]), "three ranges");
          const shift = sources([400n, 32]);
          assert.equal((await queue.execute(copyTo(nsid, 401n, 1), { send: shift })).status, 0);
          await contents(queue, 401n, part(0, 32), "shifted by one block");
        });
      });

      test("Copy refuses what it cannot do", async () => {
        await io(async (queue) => {
          const one = sources([0n, 1]);
          const outside = sources([1n << 40n, 1]);
          assert.equal(
            (await queue.execute(copyTo(nsid, 0n, 1), { send: outside })).status,
            Status.lbaOutOfRange,
          );
          assert.equal(
            (await queue.execute(copyTo(nsid, 1n << 40n, 1), { send: one })).status,
            Status.lbaOutOfRange,
          );
          const format = { ...copyTo(nsid, 0n, 1), cdw12: 1 << 8 };
          assert.notEqual((await queue.execute(format, { send: one })).status, 0, "descriptor format 1");
          const { status } = await queue.execute(copyTo(nsid, 0n, 256), {
            send: sources(...Array.from({ length: 256 }, (): [bigint, number] => [0n, 65536])),
          });
          assert.notEqual(status, 0, "more than the limits allow");
        });
      });

      test("ranges that leave the namespace are refused, also those that wrap around", async () => {
        await io(async (queue) => {
          const size = BigInt(nsid === Ns.ram4k ? ramBytes : 16 << 20) / BigInt(blockBytes);
          for (const slba of [size, size - 1n, 1n << 63n, (1n << 64n) - 1n, (1n << 64n) - 2n]) {
            for (const opcode of [Io.read, Io.write, Io.compare, Io.writeZeroes, Io.verify]) {
              const transfer =
                opcode === Io.read
                  ? { receive: 2 * blockBytes }
                  : opcode === Io.write || opcode === Io.compare
                    ? { send: Buffer.alloc(2 * blockBytes) }
                    : {};
              const { status } = await queue.execute({ opcode, nsid, ...blockRange(slba, 2) }, transfer);
              assert.equal(status, Status.lbaOutOfRange, `opcode ${opcode} at ${slba}`);
            }
          }
          assert.equal((await get(queue, size - 1n, 1)).status, 0, "the last block");
        });
      });
    });
  }

  test("a namespace that is not there has no blocks, and broadcast is for Flush alone", async () => {
    await withQueue(server, async (queue) => {
      for (const nsid of [0, 99, 1024, 1025, 0xfffffffe, allNamespaces]) {
        const answer = await read(queue, 0n, 1, 4096, nsid);
        assert.equal(answer.status, Status.invalidNamespace, `NSID ${nsid}`);
      }
      assert.equal((await queue.execute({ opcode: Io.flush, nsid: 99 })).status, Status.invalidNamespace);
      const everywhere = await queue.execute({ opcode: Io.flush, nsid: allNamespaces });
      assert.ok(everywhere.status === 0 || everywhere.status === Status.invalidNamespace);
    });
  });

  test("opcodes that do not exist are refused, with and without data", async () => {
    await withQueue(server, async (queue) => {
      const known = new Set<number>([...Object.values(Io), 0x7f, 0x0d, 0x0e, 0x11, 0x15]);
      known.delete(Io.writeUncorrectable);
      for (let opcode = 0; opcode < 256; opcode += 1) {
        if (known.has(opcode)) continue;
        const transfer = (opcode & 3) === 1 ? { send: Buffer.alloc(4096) } : {};
        const { status } = await queue.execute({ opcode, nsid: Ns.ram4k }, transfer);
        assert.equal(status, Status.invalidOpcode, `opcode ${opcode.toString(16)}h`);
      }
      assert.equal((await read(queue, 0n, 1, 4096, Ns.ram4k)).status, 0);
    });
  });

  test("a read-only namespace is read and never written", async () => {
    await withQueue(server, async (queue) => {
      const nsid = Ns.readOnly;
      assert.equal((await read(queue, 0n, 1, 4096, nsid)).status, 0);
      const list = ranges([0n, 1]);
      const attempts = [
        await write(queue, 0n, Buffer.alloc(4096), 4096, { nsid }),
        await write(queue, 0n, Buffer.alloc(65536), 4096, { nsid }),
        await queue.execute({ opcode: Io.writeZeroes, nsid, ...blockRange(0n, 1) }),
        await queue.execute(deallocate(nsid, list), { send: list }),
      ];
      for (const { status } of attempts) {
        assert.ok(status === Status.writeProtected || status === Status.readOnlyRange, status.toString(16));
      }
    });
  });

  suite("Compare and Write", () => {
    const nsid = Ns.ram4k;
    const pair = (
      queue: QueuePair,
      slba: bigint,
      expected: Buffer,
      replacement: Buffer,
      more: object = {},
    ) => {
      const range = blockRange(slba, expected.length / 4096);
      const compare = queue.prepare(
        { opcode: Io.compare, nsid, ...range, flags: psdtSgl | Fuse.first },
        { send: expected, ...more },
      );
      const writing = queue.prepare(
        { opcode: Io.write, nsid, ...range, flags: psdtSgl | Fuse.second },
        { send: replacement, ...more },
      );
      return { compare, writing };
    };
    const statuses = async (...results: Promise<{ status: number }>[]): Promise<number[]> =>
      (await within(Promise.all(results), "the pair")).map(({ status }) => status);

    test("writes if the comparison holds, and only then", async () => {
      await withQueue(server, async (queue) => {
        const [old, fresh] = [pattern(4096, 1), pattern(4096, 2)];
        await write(queue, 700n, old, 4096, { nsid });
        const wrong = pair(queue, 700n, fresh, fresh);
        queue.wire.send(Buffer.concat([wrong.compare.bytes, wrong.writing.bytes]));
        assert.deepEqual(await statuses(wrong.compare.result, wrong.writing.result), [
          Status.compareFailure,
          Status.failedFused,
        ]);
        assert.ok((await read(queue, 700n, 1, 4096, nsid)).data.equals(old));
        const right = pair(queue, 700n, old, fresh);
        queue.wire.send(Buffer.concat([right.compare.bytes, right.writing.bytes]));
        assert.deepEqual(await statuses(right.compare.result, right.writing.result), [0, 0]);
        assert.ok((await read(queue, 700n, 1, 4096, nsid)).data.equals(fresh));
      });
    });

    test("its data may come by R2T, in any order, while others interleave", async () => {
      await withQueue(server, async (queue) => {
        for (const order of ["compare first", "write first", "interleaved"]) {
          const [old, fresh] = [pattern(65536, 3), pattern(65536, 4)];
          await write(queue, 800n, old, 4096, { nsid });
          const requests = new Map<number, PduOf<"r2t">>();
          const arrived: (() => void)[] = [];
          const both = new Promise<void>((resolve) => arrived.push(resolve));
          const onR2t = (r2t: PduOf<"r2t">) => {
            requests.set(r2t.cccid, r2t);
            if (requests.size === 2) arrived[0]?.();
          };
          const { compare, writing } = pair(queue, 800n, old, fresh, { inCapsule: false, onR2t });
          queue.wire.send(Buffer.concat([compare.bytes, writing.bytes]));
          await within(both, "two R2Ts");
          assert.equal((await read(queue, 0n, 1, 4096, Ns.zero)).status, 0, "another command meanwhile");
          const answers = (cid: number, data: Buffer) => {
            const r2t = requests.get(cid);
            assert.ok(r2t !== undefined);
            return queue.answers(r2t, data, 16384);
          };
          const [first, second] = [answers(compare.cid, old), answers(writing.cid, fresh)];
          const sequence =
            order === "compare first"
              ? [...first, ...second]
              : order === "write first"
                ? [...second, ...first]
                : first.flatMap((pdu, index) => [pdu, second[index] ?? Buffer.alloc(0)]);
          for (const pdu of sequence) {
            await queue.wire.sendAlone(pdu);
            queue.submit({ opcode: Io.flush, nsid });
          }
          assert.deepEqual(await statuses(compare.result, writing.result), [0, 0], order);
          assert.ok((await read(queue, 800n, 16, 4096, nsid)).data.equals(fresh), order);
        }
      });
    });

    test("halves that do not belong together fail as the standard says", async () => {
      await withQueue(server, async (queue) => {
        const block = Buffer.alloc(4096);
        const range = blockRange(900n, 1);
        const first = { opcode: Io.compare, nsid, ...range, flags: psdtSgl | Fuse.first };
        const second = { opcode: Io.write, nsid, ...range, flags: psdtSgl | Fuse.second };
        const alone = await queue.execute(second, { send: block });
        assert.equal(alone.status, Status.missingFused, "a second half alone");
        const lonely = queue.submit(first, { send: block });
        const other = await queue.execute({ opcode: Io.flush, nsid });
        assert.equal((await within(lonely.result, "a first half alone")).status, Status.missingFused);
        assert.equal(other.status, 0);
        for (const [what, wrong] of [
          ["another range", { ...second, ...blockRange(901n, 1) }],
          ["another length", { ...second, ...blockRange(900n, 2) }],
          ["another namespace", { ...second, nsid: Ns.zero }],
        ] as const) {
          const compare = queue.submit(first, { send: block });
          const send = what === "another length" ? Buffer.alloc(8192) : block;
          const writing = queue.submit(wrong, { send });
          const [a, b] = await statuses(compare.result, writing.result);
          assert.ok(a !== 0 && b !== 0, `${what}: ${a?.toString(16)}h ${b?.toString(16)}h`);
        }
        const reads = await queue.execute(
          { opcode: Io.read, nsid, ...range, flags: psdtSgl | Fuse.first },
          { receive: 4096 },
        );
        assert.notEqual(reads.status, 0, "only Compare and Write are fused");
        const reserved = await queue.execute({ ...second, flags: psdtSgl | 3 }, { send: block });
        assert.equal(reserved.status, Status.invalidField, "FUSE 11b");
        assert.equal((await read(queue, 900n, 1, 4096, nsid)).status, 0);
      });
    });

    test("of hosts that race for a block with Compare and Write exactly one wins each time", async () => {
      const counters = [0, 0, 0];
      const rounds = 40;
      await withQueue(server, async (queue) =>
        write(queue, 950n, Buffer.alloc(4096), 4096, { nsid }).then(() => undefined),
      );
      await Promise.all(
        counters.map((_, index) =>
          withQueue(server, async (queue) => {
            while ((counters[index] ?? 0) < rounds) {
              const seen = (await read(queue, 950n, 1, 4096, nsid)).data;
              const fresh = Buffer.from(seen);
              fresh.writeUInt32LE(seen.readUInt32LE(0) + 1, 0);
              const { compare, writing } = pair(queue, 950n, seen, fresh);
              queue.wire.send(Buffer.concat([compare.bytes, writing.bytes]));
              const [a, b] = await statuses(compare.result, writing.result);
              assert.ok((a === 0 && b === 0) || (a === Status.compareFailure && b === Status.failedFused));
              if (a === 0) counters[index] = (counters[index] ?? 0) + 1;
            }
          }),
        ),
      );
      await withQueue(server, async (queue) => {
        assert.equal((await read(queue, 950n, 1, 4096, nsid)).data.readUInt32LE(0), rounds * counters.length);
      });
    });
  });
});
