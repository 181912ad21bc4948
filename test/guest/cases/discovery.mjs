// Discovery: what `nvme discover` and `nvme connect-all` see, and the event that a persistent discovery controller sends.
import assert from "node:assert/strict";
import { NQN, OTHER_NQN, offer, oneDisk, ram, subsystem } from "../harness/config.mjs";
import { DISCOVERY_NQN, HOST_ID, HOST_NQN } from "../harness/nvme-host.mjs";

const STRANGER_NQN = "nqn.2014-08.org.nvmexpress:uuid:0d3f1f6e-93b5-4b6e-8d0a-2f6f1b1f0c02";
const STRANGER_ID = "0d3f1f6e-93b5-4b6e-8d0a-2f6f1b1f0c02";

export function discoveryCases(suite) {
  suite.case(
    "discovery names every subsystem with its transport address",
    { config: offer({ disk: subsystem([ram(64)]), other: subsystem([ram(64)], { nqn: OTHER_NQN }) }) },
    async ({ host, target }) => {
      const records = await host.discover();
      const { io } = target.places;
      for (const nqn of [NQN, OTHER_NQN]) {
        const record = records.find(
          ({ subnqn, trsvcid }) => subnqn === nqn && trsvcid.trim() === String(io.port),
        );
        assert.ok(record, `no record for ${nqn} in ${JSON.stringify(records)}`);
        assert.deepEqual(
          { trtype: record.trtype, adrfam: record.adrfam, subtype: record.subtype, traddr: record.traddr },
          { trtype: "tcp", adrfam: "ipv4", subtype: "nvme subsystem", traddr: io.address },
        );
      }
    },
  );

  suite.case(
    "discovery answers on the I/O port too",
    { config: oneDisk(ram(64)) },
    async ({ host, target }) => {
      const records = await host.discover({ place: target.places.io });
      assert.ok(
        records.some(({ subnqn }) => subnqn === NQN),
        JSON.stringify(records),
      );
    },
  );

  suite.case(
    "discovery shows a host only what it may use",
    {
      config: offer({
        disk: subsystem([ram(64)], { hosts: [HOST_NQN] }),
        other: subsystem([ram(64)], { nqn: OTHER_NQN }),
      }),
    },
    async ({ host }) => {
      const seen = async (hostNqn, hostId) =>
        new Set((await host.discover({ hostNqn, hostId })).map(({ subnqn }) => subnqn));
      const friend = await seen(HOST_NQN, HOST_ID);
      const stranger = await seen(STRANGER_NQN, STRANGER_ID);
      assert.ok(friend.has(NQN) && friend.has(OTHER_NQN), [...friend].join(" "));
      assert.ok(!stranger.has(NQN) && stranger.has(OTHER_NQN), [...stranger].join(" "));
    },
  );

  suite.case(
    "connect-all connects to all that discovery names",
    { config: offer({ disk: subsystem([ram(64)]), other: subsystem([ram(64)], { nqn: OTHER_NQN }) }) },
    async ({ host, target }) => {
      const { address, port } = target.places.discovery;
      await host.run(`nvme connect-all -t tcp -a ${address} -s ${port} -q ${HOST_NQN} -I ${HOST_ID}`);
      await host.device(NQN);
      await host.device(OTHER_NQN);
    },
  );

  suite.case(
    "a persistent discovery controller reports a subsystem that comes",
    { config: oneDisk(ram(64)) },
    async ({ host, target }) => {
      const { address, port } = target.places.discovery;
      host.start("udevadm monitor --kernel --property --subsystem-match=nvme >/tmp/uevents", {
        deadlineS: 60,
      });
      await host.waitFor("grep -q KERNEL /tmp/uevents", { what: "udevadm listens" });
      await host.run(
        `nvme discover -t tcp -a ${address} -s ${port} -q ${HOST_NQN} -I ${HOST_ID} --persistent -k 5 -o json`,
      );
      const [controller] = (await host.run(`controllers ${DISCOVERY_NQN}`)).split("\n");
      assert.match(controller, /^nvme\d+$/, "the discovery controller stays");

      await target.apply(
        offer({ disk: subsystem([ram(64)]), other: subsystem([ram(64)], { nqn: OTHER_NQN }) }),
      );
      await host.waitFor("grep -q NVME_AEN=0x70f002 /tmp/uevents", {
        deadlineS: 60,
        what: "the discovery log change event arrived",
      });
      const records = (await host.json(`discover -d ${controller}`)).records;
      assert.ok(
        records.some(({ subnqn }) => subnqn === OTHER_NQN),
        JSON.stringify(records),
      );
    },
  );
}
