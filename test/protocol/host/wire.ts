// One TCP connection of the test host: bytes out, checked PDUs in. What a PDU means is QueuePair's business; tests of
// the transport itself use a Wire directly.

import { createConnection, type Socket } from "node:net";
import { deferred, within } from "./deadline.js";
import {
  type Digests,
  decode,
  type IcReqFields,
  icReq,
  lengthOf,
  noDigests,
  type Pdu,
  type PduOf,
} from "./pdu.js";

/** `from`: the address that the host has; every address of 127.0.0.0/8 is this machine's. */
export type Endpoint = { readonly address: string; readonly port: number; readonly from?: string };

export type Opening = Partial<IcReqFields>;

type Receiver = { readonly take: (pdu: Pdu) => void; readonly end: (error: Error) => void };

export class Wire {
  digests: Digests = noDigests;
  hpda = 0;
  maxH2cData = 0;
  receivedBytes = 0;
  readonly #socket: Socket;
  readonly #arrived: Pdu[] = [];
  readonly #waiting: Receiver[] = [];
  #receiver: Receiver | null = null;
  #bytes: Buffer = Buffer.alloc(0);
  #end: Error | null = null;
  readonly #ended = deferred<Error>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on("data", (chunk: Buffer) => this.#receive(chunk));
    socket.on("end", () => this.#close(new Error("closed by the server")));
    socket.on("error", (error) => this.#close(error));
    socket.on("close", () => this.#close(new Error("closed")));
  }

  /** TCP alone, without ICReq. */
  static async open({ address, port, from }: Endpoint): Promise<Wire> {
    const source = from === undefined ? {} : { localAddress: from };
    const socket = createConnection({ host: address, port, allowHalfOpen: true, ...source });
    const { promise, resolve, reject } = deferred<void>();
    socket.once("connect", () => resolve());
    socket.once("error", reject);
    try {
      await within(promise, `TCP connection to ${address} port ${port}`);
    } catch (error) {
      socket.destroy();
      throw error;
    }
    socket.off("error", reject);
    return new Wire(socket);
  }

  /** TCP, ICReq, ICResp. */
  static async start(endpoint: Endpoint, opening: Opening = {}): Promise<Wire> {
    const wire = await Wire.open(endpoint);
    try {
      await wire.initialize(opening);
    } catch (error) {
      wire.destroy();
      throw error;
    }
    return wire;
  }

  async initialize(opening: Opening = {}): Promise<PduOf<"icResp">> {
    const { pfv = 0, hpda = 0, digests = noDigests, maxR2t = 0 } = opening;
    this.send(icReq({ pfv, hpda, digests, maxR2t }));
    const response = await this.expect("icResp");
    this.adopt(response, hpda);
    return response;
  }

  /** From here on PDUs have the form that ICReq and ICResp agreed upon. */
  adopt(response: PduOf<"icResp">, hpda: number): void {
    this.digests = response.digests;
    this.hpda = hpda;
    this.maxH2cData = response.maxH2cData;
  }

  send(bytes: Buffer): void {
    this.#socket.write(bytes);
  }

  /** Sends and waits until the kernel has the bytes: what follows is a TCP segment of its own, mostly. */
  async sendAlone(bytes: Buffer): Promise<void> {
    const { promise, resolve } = deferred<void>();
    this.#socket.write(bytes, () => resolve());
    await within(promise, "the server to take bytes");
  }

  get localPort(): number {
    return this.#socket.localPort ?? 0;
  }

  get unsentBytes(): number {
    return this.#socket.writableLength;
  }

  get ended(): boolean {
    return this.#end !== null;
  }

  /** The next PDU, whatever it is. */
  async next(what = "a PDU", milliseconds?: number): Promise<Pdu> {
    const first = this.#arrived.shift();
    if (first !== undefined) return first;
    if (this.#end !== null) throw this.#end;
    const { promise, resolve, reject } = deferred<Pdu>();
    const receiver = { take: resolve, end: reject };
    this.#waiting.push(receiver);
    try {
      return await within(promise, what, milliseconds);
    } finally {
      const index = this.#waiting.indexOf(receiver);
      if (index >= 0) this.#waiting.splice(index, 1);
    }
  }

  async expect<Kind extends Pdu["kind"]>(kind: Kind, milliseconds?: number): Promise<PduOf<Kind>> {
    const pdu = await this.next(kind, milliseconds);
    if (pdu.kind !== kind)
      throw new Error(`expected ${kind}, got ${JSON.stringify({ ...pdu, raw: undefined })}`);
    return pdu as PduOf<Kind>;
  }

  /** Gives all PDUs, also those that are here already, to `receiver`. */
  deliver(receiver: Receiver): void {
    this.#receiver = receiver;
    for (const pdu of this.#arrived.splice(0)) receiver.take(pdu);
    if (this.#end !== null) receiver.end(this.#end);
  }

  /** The server's end of the stream: FIN or RST. PDUs that came before are still there for `next`. */
  async closed(milliseconds?: number): Promise<Error> {
    return within(this.#ended.promise, "the server to close the connection", milliseconds);
  }

  pause(): void {
    this.#socket.pause();
  }

  resume(): void {
    this.#socket.resume();
  }

  /** FIN: this host sends no more. */
  finish(): void {
    this.#socket.end();
  }

  /** RST, as the Linux host closes. */
  reset(): void {
    this.#socket.resetAndDestroy();
  }

  destroy(): void {
    this.#socket.destroy();
  }

  #receive(chunk: Buffer): void {
    this.receivedBytes += chunk.length;
    this.#bytes = this.#bytes.length === 0 ? chunk : Buffer.concat([this.#bytes, chunk]);
    try {
      for (;;) {
        const length = lengthOf(this.#bytes);
        if (length === null || this.#bytes.length < length) return;
        const raw = this.#bytes.subarray(0, length);
        this.#bytes = this.#bytes.subarray(length);
        this.#hand(decode(raw, this.digests, this.hpda));
      }
    } catch (error) {
      this.#close(error instanceof Error ? error : new Error(String(error)));
      this.#socket.destroy();
    }
  }

  #hand(pdu: Pdu): void {
    if (pdu.kind === "icResp") this.digests = pdu.digests;
    const waiting = this.#waiting.shift();
    if (waiting !== undefined) waiting.take(pdu);
    else if (this.#receiver !== null) this.#receiver.take(pdu);
    else this.#arrived.push(pdu);
  }

  #close(error: Error): void {
    if (this.#end !== null) return;
    this.#end = error;
    this.#ended.resolve(error);
    for (const waiting of this.#waiting.splice(0)) waiting.end(error);
    this.#receiver?.end(error);
  }
}
