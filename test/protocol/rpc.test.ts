// A target built by SPDK's method names alone, while hosts are connected: what a script for rpc.py does.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, Status } from "./host/command.js";
import { Controller, hostNamed, read, write } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { pattern } from "./host/fixture.js";
import { asyncEvent, dwords, identifyController, identifyNamespace } from "./host/layout.js";
import type { Submitted } from "./host/queue-pair.js";
import { freePort, Server } from "./host/server.js";

const nqn = "nqn.2026-01.org.example:by-rpc";
const host = hostNamed("rpc");

suite("control by RPC", () => {
  let server: Server;
  before(async () => {
    server = await Server.start({ listen: [{ "nvme-tcp": `127.0.0.1:${await freePort()}` }] });
  });
  after(async () => server?.stop());

  const open = (endpoint = server.endpoint()) => Controller.connect({ endpoint, subnqn: nqn, host });

  async function listen(controller: Controller): Promise<Submitted> {
    await controller.admin.execute({ opcode: Admin.setFeatures, cdw10: 0x0b, cdw11: 0x900 });
    return controller.admin.submit({ opcode: Admin.asyncEvent });
  }

  async function changed(controller: Controller, event: Submitted): Promise<number[]> {
    const { dw0 } = await within(event.result, "the event");
    assert.deepEqual(asyncEvent(dw0), { type: 2, information: 0, logPage: 4 });
    return dwords((await controller.logPage(4, 4096)).data);
  }

  test("devices, subsystem and namespaces come into being, one call after the other", async () => {
    assert.equal(
      await server.rpc("bdev_malloc_create", { name: "Malloc0", num_blocks: 2048, block_size: 4096 }),
      "Malloc0",
    );
    assert.equal(
      await server.rpc("bdev_null_create", { name: "Null0", num_blocks: 1 << 20, block_size: 512 }),
      "Null0",
    );
    await server.rpc("nvmf_create_transport", { trtype: "TCP" });
    const subsystem = { nqn, serial_number: "RPC0001", model_number: "By RPC", allow_any_host: true };
    assert.equal(await server.rpc("nvmf_create_subsystem", subsystem), true);
    assert.equal(await server.rpc("nvmf_subsystem_add_ns", { nqn, namespace: { bdev_name: "Malloc0" } }), 1);
    const controller = await open();
    const id = identifyController((await controller.identify(1)).data);
    assert.deepEqual([id.serial, id.model], ["RPC0001", "By RPC"]);
    const queue = await controller.openQueue(1);
    assert.equal((await write(queue, 2047n, pattern(4096), 4096)).status, 0);
    controller.close();
  });

  test("a namespace is added, resized and removed under a host", async () => {
    const controller = await open();
    const queue = await controller.openQueue(1);
    let event = await listen(controller);
    assert.equal(
      await server.rpc("nvmf_subsystem_add_ns", { nqn, namespace: { bdev_name: "Null0", nsid: 7 } }),
      7,
    );
    assert.deepEqual(await changed(controller, event), [7]);
    assert.equal((await read(queue, 0n, 1, 512, 7)).status, 0);

    event = controller.admin.submit({ opcode: Admin.asyncEvent });
    await server.rpc("bdev_malloc_resize", { name: "Malloc0", new_size: 16 });
    assert.deepEqual(await changed(controller, event), [1]);
    assert.equal(identifyNamespace((await controller.identify(0, { nsid: 1 })).data).nsze, 4096n);
    assert.ok((await read(queue, 2047n, 1, 4096)).data.equals(pattern(4096)), "the content stays");

    event = controller.admin.submit({ opcode: Admin.asyncEvent });
    await server.rpc("nvmf_subsystem_remove_ns", { nqn, nsid: 7 });
    assert.deepEqual(await changed(controller, event), [7]);
    assert.equal((await read(queue, 0n, 1, 512, 7)).status, Status.invalidNamespace);
    controller.close();
  });

  test("a device in use is not taken away", async () => {
    await assert.rejects(server.rpc("bdev_malloc_delete", { name: "Malloc0" }));
    await server.rpc("bdev_null_delete", { name: "Null0" });
    await assert.rejects(server.rpc("bdev_null_delete", { name: "Null0" }), /E_/);
  });

  test("hosts are allowed and disallowed one by one", async () => {
    await server.rpc("nvmf_subsystem_allow_any_host", { nqn, allow_any_host: false });
    await assert.rejects(open(), /184h/);
    await server.rpc("nvmf_subsystem_add_host", { nqn, host: host.nqn });
    const controller = await open();
    await server.rpc("nvmf_subsystem_remove_host", { nqn, host: host.nqn });
    await controller.admin.wire.closed();
    await assert.rejects(open(), /184h/);
    await server.rpc("nvmf_subsystem_allow_any_host", { nqn, allow_any_host: true });
    controller.close();
  });

  test("a listener is added and removed; connections through it stay", async () => {
    const port = await freePort();
    const address = { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: String(port) };
    await server.rpc("nvmf_subsystem_add_listener", { nqn, listen_address: address });
    const controller = await open({ address: "127.0.0.1", port });
    await server.rpc("nvmf_subsystem_remove_listener", { nqn, listen_address: address });
    await assert.rejects(open({ address: "127.0.0.1", port }));
    assert.equal((await controller.identify(1)).status, 0);
    controller.close();
  });

  test("a subsystem goes with its hosts", async () => {
    const controller = await open();
    await server.rpc("nvmf_delete_subsystem", { nqn });
    await controller.admin.wire.closed();
    await assert.rejects(open(), /182h/);
    controller.close();
  });
});
