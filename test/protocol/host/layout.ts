// Identify structures, log pages and the discovery log, taken apart with offsets from NVM Express Base 2.0 §5.17, §5.16
// and NVM Command Set 1.0 §4.1.

export const text = (bytes: Buffer): string => bytes.toString("latin1").replace(/[\0 ]+$/, "");

export function identifyController(data: Buffer) {
  return {
    vid: data.readUInt16LE(0),
    serial: text(data.subarray(4, 24)),
    model: text(data.subarray(24, 64)),
    firmware: text(data.subarray(64, 72)),
    cmic: data.readUInt8(76),
    mdts: data.readUInt8(77),
    cntlid: data.readUInt16LE(78),
    version: data.readUInt32LE(80),
    oaes: data.readUInt32LE(92),
    ctratt: data.readUInt32LE(96),
    controllerType: data.readUInt8(111),
    crdt1: data.readUInt16LE(128),
    oacs: data.readUInt16LE(256),
    acl: data.readUInt8(258),
    aerl: data.readUInt8(259),
    lpa: data.readUInt8(261),
    elpe: data.readUInt8(262),
    kas: data.readUInt16LE(320),
    anatt: data.readUInt8(342),
    anacap: data.readUInt8(343),
    anagrpmax: data.readUInt32LE(344),
    nanagrpid: data.readUInt32LE(348),
    sqes: data.readUInt8(512),
    cqes: data.readUInt8(513),
    maxcmd: data.readUInt16LE(514),
    nn: data.readUInt32LE(516),
    oncs: data.readUInt16LE(520),
    fuses: data.readUInt16LE(522),
    vwc: data.readUInt8(525),
    nwpc: data.readUInt8(531),
    ocfs: data.readUInt16LE(534),
    sgls: data.readUInt32LE(536),
    mnan: data.readUInt32LE(540),
    subnqn: text(data.subarray(768, 1024)),
    ioccsz: data.readUInt32LE(1792),
    iorcsz: data.readUInt32LE(1796),
    icdoff: data.readUInt16LE(1800),
    fcatt: data.readUInt8(1802),
    msdbd: data.readUInt8(1803),
    ofcs: data.readUInt16LE(1804),
  };
}

export function identifyNamespace(data: Buffer) {
  const flbas = data.readUInt8(26);
  const format = (flbas & 0x0f) | ((flbas >> 5) << 4);
  return {
    nsze: data.readBigUInt64LE(0),
    ncap: data.readBigUInt64LE(8),
    nuse: data.readBigUInt64LE(16),
    nsfeat: data.readUInt8(24),
    nlbaf: data.readUInt8(25),
    nmic: data.readUInt8(30),
    dlfeat: data.readUInt8(33),
    anagrpid: data.readUInt32LE(92),
    nsattr: data.readUInt8(99),
    mssrl: data.readUInt16LE(74),
    mcl: data.readUInt32LE(76),
    msrc: data.readUInt8(80),
    nguid: data.subarray(104, 120).toString("hex"),
    eui64: data.subarray(120, 128).toString("hex"),
    blockBytes: 2 ** data.readUInt8(128 + 4 * format + 2),
    metadataBytes: data.readUInt16LE(128 + 4 * format),
  };
}

/** A list of dwords up to the first zero. */
export function dwords(data: Buffer): number[] {
  const values: number[] = [];
  for (let at = 0; at + 4 <= data.length; at += 4) {
    const value = data.readUInt32LE(at);
    if (value === 0) break;
    values.push(value);
  }
  return values;
}

/** CNS 03h: hexadecimal identifiers by type. */
export function namespaceIdentifiers(data: Buffer): Map<number, string> {
  const found = new Map<number, string>();
  for (let at = 0; at + 4 <= data.length; ) {
    const [type, length] = [data.readUInt8(at), data.readUInt8(at + 1)];
    if (length === 0) break;
    found.set(type, data.subarray(at + 4, at + 4 + length).toString("hex"));
    at += 4 + length;
  }
  return found;
}

export type DiscoveryEntry = {
  readonly transport: number;
  readonly family: number;
  readonly subtype: number;
  readonly treq: number;
  readonly portId: number;
  readonly cntlid: number;
  readonly asqsz: number;
  readonly eflags: number;
  readonly service: string;
  readonly subnqn: string;
  readonly address: string;
  readonly security: number;
};

export function discoveryHeader(data: Buffer) {
  return {
    genctr: data.readBigUInt64LE(0),
    numrec: Number(data.readBigUInt64LE(8)),
    recfmt: data.readUInt16LE(16),
  };
}

export function discoveryEntry(data: Buffer): DiscoveryEntry {
  return {
    transport: data.readUInt8(0),
    family: data.readUInt8(1),
    subtype: data.readUInt8(2),
    treq: data.readUInt8(3),
    portId: data.readUInt16LE(4),
    cntlid: data.readUInt16LE(6),
    asqsz: data.readUInt16LE(8),
    eflags: data.readUInt16LE(10),
    service: text(data.subarray(32, 64)),
    subnqn: text(data.subarray(256, 512)),
    address: text(data.subarray(512, 768)),
    security: data.readUInt8(768),
  };
}

/** Dword 0 of an Asynchronous Event Request's completion. */
export function asyncEvent(dw0: number) {
  return { type: dw0 & 7, information: (dw0 >> 8) & 0xff, logPage: (dw0 >> 16) & 0xff };
}

export function anaLog(data: Buffer) {
  return {
    changeCount: data.readBigUInt64LE(0),
    groups: data.readUInt16LE(8),
    group: data.readUInt32LE(16),
    namespaceCount: data.readUInt32LE(20),
    state: data.readUInt8(32) & 0x0f,
    namespaces: dwords(data.subarray(48)),
  };
}
