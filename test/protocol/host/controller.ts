// A host's controller: Connect, properties, enabling, and the commands that most tests need, over QueuePairs.

import assert from "node:assert/strict";
import { Admin, blockRange, type CommandFields, Fabrics, fabrics, Io, Status } from "./command.js";
import { until } from "./deadline.js";
import { QueuePair, type Result } from "./queue-pair.js";
import { type Endpoint, type Opening, Wire } from "./wire.js";

export const discoveryNqn = "nqn.2014-08.org.nvmexpress.discovery";

export type HostIdentity = { readonly nqn: string; readonly id: Buffer };

export function hostNamed(name: string): HostIdentity {
  const id = Buffer.alloc(16, 0x5a);
  Buffer.from(name).copy(id, 0, 0, Math.min(16, name.length));
  return { nqn: `nqn.2026-01.org.example:host-${name}`, id };
}

export type ConnectFields = {
  readonly qid: number;
  readonly sqsize: number;
  readonly kato: number;
  readonly cattr: number;
  readonly recfmt: number;
  readonly cntlid: number;
  readonly subnqn: string;
  readonly host: HostIdentity;
};

/** A proper Connect of an admin queue, but for the two names. */
export const adminConnect = { qid: 0, sqsize: 31, kato: 0, cattr: 0, recfmt: 0, cntlid: 0xffff } as const;

export function connectData(fields: ConnectFields): Buffer {
  const data = Buffer.alloc(1024);
  fields.host.id.copy(data, 0);
  data.writeUInt16LE(fields.cntlid, 16);
  data.write(fields.subnqn, 256, 256, "utf8");
  data.write(fields.host.nqn, 512, 256, "utf8");
  return data;
}

export function connectCommand(fields: ConnectFields): CommandFields {
  return fabrics(Fabrics.connect, {
    cdw10: (fields.qid << 16) | fields.recfmt,
    cdw11: (fields.cattr << 16) | fields.sqsize,
    cdw12: fields.kato,
  });
}

export const disableFlowControl = 0x04;

export const Property = { cap: 0x00, vs: 0x08, cc: 0x14, csts: 0x1c, nssr: 0x20, crto: 0x68 } as const;

export function propertyGet(offset: number, bytes: 4 | 8): CommandFields {
  return fabrics(Fabrics.propertyGet, { cdw10: bytes === 8 ? 1 : 0, cdw11: offset });
}

export function propertySet(offset: number, value: bigint, bytes: 4 | 8 = 4): CommandFields {
  const [low, high] = [Number(value & 0xffffffffn), Number(value >> 32n)];
  return fabrics(Fabrics.propertySet, { cdw10: bytes === 8 ? 1 : 0, cdw11: offset, cdw12: low, cdw13: high });
}

/** CC with EN, the NVM command set, 64-byte SQEs and 16-byte CQEs. */
export const ccEnabled = 0x00460001;

export type ControllerOptions = {
  readonly endpoint: Endpoint;
  readonly subnqn: string;
  readonly host?: HostIdentity;
  readonly opening?: Opening;
  readonly kato?: number;
  readonly entries?: number;
  readonly cattr?: number;
  readonly enable?: boolean;
};

export class Controller {
  readonly admin: QueuePair;
  readonly cntlid: number;
  readonly options: ControllerOptions;
  readonly host: HostIdentity;
  readonly queues: QueuePair[] = [];

  private constructor(admin: QueuePair, cntlid: number, options: ControllerOptions, host: HostIdentity) {
    this.admin = admin;
    this.cntlid = cntlid;
    this.options = options;
    this.host = host;
  }

  static async connect(options: ControllerOptions): Promise<Controller> {
    const host = options.host ?? hostNamed(`test-${process.pid}`);
    const entries = options.entries ?? 32;
    const wire = await Wire.start(options.endpoint, options.opening);
    const admin = new QueuePair(wire, 0, entries);
    try {
      const result = await connectQueue(admin, {
        ...adminConnect,
        sqsize: entries - 1,
        kato: options.kato ?? 0,
        cattr: options.cattr ?? 0,
        subnqn: options.subnqn,
        host,
      });
      assert.equal(result.status, Status.success, `Connect: status ${result.status.toString(16)}h`);
      const controller = new Controller(admin, result.dw0 & 0xffff, options, host);
      if (options.enable !== false) await controller.enable();
      return controller;
    } catch (error) {
      wire.destroy();
      throw error;
    }
  }

  async enable(): Promise<void> {
    await this.setProperty(Property.cc, BigInt(ccEnabled));
    await until(
      async () => (((await this.property(Property.csts, 4)) & 1n) === 1n ? true : null),
      "CSTS.RDY",
    );
  }

  async property(offset: number, bytes: 4 | 8): Promise<bigint> {
    const result = await this.admin.execute(propertyGet(offset, bytes));
    assert.equal(result.status, Status.success, `Property Get ${offset.toString(16)}h`);
    return BigInt(result.dw0) | (BigInt(result.dw1) << 32n);
  }

  async setProperty(offset: number, value: bigint): Promise<void> {
    const result = await this.admin.execute(propertySet(offset, value));
    assert.equal(result.status, Status.success, `Property Set ${offset.toString(16)}h`);
  }

  async openQueue(
    qid: number,
    entries = 128,
    more: { cattr?: number; opening?: Opening } = {},
  ): Promise<QueuePair> {
    const wire = await Wire.start(this.options.endpoint, more.opening ?? this.options.opening);
    const queue = new QueuePair(wire, qid, entries);
    const result = await connectQueue(queue, {
      qid,
      sqsize: entries - 1,
      kato: 0,
      cattr: more.cattr ?? 0,
      recfmt: 0,
      cntlid: this.cntlid,
      subnqn: this.options.subnqn,
      host: this.host,
    });
    assert.equal(
      result.status,
      Status.success,
      `Connect queue ${qid}: status ${result.status.toString(16)}h`,
    );
    this.queues.push(queue);
    return queue;
  }

  async identify(cns: number, fields: { nsid?: number; csi?: number; cntid?: number } = {}): Promise<Result> {
    const { nsid = 0, csi = 0, cntid = 0 } = fields;
    const command = { opcode: Admin.identify, nsid, cdw10: cns | (cntid << 16), cdw11: csi << 24 };
    return this.admin.execute(command, { receive: 4096 });
  }

  async logPage(
    lid: number,
    bytes: number,
    more: { offset?: bigint; nsid?: number; lsp?: number; rae?: boolean } = {},
  ) {
    const { offset = 0n, nsid = 0, lsp = 0, rae = false } = more;
    const dwords = bytes / 4 - 1;
    const fields = {
      opcode: Admin.getLogPage,
      nsid,
      cdw10: lid | (lsp << 8) | (rae ? 0x8000 : 0) | ((dwords & 0xffff) << 16),
      cdw11: dwords >>> 16,
      cdw12: Number(offset & 0xffffffffn),
      cdw13: Number(offset >> 32n),
    };
    return this.admin.execute(fields, { receive: bytes });
  }

  async keepAlive(): Promise<Result> {
    return this.admin.execute({ opcode: Admin.keepAlive });
  }

  /** Closes all connections, as a host does that goes away. */
  close(): void {
    for (const queue of [...this.queues, this.admin]) queue.wire.destroy();
  }
}

export async function connectQueue(queue: QueuePair, fields: ConnectFields): Promise<Result> {
  return queue.execute(connectCommand(fields), { send: connectData(fields) });
}

export async function read(
  queue: QueuePair,
  slba: bigint,
  blocks: number,
  blockBytes: number,
  nsid = 1,
): Promise<Result> {
  return queue.execute(
    { opcode: Io.read, nsid, ...blockRange(slba, blocks) },
    { receive: blocks * blockBytes },
  );
}

export type WriteOptions = { readonly nsid?: number; readonly inCapsule?: boolean };

/** In the capsule if it fits into 8 KiB, otherwise by R2T. */
export async function write(
  queue: QueuePair,
  slba: bigint,
  data: Buffer,
  blockBytes: number,
  { nsid = 1, inCapsule = data.length <= 8192 }: WriteOptions = {},
): Promise<Result> {
  const fields = { opcode: Io.write, nsid, ...blockRange(slba, data.length / blockBytes) };
  return queue.execute(fields, { send: data, inCapsule });
}
