// The tests' own tools are tested against published values, so that the oracle is not its own witness.

import assert from "node:assert/strict";
import { test } from "node:test";
import { completion, sqe } from "./host/command.js";
import { crc32c } from "./host/crc32c.js";
import { capsule, decode, lengthOf, noDigests, ProtocolViolation } from "./host/pdu.js";

test("CRC32C has its published check values", () => {
  assert.equal(crc32c(Buffer.from("123456789")), 0xe3069283);
  assert.equal(crc32c(Buffer.alloc(32)), 0x8a9136aa); // RFC 3720 B.4: 32 bytes of zeroes
  assert.equal(crc32c(Buffer.alloc(32, 0xff)), 0x62a8ab43); // and of ones
});

test("a capsule is laid out as NVMe/TCP 1.0 figure 25 says", () => {
  const pdu = capsule(sqe(0x1234, { opcode: 2, nsid: 1 }), Buffer.from("abcdefgh"), {
    header: true,
    data: true,
  });
  assert.deepEqual([...pdu.subarray(0, 8)], [4, 3, 72, 76, 88, 0, 0, 0]);
  assert.equal(pdu.readUInt16LE(10), 0x1234);
  assert.equal(pdu.readUInt32LE(72), crc32c(pdu.subarray(0, 72)));
  assert.equal(pdu.subarray(76, 84).toString(), "abcdefgh");
  assert.equal(pdu.readUInt32LE(84), crc32c(Buffer.from("abcdefgh")));
  assert.equal(pdu.length, 88);
});

test("a completion's status field is taken apart", () => {
  const cqe = Buffer.from("0100000002000000030000000500058f", "hex");
  const { status, dnr, more, retryDelay, dw0, dw1, sqhd, cid } = completion(cqe);
  assert.deepEqual(
    { status, dnr, more, retryDelay, dw0, dw1, sqhd, cid },
    {
      status: 0x782,
      dnr: true,
      more: false,
      retryDelay: 0,
      dw0: 1,
      dw1: 2,
      sqhd: 3,
      cid: 5,
    },
  );
});

test("the decoder refuses what a host could not use", () => {
  const response = Buffer.alloc(24);
  Buffer.from([5, 0, 24, 0, 24, 0, 0, 0]).copy(response);
  assert.equal(decode(response, noDigests, 0).kind, "response");
  assert.throws(() => decode(response, { header: true, data: false }, 0), ProtocolViolation);
  response[2] = 23;
  assert.throws(() => lengthOf(response), ProtocolViolation);
  const data = Buffer.alloc(28);
  Buffer.from([7, 0x0c, 24, 24, 28, 0, 0, 0]).copy(data);
  data.writeUInt32LE(4, 16);
  assert.equal(decode(data, noDigests, 0).kind, "data");
  data[1] = 0x08; // SUCCESS without LAST
  assert.throws(() => decode(data, noDigests, 0), ProtocolViolation);
  assert.throws(() => decode(Buffer.from(data), noDigests, 31), ProtocolViolation);
});
