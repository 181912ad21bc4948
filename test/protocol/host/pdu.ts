// PDUs of NVMe/TCP Transport 1.0 §3.6 as bytes, written for the tests alone: nothing here comes from the product,
// so that a mistake has to be made twice to stay unnoticed.
//
// Encoders produce correct PDUs; a test that wants a wrong one changes bytes afterwards. The decoder checks
// everything that a host may rely on and throws ProtocolViolation.

import { crc32c } from "./crc32c.js";

export const PduType = {
  icReq: 0x00,
  icResp: 0x01,
  h2cTermReq: 0x02,
  c2hTermReq: 0x03,
  capsuleCmd: 0x04,
  capsuleResp: 0x05,
  h2cData: 0x06,
  c2hData: 0x07,
  r2t: 0x09,
} as const;

export const Flag = { headerDigest: 0x01, dataDigest: 0x02, last: 0x04, success: 0x08 } as const;

/** FES, fatal error status of a termination request. */
export const Fatal = {
  invalidHeaderField: 1,
  sequence: 2,
  headerDigest: 3,
  transferOutOfRange: 4,
  transferLimitExceeded: 5,
  unsupportedParameter: 6,
} as const;

export type Digests = { readonly header: boolean; readonly data: boolean };
export const noDigests: Digests = { header: false, data: false };

export class ProtocolViolation extends Error {}

function check(condition: boolean, text: string): asserts condition {
  if (!condition) throw new ProtocolViolation(text);
}

/** The common header: type, flags, hlen, pdo, plen. */
export function commonHeader(type: number, flags: number, hlen: number, pdo: number, plen: number): Buffer {
  const header = Buffer.alloc(8);
  header[0] = type;
  header[1] = flags;
  header[2] = hlen;
  header[3] = pdo;
  header.writeUInt32LE(plen, 4);
  return header;
}

function le32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32LE(value >>> 0);
  return bytes;
}

/** A PDU of `header` (whose first eight bytes are filled in here) and data, with the digests agreed upon. */
export function assemble(
  type: number,
  flags: number,
  header: Buffer,
  data: Buffer,
  digests: Digests,
  cpda = 0,
): Buffer {
  const headerEnd = header.length + (digests.header ? 4 : 0);
  const alignment = (cpda + 1) * 4;
  const pdo = data.length === 0 ? 0 : Math.ceil(headerEnd / alignment) * alignment;
  const dataDigest = digests.data && data.length > 0;
  const plen = (data.length === 0 ? headerEnd : pdo + data.length) + (dataDigest ? 4 : 0);
  const allFlags = flags | (digests.header ? Flag.headerDigest : 0) | (dataDigest ? Flag.dataDigest : 0);
  commonHeader(type, allFlags, header.length, pdo, plen).copy(header);
  const parts = [header];
  if (digests.header) parts.push(le32(crc32c(header)));
  if (data.length > 0) parts.push(Buffer.alloc(pdo - headerEnd), data);
  if (dataDigest) parts.push(le32(crc32c(data)));
  return Buffer.concat(parts);
}

export type IcReqFields = {
  readonly pfv: number;
  readonly hpda: number;
  readonly digests: Digests;
  readonly maxR2t: number;
};

export function icReq({ pfv, hpda, digests, maxR2t }: IcReqFields): Buffer {
  const pdu = Buffer.alloc(128);
  commonHeader(PduType.icReq, 0, 128, 0, 128).copy(pdu);
  pdu.writeUInt16LE(pfv, 8);
  pdu[10] = hpda;
  pdu[11] = (digests.header ? 1 : 0) | (digests.data ? 2 : 0);
  pdu.writeUInt32LE(maxR2t, 12);
  return pdu;
}

export function capsule(sqe: Buffer, data: Buffer, digests: Digests): Buffer {
  return assemble(PduType.capsuleCmd, 0, Buffer.concat([Buffer.alloc(8), sqe]), data, digests);
}

export type H2cDataFields = {
  readonly cccid: number;
  readonly ttag: number;
  readonly offset: number;
  readonly data: Buffer;
  readonly last: boolean;
};

export function h2cData({ cccid, ttag, offset, data, last }: H2cDataFields, digests: Digests): Buffer {
  const header = Buffer.alloc(24);
  header.writeUInt16LE(cccid, 8);
  header.writeUInt16LE(ttag, 10);
  header.writeUInt32LE(offset, 12);
  header.writeUInt32LE(data.length, 16);
  return assemble(PduType.h2cData, last ? Flag.last : 0, header, data, digests);
}

export function h2cTermReq(fes: number, fei: number, erroneous: Buffer): Buffer {
  const header = Buffer.alloc(24);
  commonHeader(PduType.h2cTermReq, 0, 24, 0, 24 + erroneous.length).copy(header);
  header.writeUInt16LE(fes, 8);
  header.writeUInt32LE(fei, 10);
  return Buffer.concat([header, erroneous]);
}

/** What the server sends, taken apart. */
export type Pdu =
  | { kind: "icResp"; pfv: number; cpda: number; digests: Digests; maxH2cData: number; raw: Buffer }
  | { kind: "response"; cqe: Buffer; raw: Buffer }
  | {
      kind: "data";
      cccid: number;
      offset: number;
      data: Buffer;
      last: boolean;
      success: boolean;
      dataOffset: number;
      raw: Buffer;
    }
  | { kind: "r2t"; cccid: number; ttag: number; offset: number; length: number; raw: Buffer }
  | { kind: "terminate"; fes: number; fei: number; erroneous: Buffer; raw: Buffer };

export type PduOf<Kind extends Pdu["kind"]> = Extract<Pdu, { kind: Kind }>;

const headerLengths = new Map<number, number>([
  [PduType.icResp, 128],
  [PduType.c2hTermReq, 24],
  [PduType.capsuleResp, 24],
  [PduType.c2hData, 24],
  [PduType.r2t, 24],
]);

/** PLEN of the PDU at the start of `bytes`, or null while even that is not there. */
export function lengthOf(bytes: Buffer): number | null {
  if (bytes.length < 8) return null;
  const type = bytes[0] ?? 0;
  const hlen = headerLengths.get(type);
  check(hlen !== undefined, `PDU type ${type} is not for a host`);
  check(bytes[2] === hlen, `HLEN ${bytes[2]} of PDU type ${type}`);
  const plen = bytes.readUInt32LE(4);
  check(plen >= hlen && plen < 8 << 20, `PLEN ${plen} of PDU type ${type}`);
  return plen;
}

function checkDigest(raw: Buffer, from: number, to: number, what: string): void {
  const found = raw.readUInt32LE(to);
  const expected = crc32c(raw.subarray(from, to));
  check(found === expected, `${what} digest ${found.toString(16)}, computed ${expected.toString(16)}`);
}

const zero = (bytes: Buffer): boolean => bytes.every((byte) => byte === 0);

/** Decodes one whole PDU from a controller; `hpda` is what this host asked for. */
export function decode(raw: Buffer, digests: Digests, hpda: number): Pdu {
  const type = raw[0] ?? 0;
  const flags = raw[1] ?? 0;
  const pdo = raw[3] ?? 0;
  const plen = raw.length;
  if (type === PduType.icResp) {
    check(flags === 0 && pdo === 0 && plen === 128, "ICResp is 128 bytes without flags and data");
    const enabled = raw[11] ?? 0;
    check((enabled & ~3) === 0 && zero(raw.subarray(16)), "reserved fields of ICResp are zero");
    return {
      kind: "icResp",
      pfv: raw.readUInt16LE(8),
      cpda: raw[10] ?? 0,
      digests: { header: (enabled & 1) !== 0, data: (enabled & 2) !== 0 },
      maxH2cData: raw.readUInt32LE(12),
      raw,
    };
  }
  if (type === PduType.c2hTermReq) {
    check(
      flags === 0 && pdo === 0 && plen <= 24 + 128,
      "C2HTermReq has no flags and at most 128 bytes of data",
    );
    check(zero(raw.subarray(14, 24)), "reserved fields of C2HTermReq are zero");
    const erroneous = raw.subarray(24);
    return { kind: "terminate", fes: raw.readUInt16LE(8), fei: raw.readUInt32LE(10), erroneous, raw };
  }
  const headerEnd = 24 + (digests.header ? 4 : 0);
  check(((flags & Flag.headerDigest) !== 0) === digests.header, `HDGSTF of PDU type ${type}`);
  check(plen >= headerEnd, `PLEN ${plen} leaves no room for the header digest`);
  if (digests.header) checkDigest(raw, 0, 24, "header");
  if (type !== PduType.c2hData) {
    check(
      (flags & ~Flag.headerDigest) === 0 && plen === headerEnd && pdo === 0,
      `flags, PDO or PLEN of type ${type}`,
    );
  }
  if (type === PduType.capsuleResp) return { kind: "response", cqe: raw.subarray(8, 24), raw };
  const cccid = raw.readUInt16LE(8);
  if (type === PduType.r2t) {
    check(zero(raw.subarray(20, 24)), "reserved fields of R2T are zero");
    const [ttag, offset, length] = [raw.readUInt16LE(10), raw.readUInt32LE(12), raw.readUInt32LE(16)];
    return { kind: "r2t", cccid, ttag, offset, length, raw };
  }
  check(((flags & Flag.dataDigest) !== 0) === digests.data, "DDGSTF of C2HData");
  check(pdo >= headerEnd && pdo % ((hpda + 1) * 4) === 0, `PDO ${pdo} with HPDA ${hpda}`);
  const length = raw.readUInt32LE(16);
  check(
    length > 0 && pdo + length + (digests.data ? 4 : 0) === plen,
    `DATAL ${length}, PDO ${pdo}, PLEN ${plen}`,
  );
  check(zero(raw.subarray(headerEnd, pdo)), "padding is zero");
  const data = raw.subarray(pdo, pdo + length);
  if (digests.data) checkDigest(raw, pdo, pdo + length, "data");
  const [last, success] = [(flags & Flag.last) !== 0, (flags & Flag.success) !== 0];
  check(last || !success, "SUCCESS without LAST");
  return { kind: "data", cccid, offset: raw.readUInt32LE(12), data, last, success, dataOffset: pdo, raw };
}
