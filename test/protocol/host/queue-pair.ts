// A queue pair over one connection: hands out CIDs, answers R2T, puts C2HData together, and holds the server to the
// rules that a host relies on: each command is completed once, with exactly its data, in order.

import { type CommandFields, type Completion, completion, type DataPointer, sqe } from "./command.js";
import { type Deferred, deferred, within } from "./deadline.js";
import { capsule, h2cData, type Pdu, type PduOf, ProtocolViolation } from "./pdu.js";
import type { Wire } from "./wire.js";

export type Result = Completion & {
  readonly data: Buffer;
  /** The response was the SUCCESS flag of the last C2HData. */
  readonly bySuccessFlag: boolean;
};

export type Transfer = {
  /** Data to the controller, … */
  readonly send?: Buffer;
  /** … in the capsule (default) or requested by R2T. */
  readonly inCapsule?: boolean;
  /** Bytes from the controller. */
  readonly receive?: number;
  /** Instead of the data pointer that follows from the above. */
  readonly pointer?: DataPointer;
  /** Takes R2Ts over; nothing is sent by itself. */
  readonly onR2t?: (r2t: PduOf<"r2t">) => void;
  readonly cid?: number;
};

export type Submitted = {
  readonly cid: number;
  readonly result: Promise<Result>;
  /** The C2HData PDUs so far. */
  readonly pieces: readonly PduOf<"data">[];
};

type Outstanding = {
  readonly transfer: Transfer;
  readonly settled: Deferred<Result>;
  readonly pieces: PduOf<"data">[];
  readonly data: Buffer;
  received: number;
  requested: number;
};

function pointerOf(transfer: Transfer): DataPointer {
  if (transfer.pointer !== undefined) return transfer.pointer;
  if (transfer.send !== undefined) {
    return { kind: transfer.inCapsule === false ? "transport" : "inCapsule", length: transfer.send.length };
  }
  return transfer.receive === undefined ? { kind: "none" } : { kind: "transport", length: transfer.receive };
}

export class QueuePair {
  readonly wire: Wire;
  readonly qid: number;
  /** SQ entries; SQHD counts modulo this. */
  readonly entries: number;
  /** Commands sent, and the last SQHD. */
  submitted = 0;
  head = 0;
  readonly #outstanding = new Map<number, Outstanding>();
  #cidNext = 0;
  #broken: Error | null = null;

  constructor(wire: Wire, qid: number, entries: number) {
    this.wire = wire;
    this.qid = qid;
    this.entries = entries;
    wire.deliver({ take: (pdu) => this.#take(pdu), end: (error) => this.#fail(error) });
  }

  get outstanding(): number {
    return this.#outstanding.size;
  }

  freeCid(): number {
    do this.#cidNext = (this.#cidNext + 1) % 0xffff;
    while (this.#outstanding.has(this.#cidNext));
    return this.#cidNext;
  }

  /** The capsule's bytes and the promise of its result; the caller sends the bytes. */
  prepare(fields: CommandFields, transfer: Transfer = {}): Submitted & { readonly bytes: Buffer } {
    const cid = transfer.cid ?? this.freeCid();
    const settled = deferred<Result>();
    settled.promise.catch(() => undefined);
    const entry: Outstanding = {
      transfer,
      settled,
      pieces: [],
      data: Buffer.alloc(transfer.receive ?? 0),
      received: 0,
      requested: 0,
    };
    if (this.#broken !== null) settled.reject(this.#broken);
    else this.#outstanding.set(cid, entry);
    const pointer = fields.data ?? pointerOf(transfer);
    const data = transfer.inCapsule === false ? undefined : transfer.send;
    const bytes = capsule(sqe(cid, { ...fields, data: pointer }), data ?? Buffer.alloc(0), this.wire.digests);
    this.submitted += 1;
    return { cid, result: settled.promise, pieces: entry.pieces, bytes };
  }

  submit(fields: CommandFields, transfer: Transfer = {}): Submitted {
    const { bytes, ...command } = this.prepare(fields, transfer);
    this.wire.send(bytes);
    return command;
  }

  async execute(fields: CommandFields, transfer: Transfer = {}, milliseconds?: number): Promise<Result> {
    const what = `completion of opcode ${fields.opcode.toString(16)}h on queue ${this.qid}`;
    return within(this.submit(fields, transfer).result, what, milliseconds);
  }

  /** Answers an R2T with one or several H2CData, each of at most `pieceBytes`. */
  sendRequested(r2t: PduOf<"r2t">, data: Buffer, pieceBytes = this.wire.maxH2cData): void {
    for (const bytes of this.answers(r2t, data, pieceBytes)) this.wire.send(bytes);
  }

  answers(r2t: PduOf<"r2t">, data: Buffer, pieceBytes: number): Buffer[] {
    const pdus: Buffer[] = [];
    const end = r2t.offset + r2t.length;
    for (let offset = r2t.offset; offset < end; offset += pieceBytes) {
      const pieceEnd = Math.min(offset + pieceBytes, end);
      const piece = data.subarray(offset, pieceEnd);
      const fields = { cccid: r2t.cccid, ttag: r2t.ttag, offset, data: piece, last: pieceEnd === end };
      pdus.push(h2cData(fields, this.wire.digests));
    }
    return pdus;
  }

  #take(pdu: Pdu): void {
    try {
      this.#handle(pdu);
    } catch (error) {
      this.#fail(error instanceof Error ? error : new Error(String(error)));
      this.wire.destroy();
    }
  }

  #handle(pdu: Pdu): void {
    if (pdu.kind === "terminate") throw new Error(`terminated: FES ${pdu.fes}, FEI ${pdu.fei}`);
    if (pdu.kind === "icResp") throw new ProtocolViolation("a second ICResp");
    const cid = pdu.kind === "response" ? pdu.cqe.readUInt16LE(12) : pdu.cccid;
    const entry = this.#outstanding.get(cid);
    if (entry === undefined)
      throw new ProtocolViolation(`${pdu.kind} for CID ${cid}, which is not outstanding`);
    if (pdu.kind === "data") this.#takeData(cid, entry, pdu);
    else if (pdu.kind === "r2t") this.#takeR2t(entry, pdu);
    else this.#complete(cid, entry, completion(pdu.cqe), false);
  }

  #takeData(cid: number, entry: Outstanding, pdu: PduOf<"data">): void {
    if (pdu.offset !== entry.received || pdu.offset + pdu.data.length > entry.data.length) {
      throw new ProtocolViolation(`C2HData ${pdu.offset} + ${pdu.data.length} after ${entry.received} bytes`);
    }
    pdu.data.copy(entry.data, pdu.offset);
    entry.received += pdu.data.length;
    entry.pieces.push(pdu);
    if (!pdu.success) return;
    const nothing = { status: 0, dnr: false, more: false, retryDelay: 0, dw0: 0, dw1: 0 };
    this.#complete(cid, entry, { cid, sqhd: this.head, sqid: this.qid, ...nothing }, true);
  }

  #takeR2t(entry: Outstanding, pdu: PduOf<"r2t">): void {
    const { send, onR2t } = entry.transfer;
    if (pdu.length === 0) throw new ProtocolViolation("R2T for nothing");
    if (pdu.offset !== entry.requested)
      throw new ProtocolViolation(`R2T at ${pdu.offset} after ${entry.requested}`);
    entry.requested += pdu.length;
    if (onR2t !== undefined) onR2t(pdu);
    else if (send === undefined || entry.requested > send.length)
      throw new ProtocolViolation("R2T past the data");
    else this.sendRequested(pdu, send);
  }

  #complete(cid: number, entry: Outstanding, answer: Completion, bySuccessFlag: boolean): void {
    // Reserved over fabrics; some controllers fill it in.
    if (answer.sqid !== 0 && answer.sqid !== this.qid) throw new ProtocolViolation(`SQID ${answer.sqid}`);
    if (answer.sqhd >= this.entries)
      throw new ProtocolViolation(`SQHD ${answer.sqhd} of ${this.entries} entries`);
    const expected = entry.transfer.receive ?? 0;
    if (answer.status === 0 && entry.received !== expected) {
      throw new ProtocolViolation(`success with ${entry.received} of ${expected} bytes`);
    }
    this.#outstanding.delete(cid);
    this.head = answer.sqhd;
    entry.settled.resolve({ ...answer, data: entry.data, bySuccessFlag });
  }

  #fail(error: Error): void {
    this.#broken ??= error;
    for (const [cid, entry] of this.#outstanding) {
      this.#outstanding.delete(cid);
      entry.settled.reject(error);
    }
  }
}
