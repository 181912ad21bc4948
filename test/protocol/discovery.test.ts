// The discovery service: what each host may see, with generation, referrals and the event of persistent discovery.
// NVM Express Base 2.0 §3.1.2.3, §5.16.1.23.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, Status } from "./host/command.js";
import { Controller, discoveryNqn, type HostIdentity, hostNamed } from "./host/controller.js";
import { within } from "./host/deadline.js";
import { asyncEvent, type DiscoveryEntry, discoveryEntry, discoveryHeader } from "./host/layout.js";
import { type Config, freePort, Server } from "./host/server.js";

const openNqn = "nqn.2026-01.org.example:open";
const closedNqn = "nqn.2026-01.org.example:closed";
const newNqn = "nqn.2026-01.org.example:new";
const friend = hostNamed("friend");
const stranger = hostNamed("stranger");

type Ports = {
  readonly four: number;
  readonly six: number;
  readonly any: number;
  readonly discovery: number;
};

const configWith = (ports: Ports, more: Config = {}): Config => ({
  listen: [
    { "nvme-tcp": `127.0.0.1:${ports.four}` },
    { "nvme-tcp": `[::1]:${ports.six}` },
    { "nvme-tcp": `0.0.0.0:${ports.any}` },
    { discovery: `127.0.0.1:${ports.discovery}` },
  ],
  devices: { a: { null: "1GiB" }, b: { null: "1GiB" }, c: { null: "1GiB" } },
  subsystems: {
    open: { nqn: openNqn, hosts: "any", namespaces: [{ id: 1, device: "a" }] },
    closed: { nqn: closedNqn, hosts: [friend.nqn], namespaces: [{ id: 1, device: "b" }] },
  },
  referrals: [{ address: "192.0.2.7:8009" }],
  ...more,
});

suite("discovery", () => {
  let server: Server;
  let ports: Ports;
  before(async () => {
    ports = {
      four: await freePort(),
      six: await freePort("::1"),
      any: await freePort("0.0.0.0"),
      discovery: await freePort(),
    };
    server = await Server.start(configWith(ports));
  });
  after(async () => server?.stop());

  const discover = (host: HostIdentity, listener = 3, kato = 0) =>
    Controller.connect({ endpoint: server.endpoint(listener), subnqn: discoveryNqn, host, kato });

  /** As nvme-cli reads it: the header, then the entries in chunks, then the header again. */
  async function entries(controller: Controller): Promise<{ genctr: bigint; list: DiscoveryEntry[] }> {
    const header = discoveryHeader((await controller.logPage(0x70, 20)).data);
    const list: DiscoveryEntry[] = [];
    for (let at = 0; at < header.numrec; at += 4) {
      const count = Math.min(4, header.numrec - at);
      const { data, status } = await controller.logPage(0x70, count * 1024, {
        offset: BigInt(1024 + at * 1024),
      });
      assert.equal(status, 0);
      for (let index = 0; index < count; index += 1)
        list.push(discoveryEntry(data.subarray(index * 1024, (index + 1) * 1024)));
    }
    assert.deepEqual(
      discoveryHeader((await controller.logPage(0x70, 20)).data),
      header,
      "nothing moved meanwhile",
    );
    assert.equal(header.recfmt, 0);
    return { genctr: header.genctr, list };
  }

  test("a host sees the subsystems that it may use, and no others", async () => {
    for (const [host, expected] of [
      [friend, [openNqn, closedNqn]],
      [stranger, [openNqn]],
    ] as const) {
      for (const listener of [0, 3]) {
        const controller = await discover(host, listener);
        const { list } = await entries(controller);
        const nvm = new Set(list.filter(({ subtype }) => subtype === 2).map(({ subnqn }) => subnqn));
        assert.deepEqual([...nvm].sort(), [...expected].sort());
        controller.close();
      }
    }
  });

  test("each entry is one way to connect, and all of them work", async () => {
    const controller = await discover(stranger);
    const { list } = await entries(controller);
    const nvm = list.filter(({ subtype }) => subtype === 2);
    assert.equal(nvm.length, 3, "one per listener");
    for (const entry of nvm) {
      assert.equal(entry.transport, 3, "TCP");
      assert.equal(entry.cntlid, 0xffff);
      assert.ok(entry.asqsz >= 32);
      assert.equal(entry.security, 0);
      assert.equal(entry.family, entry.address.includes(":") ? 2 : 1);
      assert.notEqual(entry.address, "0.0.0.0", "a wildcard is no address to connect to");
      const endpoint = { address: entry.address, port: Number(entry.service) };
      const host = await Controller.connect({ endpoint, subnqn: entry.subnqn, host: stranger });
      assert.equal((await host.identify(1)).status, 0);
      host.close();
    }
    assert.deepEqual(
      nvm.map(({ service }) => Number(service)).sort(),
      [ports.four, ports.six, ports.any].sort(),
    );
    controller.close();
  });

  test("a referral points to another discovery service, and the service names itself", async () => {
    const controller = await discover(stranger);
    const { list } = await entries(controller);
    const referral = list.find(({ subtype, address }) => subtype === 1 && address === "192.0.2.7");
    assert.ok(referral !== undefined);
    assert.equal(referral.service, "8009");
    assert.equal(referral.subnqn, discoveryNqn);
    const self = list.filter(({ subtype }) => subtype === 3);
    for (const entry of self) assert.equal(entry.subnqn, discoveryNqn);
    controller.close();
  });

  test("parts of the log that lie behind its end are refused", async () => {
    const controller = await discover(stranger);
    const far = await controller.logPage(0x70, 1024, { offset: 1n << 40n });
    assert.equal(far.status, Status.invalidField);
    const odd = await controller.logPage(0x70, 1024, { offset: 1026n });
    assert.equal(odd.status, Status.invalidField);
    controller.close();
  });

  test("a change is announced to persistent discovery, and to those alone who see it", async () => {
    const seers = await discover(friend, 3, 30_000);
    const blind = await discover(stranger, 3, 30_000);
    const before = await entries(seers);
    await entries(blind);
    const events = [];
    for (const controller of [seers, blind]) {
      const oaes = (await controller.identify(1)).data.readUInt32LE(92);
      assert.ok((oaes & 0x80000000) !== 0, "OAES: discovery log change");
      const set = { opcode: Admin.setFeatures, cdw10: 0x0b, cdw11: 0x80000000 };
      assert.equal((await controller.admin.execute(set)).status, 0);
      events.push(controller.admin.submit({ opcode: Admin.asyncEvent }));
    }
    const more = { new: { nqn: newNqn, hosts: [friend.nqn], namespaces: [{ id: 1, device: "c" }] } };
    const config = configWith(ports);
    await server.apply({ ...config, subsystems: { ...(config["subsystems"] as object), ...more } });
    const [seen] = events;
    assert.ok(seen !== undefined);
    const event = asyncEvent((await within(seen.result, "the event")).dw0);
    assert.deepEqual(event, { type: 2, information: 0xf0, logPage: 0x70 });
    const later = await entries(seers);
    assert.ok(later.genctr > before.genctr, "the generation counts up");
    assert.ok(later.list.some(({ subnqn }) => subnqn === newNqn));
    assert.ok(!(await entries(blind)).list.some(({ subnqn }) => subnqn === newNqn));
    assert.equal(blind.admin.outstanding, 1, "no event for what is not seen");
    await server.apply(config);
    seers.close();
    blind.close();
  });

  test("a discovery controller without keep alive that is idle does not disturb, one with KATO expires", async () => {
    const controller = await discover(stranger, 3, 1000);
    await controller.admin.wire.closed();
    controller.close();
  });
});
