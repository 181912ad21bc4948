// Cutting a byte stream into JSON values: newline-separated or simply one after the other, as SPDK's clients send
// them. Only finds where a value ends; JSON.parse judges it. Bounded: a message, its nesting, nothing else is kept.

export const messageBytesMax = 1 << 20;
const depthMax = 64;
const chunksMax = 256;

const quote = 0x22;
const backslash = 0x5c;
const open = new Set([0x7b, 0x5b]);
const close = new Set([0x7d, 0x5d]);
const space = new Set([0x20, 0x09, 0x0a, 0x0d]);

export type FrameFault = "too long" | "too deep" | "not an object or array";

/** What `push` found. After a fault the stream cannot be followed any further. */
export type Frames = { readonly messages: readonly string[]; readonly fault: FrameFault | null };

export class Framer {
  private chunks: Buffer[] = [];
  private length = 0;
  private depth = 0;
  private inString = false;
  private escaped = false;
  private failed: FrameFault | null = null;

  /** True while a message has begun and has not ended. */
  get pending(): boolean {
    return this.depth > 0;
  }

  push(data: Buffer): Frames {
    const messages: string[] = [];
    let start = 0;
    for (let index = 0; index < data.length && this.failed === null; index += 1) {
      const byte = data[index] ?? 0;
      if (this.depth === 0) {
        if (space.has(byte)) continue;
        if (!open.has(byte)) {
          this.failed = "not an object or array";
          break;
        }
        this.depth = 1;
        start = index;
        continue;
      }
      if (this.inString) {
        if (this.escaped) this.escaped = false;
        else if (byte === backslash) this.escaped = true;
        else if (byte === quote) this.inString = false;
        continue;
      }
      if (byte === quote) this.inString = true;
      else if (open.has(byte)) {
        this.depth += 1;
        if (this.depth > depthMax) this.failed = "too deep";
      } else if (close.has(byte)) {
        this.depth -= 1;
        if (this.depth > 0) continue;
        const whole = this.take(data.subarray(start, index + 1));
        if (whole === null) this.failed = "too long";
        else messages.push(whole);
      }
    }
    if (this.failed === null && this.depth > 0) {
      const rest = data.subarray(start);
      if (this.length + rest.length > messageBytesMax) this.failed = "too long";
      else {
        this.chunks.push(Buffer.from(rest));
        this.length += rest.length;
        // A client that sends byte by byte must not cost an object per byte.
        if (this.chunks.length > chunksMax) this.chunks = [Buffer.concat(this.chunks)];
      }
    }
    if (this.failed !== null) this.chunks = [];
    return { messages, fault: this.failed };
  }

  private take(last: Buffer): string | null {
    const length = this.length + last.length;
    const text = length > messageBytesMax ? null : Buffer.concat([...this.chunks, last]).toString("utf8");
    this.chunks = [];
    this.length = 0;
    return text;
  }
}
