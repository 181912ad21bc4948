// A start beside devices that change by themselves meanwhile.

import assert from "node:assert/strict";
import { test } from "node:test";
import { connect, subnqn } from "./host/fixture.js";
import { freePort, Server } from "./host/server.js";

test("a remote node that refuses while the server starts does not make it bring anything up twice", async () => {
  const port = await freePort();
  const back = "nqn.2026-11.example.keel:back";
  const server = await Server.make(async () => ({
    listen: [{ "nvme-tcp": `127.0.0.1:${port}` }, { discovery: `127.0.0.1:${await freePort()}` }],
    devices: {
      memory: { ram: "8MiB" },
      // Its peer is this server, which listens last.
      far: { "nvme-tcp": `127.0.0.1:${port}`, nqn: back },
    },
    subsystems: {
      main: { nqn: subnqn, hosts: "any", namespaces: [{ id: 1, device: "far" }] },
      back: { nqn: back, hosts: "any", namespaces: [{ id: 1, device: "memory" }] },
    },
  }));
  try {
    const controller = await connect(server);
    controller.close();
    assert.doesNotMatch(server.log, /already there|E_EXISTS/);
  } finally {
    await server.stop();
  }
});
