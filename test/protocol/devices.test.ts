// What devices do to hosts: injected errors arrive as the right status, slow requests hold up nobody else, a file keeps
// its data.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { blockRange, Io, Status } from "./host/command.js";
import { read, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { Ns, pattern, slowReadMs, startServer, subnqn, withQueue } from "./host/fixture.js";
import { freePort, Server } from "./host/server.js";

suite("devices", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  test("an injected error meets exactly the requests that touch its range", async () => {
    await withQueue(server, async (queue) => {
      assert.equal((await read(queue, 0n, 1, 4096, Ns.faulty)).status, 0);
      assert.equal((await read(queue, 1n, 1, 4096, Ns.faulty)).status, Status.unrecoveredRead);
      assert.equal((await read(queue, 0n, 4, 4096, Ns.faulty)).status, Status.unrecoveredRead);
      assert.equal((await read(queue, 2n, 4, 4096, Ns.faulty)).status, 0);
      assert.equal((await write(queue, 1n, pattern(4096), 4096, { nsid: Ns.faulty })).status, 0);
    });
  });

  test("a slow read holds up neither its own queue nor others", async () => {
    await withQueue(server, async (queue) => {
      const begin = performance.now();
      const slow = queue.submit({ opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 1) }, { receive: 4096 });
      let ended = false;
      void slow.result.then(() => {
        ended = true;
      });
      for (let count = 0; count < 100; count += 1) {
        assert.equal((await read(queue, BigInt(count), 1, 4096, Ns.ram4k)).status, 0);
        if (count === 0) assert.ok(!ended, "a read while another waits");
      }
      assert.equal((await within(slow.result, "the slow read")).status, 0);
      assert.ok(performance.now() - begin >= slowReadMs - 10, "the delay is real");
    });
  });

  test("a host that goes away while its reads wait leaves nothing behind", async () => {
    for (let round = 0; round < 5; round += 1) {
      await withQueue(server, async (queue) => {
        for (let count = 0; count < 64; count += 1) {
          queue.submit({ opcode: Io.read, nsid: Ns.slow, ...blockRange(0n, 16) }, { receive: 65536 });
        }
        await read(queue, 0n, 1, 4096, Ns.ram4k);
        queue.wire.reset();
      });
    }
    await withQueue(server, async (queue) => {
      assert.equal((await read(queue, 0n, 1, 4096, Ns.slow)).status, 0);
    });
  });

  test("what a host wrote and flushed is in the file", async () => {
    const data = pattern(1 << 20, 77);
    await withQueue(server, async (queue) => {
      assert.equal((await write(queue, 512n, data, 4096, { nsid: Ns.file })).status, 0);
      assert.equal((await queue.execute({ opcode: Io.flush, nsid: Ns.file })).status, 0);
    });
    const file = readFileSync(join(server.directory, "disk.img"));
    assert.equal(file.length, 16 << 20);
    assert.ok(file.subarray(512 * 4096, 512 * 4096 + data.length).equals(data));
  });
});

suite("error statuses", () => {
  const expected: Record<string, number[]> = {
    medium_error: [Status.unrecoveredRead],
    no_space: [Status.capacityExceeded, Status.internalError],
    gone: [Status.internalPath, Status.internalError, Status.namespaceNotReady, 0x302, 0x360],
    read_only: [Status.writeProtected, Status.readOnlyRange],
    not_supported: [Status.invalidField, Status.invalidOpcode],
    out_of_range: [Status.lbaOutOfRange],
  };
  let server: Server;
  const names = Object.keys(expected);
  before(async () => {
    const devices = Object.fromEntries(
      names.flatMap((name) => [
        [`base-${name}`, { ram: "1MiB" }],
        [name, { error: `base-${name}`, on: ["read", "write", "flush"], status: name }],
      ]),
    );
    server = await Server.start({
      listen: [{ "nvme-tcp": `127.0.0.1:${await freePort()}` }],
      devices,
      subsystems: {
        main: {
          nqn: subnqn,
          hosts: "any",
          namespaces: names.map((device, index) => ({ id: index + 1, device })),
        },
      },
    });
  });
  after(async () => server?.stop());

  for (const [index, name] of names.entries()) {
    test(`a device that answers ${name} gives the host a status of that meaning`, async () => {
      await withQueue(server, async (queue) => {
        const answers = [
          await read(queue, 0n, 1, 4096, index + 1),
          await write(queue, 0n, pattern(4096), 4096, { nsid: index + 1 }),
          await write(queue, 0n, pattern(65536), 4096, { nsid: index + 1 }),
        ];
        const [first] = answers;
        assert.ok(expected[name]?.includes(first?.status ?? 0), `read: ${first?.status.toString(16)}h`);
        for (const { status } of answers) assert.notEqual(status, 0);
        const medium = answers[1];
        if (name === "medium_error") assert.equal(medium?.status, Status.writeFault);
      });
    });
  }
});
