// Writes the seeds of the connection fuzzer: node test/fuzz/seeds.mjs. Each is a short script (script.h) of a host that
// behaves, so that the fuzzer starts from commands that succeed.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "corpus/connection");

const u16 = (value) => [value & 0xff, (value >> 8) & 0xff];
const u32 = (value) => [...u16(value & 0xffff), ...u16((value >>> 16) & 0xffff)];

const depth = {
  nothing: 0,
  initialized: 1,
  connected: 2,
  enabled: 3,
  io: 4,
  ioFast: 5,
  discovery: 6,
  discoveryPort: 7,
};

/** Set-up bytes; `second` holds HPDA and whether admission is asked for, `third` memory, `fourth` the digest policy. */
const setup = (level, { digests = 0, maxR2t = 0, second = 0, third = 0, fourth = 0 } = {}) => [
  (level << 5) | (maxR2t << 2) | digests,
  second,
  third,
  fourth,
];

const first = (kind, connection = 0, argument = 0) => kind | (connection << 4) | (argument << 5);

const raw = (bytes, connection = 0) => [first(0, connection), bytes.length, ...bytes];
const payload = { counting: 0, zeroes: 1, deallocation: 2, copy: 3 };

/** `data`: 512-byte units, +40h in the capsule, 80h: 4096-byte units, both and too long for a capsule: 16-KiB units. */
function command(connection, opcode, { flags = 0, nsid = 0, cid = 1, data = 0, words = [], load = 0 } = {}) {
  const mask = (1 << words.length) - 1;
  return [first(1, connection, load), opcode, flags, nsid, cid, data, mask, ...words.flatMap(u32)];
}
const answer = (connection = 0, { index = 0, pieceDwords = 0xffff, oneOnly = false, load = 0 } = {}) => [
  first(3, connection, load * 2 + (oneOnly ? 1 : 0)),
  index,
  ...u16(pieceDwords),
];
const receive = (bytes, connection = 0) => [first(5, connection), ...u16(bytes)];
const send = (bytes, connection = 0) => [first(6, connection), ...u16(bytes)];
const time = (ms) => [first(7), ...u16(ms)];
const run = (count = 2) => [first(8), count - 1];
const control = (action, argument = 0) => [first(9), action, argument];
const damage = (offset, value, connection = 0) => [first(10, connection), ...u16(offset), value];
const close = (how, connection = 0) => [first(11, connection), how];
const open = (mode, connection = 0) => [first(12, connection), mode];
const terminate = (fes) => [first(13), ...u16(fes)];
const connect = (variant, value) => [first(14), variant, ...u16(value)];
const again = (index, connection = 0) => [first(15, connection), index];

const identify = (cns, nsid = 0, cid = 1) => command(0, 0x06, { nsid, cid, data: 0x81, words: [cns] });
const logPage = (lid, cid = 1, offset = 0) =>
  command(0, 0x02, { nsid: 0xff, cid, data: 0x01, words: [lid | (127 << 16), 0, offset] });
const block = (opcode, nsid, slba, blocks, data, more = {}) =>
  command(1, opcode, { nsid, data, words: [slba, 0, blocks - 1], ...more });
const inCapsule = 0x40;
const pages = 0x80;

const icReq = [0, 0, 128, 0, 128, 0, 0, 0, ...Array(120).fill(0)];

const seeds = {
  raw_ic_req: [setup(depth.nothing), raw(icReq), run()],
  raw_split: [setup(depth.nothing), receive(7), raw(icReq), run(16), run(16)],
  raw_noise: [setup(depth.initialized), raw([4, 0, 72, 0, 72, 0, 0, 0, ...Array(64).fill(0)]), run()],
  connect_odd: [
    setup(depth.initialized),
    ...Array.from({ length: 18 }, (_, i) => connect(i, 0x4105 + i)),
    run(),
  ],
  connect_admission: [setup(depth.connected, { second: 0x80 }), open(3, 1), run(), control(10, 1), run()],
  connected_properties: [
    setup(depth.connected),
    command(0, 0x7f, { nsid: 4, words: [1, 0] }),
    command(0, 0x7f, { nsid: 4, words: [0, 0x1c] }),
    command(0, 0x7f, { nsid: 0, words: [0, 0x14, 0x00460001] }),
    run(4),
  ],
  identify: [
    setup(depth.enabled),
    ...[0, 1, 2, 3, 5, 6, 7, 8, 0x10, 0x12, 0x13, 0x1c].map((cns, i) => identify(cns, i % 3, i)),
    run(4),
  ],
  logs: [
    setup(depth.enabled),
    ...[0, 1, 2, 3, 4, 5, 0x0c, 0x12, 0x70].map((lid, i) => logPage(lid, i, 0)),
    run(4),
  ],
  features: [
    setup(depth.enabled),
    ...[1, 2, 4, 5, 6, 7, 0x0b, 0x0f, 0x84].flatMap((fid, i) => [
      command(0, 0x0a, { nsid: 1, cid: i, words: [fid] }),
      command(0, 0x09, { nsid: 1, cid: i + 20, words: [fid, 1] }),
    ]),
    command(0, 0x09, { cid: 50, data: inCapsule | 1, words: [0x16] }),
    run(4),
  ],
  events: [
    setup(depth.enabled),
    command(0, 0x09, { cid: 1, words: [0x0b, 0x900] }),
    command(0, 0x0c, { cid: 2 }),
    command(0, 0x0c, { cid: 3 }),
    control(0, 1),
    control(3, 2),
    run(4),
    logPage(4, 4),
    command(0, 0x08, { cid: 5, words: [3 << 16] }),
    run(4),
  ],
  keep_alive: [
    setup(depth.io),
    command(0, 0x18),
    time(9000),
    command(1, 0, { nsid: 1 }),
    time(9000),
    run(),
    time(11_000),
    run(8),
  ],
  read_write: [
    setup(depth.io),
    block(1, 1, 0, 1, inCapsule | pages | 1, { cid: 1 }),
    block(2, 1, 0, 1, pages | 1, { cid: 2 }),
    block(1, 2, 4, 4, inCapsule | 4, { cid: 3 }),
    block(2, 2, 0, 8, 8, { cid: 4 }),
    block(0, 1, 0, 1, 0, { cid: 5 }),
    run(4),
  ],
  read_large: [
    setup(depth.ioFast, { digests: 3, second: 31 }),
    block(2, 3, 0, 63, pages | 63),
    run(),
    block(2, 1, 0, 16, pages | 16, { cid: 2 }),
    run(4),
  ],
  write_r2t: [
    setup(depth.io),
    block(1, 1, 0, 16, pages | 16),
    run(3),
    answer(1, { pieceDwords: 4096 }),
    run(6),
    block(2, 1, 0, 16, pages | 16),
    run(3),
  ],
  ends_while_receiving: [
    setup(depth.io),
    block(1, 1, 0, 16, pages | 16),
    run(3),
    receive(1000, 1),
    answer(1),
    run(4),
    control(6),
    run(6),
  ],
  write_r2t_digests: [
    setup(depth.io, { digests: 3, maxR2t: 2 }),
    block(1, 3, 0, 63, pages | 63),
    run(3),
    receive(1000, 1),
    answer(1),
    run(16),
    run(16),
  ],
  interleaved: [
    setup(depth.io, { maxR2t: 1 }),
    block(1, 1, 0, 8, pages | 8, { cid: 1 }),
    block(1, 1, 8, 8, pages | 8, { cid: 2 }),
    run(3),
    answer(1, { index: 1, pieceDwords: 1024, oneOnly: true }),
    answer(1, { index: 0, pieceDwords: 1024, oneOnly: true }),
    answer(1, { index: 1 }),
    answer(1),
    run(6),
  ],
  fused: [
    setup(depth.io),
    block(5, 1, 0, 1, inCapsule | pages | 1, { flags: 1, cid: 1 }),
    block(1, 1, 0, 1, inCapsule | pages | 1, { flags: 2, cid: 2 }),
    run(3),
    block(5, 1, 0, 8, pages | 8, { flags: 1, cid: 3 }),
    block(1, 1, 0, 8, pages | 8, { flags: 2, cid: 4 }),
    run(3),
    answer(1, { index: 1 }),
    block(2, 1, 0, 1, pages | 1, { cid: 5 }),
    answer(1),
    run(6),
  ],
  fused_alone: [
    setup(depth.io),
    block(1, 1, 0, 1, inCapsule | pages | 1, { flags: 2, cid: 1 }),
    block(5, 1, 0, 1, inCapsule | pages | 1, { flags: 1, cid: 2 }),
    block(2, 1, 0, 1, pages | 1, { cid: 3 }),
    run(4),
  ],
  ranges: [
    setup(depth.io),
    command(1, 9, { nsid: 1, cid: 1, data: inCapsule | 1, words: [31, 4] }),
    command(1, 0x19, { nsid: 1, cid: 2, data: inCapsule | 1, words: [4, 0, 15] }),
    block(8, 1, 0, 8, 0, { cid: 3 }),
    block(0x0c, 1, 0, 16, 0, { cid: 4 }),
    block(5, 2, 0, 2, inCapsule | 2, { cid: 5 }),
    run(6),
  ],
  slow_abort: [
    setup(depth.io),
    block(2, 4, 0, 4, pages | 4, { cid: 9 }),
    run(),
    command(0, 8, { cid: 1, words: [(9 << 16) | 1] }),
    run(4),
    block(2, 4, 0, 4, pages | 4, { cid: 10 }),
    time(6),
    run(4),
  ],
  slow_close: [
    setup(depth.io),
    block(2, 4, 0, 4, pages | 4, { cid: 9 }),
    block(1, 4, 0, 1, inCapsule | pages | 1, { cid: 3 }),
    run(),
    close(1, 1),
    run(4),
    time(10),
  ],
  reset: [
    setup(depth.io),
    block(2, 4, 0, 4, pages | 4),
    run(),
    command(0, 0x7f, { nsid: 0, words: [0, 0x14, 0x00460000] }),
    run(4),
    time(10),
  ],
  shutdown: [setup(depth.io), command(0, 0x7f, { nsid: 0, words: [0, 0x14, 0x00464001] }), run(4), time(10)],
  faulty: [
    setup(depth.io),
    block(2, 5, 0, 8, pages | 8),
    block(1, 5, 2, 1, inCapsule | pages | 1, { cid: 2 }),
    run(4),
    logPage(1, 7),
  ],
  namespace_gone: [
    setup(depth.io),
    block(2, 4, 0, 1, pages | 1),
    run(),
    control(0, 3),
    control(1, 3),
    time(6),
    run(4),
    block(2, 4, 0, 1, pages | 1, { cid: 2 }),
  ],
  resized: [
    setup(depth.io),
    block(2, 1, 15, 1, pages | 1),
    control(2, 2),
    run(),
    block(2, 1, 15, 1, pages | 1, { cid: 2 }),
    control(2, 30),
    run(4),
  ],
  host_removed: [setup(depth.io), block(2, 4, 0, 1, pages | 1), control(4, 0), run(4), time(10)],
  subsystem_removed: [
    setup(depth.io),
    block(2, 4, 0, 1, pages | 1),
    control(6, 0),
    run(4),
    time(10),
    control(7),
    run(),
  ],
  memory_short: [
    setup(depth.io, { third: 2 }),
    ...Array.from({ length: 6 }, (_, i) => block(i % 2 === 0 ? 1 : 2, 3, i, 15, pages | 15, { cid: i })),
    run(3),
    answer(1),
    answer(1),
    run(8),
    answer(1),
    run(8),
  ],
  send_blocked: [
    setup(depth.io),
    send(0, 1),
    ...Array.from({ length: 12 }, (_, i) => block(2, 1, i, 4, pages | 4, { cid: i })),
    run(4),
    send(1000, 1),
    run(16),
    run(16),
  ],
  digest_damaged: [
    setup(depth.io, { digests: 2 }),
    damage(100, 1, 1),
    block(1, 1, 0, 1, inCapsule | pages | 1),
    run(3),
    block(2, 1, 0, 1, pages | 1),
    run(3),
  ],
  header_damaged: [setup(depth.io, { digests: 1 }), damage(40, 1, 1), block(2, 1, 0, 1, pages | 1), run(4)],
  terminated: [setup(depth.io), block(2, 4, 0, 1, pages | 1), terminate(1), run(4)],
  repeated: [
    setup(depth.io),
    block(1, 1, 0, 16, pages | 16),
    run(3),
    answer(1),
    again(2, 1),
    again(3, 1),
    run(4),
  ],
  reconnect: [
    setup(depth.io),
    close(0, 1),
    run(4),
    open(3, 1),
    run(4),
    block(2, 1, 0, 1, pages | 1),
    close(0),
    run(6),
    open(3),
    run(6),
  ],
  disconnect: [setup(depth.io), command(1, 0x7f, { nsid: 8 }), run(4), open(3, 1), run(4)],
  discovery: [
    setup(depth.discovery),
    logPage(0x70, 1, 0),
    logPage(0x70, 2, 1024),
    command(0, 0x09, { cid: 3, words: [0x0b, 0x80000000] }),
    command(0, 0x0c, { cid: 4 }),
    control(9, 2),
    run(4),
    logPage(0x70, 5),
  ],
  discovery_port: [
    setup(depth.discoveryPort),
    identify(1),
    logPage(0x70, 2),
    connect(0, 0),
    run(4),
    time(60_000),
    time(60_000),
    run(),
  ],
  required: [setup(depth.io, { fourth: 2 }), run()],
  ranges_deallocated: [
    setup(depth.io),
    command(1, 9, { nsid: 1, cid: 1, data: inCapsule | 1, words: [31, 4], load: payload.deallocation }),
    command(1, 9, { nsid: 4, cid: 2, data: 8, words: [255, 4] }),
    run(3),
    answer(1, { load: payload.deallocation }),
    time(6),
    run(4),
    time(6),
    run(4),
  ],
  ranges_copied: [
    setup(depth.io),
    command(1, 0x19, { nsid: 1, cid: 1, data: inCapsule | 1, words: [4, 0, 15], load: payload.copy }),
    command(1, 0x19, { nsid: 4, cid: 2, data: inCapsule | 1, words: [2, 0, 7], load: payload.copy }),
    ...Array.from({ length: 8 }, () => [...time(6), ...run(4)]),
  ],
  fused_slow: [
    setup(depth.io),
    block(5, 4, 0, 1, inCapsule | pages | 1, { flags: 1, cid: 1, load: payload.zeroes }),
    block(1, 4, 0, 1, inCapsule | pages | 1, { flags: 2, cid: 2 }),
    block(1, 4, 0, 1, inCapsule | pages | 1, { cid: 3 }),
    block(8, 4, 0, 2, 0, { cid: 4 }),
    block(1, 4, 1, 1, inCapsule | pages | 1, { cid: 5 }),
    command(0, 8, { cid: 1, words: [(4 << 16) | 1] }),
    ...Array.from({ length: 6 }, () => [...time(6), ...run(4)]),
  ],
  fused_matches: [
    setup(depth.io),
    block(5, 1, 0, 4, pages | 4, { flags: 1, cid: 1 }),
    block(1, 1, 0, 4, pages | 4, { flags: 2, cid: 2 }),
    run(3),
    answer(1, { load: payload.zeroes }),
    block(1, 1, 2, 1, inCapsule | pages | 1, { cid: 3 }),
    answer(1),
    run(4),
  ],
  compares_slow: [
    setup(depth.io),
    ...Array.from({ length: 12 }, (_, i) =>
      block(5, 4, i, 1, inCapsule | pages | 1, { cid: i, load: payload.zeroes }),
    ),
    block(0x0c, 4, 0, 16, 0, { cid: 30 }),
    command(0, 8, { cid: 1, words: [(9 << 16) | 1] }),
    ...Array.from({ length: 4 }, () => [...time(6), ...run(4)]),
  ],
  transmit_full: [
    setup(depth.io),
    send(0, 1),
    ...Array.from({ length: 40 }, (_, i) => block(2, 3, i, 252, inCapsule | pages | 63, { cid: i })),
    run(4),
    send(60_000, 1),
    run(16),
    send(0xffff, 1),
    run(16),
    run(16),
  ],
  whole_sqe: [
    setup(depth.io),
    [
      first(2, 1),
      2,
      0x40,
      1,
      0,
      1,
      0,
      0,
      0,
      ...Array(28).fill(0),
      0,
      16,
      0,
      0,
      0,
      0,
      0,
      0x5a,
      ...Array(24).fill(0),
      0,
      0,
    ],
    run(4),
  ],
  h2c_stray: [
    setup(depth.io),
    block(1, 1, 0, 16, pages | 16),
    run(3),
    [first(4, 1, 4), 1, ...u16(0x2000), ...u32(0), ...u16(4096)],
    run(4),
  ],
};

mkdirSync(folder, { recursive: true });
for (const [name, parts] of Object.entries(seeds))
  writeFileSync(join(folder, name), Buffer.from(parts.flat(1)));
console.log(`${Object.keys(seeds).length} seeds in ${folder}`);
