// Random I/O against a model in memory: several queues, several sizes, in capsules and by R2T, streams cut at random,
// reads that race with nothing they could mix up. What the server answers is compared byte for byte.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { blockRange, Io } from "./host/command.js";
import { disableFlowControl } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { Ns, randomFrom, startServer, withQueue } from "./host/fixture.js";
import type { QueuePair } from "./host/queue-pair.js";
import type { Server } from "./host/server.js";

type Random = (limit: number) => number;

const laneBlocks = 400;

/** One queue works on blocks of its own, so that the model needs no locks; commands on it overlap in time, not in place. */
class Lane {
  readonly #queue: QueuePair;
  readonly #nsid: number;
  readonly #blockBytes: number;
  readonly #first: number;
  readonly #random: Random;
  readonly #model: Buffer;
  readonly #busy: boolean[] = Array.from({ length: laneBlocks }, () => false);
  #stamp = 1;

  constructor(queue: QueuePair, nsid: number, blockBytes: number, lane: number, random: Random) {
    this.#queue = queue;
    this.#nsid = nsid;
    this.#blockBytes = blockBytes;
    this.#first = 1000 + lane * laneBlocks;
    this.#random = random;
    this.#model = Buffer.alloc(laneBlocks * blockBytes);
  }

  async run(commands: number, depth: number): Promise<void> {
    await this.#zero();
    const one = async (): Promise<void> => {
      while (commands > 0) {
        commands -= 1;
        await this.#step();
      }
    };
    await Promise.all(Array.from({ length: depth }, one));
  }

  async #zero(): Promise<void> {
    const result = await this.#queue.execute(this.#command(Io.writeZeroes, 0, laneBlocks));
    assert.equal(result.status, 0);
  }

  #command(opcode: number, at: number, blocks: number) {
    return { opcode, nsid: this.#nsid, ...blockRange(BigInt(this.#first + at), blocks) };
  }

  /** A range that no command in flight touches; null if chance finds none. */
  #claim(): [number, number] | null {
    const most = Math.min(laneBlocks, (256 * 4096) / this.#blockBytes);
    const blocks = this.#random(3) === 0 ? 1 + this.#random(most) : 1 + this.#random(5);
    const at = this.#random(laneBlocks - Math.min(blocks, laneBlocks - 1));
    const end = Math.min(at + blocks, laneBlocks);
    for (let block = at; block < end; block += 1) if (this.#busy[block] === true) return null;
    this.#busy.fill(true, at, end);
    return [at, end - at];
  }

  async #step(): Promise<void> {
    const range = this.#claim();
    if (range === null) return turn();
    const [at, blocks] = range;
    const place = this.#model.subarray(at * this.#blockBytes, (at + blocks) * this.#blockBytes);
    const kind = this.#random(10);
    if (kind < 5) await this.#write(at, blocks, place);
    else if (kind < 6) {
      const { status } = await this.#queue.execute(this.#command(Io.writeZeroes, at, blocks));
      assert.equal(status, 0);
      place.fill(0);
    } else if (kind < 7) {
      const inCapsule = place.length <= 8192;
      const compared = await this.#queue.execute(this.#command(Io.compare, at, blocks), {
        send: place,
        inCapsule,
      });
      assert.equal(compared.status, 0, `compare of ${blocks} blocks`);
    } else {
      const result = await this.#queue.execute(this.#command(Io.read, at, blocks), { receive: place.length });
      assert.equal(result.status, 0);
      assert.ok(result.data.equals(place), `${blocks} blocks at ${at}`);
    }
    this.#busy.fill(false, at, at + blocks);
  }

  async #write(at: number, blocks: number, place: Buffer): Promise<void> {
    const data = Buffer.alloc(place.length);
    for (let word = 0; word + 8 <= data.length; word += 8) {
      data.writeUInt32LE(this.#stamp, word);
      data.writeUInt32LE(at * this.#blockBytes + word, word + 4);
    }
    this.#stamp += 1;
    const inCapsule = data.length <= 8192 && this.#random(4) !== 0;
    const { bytes, result } = this.#queue.prepare(this.#command(Io.write, at, blocks), {
      send: data,
      inCapsule,
    });
    // Other lanes' bytes never come between: each queue has its own connection, and a PDU is cut within one turn.
    const cut = this.#random(3) === 0 ? 1 + this.#random(bytes.length - 1) : bytes.length;
    this.#queue.wire.send(bytes.subarray(0, cut));
    if (cut < bytes.length) this.#queue.wire.send(bytes.subarray(cut));
    assert.equal((await within(result, "a write")).status, 0);
    data.copy(place);
  }
}

suite("model", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  for (const { nsid, blockBytes, title } of [
    { nsid: Ns.ram4k, blockBytes: 4096, title: "ram, 4096-byte blocks" },
    { nsid: Ns.ram512, blockBytes: 512, title: "ram, 512-byte blocks" },
    { nsid: Ns.file, blockBytes: 4096, title: "file" },
  ]) {
    test(`random I/O on four queues agrees with the model: ${title}`, async () => {
      const random = randomFrom(`model, ${title}`);
      const openings = [
        {},
        { digests: { header: true, data: true } },
        { maxR2t: 7, hpda: 15 },
        { digests: { header: false, data: true }, maxR2t: 3 },
      ];
      await Promise.all(
        openings.map((opening, lane) =>
          withQueue(
            server,
            async (queue) => new Lane(queue, nsid, blockBytes, lane, random).run(400, 1 + 5 * lane),
            { opening, cattr: lane % 2 === 0 ? 0 : disableFlowControl },
          ),
        ),
      );
    });
  }
});
