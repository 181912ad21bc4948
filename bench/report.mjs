// Results for people: one table row per case and subject, and ratios where two subjects can be compared.

const median = (values) => {
  const sorted = [...values].sort((a, b) => a - b);
  const middle = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2;
};

const count = (value) => (Number.isFinite(value) ? Math.round(value).toLocaleString("en") : "–");
const fixed = (digits) => (value) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
const mebibytes = (value) => (Number.isFinite(value) ? String(Math.round(value / 2 ** 20)) : "–");

/** What a subject achieved in a case: medians over the undisturbed repetitions, or over all if there are none. */
export function summarize(repetitions) {
  const clean = repetitions.filter((repetition) => !repetition.disturbed);
  const counted = clean.length > 0 ? clean : repetitions;
  const of = (read) => counted.map(read).filter(Number.isFinite);
  const middle = (read) => {
    const values = of(read);
    return values.length > 0 ? median(values) : Number.NaN;
  };
  const iops = of((r) => r.iops);
  return {
    repetitions: repetitions.length,
    clean: clean.length,
    iops: median(iops),
    iopsMin: Math.min(...iops),
    iopsMax: Math.max(...iops),
    meanUs: middle((r) => r.meanUs),
    p99Us: middle((r) => r.p99Us),
    p9999Us: middle((r) => r.p9999Us),
    cpuSecondsPerMillion: middle((r) => r.cpuSecondsPerMillion),
    iopsPerCore: middle((r) => r.iopsPerCore),
    cpuShare: middle((r) => r.cpuShare),
    clientCpuShare: middle((r) => r.clientCpuShare),
    residentBytes: middle((r) => r.resident?.total ?? Number.NaN),
  };
}

const columns = [
  ["IOPS", (s) => count(s.iops)],
  ["min–max", (s) => `${count(s.iopsMin)}–${count(s.iopsMax)}`],
  ["mean µs", (s) => fixed(1)(s.meanUs)],
  ["p99", (s) => fixed(0)(s.p99Us)],
  ["p99.99", (s) => fixed(0)(s.p9999Us)],
  ["CPU s/M", (s) => fixed(3)(s.cpuSecondsPerMillion)],
  ["CPU %", (s) => count(s.cpuShare * 100)],
  ["IOPS/core", (s) => count(s.iopsPerCore)],
  ["client %", (s) => count(s.clientCpuShare * 100)],
  ["MiB", (s) => mebibytes(s.residentBytes)],
  ["runs", (s) => (s.clean === s.repetitions ? String(s.clean) : `${s.clean}/${s.repetitions}`)],
];

export function printTable(rows) {
  const head = ["case", "subject", ...columns.map(([title]) => title)];
  const lines = rows.map(({ name, subject, summary }) => [
    name,
    subject,
    ...columns.map(([, show]) => show(summary)),
  ]);
  const widths = head.map((title, i) => Math.max(title.length, ...lines.map((line) => line[i].length)));
  const print = (line) =>
    console.log(
      line.map((cell, i) => (i < 2 ? cell.padEnd(widths[i]) : cell.padStart(widths[i]))).join("  "),
    );
  print(head);
  let previous = null;
  for (const line of lines) {
    print(line[0] === previous ? ["", ...line.slice(1)] : line);
    previous = line[0];
  }
}

/** keel against the others, in IOPS per core of the server. */
export function printRatios(rows) {
  const byCase = new Map();
  for (const { name, subject, summary } of rows) {
    byCase.set(name, { ...byCase.get(name), [subject]: summary });
  }
  const comparisons = [
    ["keel", "peer", "of the peer's IOPS per core"],
    ["keel", "echo", "of the raw loopback limit's IOPS per core"],
    ["keel+client", "peer+client", "of the peer's IOPS per core, with the other client"],
    ["engine", "engine-private", "with its state in the arena, of what private memory gives"],
  ];
  for (const [name, subjects] of byCase) {
    for (const [subject, other, text] of comparisons) {
      const ours = subjects[subject]?.iopsPerCore;
      const theirs = subjects[other]?.iopsPerCore;
      if (ours > 0 && theirs > 0) {
        console.log(`${name}: ${subject} reaches ${(ours / theirs).toFixed(2)} ${text}`);
      }
    }
  }
}
