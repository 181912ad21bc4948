import assert from "node:assert/strict";
import { test } from "node:test";
import { topRows, topText } from "../../dist/cli/commands/top.js";
import { serverMetrics } from "../../dist/metrics/server-metrics.js";
import { MetricsText } from "../../dist/metrics/text.js";
import { emptyHistogram } from "../../dist/model/histogram.js";
import { hostRows, shareRows } from "../../dist/model/listing.js";
import type { NamespaceReport, ServerStatus } from "../../dist/model/status.js";
import { noRestarts } from "./fake-engine.js";

const namespace = (changes: Partial<NamespaceReport> = {}): NamespaceReport => ({
  nsid: 1,
  device: "d",
  nguid: "1".repeat(32),
  uuid: "2".repeat(32),
  sizeBytes: 1 << 30,
  blockBytes: 4096,
  readOnly: false,
  writeProtected: false,
  state: "ok",
  readCommands: 0,
  writeCommands: 0,
  otherCommands: 0,
  fuaCommands: 0,
  readBytes: 0,
  writtenBytes: 0,
  errors: 0,
  readLatency: emptyHistogram(),
  writeLatency: emptyHistogram(),
  ...changes,
});

const status = (changes: Partial<ServerStatus> = {}): ServerStatus => ({
  version: "1",
  node: "stor1",
  pid: 1,
  startedMs: 0,
  nowMs: 1000,
  stateDirectory: "/s",
  configFile: null,
  changedAtRunTime: [],
  keeper: null,
  restarts: noRestarts,
  restartFailure: null,
  jobs: [],
  devices: [
    {
      name: "d",
      kind: "file",
      path: "/srv/d",
      base: null,
      sizeBytes: 1 << 30,
      blockBytes: 4096,
      physicalBlockBytes: 4096,
      readOnly: false,
      volatileCache: true,
      canDeallocate: true,
      canWriteZeroes: true,
      rotational: false,
      state: "ok",
      reason: "",
      inFlight: 3,
      errors: 0,
      completed: [5, 6, 7, 8, 9],
      bytes: [1, 2, 0, 4, 5],
      usedBy: [],
      parts: [],
      ranges: [],
      identity: "",
      suspended: false,
      details: {},
    },
  ],
  subsystems: [
    {
      name: "pg",
      nqn: 'nqn.2026-11.x:"pg"\\',
      serial: "S",
      model: "M",
      allowAnyHost: false,
      hosts: ["nqn.2026-11.x:h"],
      connectedHosts: 1,
      namespaces: [namespace()],
    },
  ],
  controllers: [
    {
      cntlid: 1,
      subsystem: 'nqn.2026-11.x:"pg"\\',
      hostNqn: "nqn.2026-11.x:h",
      hostId: "3".repeat(32),
      discovery: false,
      keepAliveMs: 5000,
      state: "ready",
      connectedSinceMs: 0,
      address: "10.0.0.1",
      ioQueues: 1,
      commandsInFlight: 2,
      pendingEvents: 0,
      errorLogEntries: 0,
    },
  ],
  connections: [],
  listeners: [],
  referrals: [],
  discoveryGeneration: 1,
  dataPoolBytes: 1,
  dataPoolUsedBytes: 0,
  reactorCpuNs: 0,
  reactorIterations: 0,
  connectionsAccepted: 1,
  connectionsRefused: 0,
  disconnects: { "peer closed": 2 },
  process: { residentBytes: 1, cpuSeconds: 1, eventLoopUtilization: 0 },
  events: [],
  ...changes,
});

test("the metrics are valid Prometheus text: families once, samples after their type, quoted labels", () => {
  const text = serverMetrics(status());
  assert.ok(text.endsWith("\n"));
  let family = "";
  const families = new Set<string>();
  const series = new Set<string>();
  for (const line of text.trimEnd().split("\n")) {
    const type = /^# TYPE ([a-z_][a-z0-9_]*) (counter|gauge|histogram)$/.exec(line);
    if (type !== null) {
      family = type[1] ?? "";
      assert.ok(!families.has(family), `${family} twice`);
      families.add(family);
      if (type[2] === "counter") assert.match(family, /_total$/);
      continue;
    }
    if (line.startsWith("# HELP ")) continue;
    const sample = /^([a-z_][a-z0-9_]*)(\{(?:[a-z_]+="(?:[^"\\\n]|\\["\\n])*",?)*\})? (\S+)$/.exec(line);
    assert.ok(sample !== null, line);
    assert.ok((sample[1] ?? "").startsWith(family), line);
    assert.ok(Number.isFinite(Number(sample[3])), line);
    assert.ok(!series.has(`${sample[1]}${sample[2] ?? ""}`), `${line} twice`);
    series.add(`${sample[1]}${sample[2] ?? ""}`);
  }
  for (const name of [
    "keel_namespace_reads_completed_total",
    "keel_io_duration_seconds",
    "keel_controllers",
    "keel_host_connected",
  ]) {
    assert.ok(families.has(name), name);
  }
  assert.match(text, /nqn="nqn\.2026-11\.x:\\"pg\\"\\\\"/);
});

test("a histogram ends with +Inf and its count is the total", () => {
  const latency = emptyHistogram();
  latency.counts[0] = 4;
  latency.counts[100] = 6;
  latency.total = 10;
  latency.sumNs = 2_000_000_000;
  const [subsystem] = status().subsystems;
  assert.ok(subsystem);
  const text = serverMetrics(
    status({ subsystems: [{ ...subsystem, nqn: "n", namespaces: [namespace({ readLatency: latency })] }] }),
  );
  const labels = 'nqn="n",nsid="1",subsystem="pg",op="read"';
  assert.ok(text.includes(`keel_io_duration_seconds_bucket{${labels},le="+Inf"} 10\n`));
  assert.ok(text.includes(`keel_io_duration_seconds_count{${labels}} 10\n`));
  assert.ok(text.includes(`keel_io_duration_seconds_sum{${labels}} 2\n`));
  const buckets = [
    ...text.matchAll(/_bucket\{nqn="n",nsid="1",subsystem="pg",op="read",le="[^"]+"\} (\d+)/g),
  ].map((match) => Number(match[1]));
  assert.equal(buckets.length, 21);
  assert.deepEqual(
    buckets,
    [...buckets].sort((left, right) => left - right),
  );
});

test("a family cannot be begun twice", () => {
  const text = new MetricsText();
  text.family("a_total", "counter", "A.");
  assert.throws(() => text.family("a_total", "counter", "A."));
  assert.throws(() => text.family("Bad-Name", "counter", "A."));
});

test("twenty thousand series are written in well under a second", () => {
  const many = Array.from({ length: 20_000 / 50 }, (_, index) => namespace({ nsid: index + 1 }));
  const [subsystem] = status().subsystems;
  assert.ok(subsystem);
  const started = performance.now();
  const text = serverMetrics(status({ subsystems: [{ ...subsystem, namespaces: many }] }));
  assert.ok(text.split("\n").length > 20_000);
  assert.ok(performance.now() - started < 10_000);
});

test("top shows the work between two readings, per second", () => {
  const latency = emptyHistogram();
  latency.counts[9] = 200;
  latency.total = 200;
  const [subsystem] = status().subsystems;
  assert.ok(subsystem);
  const after = status({
    nowMs: 3000,
    subsystems: [
      {
        ...subsystem,
        namespaces: [namespace({ readCommands: 200, readBytes: 819_200, readLatency: latency })],
      },
    ],
  });
  const [row] = topRows(after, status());
  assert.deepEqual([row?.readIops, row?.writeIops, row?.readBytes, row?.depth], [100, 0, 409_600, 3]);
  const text = topText(after, status());
  assert.match(text, /^keel top · stor1/);
  assert.match(text, /pg +100 +0 +0\.4 +0\.0 +10\/10 +–\/– +3 +ok/);
});

test("top does not show negative work after the server restarted", () => {
  const [subsystem] = status().subsystems;
  assert.ok(subsystem);
  const before = status({ subsystems: [{ ...subsystem, namespaces: [namespace({ readCommands: 1000 })] }] });
  const after = status({
    nowMs: 2000,
    subsystems: [{ ...subsystem, namespaces: [namespace({ readCommands: 10 })] }],
  });
  assert.equal(topRows(after, before)[0]?.readIops, 10);
});

test("lists say what stands behind a share and who is connected", () => {
  assert.deepEqual(
    shareRows(status()).map(({ name, back, hosts, allowed, state }) => [name, back, hosts, allowed, state]),
    [["pg", "file /srv/d", 1, "1", "ok"]],
  );
  assert.deepEqual(
    hostRows(status()).map(({ host, subsystem, digest, connectedMs }) => [
      host,
      subsystem,
      digest,
      connectedMs,
    ]),
    [["nqn.2026-11.x:h", "pg", "off", 1000]],
  );
});
