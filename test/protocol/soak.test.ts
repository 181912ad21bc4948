// Many connects and disconnects, in all the ways in which hosts come and go: no memory, descriptor or slot stays behind.
// KEEL_SOAK_ROUNDS makes it longer.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { blockRange, Io } from "./host/command.js";
import { ccEnabled, Property, read, write } from "./host/controller.js";
import { until } from "./host/deadline.js";
import { connect, Ns, pattern, standardConfig } from "./host/fixture.js";
import { Server } from "./host/server.js";

const rounds = Number(process.env["KEEL_SOAK_ROUNDS"] ?? 150);

type EngineStatus = { connections: unknown[]; controllers: unknown[]; dataPoolUsedBytes: string | number };

suite("soak", () => {
  let server: Server;
  before(async () => {
    // Fewer slots than connections will be made: one that leaked would be missed.
    server = await Server.make((directory) =>
      standardConfig(directory, { limits: { connections: 64, controllers: 32 } }),
    );
  });
  after(async () => server?.stop());

  async function status(): Promise<EngineStatus> {
    const answer = (await server.rpc("keel.status")) as { engine?: EngineStatus } & EngineStatus;
    return answer.engine ?? answer;
  }

  async function idle(): Promise<void> {
    await until(async () => {
      const { connections, controllers } = await status();
      return (connections.length === 0 && controllers.length === 0) || null;
    }, "all slots to be free");
  }

  /** One host's visit; `kind` says how it ends. */
  async function visit(kind: number): Promise<void> {
    const digests = { header: kind % 2 === 1, data: kind % 3 === 1 };
    const controller = await connect(server, { opening: { digests }, kato: kind % 4 === 0 ? 5000 : 0 });
    for (let qid = 1; qid <= 4; qid += 1) {
      const queue = await controller.openQueue(qid, 64);
      const data = pattern(16384, qid);
      await write(queue, BigInt(qid * 16), data, 4096, { nsid: Ns.ram4k });
      assert.ok((await read(queue, BigInt(qid * 16), 4, 4096, Ns.ram4k)).data.equals(data));
      if (kind === 3)
        queue.submit({ opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 4) }, { receive: 16384 });
      if (kind === 4)
        queue.submit(
          { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(0n, 16) },
          { send: pattern(65536), inCapsule: false, onR2t: () => undefined },
        );
    }
    if (kind === 1) await controller.setProperty(Property.cc, BigInt(ccEnabled) | (1n << 14n));
    if (kind === 2) for (const queue of controller.queues) queue.wire.finish();
    if (kind === 5) controller.admin.wire.reset();
    else controller.close();
    if (kind === 5) for (const queue of controller.queues) await queue.wire.closed();
  }

  test(`after ${rounds * 6} visits memory, descriptors and slots are as before`, async () => {
    const run = async (count: number): Promise<void> => {
      for (let round = 0; round < count; round += 1) {
        await Promise.all([0, 1, 2, 3, 4, 5].map((kind) => visit(kind)));
        if (round % 10 === 9) await idle();
      }
      await idle();
    };
    await run(Math.max(20, rounds / 5));
    const [rss, descriptors, pool] = [
      server.residentBytes(),
      server.descriptors(),
      (await status()).dataPoolUsedBytes,
    ];
    await run(rounds);
    const grown = server.residentBytes() - rss;
    console.log(`soak: ${(rss / 1e6).toFixed(0)} MB before, ${(grown / 1e6).toFixed(1)} MB more after`);
    assert.ok(grown < 32 << 20, `${(grown / 1e6).toFixed(1)} MB grown`);
    assert.ok(
      server.descriptors() <= descriptors + 2,
      `${server.descriptors()} descriptors, ${descriptors} before`,
    );
    assert.equal((await status()).dataPoolUsedBytes, pool, "data buffers in use");
  });
});
