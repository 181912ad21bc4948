// Changes at run time: namespaces added, removed and resized, with the events and lists that hosts rely on, while
// commands are in flight.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, blockRange, Io, Status } from "./host/command.js";
import { type Controller, read, write } from "./host/controller.js";
import { until, within } from "./host/deadline.js";
import { connect, pattern, subnqn } from "./host/fixture.js";
import { asyncEvent, dwords, identifyNamespace } from "./host/layout.js";
import type { Submitted } from "./host/queue-pair.js";
import { type Config, freePort, type Json, Server } from "./host/server.js";

suite("run time", () => {
  let server: Server;
  let port = 0;

  const config = (namespaces: [number, string][], devices: { [key: string]: Json } = {}): Config => ({
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }],
    devices: {
      a: { ram: "8MiB" },
      b: { ram: "8MiB" },
      under: { ram: "8MiB" },
      slow: { delay: "under", read: "700ms" },
      ...devices,
    },
    subsystems: {
      main: { nqn: subnqn, hosts: "any", namespaces: namespaces.map(([id, device]) => ({ id, device })) },
    },
  });

  before(async () => {
    port = await freePort();
    server = await Server.start(config([[1, "a"]]));
  });
  after(async () => server?.stop());

  async function listen(controller: Controller): Promise<Submitted> {
    const set = { opcode: Admin.setFeatures, cdw10: 0x0b, cdw11: 0x900 };
    assert.equal((await controller.admin.execute(set)).status, 0);
    return controller.admin.submit({ opcode: Admin.asyncEvent });
  }

  async function assertChanged(controller: Controller, event: Submitted, nsids: number[]): Promise<void> {
    const { dw0 } = await within(event.result, "the namespace attribute event");
    assert.deepEqual(asyncEvent(dw0), { type: 2, information: 0, logPage: 4 });
    const { data } = await controller.logPage(4, 4096);
    assert.deepEqual(dwords(data), nsids);
    assert.deepEqual(dwords((await controller.logPage(4, 4096)).data), [], "the list is empty once read");
  }

  test("a namespace that is added is announced and usable at once", async () => {
    const controller = await connect(server);
    const event = await listen(controller);
    await server.apply(
      config([
        [1, "a"],
        [2, "b"],
      ]),
    );
    await assertChanged(controller, event, [2]);
    assert.deepEqual(dwords((await controller.identify(2)).data), [1, 2]);
    const queue = await controller.openQueue(1);
    assert.equal((await write(queue, 0n, pattern(4096), 4096, { nsid: 2 })).status, 0);
    controller.close();
  });

  test("a namespace that is removed is announced, and its commands end", async () => {
    await server.apply(
      config([
        [1, "a"],
        [3, "slow"],
      ]),
    );
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    const event = await listen(controller);
    const slow = queue.submit({ opcode: Io.read, nsid: 3, ...blockRange(0n, 1) }, { receive: 4096 });
    await server.apply(config([[1, "a"]]));
    await assertChanged(controller, event, [3]);
    await within(slow.result, "the read in flight");
    assert.equal((await read(queue, 0n, 1, 4096, 3)).status, Status.invalidNamespace);
    assert.equal((await read(queue, 0n, 1, 4096, 1)).status, 0);
    controller.close();
  });

  test("a namespace that grows is announced, its new blocks are zero and its old ones as they were", async () => {
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    const data = pattern(4096, 5);
    assert.equal((await write(queue, 2047n, data, 4096)).status, 0);
    assert.equal((await read(queue, 2048n, 1, 4096)).status, Status.lbaOutOfRange);
    const event = await listen(controller);
    await server.apply(config([[1, "a"]], { a: { ram: "16MiB" } }));
    await assertChanged(controller, event, [1]);
    assert.equal(identifyNamespace((await controller.identify(0, { nsid: 1 })).data).nsze, 4096n);
    assert.ok((await read(queue, 2047n, 1, 4096)).data.equals(data));
    const fresh = await read(queue, 2048n, 2048 / 8, 4096);
    assert.ok(fresh.status === 0 && fresh.data.every((byte) => byte === 0));
    controller.close();
  });

  test("several changes before the host listens are one event and one list", async () => {
    await server.apply(config([[1, "a"]], { a: { ram: "16MiB" } }));
    const controller = await connect(server);
    const first = await listen(controller);
    await server.apply(
      config(
        [
          [1, "a"],
          [5, "b"],
        ],
        { a: { ram: "16MiB" } },
      ),
    );
    await within(first.result, "the first event");
    await server.apply(
      config(
        [
          [1, "a"],
          [5, "b"],
          [9, "slow"],
        ],
        { a: { ram: "16MiB" } },
      ),
    );
    const second = controller.admin.submit({ opcode: Admin.asyncEvent });
    const { data } = await controller.logPage(4, 4096);
    assert.deepEqual(dwords(data), [5, 9]);
    await server.apply(
      config(
        [
          [1, "a"],
          [5, "b"],
        ],
        { a: { ram: "16MiB" } },
      ),
    );
    await within(second.result, "the second event");
    controller.close();
  });

  test("hosts keep reading while namespaces come and go", async () => {
    const both: [number, string][] = [
      [1, "a"],
      [2, "b"],
    ];
    await server.apply(config(both, { a: { ram: "16MiB" } }));
    const controller = await connect(server);
    const queue = await controller.openQueue(1);
    let going = true;
    const statuses = new Map<number, number>();
    const load = async (nsid: number): Promise<void> => {
      while (going) {
        const { status } = await read(queue, 0n, 4, 4096, nsid);
        if (nsid === 1) assert.equal(status, 0);
        else statuses.set(status, (statuses.get(status) ?? 0) + 1);
      }
    };
    const lanes = [1, 1, 1, 2, 2, 2].map((nsid) => load(nsid));
    try {
      for (let round = 0; round < 4; round += 1) {
        await server.apply(config([[1, "a"]], { a: { ram: "16MiB" } }));
        await server.apply(config(both, { a: { ram: "16MiB" } }));
      }
    } finally {
      going = false;
    }
    await Promise.all(lanes);
    for (const status of statuses.keys()) {
      const allowed: number[] = [0, Status.invalidNamespace, Status.namespaceNotReady, Status.abortRequested];
      assert.ok(allowed.includes(status), `status ${status.toString(16)}h`);
    }
    controller.close();
  });

  test("a subsystem that is removed disconnects its hosts", async () => {
    const controller = await connect(server);
    await server.apply({ ...config([]), subsystems: {} });
    await controller.admin.wire.closed();
    await assert.rejects(connect(server));
    await server.apply(config([[1, "a"]]));
    const again = await until(async () => {
      try {
        return await connect(server);
      } catch {
        return null;
      }
    }, "the subsystem to be back");
    again.close();
    controller.close();
  });

  test("a dry run changes nothing", async () => {
    const controller = await connect(server);
    const event = await listen(controller);
    server.write(
      config([
        [1, "a"],
        [2, "b"],
      ]),
    );
    const result = await server.keel("apply", "-f", server.configPath, "--dry-run");
    assert.equal(result.status, 0, result.err);
    assert.match(result.out, /b|2/);
    assert.deepEqual(dwords((await controller.identify(2)).data), [1]);
    assert.equal(controller.admin.outstanding, 1, "no event");
    controller.close();
    await event.result.catch(() => undefined);
  });
});
