// What hosts set and what must be there after a power cut: the process is killed, its memory is gone, and another
// one starts over what is on the disk (no keeper).

import assert from "node:assert/strict";
import { existsSync, mkdirSync, readFileSync, rmSync } from "node:fs";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { Admin, Status } from "./host/command.js";
import { type Controller, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { connect, pattern, subnqn } from "./host/fixture.js";
import { asyncEvent, dwords } from "./host/layout.js";
import { type Config, freePort, Server } from "./host/server.js";

const writeProtection = 0x84;

suite("write protection by a host", () => {
  let server: Server;
  let port = 0;

  const config = (nsids: number[]): Config => ({
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }],
    devices: Object.fromEntries(
      nsids.map((nsid) => [
        `disk${nsid}`,
        { file: join(server?.directory ?? "/", `disk${nsid}.img`), size: "4MiB", create: true },
      ]),
    ),
    subsystems: {
      main: {
        nqn: subnqn,
        hosts: "any",
        namespaces: nsids.map((nsid) => ({ id: nsid, device: `disk${nsid}` })),
      },
    },
  });

  const set = (controller: Controller, nsid: number, state: number) =>
    controller.admin.execute({ opcode: Admin.setFeatures, nsid, cdw10: writeProtection, cdw11: state });
  async function get(controller: Controller, nsid: number): Promise<number> {
    const { status, dw0 } = await controller.admin.execute({
      opcode: Admin.getFeatures,
      nsid,
      cdw10: writeProtection,
    });
    assert.equal(status, 0);
    return dw0;
  }
  async function writes(controller: Controller, nsid: number): Promise<number> {
    const queue = await controller.openQueue(1);
    const { status } = await write(queue, 0n, pattern(4096), 4096, { nsid });
    queue.wire.destroy();
    return status;
  }
  const record = (): { namespaces: Record<string, { state: number }> } =>
    JSON.parse(readFileSync(join(server.directory, "state/protection.json"), "utf8"));

  before(async () => {
    port = await freePort();
    server = await Server.make((directory) => {
      const file = (nsid: number) => ({
        file: join(directory, `disk${nsid}.img`),
        size: "4MiB",
        create: true,
      });
      return Promise.resolve({ ...config([1, 2]), devices: { disk1: file(1), disk2: file(2) } });
    });
  });
  after(async () => server?.stop());

  test("it is on the disk when the host is answered, and holds after the process and its memory are gone", async () => {
    const controller = await connect(server);
    assert.equal((await set(controller, 1, 1)).status, 0);
    assert.equal(record().namespaces[`${subnqn} 1`]?.state, 1);
    await server.killAndRestart();
    const again = await connect(server);
    assert.deepEqual([await get(again, 1), await get(again, 2)], [1, 0]);
    assert.equal(await writes(again, 1), Status.writeProtected);
    assert.equal(await writes(again, 2), 0);
    again.close();
  });

  test("it is taken back as durably", async () => {
    const controller = await connect(server);
    assert.equal((await set(controller, 1, 0)).status, 0);
    await server.killAndRestart();
    const again = await connect(server);
    assert.equal(await get(again, 1), 0);
    assert.equal(await writes(again, 1), 0);
    again.close();
  });

  test("Identify offers the states without power cycle and permanence, and the others are invalid", async () => {
    const controller = await connect(server);
    assert.equal((await controller.identify(1)).data[531], 1, "NWPC");
    for (const state of [2, 3, 7])
      assert.equal((await set(controller, 1, state)).status, Status.invalidField);
    assert.equal(await get(controller, 1), 0);
    controller.close();
  });

  test("other hosts hear of it", async () => {
    const [one, other] = [await connect(server), await connect(server)];
    const events = { opcode: Admin.setFeatures, cdw10: 0x0b, cdw11: 0x100 };
    assert.equal((await other.admin.execute(events)).status, 0);
    const event = other.admin.submit({ opcode: Admin.asyncEvent });
    assert.equal((await set(one, 2, 1)).status, 0);
    const { dw0 } = await within(event.result, "the namespace attribute event");
    assert.deepEqual(asyncEvent(dw0), { type: 2, information: 0, logPage: 4 });
    assert.deepEqual(dwords((await other.logPage(4, 4096)).data), [2]);
    assert.equal((await set(one, 2, 0)).status, 0);
    one.close();
    other.close();
  });

  test("what cannot be kept does not hold, and the host is told", async () => {
    const controller = await connect(server);
    const obstacle = join(server.directory, "state/protection.json.new");
    rmSync(obstacle, { recursive: true, force: true });
    mkdirSync(join(obstacle, "in the way"), { recursive: true });
    const { status } = await set(controller, 1, 1);
    assert.equal(status, Status.internalError);
    assert.equal(await get(controller, 1), 0);
    assert.equal(await writes(controller, 1), 0);
    rmSync(obstacle, { recursive: true, force: true });
    assert.equal((await set(controller, 1, 1)).status, 0);
    controller.close();
  });

  test("it ends with its namespace", async () => {
    await server.apply(config([2]));
    assert.deepEqual(record().namespaces, {});
    await server.apply(config([1, 2]));
    const controller = await connect(server);
    assert.equal(await get(controller, 1), 0);
    controller.close();
    assert.ok(existsSync(join(server.directory, "state/identity.json")));
  });
});
