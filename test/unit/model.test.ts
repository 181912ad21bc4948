import assert from "node:assert/strict";
import { readdirSync, readFileSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { formatEndpoint, parseEndpoint } from "../../dist/model/endpoint.js";
import { errorTable, formatError, isErrorCode, KeelError, toKeelError } from "../../dist/model/errors.js";
import {
  bucketCount,
  bucketsPerOctave,
  emptyHistogram,
  folded,
  quantileUs,
  since,
  upperBoundNs,
} from "../../dist/model/histogram.js";
import { namespaceIdentity, nameUuid, subsystemSerial } from "../../dist/model/identity.js";
import { type Hex128, parseHex128, parseName, parseNqn, parseUuid } from "../../dist/model/ids.js";
import { sameJson, toJson } from "../../dist/model/json.js";
import { didYouMean, editDistance, nearest } from "../../dist/model/nearest.js";
import {
  exactSize,
  formatCount,
  formatSize,
  formatSpan,
  parseDurationUs,
  parseSize,
  sizeMax,
} from "../../dist/model/units.js";
import { makeRandom } from "./random.js";

test("sizes are read with binary and decimal units, fractions only where they give whole bytes", () => {
  const cases: [string, bigint | null][] = [
    ["0", 0n],
    ["512", 512n],
    ["4 KiB", 4096n],
    ["10GiB", 10n << 30n],
    ["10g", 10n << 30n],
    ["1.5GiB", 3n << 29n],
    ["1.5 TB", 1_500_000_000_000n],
    ["0.5", null],
    ["1.3KiB", null],
    ["-1", null],
    ["", null],
    ["GiB", null],
    ["1e3", null],
    ["10 gallons", null],
    ["9223372036854775807", sizeMax],
    ["9223372036854775808", null],
    ["8192PiB", null],
    ["99999999999999999999", null],
  ];
  for (const [text, bytes] of cases) assert.equal(parseSize(text), bytes, text);
});

test("an exact size reads back as the same number of bytes", () => {
  const random = makeRandom();
  for (let round = 0; round < 2000; round += 1) {
    const bytes = BigInt(random.below(2 ** 31)) << BigInt(random.below(32));
    assert.equal(parseSize(exactSize(bytes)), bytes, `${bytes}, seed ${random.seed}`);
  }
});

test("sizes, counts and spans are short for people", () => {
  assert.equal(formatSize(0), "0 B");
  assert.equal(formatSize(1n << 30n), "1 GiB");
  assert.equal(formatSize(3n << 29n), "1.5 GiB");
  assert.equal(formatCount(0), "0");
  assert.equal(formatCount(999), "999");
  assert.equal(formatCount(112_400), "112.4k");
  assert.equal(formatSpan(8200), "8.2s");
  assert.equal(formatSpan(((12 * 24 + 3) * 60 + 14) * 60_000), "12d 03:14");
});

test("durations need a unit and become whole microseconds", () => {
  const cases: [string, number | null][] = [
    ["5s", 5_000_000],
    ["200ms", 200_000],
    ["100us", 100],
    ["1.5ms", 1500],
    ["2m", 120_000_000],
    ["0", 0],
    ["5", null],
    ["-5s", null],
    ["5 days", null],
    ["", null],
  ];
  for (const [text, value] of cases) assert.equal(parseDurationUs(text), value, text);
});

test("endpoints are exact addresses with a port, IPv6 in brackets", () => {
  assert.deepEqual(parseEndpoint("10.0.0.5:4420"), { address: "10.0.0.5", family: "ipv4", port: 4420 });
  assert.deepEqual(parseEndpoint("[::]:4420"), { address: "::", family: "ipv6", port: 4420 });
  assert.deepEqual(parseEndpoint(":4420"), { address: "0.0.0.0", family: "ipv4", port: 4420 });
  assert.deepEqual(parseEndpoint("4420"), { address: "0.0.0.0", family: "ipv4", port: 4420 });
  assert.deepEqual(parseEndpoint("10.0.0.9", 8009), { address: "10.0.0.9", family: "ipv4", port: 8009 });
  for (const text of [
    "::1:4420",
    "[10.0.0.5]:4420",
    "host:4420",
    "1.2.3:4420",
    "1.2.3.4:65536",
    "",
    "[::1%lo]:4420",
    "1.2.3.4",
  ]) {
    assert.equal(parseEndpoint(text), null, text);
  }
  assert.equal(formatEndpoint({ address: "::1", port: 4420 }), "[::1]:4420");
});

test("names, NQNs and identifiers are checked", () => {
  assert.equal(parseName("pg-1.main"), "pg-1.main");
  for (const text of ["", ".hidden", "a/b", "a b", "x".repeat(65), "__proto__", "ü"])
    assert.equal(parseName(text), null, text);
  assert.ok(parseNqn("nqn.2014-08.org.nvmexpress:uuid:7c1e6a1e-0000-4000-8000-000000000001"));
  assert.ok(parseNqn("nqn.2026-11.example.keel:stor1:pg"));
  const bad = [
    "nqn",
    "nqn.2026-13.example:x",
    "nqn.2026-11.a b",
    `nqn.2026-11.${"x".repeat(223)}`,
    "nqn.2014-08.org.nvmexpress:uuid:nonsense",
    "nqn.2026-11.a\u0000b",
  ];
  for (const text of bad) assert.equal(parseNqn(text), null, text);
  assert.equal(parseUuid("00000000-0000-0000-0000-000000000000"), null);
  assert.equal(parseHex128("0123456789ABCDEF0123456789abcdef"), "0123456789abcdef0123456789abcdef");
});

test("the nearest name is found for a slip and not invented for nonsense", () => {
  assert.equal(nearest("subsytems", ["devices", "subsystems", "listen"]), "subsystems");
  assert.equal(nearest("qcow3", ["qcow", "rbd"]), "qcow");
  assert.equal(nearest("zzzz", ["devices", "listen"]), null);
  assert.equal(editDistance("ab", "ba"), 1);
  assert.equal(didYouMean("devcies", ["devices"]), ' Did you mean "devices"?');
});

test("every error has a text, a cause, a fix and an exit status from 1 to 6", () => {
  for (const [code, entry] of Object.entries(errorTable)) {
    assert.match(code, /^E_[A-Z_]+$/);
    assert.ok(entry.text.length > 10 && entry.cause.length > 10 && entry.fix.length > 5, code);
    assert.ok(entry.exit >= 1 && entry.exit <= 6, code);
  }
  assert.equal(isErrorCode("E_BUSY"), true);
  assert.equal(isErrorCode("constructor"), false);
});

test("whatever is thrown becomes one kind of error and keeps its code", () => {
  const native = toKeelError({ code: "E_BUSY", message: "claimed by x", errorNumber: 16 });
  assert.equal(native.code, "E_BUSY");
  assert.equal(native.exitCode, 4);
  assert.equal(toKeelError({ code: "E_NOBODY_KNOWS", message: "x" }).code, "E_INTERNAL");
  assert.equal(toKeelError({ code: "E_INVALID", message: "x", errorNumber: 99 }).code, "E_ADDRESS");
  assert.equal(toKeelError({ code: "E_NOT_FOUND", message: "x", errorNumber: 2 }).code, "E_DEVICE_MISSING");
  assert.equal(toKeelError({ code: "E_BUSY", message: "x", errorNumber: 2 }).code, "E_BUSY");
  assert.equal(toKeelError(null).code, "E_INTERNAL");
  assert.equal(toKeelError(Object.assign(new Error("full"), { code: "ENOSPC" })).code, "E_NO_SPACE");
  const same = new KeelError("E_LIMIT", "x");
  assert.equal(toKeelError(same), same);
});

test("an error is printed as what, cause and fix", () => {
  const text = formatError(
    new KeelError("E_PORT_IN_USE", "cannot listen on 0.0.0.0:4420", { fix: "use another" }).report(),
  );
  assert.match(
    text,
    /^error E_PORT_IN_USE {2}cannot listen on 0\.0\.0\.0:4420\n {2}cause {2}.+\n {2}fix {4}use another$/,
  );
});

const server = "0123456789abcdef0123456789abcdef" as Hex128;

test("a name-based UUID is the one of the standard's algorithm", () => {
  // The DNS name space and "www.example.com": the well-known value of version 5.
  const dns = "6ba7b8109dad11d180b400c04fd430c8" as Hex128;
  assert.equal(nameUuid(dns, "www.example.com"), "2ed6657de927568b95e12665a8aea6a2");
});

test("identities are stable, and differ by server, subsystem, namespace and kind", () => {
  const one = namespaceIdentity(server, "nqn.2026-11.example:a", 1);
  assert.deepEqual(one, namespaceIdentity(server, "nqn.2026-11.example:a", 1));
  const others = [
    namespaceIdentity(server, "nqn.2026-11.example:a", 2),
    namespaceIdentity(server, "nqn.2026-11.example:b", 1),
    namespaceIdentity("1123456789abcdef0123456789abcdef" as Hex128, "nqn.2026-11.example:a", 1),
  ];
  const all = [one, ...others].flatMap(({ uuid, nguid }) => [uuid, nguid]);
  assert.equal(new Set(all).size, all.length);
  assert.match(subsystemSerial(server, "nqn.2026-11.example:a"), /^EK[0-9A-F]{18}$/);
});

test("histogram bounds grow without gaps and quantiles lie in the right bucket", () => {
  let last = 0;
  for (let bucket = 0; bucket < bucketCount; bucket += 1) {
    assert.ok(upperBoundNs(bucket) > last, `bucket ${bucket}`);
    last = upperBoundNs(bucket);
  }
  assert.equal(upperBoundNs(0), 1024);
  assert.equal(upperBoundNs(8), 9 * 1024);
  assert.equal(upperBoundNs(16), 18 * 1024);
  const histogram = emptyHistogram();
  histogram.counts[3] = 90;
  histogram.counts[20] = 10;
  histogram.total = 100;
  assert.equal(quantileUs(histogram, 0.5), upperBoundNs(3) / 1000);
  assert.equal(quantileUs(histogram, 0.99), upperBoundNs(20) / 1000);
  assert.equal(quantileUs(emptyHistogram(), 0.5), null);
});

test("folding keeps every count below its bound and is cumulative", () => {
  const random = makeRandom();
  const histogram = emptyHistogram();
  for (let index = 0; index < bucketCount; index += 1) histogram.counts[index] = random.below(100);
  const rows = folded(histogram);
  assert.equal(rows.length, 20);
  for (const { leSeconds, count } of rows) {
    const expected = histogram.counts.reduce(
      (sum, value, bucket) => sum + (upperBoundNs(bucket) <= leSeconds * 1e9 + 0.5 ? value : 0),
      0,
    );
    assert.equal(count, expected, `le ${leSeconds}, seed ${random.seed}`);
  }
});

test("a counter that went backwards starts from zero", () => {
  const later = { counts: [1, 2], total: 3, sumNs: 30 };
  assert.deepEqual(since(later, { counts: [5, 5], total: 10, sumNs: 99 }), later);
  assert.deepEqual(since(later, { counts: [1, 1], total: 2, sumNs: 10 }), {
    counts: [0, 1],
    total: 1,
    sumNs: 20,
  });
});

test("JSON for programs keeps large integers exact", () => {
  assert.equal(toJson({ small: 5n, large: 2n ** 60n }), '{"small":5,"large":"1152921504606846976"}');
  assert.equal(sameJson({ a: [1, { b: null }], c: "x" }, { c: "x", a: [1, { b: null }] }), true);
  assert.equal(sameJson({ a: 1 }, { a: 1, b: null }), false);
  assert.equal(sameJson([1, 2], [2, 1]), false);
});

test("every error code that the native side can give has a row in the table", () => {
  const native = fileURLToPath(new URL("../../native/", import.meta.url));
  const files = readdirSync(native, { recursive: true, encoding: "utf8" }).filter((name) =>
    /\.(cc|h)$/.test(name),
  );
  const codes = new Set(
    files
      .filter((name) => !/_test\.cc$/.test(name))
      .flatMap((name) => [...readFileSync(join(native, name), "utf8").matchAll(/"(E_[A-Z_]+)"/g)])
      .map((match) => match[1] ?? ""),
  );
  assert.ok(codes.has("E_BUSY"));
  assert.deepEqual(
    [...codes].filter((code) => !isErrorCode(code)),
    [],
  );
});

test("the histogram has the shape of the native side's", () => {
  const header = readFileSync(new URL("../../native/nvme/latency.h", import.meta.url), "utf8");
  const constant = (name: string): number => Number(new RegExp(`\\b${name} = (\\d+)`).exec(header)?.[1]);
  assert.equal(bucketsPerOctave, constant("buckets_per_octave"));
  assert.equal(bucketCount, constant("buckets_per_octave") * constant("octaves"));
});
