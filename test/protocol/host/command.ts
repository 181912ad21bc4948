// Submission and completion queue entries, NVM Express Base 2.0 §3.3.3 and NVM Command Set 1.0 §3, as this test host
// writes and reads them.

export const Admin = {
  getLogPage: 0x02,
  identify: 0x06,
  abort: 0x08,
  setFeatures: 0x09,
  getFeatures: 0x0a,
  asyncEvent: 0x0c,
  keepAlive: 0x18,
} as const;

export const Io = {
  flush: 0x00,
  write: 0x01,
  read: 0x02,
  writeUncorrectable: 0x04,
  compare: 0x05,
  writeZeroes: 0x08,
  datasetManagement: 0x09,
  verify: 0x0c,
  copy: 0x19,
} as const;

export const fabricsOpcode = 0x7f;
export const Fabrics = { propertySet: 0x00, connect: 0x01, propertyGet: 0x04, disconnect: 0x08 } as const;

/** Status Code Type << 8 | Status Code. */
export const Status = {
  success: 0x000,
  invalidOpcode: 0x001,
  invalidField: 0x002,
  commandIdConflict: 0x003,
  dataTransferError: 0x004,
  internalError: 0x006,
  abortRequested: 0x007,
  failedFused: 0x009,
  missingFused: 0x00a,
  invalidNamespace: 0x00b,
  commandSequence: 0x00c,
  dataSglLength: 0x00f,
  sglDescriptorType: 0x011,
  sglOffset: 0x016,
  writeProtected: 0x020,
  transientTransport: 0x022,
  lbaOutOfRange: 0x080,
  capacityExceeded: 0x081,
  namespaceNotReady: 0x082,
  invalidQueueIdentifier: 0x101,
  invalidQueueSize: 0x102,
  abortLimit: 0x103,
  asyncEventLimit: 0x105,
  invalidLogPage: 0x109,
  featureNotSaveable: 0x10d,
  featureNotChangeable: 0x10e,
  connectIncompatible: 0x180,
  connectBusy: 0x181,
  connectInvalid: 0x182,
  connectInvalidHost: 0x184,
  sizeLimit: 0x183,
  readOnlyRange: 0x182,
  writeFault: 0x280,
  unrecoveredRead: 0x281,
  compareFailure: 0x285,
  internalPath: 0x300,
} as const;

/** How the data pointer describes the data: SGL of the standard's types, or raw bytes for wrong ones. */
export type DataPointer =
  | { readonly kind: "none" }
  | { readonly kind: "inCapsule"; readonly length: number; readonly offset?: number }
  | { readonly kind: "transport"; readonly length: number }
  | { readonly kind: "raw"; readonly bytes: Buffer };

export type CommandFields = {
  readonly opcode: number;
  readonly flags?: number;
  readonly nsid?: number;
  readonly cdw2?: number;
  readonly cdw3?: number;
  readonly metadata?: bigint;
  readonly data?: DataPointer;
  readonly cdw10?: number;
  readonly cdw11?: number;
  readonly cdw12?: number;
  readonly cdw13?: number;
  readonly cdw14?: number;
  readonly cdw15?: number;
};

/** PSDT 01b: SGLs, as all commands over fabrics have them. */
export const psdtSgl = 0x40;
export const Fuse = { first: 0x01, second: 0x02 } as const;

function pointerBytes(pointer: DataPointer): Buffer {
  const sgl = Buffer.alloc(16);
  switch (pointer.kind) {
    case "none":
      return sgl;
    case "raw":
      return pointer.bytes;
    case "inCapsule":
      sgl.writeBigUInt64LE(BigInt(pointer.offset ?? 0), 0);
      sgl.writeUInt32LE(pointer.length, 8);
      sgl[15] = 0x01; // data block, offset
      return sgl;
    case "transport":
      sgl.writeUInt32LE(pointer.length, 8);
      sgl[15] = 0x5a; // transport data block
      return sgl;
  }
}

export function sqe(cid: number, fields: CommandFields): Buffer {
  const bytes = Buffer.alloc(64);
  bytes[0] = fields.opcode;
  bytes[1] = fields.flags ?? psdtSgl;
  bytes.writeUInt16LE(cid, 2);
  const words: [number, number | undefined][] = [
    [4, fields.nsid],
    [8, fields.cdw2],
    [12, fields.cdw3],
    [40, fields.cdw10],
    [44, fields.cdw11],
    [48, fields.cdw12],
    [52, fields.cdw13],
    [56, fields.cdw14],
    [60, fields.cdw15],
  ];
  for (const [offset, value] of words) bytes.writeUInt32LE((value ?? 0) >>> 0, offset);
  bytes.writeBigUInt64LE(fields.metadata ?? 0n, 16);
  pointerBytes(fields.data ?? { kind: "none" }).copy(bytes, 24);
  return bytes;
}

/** Fields of a Fabrics command: NSID's place holds FCTYPE, CDW10 … CDW15 what the type says. */
export const fabrics = (fctype: number, fields: Omit<CommandFields, "opcode" | "nsid">): CommandFields => ({
  ...fields,
  opcode: fabricsOpcode,
  nsid: fctype,
});

export type Completion = {
  readonly cid: number;
  readonly status: number;
  readonly dnr: boolean;
  readonly more: boolean;
  readonly retryDelay: number;
  readonly dw0: number;
  readonly dw1: number;
  readonly sqhd: number;
  readonly sqid: number;
};

export function completion(cqe: Buffer): Completion {
  const word = cqe.readUInt16LE(14);
  return {
    dw0: cqe.readUInt32LE(0),
    dw1: cqe.readUInt32LE(4),
    sqhd: cqe.readUInt16LE(8),
    sqid: cqe.readUInt16LE(10),
    cid: cqe.readUInt16LE(12),
    status: (word >> 1) & 0x7ff,
    retryDelay: (word >> 12) & 3,
    more: ((word >> 14) & 1) !== 0,
    dnr: word >> 15 !== 0,
  };
}

/** SLBA in CDW10 and 11, NLB (0's based here, not for the caller) in CDW12. */
export function blockRange(slba: bigint, blocks: number): Pick<CommandFields, "cdw10" | "cdw11" | "cdw12"> {
  return { cdw10: Number(slba & 0xffffffffn), cdw11: Number(slba >> 32n), cdw12: (blocks - 1) & 0xffff };
}

export const forceUnitAccess = 1 << 30;
export const deallocateBit = 1 << 25;
export const allNamespaces = 0xffffffff;
