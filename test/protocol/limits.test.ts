// Bounds: connections per host and in all, slow and half-open peers, memory under hostile load. What one host does wrong
// never disturbs another.

import assert from "node:assert/strict";
import { after, afterEach, before, suite, test } from "node:test";
import { setImmediate as turn } from "node:timers/promises";
import { Admin, blockRange, Io, Status, sqe } from "./host/command.js";
import { adminConnect, type Controller, connectQueue, hostNamed, read, write } from "./host/controller.js";
import { deferred, until, within } from "./host/deadline.js";
import { connect, Ns, pattern, randomFrom, standardConfig, subnqn } from "./host/fixture.js";
import { capsule, commonHeader, icReq, noDigests, type Pdu, type PduOf, PduType } from "./host/pdu.js";
import { QueuePair } from "./host/queue-pair.js";
import { Server } from "./host/server.js";
import { Wire } from "./host/wire.js";

suite("time limits", () => {
  let server: Server;
  let bystander: Controller;
  before(async () => {
    server = await Server.make((directory) =>
      standardConfig(directory, { limits: { connect_timeout: "500ms", transfer_timeout: "700ms" } }),
    );
    bystander = await connect(server);
  });
  after(async () => {
    assert.equal((await bystander.identify(1)).status, 0, "the bystander was not disturbed");
    bystander.close();
    await server.stop();
  });

  const halfOpen: [string, (wire: Wire) => Promise<void>][] = [
    ["that says nothing", async () => undefined],
    [
      "that stops inside of ICReq",
      async (wire) => wire.send(icReq({ pfv: 0, hpda: 0, digests: noDigests, maxR2t: 0 }).subarray(0, 77)),
    ],
    ["that stops after ICReq", async (wire) => void (await wire.initialize())],
    [
      "that stops inside of Connect",
      async (wire) => {
        await wire.initialize();
        wire.send(commonHeader(PduType.capsuleCmd, 0, 72, 72, 72 + 1024));
      },
    ],
    [
      "that sends a byte now and then",
      async (wire) => {
        const bytes = icReq({ pfv: 0, hpda: 0, digests: noDigests, maxR2t: 0 });
        let at = 0;
        const timer = setInterval(() => {
          if (wire.ended || at === 100) clearInterval(timer);
          else wire.send(bytes.subarray(at, ++at));
        }, 50);
      },
    ],
  ];
  for (const [what, begin] of halfOpen) {
    test(`a peer ${what} is closed after connect_timeout`, async () => {
      const start = performance.now();
      const wire = await Wire.open(server.endpoint());
      await begin(wire);
      await wire.closed();
      const waited = performance.now() - start;
      assert.ok(waited > 300 && waited < 9000, `after ${waited.toFixed(0)} ms`);
      wire.destroy();
    });
  }

  test("a host that owes data is closed after transfer_timeout", async () => {
    for (const some of [0, 4096]) {
      const controller = await connect(server);
      const queue = await controller.openQueue(1);
      const data = pattern(65536);
      queue.submit(
        { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(0n, 16) },
        {
          send: data,
          inCapsule: false,
          onR2t: (r2t) => {
            if (some === 0) return;
            const [first] = queue.answers(r2t, data, 65536);
            queue.wire.send(first?.subarray(0, some) ?? Buffer.alloc(0));
          },
        },
      );
      await queue.wire.closed();
      assert.equal((await controller.identify(1)).status, 0, "its other queues stay");
      controller.close();
    }
  });

  test("a host that stops inside of a capsule is closed after transfer_timeout", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    const { bytes } = queue.prepare(
      { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(0n, 1) },
      { send: pattern(4096) },
    );
    queue.wire.send(bytes.subarray(0, 1000));
    await queue.wire.closed();
    controller.close();
  });

  test("a host that takes no bytes is closed after transfer_timeout, and holds up nobody", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1, 128);
    queue.wire.pause();
    for (let count = 0; count < 100; count += 1) {
      queue.submit({ opcode: Io.read, nsid: Ns.zero, ...blockRange(0n, 256) }, { receive: 1 << 20 });
    }
    const reader = await bystander.openQueue(1);
    await until(async () => {
      assert.equal((await read(reader, 0n, 1, 4096, Ns.ram4k)).status, 0);
      const { disconnects } = (await server.rpc("keel.status")) as {
        disconnects: { [reason: string]: number };
      };
      return disconnects["the host takes no bytes"] === 1 || null;
    }, "the host that takes no bytes to be closed");
    reader.wire.destroy();
    controller.close();
  });

  test("an idle host that owes nothing stays", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    await new Promise((resolve) => setTimeout(resolve, 2500));
    assert.equal((await read(queue, 0n, 1, 4096, Ns.ram4k)).status, 0);
    controller.close();
  });
});

// Each of them makes some progress within transfer_timeout, and none of them comes to an end.
suite("hosts that are slow on purpose", { concurrency: true }, () => {
  let server: Server;
  before(async () => {
    server = await Server.make((directory) =>
      standardConfig(directory, { limits: { connect_timeout: "1s", transfer_timeout: "2s" } }),
    );
  });
  after(async () => {
    const slow = await ends("the host sends its data too slowly");
    await server.stop();
    assert.equal(slow, 2);
  });

  const ends = async (reason: string): Promise<number> => {
    const { disconnects } = (await server.rpc("keel.status")) as {
      disconnects: { [reason: string]: number };
    };
    return disconnects[reason] ?? 0;
  };

  for (const [what, pduBytes, pieceBytes] of [
    ["one PDU of its data", 65536, 64],
    ["its data in many PDUs", 64, 24 + 64],
  ] as const) {
    test(`a host that sends ${what} a little at a time is closed`, async () => {
      const controller = await connect(server);
      const queue = await controller.openQueue(1);
      const data = pattern(65536);
      const start = performance.now();
      let timer: NodeJS.Timeout | undefined;
      const onR2t = (r2t: PduOf<"r2t">): void => {
        const bytes = Buffer.concat(queue.answers(r2t, data, pduBytes));
        let at = 0;
        timer = setInterval(() => {
          if (!queue.wire.ended) queue.wire.send(bytes.subarray(at, at + pieceBytes));
          at += pieceBytes;
        }, 50);
      };
      const fields = { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(0n, 16) };
      queue.submit(fields, { send: data, inCapsule: false, onR2t });
      await queue.wire.closed(30_000);
      clearInterval(timer);
      const waited = performance.now() - start;
      assert.ok(waited > 6000, `after ${waited.toFixed(0)} ms`);
      controller.close();
    });
  }

  test("a host that takes its data a little at a time is closed", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1, 128);
    queue.wire.pause();
    const fields = { opcode: Io.read, nsid: Ns.zero, ...blockRange(0n, 256) };
    for (let count = 0; count < 100; count += 1) {
      queue.submit(fields, { receive: 1 << 20 }).result.catch(() => undefined);
    }
    const timer = setInterval(() => {
      queue.wire.resume();
      setImmediate(() => queue.wire.pause());
    }, 800);
    const reason = "the host takes its data too slowly";
    await until(async () => (await ends(reason)) === 1 || null, "the connection to be closed", 30_000);
    clearInterval(timer);
    controller.close();
  });
});

suite("connection limits", () => {
  let server: Server;
  const [total, perHost] = [40, 8];
  let wires: Wire[] = [];
  const closeAll = (): void => {
    for (const wire of wires) wire.destroy();
    wires = [];
  };
  afterEach(closeAll);
  before(async () => {
    server = await Server.make((directory) =>
      standardConfig(directory, {
        limits: { connections: total, connections_per_host: perHost, connect_timeout: "2s" },
      }),
    );
  });
  after(async () => server?.stop());

  const from = (number: number) => ({ ...server.endpoint(), from: `127.0.1.${number}` });

  test("a host over its limit is told to come back, others connect", async () => {
    const greedy = hostNamed("greedy");
    let refused: { status: number; dnr: boolean } | null = null;
    // From several addresses, so that only its name tells that it is one host.
    for (let count = 0; count < perHost + 2 && refused === null; count += 1) {
      const queue = new QueuePair(await Wire.start(from(count + 1)), 0, 32);
      const answer = await connectQueue(queue, { ...adminConnect, subnqn, host: greedy });
      wires.push(queue.wire);
      if (answer.status !== 0) refused = answer;
    }
    assert.ok(refused !== null, "the limit holds");
    assert.deepEqual([refused.status, refused.dnr], [Status.connectBusy, false]);
    const other = await connect(server, { host: hostNamed("other"), endpoint: from(100) });
    other.close();
  });

  test("connections of one address over the limit are closed before they say anything", async () => {
    for (let count = 0; count < perHost + 5; count += 1) wires.push(await Wire.open(from(200)));
    const mine = wires.slice(-perHost - 5);
    await until(
      () => mine.filter((wire) => wire.ended).length >= 5 || null,
      "those over the limit to be closed",
    );
    const other = await connect(server, { endpoint: from(201) });
    other.close();
  });

  test("connections over the limit in all are closed, and room is used again", async () => {
    await until(async () => ((await connections()) === 0 ? true : null), "earlier connections to end");
    const wires: Wire[] = [];
    for (let count = 0; count < total + 20; count += 1) wires.push(await Wire.open(server.endpoint()));
    await until(
      () => wires.filter((wire) => wire.ended).length >= 20 || null,
      "those over the limit to be closed",
    );
    closeAll();
    const controller = await until(async () => {
      try {
        return await connect(server);
      } catch {
        return null;
      }
    }, "room for a connection");
    controller.close();
  });

  async function connections(): Promise<number> {
    const status = (await server.rpc("keel.status")) as {
      engine?: { connections?: unknown[] };
      connections?: unknown[];
    };
    return (status.connections ?? status.engine?.connections ?? []).length;
  }
});

suite("data buffers", () => {
  let server: Server;
  before(async () => {
    server = await Server.make((directory) => standardConfig(directory, { limits: { memory: "16MiB" } }));
  });
  after(async () => server?.stop());

  const mebibyte = { nsid: Ns.ram4k, ...blockRange(0n, 256) };
  const greed: [string, (queue: QueuePair) => void][] = [
    [
      "is asked for data and sends none",
      (queue) =>
        queue
          .submit(
            { opcode: Io.write, ...mebibyte },
            { pointer: { kind: "transport", length: 1 << 20 }, onR2t: () => undefined },
          )
          .result.catch(() => undefined),
    ],
    [
      "asks for data and takes none",
      (queue) => {
        queue.wire.pause();
        queue.submit({ opcode: Io.read, ...mebibyte }, { receive: 1 << 20 }).result.catch(() => undefined);
      },
    ],
  ];
  for (const [index, [what, command]] of greed.entries()) {
    test(`a host that ${what} leaves room for others`, async () => {
      const greedy = await connect(server, {
        endpoint: { ...server.endpoint(), from: `127.0.3.${index + 1}` },
        host: hostNamed("greedy"),
        opening: { maxR2t: 31 },
      });
      for (let qid = 1; qid <= 8; qid += 1) await greedy.openQueue(qid, 128);
      for (const queue of greedy.queues) for (let count = 0; count < 31; count += 1) command(queue);
      // Far below transfer_timeout (30 s), after which the greedy connections end.
      const other = await within(connect(server, { host: hostNamed("other") }), "another host", 15_000);
      const queue = await other.openQueue(1);
      for (let count = 0; count < 20; count += 1) {
        const data = pattern(1 << 20, count);
        const written = await within(
          write(queue, 0n, data, 4096, { nsid: Ns.ram4k }),
          "a write beside it",
          15_000,
        );
        assert.equal(written.status, 0);
        const got = await within(read(queue, 0n, 256, 4096, Ns.ram4k), "a read beside it", 15_000);
        assert.equal(got.status, 0);
      }
      other.close();
      greedy.close();
    });
  }

  // A host sends commands without waiting, and their data when it is asked: data that the server waits for lies behind
  // commands for which it has no memory yet.
  for (const [what, hosts, queuesEach] of [
    ["on one queue", 1, 1],
    ["on four queues", 1, 4],
    ["of five hosts", 5, 2],
  ] as const) {
    test(`writes of several times the memory, ${what}, all succeed`, async () => {
      const controllers = await Promise.all(
        Array.from({ length: hosts }, (_, index) =>
          connect(server, {
            endpoint: { ...server.endpoint(), from: `127.0.4.${index + 1}` },
            host: hostNamed(`writer-${index}`),
          }),
        ),
      );
      const results: Promise<{ status: number }>[] = [];
      for (const controller of controllers) {
        for (let qid = 1; qid <= queuesEach; qid += 1) {
          const queue = await controller.openQueue(qid, 128);
          const count = Math.ceil(48 / (hosts * queuesEach));
          for (let number = 0; number < count; number += 1) {
            const large = { opcode: Io.write, ...mebibyte };
            results.push(queue.submit(large, { send: pattern(1 << 20, number), inCapsule: false }).result);
            const small = { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(300n, 2) };
            results.push(queue.submit(small, { send: pattern(8192, number) }).result);
            const look = { opcode: Io.read, nsid: Ns.ram4k, ...blockRange(0n, 64) };
            results.push(queue.submit(look, { receive: 64 * 4096 }).result);
          }
        }
      }
      const answers = await within(Promise.all(results), "the writes", 20_000);
      assert.ok(answers.every(({ status }) => status === 0));
      for (const controller of controllers) controller.close();
    });
  }
});

suite("commands that wait for a data buffer", () => {
  let server: Server;
  before(async () => {
    server = await Server.make((directory) => standardConfig(directory, { limits: { memory: "4MiB" } }));
  });
  after(async () => server?.stop());

  test("are served behind those of a connection that broke the protocol", async () => {
    const controller = await connect(server);
    const holding = await controller.openQueue(1, 128);
    const broken = await controller.openQueue(2, 128);
    const behind = await controller.openQueue(3, 128);
    const large = { opcode: Io.write, nsid: Ns.ram4k, ...blockRange(0n, 256) };
    const pointer = { kind: "transport", length: 1 << 20 } as const;
    // It has all that one host may have, and is asked for its data.
    const { promise: asked, resolve } = deferred<PduOf<"r2t">>();
    holding.submit(large, { pointer, onR2t: resolve });
    const r2t = await within(asked, "an R2T");
    for (let count = 0; count < 4; count += 1) broken.submit(large, { pointer, onR2t: () => undefined });
    // What answers a command has taken those before it.
    await broken.execute({ opcode: Io.flush, nsid: Ns.ram4k });
    const waiting = [2, 3, 4].map(
      (seed) => behind.submit(large, { send: pattern(1 << 20, seed), inCapsule: false }).result,
    );
    await behind.execute({ opcode: Io.flush, nsid: Ns.ram4k });
    broken.wire.pause(); // it does not see that it is told to close
    await broken.wire.sendAlone(commonHeader(PduType.capsuleCmd, 0, 8, 0, 8));
    await holding.execute({ opcode: Io.flush, nsid: Ns.ram4k });
    holding.sendRequested(r2t, pattern(1 << 20, 1));
    for (const { status } of await within(Promise.all(waiting), "the writes behind", 20_000)) {
      assert.equal(status, 0);
    }
    controller.close();
  });
});

suite("hostile load", () => {
  let server: Server;
  let bystander: Controller;
  before(async () => {
    server = await Server.make((directory) =>
      standardConfig(directory, { limits: { connect_timeout: "1s", transfer_timeout: "2s" } }),
    );
    bystander = await connect(server, { host: hostNamed("bystander") });
  });
  after(async () => {
    bystander.close();
    await server.stop();
  });

  /** One misbehaving connection; whatever the server does with it is fine. */
  async function attack(kind: number, random: (limit: number) => number): Promise<void> {
    const wire = await Wire.open(server.endpoint());
    const noise = Buffer.alloc(1 + random(4000));
    for (let at = 0; at < noise.length; at += 1) noise[at] = random(256);
    const initialized =
      kind >= 2 &&
      (await wire.initialize().then(
        () => true,
        () => false,
      ));
    if (kind === 0) wire.send(noise);
    if (kind === 1)
      wire.send(icReq({ pfv: 0, hpda: 0, digests: noDigests, maxR2t: 0 }).subarray(0, random(128)));
    if (initialized && kind === 2) wire.send(noise);
    if (initialized && kind === 3) {
      const fields = {
        opcode: random(256),
        nsid: random(10),
        cdw10: random(1 << 30),
        cdw11: random(1 << 30),
      };
      for (let count = 0; count < 40; count += 1)
        wire.send(capsule(sqe(count, fields), Buffer.alloc(0), noDigests));
    }
    if (initialized && kind >= 4) {
      const queue = new QueuePair(wire, 0, 32);
      const host = hostNamed(`hostile-${random(1000)}`);
      const answer = await connectQueue(queue, { ...adminConnect, subnqn, host }).catch(() => null);
      if (answer?.status === 0) {
        for (let count = 0; count < 31; count += 1) {
          const fields = {
            opcode: kind === 4 ? Admin.identify : random(256),
            nsid: 1,
            cdw10: random(0x20),
            cdw11: random(4),
          };
          queue
            .submit(fields, { pointer: { kind: "transport", length: 4096 }, receive: 4096 })
            .result.catch(() => undefined);
        }
        if (kind === 5) wire.send(noise);
      }
    }
    await turn();
    if (random(2) === 0) wire.reset();
    else wire.destroy();
  }

  test("2000 hostile connections leave memory, descriptors and other hosts as they were", async () => {
    const random = randomFrom("hostile load");
    const bySix = async (count: number): Promise<void> => {
      for (let done = 0; done < count; done += 20) {
        await Promise.all(
          Array.from({ length: 20 }, (_, index) => attack((done + index) % 6, random).catch(() => undefined)),
        );
        assert.equal((await bystander.keepAlive()).status, 0);
      }
    };
    // The first connections touch what later ones use again: slots, stacks, heaps.
    await bySix(600);
    await settled();
    const [rss, descriptors] = [server.residentBytes(), server.descriptors()];
    await bySix(2000);
    await settled();
    const grown = server.residentBytes() - rss;
    console.log(
      `hostile load: ${(rss / 1e6).toFixed(0)} MB before, ${(grown / 1e6).toFixed(1)} MB more after`,
    );
    assert.ok(grown < 48 << 20, `${(grown / 1e6).toFixed(1)} MB grown`);
    assert.ok(
      server.descriptors() <= descriptors + 2,
      `${server.descriptors()} descriptors, ${descriptors} before`,
    );
    assert.ok(server.running);
  });

  async function settled(): Promise<void> {
    let last = -1;
    await until(async () => {
      const now = server.descriptors();
      const same = now === last;
      last = now;
      await new Promise((resolve) => setTimeout(resolve, 300));
      return same || null;
    }, "connections to end");
  }

  test("a host that sends faster than it is served is slowed down, not stored", async () => {
    const controller = await connect(server, { host: hostNamed("flood") });
    const queue = await controller.openQueue(1, 1024);
    const before = server.residentBytes();
    queue.wire.pause();
    // Writes by R2T whose data never comes, and reads whose data is not taken: both want buffers.
    for (let count = 0; count < 1000; count += 1) {
      const big = blockRange(0n, 256);
      if (count % 2 === 0) queue.submit({ opcode: Io.read, nsid: Ns.ram4k, ...big }, { receive: 1 << 20 });
      else
        queue.submit(
          { opcode: Io.write, nsid: Ns.ram4k, ...big },
          { pointer: { kind: "transport", length: 1 << 20 } },
        );
    }
    const end = performance.now() + 1500;
    let most = 0;
    while (performance.now() < end) {
      most = Math.max(most, server.residentBytes());
      assert.equal((await within(bystander.keepAlive(), "keep alive beside a flood")).status, 0);
      await turn();
    }
    assert.ok(
      most - before < 150 << 20,
      `${((most - before) / 1e6).toFixed(0)} MB more; the data pool has 64 MiB`,
    );
    controller.close();
  });

  test("after it all the server serves as before", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    const kinds = new Set<Pdu["kind"]>(["data", "response"]);
    assert.equal(kinds.size, 2);
    assert.equal((await read(queue, 0n, 256, 4096, Ns.ram4k)).status, 0);
    controller.close();
  });
});
