// Writes the seeds of the initiator fuzzer: node test/fuzz/initiator-seeds.mjs. Each is a short script (initiator.cc):
// a device, requests, and a target that does one thing of many.

import { mkdirSync, writeFileSync } from "node:fs";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const folder = join(dirname(fileURLToPath(import.meta.url)), "corpus/initiator");

const u16 = (value) => [value & 0xff, (value >> 8) & 0xff];
const u32 = (value) => [...u16(value & 0xffff), ...u16((value >>> 16) & 0xffff)];

const setup = ({
  digests = 0,
  two = 0,
  shallow = 0,
  noKeepAlive = 0,
  noPing = 0,
  manual = 0,
  mdts = 0,
  facts = 0,
  limits = 0,
} = {}) => [
  digests | (two << 2) | (shallow << 3) | (noKeepAlive << 4) | (noPing << 5) | (manual << 6),
  mdts,
  facts,
  limits,
];
const step = (kind, argument, ...operands) => [kind | (argument << 4), ...operands];
const run = (count = 4) => step(0, 0, count - 1);
const serve = (count = 16, link = 0) => step(1, link, count - 1);
const raw = (bytes, link = 0) => step(2, link, bytes.length, ...bytes);
const respond = (index, status = 0, result = 0, link = 1) =>
  step(3, link, index, ...u16(status), ...u16(result));
const data = (index, offset, length, flags, link = 1) =>
  step(4, link, index, ...u32(offset), ...u16(length - 1), flags);
const r2t = (index, offset, length, link = 1) => step(5, link, index, ...u32(offset), ...u32(length));
const time = (ms) => step(6, 0, ...u16(ms));
const end = (how, link = 0) => step(7, link, how);
const damage = (offset, value, link = 1) => step(8, link, ...u16(offset), value);
const pieces = (arriving, leaving, link = 1) => step(9, link, ...u16(arriving), ...u16(leaving));
const actions = { read: 0, write: 1, flush: 2, zeroes: 3, deallocate: 4, writeThrough: 11 };
const request = (action, block, blocks = 1) => step(10, actions[action], block, blocks - 1);
const cancel = (index) => step(11, 0, index);
const tamper = (place, offset, value) => step(12, 0, place, ...u16(offset), value);
const manual = step(13, 1);
const automatic = step(13, 0);
const event = (dword) => step(14, 0, ...u32(dword));
const control = (what) => step(15, 0, what);
const all = [
  request("write", 0, 32),
  request("read", 0, 32),
  request("flush", 0),
  request("zeroes", 8, 64),
  request("deallocate", 40, 64),
  request("writeThrough", 64, 1),
];

const seeds = {
  plain: [setup(), ...all.flatMap((r) => [r, run()])],
  digests: [setup({ digests: 3, two: 1 }), ...all, run(16)],
  small_transfers: [setup({ mdts: 1, shallow: 1, limits: 0x21 }), ...all, run(16), run(16)],
  nothing_optional: [setup({ facts: 15 }), ...all, run(16)],
  broken: [
    setup({ two: 1 }),
    manual,
    ...all,
    run(2),
    end(1),
    automatic,
    time(200),
    run(16),
    ...all,
    time(3000),
    run(16),
  ],
  broken_twice: [
    setup(),
    ...Array.from({ length: 4 }, () => [
      manual,
      ...all,
      run(2),
      control(0),
      automatic,
      time(150),
      run(16),
    ]).flat(),
  ],
  shrinks: [setup(), manual, ...all, run(2), control(4 | (1 << 3)), end(0), automatic, time(300), run(16)],
  slow: [setup({ digests: 1 }), pieces(7, 11), ...all, run(16), run(16), run(16)],
  stuck: [setup(), end(2, 1), ...all, run(4), time(1100), run(16), time(500), run(16)],
  silent: [setup({ noPing: 1 }), manual, ...all, time(1100), run(4), time(400), run(8), automatic, run(16)],
  refused: [
    setup(),
    control(2),
    end(1),
    time(5000),
    run(8),
    request("write", 3),
    time(4500),
    control(3),
    run(8),
  ],
  cancelled: [
    setup(),
    manual,
    ...all,
    cancel(0),
    cancel(1),
    run(2),
    cancel(3),
    end(1),
    cancel(4),
    automatic,
    run(8),
  ],
  closed: [setup(), manual, ...all, run(2), control(0xff), run(4)],
  by_hand: [
    setup({ manual: 1 }),
    ...Array.from({ length: 24 }, () => [serve(1), run(2)]).flat(),
    request("read", 0, 2),
    run(2),
    data(0, 0, 1024, 4),
    respond(0),
    run(2),
  ],
  lies: [
    setup(),
    manual,
    request("read", 0, 2),
    run(2),
    data(0, 512, 512, 0),
    run(2),
    request("write", 0, 32),
    run(2),
    r2t(0, 0, 0x4000),
    run(2),
    r2t(0, 0, 512),
    respond(0),
    respond(0),
    run(4),
  ],
  early_answer: [
    setup(),
    manual,
    request("write", 0, 64),
    run(2),
    pieces(65535, 100),
    r2t(0, 0, 32768),
    run(2),
    respond(0),
    run(4),
    end(1, 1),
    automatic,
    run(8),
  ],
  statuses: [
    setup(),
    manual,
    ...[0x0b, 0x4002, 0x21, 0x82, 0x302, 0x371, 0x821, 0x1802, 0x83].flatMap((status) => [
      request("write", status & 63, 4),
      run(2),
      respond(0, status),
      run(2),
      time(30),
    ]),
    automatic,
    run(8),
  ],
  tampered: [
    setup(),
    tamper(1, 77, 3),
    tamper(3, 4, 2),
    tamper(0, 0, 16),
    tamper(4, 0, 3),
    control(0),
    time(200),
    run(16),
    event(0x00040002),
    run(8),
  ],
  events: [
    setup(),
    event(0x00040002),
    run(4),
    event(0x00040002),
    event(0x00010000),
    run(8),
    step(14, 12, ...u32(0)),
    run(8),
  ],
  damaged: [
    setup({ digests: 3 }),
    manual,
    ...all,
    damage(0, 255),
    serve(3, 1),
    run(4),
    damage(9, 1),
    serve(3, 1),
    run(4),
  ],
  noise: [
    setup(),
    raw([7, 0, 24, 24, 255, 255, 255, 255], 1),
    run(2),
    raw(Array(64).fill(165)),
    run(4),
    time(300),
    run(16),
  ],
  no_keep_alive: [
    setup({ noKeepAlive: 1, noPing: 1 }),
    manual,
    request("write", 0, 8),
    run(2),
    end(1),
    automatic,
    time(200),
    run(16),
    request("write", 0, 8),
    time(20000),
    run(8),
  ],
};

mkdirSync(folder, { recursive: true });
for (const [name, parts] of Object.entries(seeds))
  writeFileSync(join(folder, name), Buffer.from(parts.flat(1)));
console.log(`${Object.keys(seeds).length} seeds in ${folder}`);
