// Connect and disconnect: digests, queues, queue sizes, who may connect, idle connections.
import assert from "node:assert/strict";
import { NQN, offer, oneDisk, ram, subsystem } from "../harness/config.mjs";
import { HOST_NQN } from "../harness/nvme-host.mjs";

const DIGESTS = [
  { name: "no digests", options: {} },
  { name: "header digests", options: { headerDigest: true } },
  { name: "data digests", options: { dataDigest: true } },
  { name: "both digests", options: { headerDigest: true, dataDigest: true } },
];

/** Writes 16 MiB of random bytes, reads them back past the page cache, compares. */
const COPY_AND_COMPARE = `
  head -c 16M /dev/urandom >/tmp/data
  dd if=/tmp/data of=$DEVICE bs=128k oflag=direct conv=fsync status=none
  forget_cache $DEVICE
  dd if=$DEVICE bs=128k count=128 iflag=direct status=none | cmp - /tmp/data`;

export function connectCases(suite) {
  for (const { name, options } of DIGESTS) {
    suite.case(
      `a host connects with ${name} and reads what it wrote`,
      { config: oneDisk(ram(64)) },
      async ({ host }) => {
        const device = await host.attach(NQN, options);
        await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
        await host.disconnect(NQN);
      },
    );
  }

  suite.case(
    "a host finds, connects and uses a subsystem over IPv6",
    { config: offer({ disk: subsystem([ram(64)]) }, { six: true }) },
    async ({ host, target }) => {
      const { six } = target.places;
      await host.run(`ip -6 address add ${six.guestAddress} dev eth0 nodad`);
      try {
        const records = await host.discover({ place: six });
        const found = records.find((record) => record.subnqn === NQN && record.adrfam === "ipv6");
        assert.deepEqual([found?.traddr, found?.trsvcid], [six.address, String(six.port)]);
        const options = { place: six, queues: 2, headerDigest: true, dataDigest: true };
        const device = await host.attach(NQN, options);
        await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
        const { connections } = await target.json("status");
        assert.ok(connections.some(({ qid, localAddress }) => qid > 0 && localAddress.includes(":")));
        await host.disconnect(NQN);
      } finally {
        await host.run(`ip -6 address delete ${six.guestAddress} dev eth0`);
      }
    },
  );

  suite.case(
    "a host gets as many I/O queues as it asks for",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const controller = await host.connect(NQN, { queues: 2, writeQueues: 2, pollQueues: 1 });
      assert.equal(await host.attribute(controller, "queue_count"), "6");
      const device = await host.device(NQN);
      await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
    },
  );

  for (const queueSize of [16, 1024]) {
    suite.case(
      `a host connects with queues of ${queueSize} entries`,
      { config: oneDisk(ram(64)) },
      async ({ host }) => {
        const controller = await host.connect(NQN, { queueSize, dataDigest: true });
        assert.equal(await host.attribute(controller, "sqsize"), String(queueSize - 1));
        const device = await host.device(NQN);
        await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
      },
    );
  }

  suite.case(
    "a host without submission queue flow control reads what it wrote",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      const device = await host.attach(NQN, { disableSqFlow: true });
      await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
    },
  );

  suite.case(
    "eight controllers of one host live side by side",
    { config: oneDisk(ram(64)) },
    async ({ host }) => {
      for (let count = 0; count < 8; count++) {
        await host.connectDuplicate(NQN);
      }
      const controllers = (await host.run(`controllers ${NQN}`)).split("\n");
      assert.equal(controllers.length, 8);
      const ids = new Set(
        await Promise.all(controllers.map((controller) => host.attribute(controller, "cntlid"))),
      );
      assert.equal(ids.size, 8, "controller ids are distinct");
      const device = await host.device(NQN);
      await host.run(`DEVICE=${device}; set -e; ${COPY_AND_COMPARE}`);
    },
  );

  suite.case(
    "a host that is not on the list is refused, and admitted once it is",
    {
      config: oneDisk(ram(64), { hosts: ["nqn.2026-11.example.evenkeel:somebody-else"] }),
      allow: [
        /Connect Invalid|failed to connect|Connect command failed|Connect for subsystem .* is not allowed/i,
      ],
    },
    async ({ host, target }) => {
      const refused = await host.try(host.connectCommand(NQN));
      assert.notEqual(refused.status, 0, "nvme connect must fail");
      assert.equal(await host.run(`controllers ${NQN}`), "");
      await target.apply(oneDisk(ram(64), { hosts: [HOST_NQN] }));
      await host.attach(NQN);
    },
  );

  suite.case(
    "an unknown subsystem is refused",
    { config: oneDisk(ram(64)), allow: [/Connect Invalid|failed to connect|Connect command failed/i] },
    async ({ host }) => {
      const refused = await host.try(host.connectCommand("nqn.2026-11.example.evenkeel:nothing-here"));
      assert.notEqual(refused.status, 0);
    },
  );

  suite.case(
    "an idle connection lives on keep-alives alone",
    { config: oneDisk(ram(64)) },
    async ({ host, kernelLog, mark }) => {
      const controller = await host.connect(NQN, { keepAliveS: 3 });
      const device = await host.device(NQN);
      const before = (await kernelLog.since(mark)).length;
      await host.run("sleep 15", { deadlineS: 30 });
      assert.equal(await host.attribute(controller, "state"), "live");
      assert.equal(
        (await kernelLog.since(mark)).length,
        before,
        "the kernel has nothing to say about an idle connection",
      );
      await host.run(`dd if=${device} of=/dev/null bs=4k count=1 iflag=direct status=none`);
    },
  );

  suite.case(
    "thirty connects and disconnects in a row succeed",
    { config: oneDisk(ram(64)), deadlineMs: 400_000 },
    async ({ host }) => {
      await host.run(
        `set -e; for round in $(seq 30); do ${host.connectCommand(NQN)} >/dev/null
       until namespace_device ${NQN} 1 >/dev/null; do sleep 0.02; done
       dd if=$(namespace_device ${NQN} 1) of=/dev/null bs=4k count=4 iflag=direct status=none; nvme disconnect -n ${NQN} >/dev/null; done`,
        { deadlineS: 240 },
      );
    },
  );
}
