// A target built by SPDK's method names alone, while hosts are connected: what a script for rpc.py does.

import assert from "node:assert/strict";
import { once } from "node:events";
import { createConnection, type Socket } from "node:net";
import { after, before, suite, test } from "node:test";
import { Admin, Status } from "./host/command.js";
import { Controller, hostNamed, read, write } from "./host/controller.js";
import { until, within } from "./host/deadline.js";
import { pattern } from "./host/fixture.js";
import { asyncEvent, dwords, identifyController, identifyNamespace } from "./host/layout.js";
import type { Submitted } from "./host/queue-pair.js";
import { freePort, type Json, Server } from "./host/server.js";

/** A connection to the control socket that sends values without anything between them, as SPDK's rpc.py does. */
class PlainClient {
  readonly #socket: Socket;
  #text = "";
  #id = 0;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setEncoding("utf8").on("data", (chunk: string) => {
      this.#text += chunk;
    });
  }

  static async open(path: string): Promise<PlainClient> {
    const socket = createConnection(path);
    await within(once(socket, "connect"), "the control socket");
    return new PlainClient(socket);
  }

  /** Reads until what came is a JSON value, and nothing else tells that it is complete. */
  async call(method: string, params?: { [key: string]: Json }): Promise<{ [key: string]: Json }> {
    this.#id += 1;
    const id = this.#id;
    this.#socket.write(JSON.stringify({ jsonrpc: "2.0", method, id, ...(params && { params }) }));
    const answer = await until(() => {
      try {
        return JSON.parse(this.#text) as { [key: string]: Json };
      } catch {
        return null;
      }
    }, method);
    this.#text = "";
    assert.equal(answer["jsonrpc"], "2.0");
    assert.equal(answer["id"], id);
    return answer;
  }

  async result(method: string, params?: { [key: string]: Json }): Promise<Json> {
    const answer = await this.call(method, params);
    assert.ok("result" in answer, `${method}: ${JSON.stringify(answer["error"])}`);
    return answer["result"] ?? null;
  }

  close(): void {
    this.#socket.destroy();
  }
}

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

  test("a client like SPDK's rpc.py, which sends every switch that is off, builds a target and looks at it", async () => {
    const client = await PlainClient.open(server.rpcSocket);
    const methods = await client.result("rpc_get_methods", { current: false, include_aliases: false });
    assert.ok(Array.isArray(methods) && methods.includes("nvmf_create_subsystem"));
    const transport = { trtype: "TCP", io_unit_size: 16384, c2h_success: true, no_srq: false, zcopy: false };
    assert.equal(await client.result("nvmf_create_transport", transport), true);
    const malloc = { num_blocks: 4096, block_size: 4096, name: "Malloc9" };
    const off = { md_interleave: false, dif_is_head_of_md: false };
    assert.equal(await client.result("bdev_malloc_create", { ...malloc, ...off }), "Malloc9");
    const subnqn = "nqn.2016-06.io.spdk:cnode9";
    const subsystem = { nqn: subnqn, serial_number: "SPDK009", model_number: "SPDK", allow_any_host: true };
    const none = { ana_reporting: false, passthrough: false, enable_nssr: false };
    assert.equal(await client.result("nvmf_create_subsystem", { ...subsystem, ...none }), true);
    const namespace = { bdev_name: "Malloc9", no_auto_visible: false, hide_metadata: false };
    assert.equal(await client.result("nvmf_subsystem_add_ns", { nqn: subnqn, namespace }), 1);
    const port = String(await freePort());
    const listen_address = { trtype: "tcp", traddr: "127.0.0.1", trsvcid: port };
    const listener = { nqn: subnqn, secure_channel: false, listen_address };
    assert.equal(await client.result("nvmf_subsystem_add_listener", listener), true);

    const subsystems = (await client.result("nvmf_get_subsystems")) as { [key: string]: Json }[];
    assert.equal(subsystems[0]?.["subtype"], "Discovery");
    const mine = subsystems.find((one) => one["nqn"] === subnqn);
    const addresses = (mine?.["listen_addresses"] ?? []) as { [key: string]: Json }[];
    assert.deepEqual(
      addresses.find(({ trsvcid }) => trsvcid === port),
      { trtype: "TCP", adrfam: "IPv4", traddr: "127.0.0.1", trsvcid: port },
    );
    const [exported] = (mine?.["namespaces"] ?? []) as { [key: string]: Json }[];
    assert.deepEqual(
      [mine?.["subtype"], mine?.["serial_number"], mine?.["allow_any_host"], exported?.["nsid"]],
      ["NVMe", "SPDK009", true, 1],
    );
    assert.match(String(exported?.["nguid"]), /^[0-9A-F]{32}$/);
    assert.match(String(exported?.["uuid"]), /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/);
    const [bdev] = (await client.result("bdev_get_bdevs", { name: "Malloc9" })) as { [key: string]: Json }[];
    assert.deepEqual(
      [bdev?.["product_name"], bdev?.["block_size"], bdev?.["num_blocks"], bdev?.["claimed"]],
      ["Malloc disk", 4096, 4096, true],
    );
    const stat = await client.result("bdev_get_iostat", { per_channel: false, name: "Malloc9" });
    assert.ok("bdevs" in (stat as object));

    // What is asked for and is not here is refused, by name.
    const wanted = await client.call("nvmf_create_subsystem", { nqn: `${subnqn}x`, passthrough: true });
    assert.match(JSON.stringify(wanted["error"]), /passthrough/);
    const unknown = await client.call("bdev_lvol_create", {});
    assert.equal((unknown["error"] as { code: number }).code, -32601);

    const removed = { nqn: subnqn, nsid: 1 };
    assert.equal(await client.result("nvmf_subsystem_remove_ns", removed), true);
    assert.equal(await client.result("nvmf_delete_subsystem", { nqn: subnqn }), true);
    assert.equal(await client.result("bdev_malloc_delete", { name: "Malloc9" }), true);
    client.close();
  });

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
