// ICReq and ICResp, and termination requests for malformed PDUs: NVMe/TCP 1.0 §3.1, §3.5, §3.6.2.

import assert from "node:assert/strict";
import { after, before, suite, test } from "node:test";
import { Admin, sqe } from "./host/command.js";
import { connectQueue, hostNamed } from "./host/controller.js";
import { crc32c } from "./host/crc32c.js";
import { connect, startServer, subnqn } from "./host/fixture.js";
import {
  capsule,
  commonHeader,
  type Digests,
  Fatal,
  h2cData,
  h2cTermReq,
  icReq,
  noDigests,
  PduType,
} from "./host/pdu.js";
import { QueuePair } from "./host/queue-pair.js";
import { type Config, freePort, Server } from "./host/server.js";
import { Wire } from "./host/wire.js";

const plain = { pfv: 0, hpda: 0, digests: noDigests, maxR2t: 0 };
const both: Digests = { header: true, data: true };

const identifyCapsule = (): Buffer =>
  capsule(
    sqe(1, { opcode: Admin.identify, cdw10: 1, data: { kind: "transport", length: 4096 } }),
    Buffer.alloc(0),
    noDigests,
  );

function changed(pdu: Buffer, change: (bytes: Buffer) => void): Buffer {
  const copy = Buffer.from(pdu);
  change(copy);
  return copy;
}

/** The termination request that answers `bytes`; its data must be the beginning of what was sent. */
async function assertTerminated(
  wire: Wire,
  bytes: Buffer,
  fes: number,
  fei: number,
  skipped = 0,
): Promise<void> {
  wire.send(bytes);
  const answer = await wire.expect("terminate");
  assert.deepEqual({ fes: answer.fes, fei: answer.fei }, { fes, fei });
  assert.ok(answer.erroneous.length >= 8, "the header in error comes back");
  const sent = bytes.subarray(skipped, skipped + answer.erroneous.length);
  assert.deepEqual(answer.erroneous.subarray(0, sent.length), sent);
  await wire.closed();
  wire.destroy();
}

suite("handshake", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => server?.stop());

  for (const header of [false, true]) {
    for (const data of [false, true]) {
      test(`digests are as the host asks: header ${header}, data ${data}`, async () => {
        const digests = { header, data };
        const wire = await Wire.open(server.endpoint());
        const response = await wire.initialize({ digests });
        assert.deepEqual(response.digests, digests);
        assert.equal(response.pfv, 0);
        assert.equal(response.cpda, 0, "the Linux host refuses any other CPDA");
        assert.ok(
          response.maxH2cData >= 4096 && response.maxH2cData % 4 === 0,
          `MAXH2CDATA ${response.maxH2cData}`,
        );
        wire.destroy();
        const controller = await connect(server, { opening: { digests } });
        assert.equal((await controller.identify(1)).status, 0);
        controller.close();
      });
    }
  }

  for (let hpda = 0; hpda <= 31; hpda += 1) {
    test(`data to the host is aligned to HPDA ${hpda}`, async () => {
      for (const digests of [noDigests, { header: true, data: true }]) {
        const controller = await connect(server, { opening: { hpda, digests } });
        const command = controller.admin.submit({ opcode: Admin.identify, cdw10: 1 }, { receive: 4096 });
        assert.equal((await command.result).status, 0);
        const alignment = (hpda + 1) * 4;
        const headerEnd = digests.header ? 28 : 24;
        for (const piece of command.pieces) {
          assert.equal(
            piece.dataOffset,
            Math.ceil(headerEnd / alignment) * alignment,
            "no more padding than needed",
          );
        }
        controller.close();
      }
    });
  }

  const beforeIcReq: [string, Buffer, number, number][] = [
    ["PFV 1", icReq({ ...plain, pfv: 1 }), Fatal.unsupportedParameter, 8],
    ["PFV FFFFh", icReq({ ...plain, pfv: 0xffff }), Fatal.unsupportedParameter, 8],
    ["HPDA 32", icReq({ ...plain, hpda: 32 }), Fatal.invalidHeaderField, 10],
    ["HPDA 255", icReq({ ...plain, hpda: 255 }), Fatal.invalidHeaderField, 10],
    ["HLEN 127 in ICReq", changed(icReq(plain), (b) => b.writeUInt8(127, 2)), Fatal.invalidHeaderField, 2],
    ["PLEN 132 in ICReq", changed(icReq(plain), (b) => b.writeUInt32LE(132, 4)), Fatal.invalidHeaderField, 4],
    ["PLEN 0 in ICReq", changed(icReq(plain), (b) => b.writeUInt32LE(0, 4)), Fatal.invalidHeaderField, 4],
    [
      "PLEN FFFFFFFFh in ICReq",
      changed(icReq(plain), (b) => b.writeUInt32LE(0xffffffff, 4)),
      Fatal.invalidHeaderField,
      4,
    ],
    ["a capsule before ICReq", identifyCapsule(), Fatal.sequence, 0],
    [
      "H2CData before ICReq",
      h2cData({ cccid: 0, ttag: 0, offset: 0, data: Buffer.alloc(8), last: true }, noDigests),
      Fatal.sequence,
      0,
    ],
    ["an ICResp from the host", commonHeader(PduType.icResp, 0, 128, 0, 128), Fatal.invalidHeaderField, 0],
    ["reserved type 08h", commonHeader(8, 0, 24, 0, 24), Fatal.invalidHeaderField, 0],
    ["type 0Ah", commonHeader(0x0a, 0, 24, 0, 24), Fatal.invalidHeaderField, 0],
    ["type FFh", Buffer.alloc(128, 0xff), Fatal.invalidHeaderField, 0],
  ];
  for (const [what, bytes, fes, fei] of beforeIcReq) {
    test(`${what} as the first PDU ends the connection with FES ${fes}, FEI ${fei}`, async () => {
      await assertTerminated(await Wire.open(server.endpoint()), bytes, fes, fei);
    });
  }

  const capsuleWithData = capsule(sqe(1, { opcode: Admin.identify }), Buffer.alloc(64), noDigests);
  const afterIcResp: [string, Buffer, number, number][] = [
    ["a second ICReq", icReq(plain), Fatal.sequence, 0],
    [
      "a capsule with HLEN 71",
      changed(identifyCapsule(), (b) => b.writeUInt8(71, 2)),
      Fatal.invalidHeaderField,
      2,
    ],
    [
      "a capsule with HLEN 0",
      changed(identifyCapsule(), (b) => b.writeUInt8(0, 2)),
      Fatal.invalidHeaderField,
      2,
    ],
    [
      "a capsule with HDGSTF",
      changed(identifyCapsule(), (b) => b.writeUInt8(1, 1)),
      Fatal.invalidHeaderField,
      1,
    ],
    [
      "a capsule with DDGSTF",
      changed(capsuleWithData, (b) => b.writeUInt8(2, 1)),
      Fatal.invalidHeaderField,
      1,
    ],
    [
      "a capsule with PLEN 71",
      changed(identifyCapsule(), (b) => b.writeUInt32LE(71, 4)),
      Fatal.invalidHeaderField,
      4,
    ],
    [
      "a capsule with PLEN 8",
      changed(identifyCapsule(), (b) => b.writeUInt32LE(8, 4)),
      Fatal.invalidHeaderField,
      4,
    ],
    [
      "a capsule with PDO before its data",
      changed(capsuleWithData, (b) => b.writeUInt8(8, 3)),
      Fatal.invalidHeaderField,
      3,
    ],
    [
      "a capsule with PDO 73",
      changed(capsuleWithData, (b) => b.writeUInt8(73, 3)),
      Fatal.invalidHeaderField,
      3,
    ],
    [
      "a capsule with PDO at PLEN",
      changed(capsuleWithData, (b) => b.writeUInt8(136, 3)),
      Fatal.invalidHeaderField,
      4,
    ],
    [
      "a capsule of 4 GiB",
      changed(capsuleWithData, (b) => b.writeUInt32LE(0xffffffff, 4)),
      Fatal.transferLimitExceeded,
      0,
    ],
    [
      "in-capsule data past the limit",
      changed(capsuleWithData, (b) => b.writeUInt32LE(72 + 8193, 4)),
      Fatal.transferLimitExceeded,
      0,
    ],
    [
      "H2CData for no R2T",
      h2cData({ cccid: 1, ttag: 0, offset: 0, data: Buffer.alloc(8), last: true }, noDigests),
      Fatal.invalidHeaderField,
      10,
    ],
    [
      "H2CData with TTAG FFFFh",
      h2cData({ cccid: 1, ttag: 0xffff, offset: 0, data: Buffer.alloc(8), last: true }, noDigests),
      Fatal.invalidHeaderField,
      10,
    ],
    ["H2CData without data", commonHeader(PduType.h2cData, 4, 24, 0, 24), Fatal.invalidHeaderField, 4],
    ["H2CData with HLEN 72", commonHeader(PduType.h2cData, 4, 72, 24, 32), Fatal.invalidHeaderField, 2],
    [
      "H2CData whose DATAL is not its length",
      changed(h2cData({ cccid: 1, ttag: 0, offset: 0, data: Buffer.alloc(8), last: true }, noDigests), (b) =>
        b.writeUInt32LE(9, 16),
      ),
      Fatal.invalidHeaderField,
      16,
    ],
    ["a C2HData from the host", commonHeader(PduType.c2hData, 0, 24, 24, 32), Fatal.invalidHeaderField, 0],
    [
      "a CapsuleResp from the host",
      commonHeader(PduType.capsuleResp, 0, 24, 0, 24),
      Fatal.invalidHeaderField,
      0,
    ],
    ["an R2T from the host", commonHeader(PduType.r2t, 0, 24, 0, 24), Fatal.invalidHeaderField, 0],
    [
      "a C2HTermReq from the host",
      commonHeader(PduType.c2hTermReq, 0, 24, 0, 24),
      Fatal.invalidHeaderField,
      0,
    ],
    ["type 08h", commonHeader(8, 0, 24, 0, 24), Fatal.invalidHeaderField, 0],
  ];
  for (const [what, bytes, fes, fei] of afterIcResp) {
    test(`${what} after ICResp ends the connection with FES ${fes}, FEI ${fei}`, async () => {
      const whole = Buffer.concat([bytes, Buffer.alloc(Math.max(0, 128 - bytes.length))]);
      await assertTerminated(await Wire.start(server.endpoint()), whole, fes, fei);
    });
  }

  const terminations: [string, Buffer][] = [
    ["a proper one", h2cTermReq(Fatal.invalidHeaderField, 0, Buffer.alloc(24))],
    ["one without data", h2cTermReq(Fatal.sequence, 0, Buffer.alloc(0))],
    ["one with HLEN 8", changed(h2cTermReq(1, 0, Buffer.alloc(8)), (b) => b.writeUInt8(8, 2))],
    ["one with PLEN 8", changed(h2cTermReq(1, 0, Buffer.alloc(8)), (b) => b.writeUInt32LE(8, 4))],
    ["one with PLEN 1 MiB", changed(h2cTermReq(1, 0, Buffer.alloc(8)), (b) => b.writeUInt32LE(1 << 20, 4))],
  ];
  for (const [what, bytes] of terminations) {
    test(`a termination request is not answered but ends the connection: ${what}`, async () => {
      for (const initialized of [false, true]) {
        const wire = await Wire.open(server.endpoint());
        if (initialized) await wire.initialize();
        wire.send(bytes);
        await wire.closed();
        await assert.rejects(wire.next(), "nothing was sent");
        wire.destroy();
      }
    });
  }

  test("a damaged header is reported with the digest that was received", async () => {
    for (const at of [0, 1, 2, 3, 4, 7, 8, 40, 71, 72, 75]) {
      const digests = { header: true, data: false };
      const wire = await Wire.start(server.endpoint(), { digests });
      const bytes = capsule(sqe(1, { opcode: Admin.identify, cdw10: 1 }), Buffer.alloc(0), digests);
      bytes.writeUInt8((bytes[at] ?? 0) ^ 0x40, at);
      const known = at !== 0;
      wire.send(bytes);
      const { fes, fei } = await wire.expect("terminate");
      // A type that does not exist has no known length, so no digest either.
      assert.equal(fes, known ? Fatal.headerDigest : Fatal.invalidHeaderField, `byte ${at}`);
      if (known) assert.equal(fei, bytes.readUInt32LE(72));
      await wire.closed();
      wire.destroy();
    }
  });

  test("the connection with the error is the only one that ends", async () => {
    const controller = await connect(server);
    await assertTerminated(
      await Wire.open(server.endpoint()),
      Buffer.alloc(128, 0x5a),
      Fatal.invalidHeaderField,
      0,
    );
    assert.equal((await controller.identify(1)).status, 0);
    controller.close();
  });

  test("what follows the PDU in error has no effect and no answer", async () => {
    const wire = await Wire.start(server.endpoint());
    const bad = commonHeader(8, 0, 24, 0, 24);
    wire.send(Buffer.concat([bad, ...Array.from({ length: 50 }, identifyCapsule)]));
    const answer = await wire.expect("terminate");
    assert.equal(answer.fes, Fatal.invalidHeaderField);
    await wire.closed();
    await assert.rejects(wire.next());
    wire.destroy();
  });

  test("a host that keeps sending after its error is closed nevertheless", async () => {
    const wire = await Wire.start(server.endpoint());
    wire.send(commonHeader(8, 0, 24, 0, 24));
    assert.equal((await wire.expect("terminate")).fes, Fatal.invalidHeaderField);
    const timer = setInterval(() => wire.send(Buffer.alloc(1000)), 20);
    try {
      await wire.closed();
    } finally {
      clearInterval(timer);
      wire.destroy();
    }
  });

  test("the first command must be a Connect", async () => {
    const wire = await Wire.start(server.endpoint());
    const queue = new QueuePair(wire, 0, 32);
    const result = await queue.execute(
      { opcode: Admin.identify, cdw10: 1 },
      { pointer: { kind: "transport", length: 4096 } },
    );
    assert.equal(result.status, 0x00c, "Command Sequence Error");
    wire.destroy();
  });

  test("the digest of a PDU covers its header alone", () => {
    const pdu = capsule(sqe(1, { opcode: 0 }), Buffer.alloc(0), { header: true, data: true });
    assert.equal(pdu.readUInt32LE(72), crc32c(pdu.subarray(0, 72)));
  });
});

suite("required digests", () => {
  let server: Server;
  before(async () => {
    server = await Server.start({
      listen: [{ "nvme-tcp": `127.0.0.1:${await freePort()}`, digests: "required" }],
      devices: { zero: { null: "1GiB" } },
      subsystems: { main: { nqn: subnqn, hosts: "any", namespaces: [{ id: 1, device: "zero" }] } },
    });
  });
  after(async () => server?.stop());

  for (const digests of [noDigests, { header: true, data: false }, { header: false, data: true }]) {
    test(`a host without them is turned away: ${JSON.stringify(digests)}`, async () => {
      const wire = await Wire.open(server.endpoint());
      await assertTerminated(wire, icReq({ ...plain, digests }), Fatal.unsupportedParameter, 11);
    });
  }

  test("a host with both is served", async () => {
    const controller = await connect(server, { opening: { digests: { header: true, data: true } } });
    assert.equal((await controller.identify(1)).status, 0);
    controller.close();
  });
});

suite("digests per listener", () => {
  type Policy = "off" | "optional" | "required";
  const policies: Policy[] = ["off", "optional", "required"];
  const every = [noDigests, { header: true, data: false }, { header: false, data: true }, both];
  let server: Server;
  let ports: number[] = [];

  const config = (wanted: readonly Policy[]): Config => ({
    listen: wanted.map((digests, index) => ({ "nvme-tcp": `127.0.0.1:${ports[index] ?? 0}`, digests })),
    devices: { zero: { null: "1GiB" } },
    subsystems: { main: { nqn: subnqn, hosts: "any", namespaces: [{ id: 1, device: "zero" }] } },
  });

  before(async () => {
    ports = [await freePort(), await freePort(), await freePort()];
    server = await Server.start(config(policies));
  });
  after(async () => server?.stop());

  async function connects(index: number, digests: Digests, agreed: Digests): Promise<void> {
    const wire = await Wire.open(server.endpoint(index));
    const response = await wire.initialize({ digests });
    assert.deepEqual(response.digests, agreed);
    const queue = new QueuePair(wire, 0, 32);
    const fields = { qid: 0, sqsize: 31, kato: 0, cattr: 0, recfmt: 0, cntlid: 0xffff, subnqn };
    assert.equal((await connectQueue(queue, { ...fields, host: hostNamed("digests") })).status, 0);
    wire.destroy();
  }

  async function refuses(index: number, digests: Digests): Promise<void> {
    const wire = await Wire.open(server.endpoint(index));
    const request = icReq({ ...plain, digests });
    await assertTerminated(wire, request, Fatal.unsupportedParameter, 11);
  }

  test("off: ICResp refuses them and the connection works without", async () => {
    for (const digests of every) await connects(0, digests, noDigests);
  });

  test("optional: as the host asks", async () => {
    for (const digests of every) await connects(1, digests, digests);
  });

  test("required: a host that does not ask for both is told which field is wrong", async () => {
    for (const digests of every) await (digests === both ? connects(2, both, both) : refuses(2, digests));
  });

  test("a policy that changes at run time holds for who comes from then on; the port stays open", async () => {
    const before = await connect(server, { endpoint: server.endpoint(0) });
    await server.apply(config(["required", "off", "optional"]));
    assert.equal((await before.identify(1)).status, 0, "who was there stays as it was");
    before.close();
    await refuses(0, noDigests);
    await connects(0, both, both);
    await connects(1, both, noDigests);
    await connects(2, noDigests, noDigests);
  });

  test("a listener that is added has a policy of its own", async () => {
    ports.push(await freePort());
    await server.apply(config(["off", "off", "off", "required"]));
    await refuses(3, noDigests);
    await connects(3, both, both);
    await connects(0, both, noDigests);
  });
});
