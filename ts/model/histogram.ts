// Reading the latency histograms of native/nvme/latency.h: 8 buckets per power of two of 1.024 µs units.

export const bucketsPerOctave = 8;
export const bucketCount = 8 * 27;

export type Histogram = { counts: number[]; total: number; sumNs: number };

export const emptyHistogram = (): Histogram => ({
  counts: new Array<number>(bucketCount).fill(0),
  total: 0,
  sumNs: 0,
});

/** Values in bucket `bucket` are below this and not below the bound of the bucket before. */
export function upperBoundNs(bucket: number): number {
  if (bucket < bucketsPerOctave) return (bucket + 1) * 1024;
  const octave = Math.floor(bucket / bucketsPerOctave) - 1;
  return ((bucket % bucketsPerOctave) + bucketsPerOctave + 1) * 2 ** (octave + 10);
}

/** What was counted between two readings. A counter that went backwards (the server restarted) starts from zero. */
export function since(later: Histogram, earlier: Histogram | null): Histogram {
  if (earlier === null || earlier.total > later.total) return later;
  return {
    counts: later.counts.map((count, bucket) => Math.max(0, count - (earlier.counts[bucket] ?? 0))),
    total: later.total - earlier.total,
    sumNs: Math.max(0, later.sumNs - earlier.sumNs),
  };
}

export function sum(left: Histogram, right: Histogram): Histogram {
  const length = Math.max(left.counts.length, right.counts.length);
  return {
    counts: Array.from({ length }, (_, bucket) => (left.counts[bucket] ?? 0) + (right.counts[bucket] ?? 0)),
    total: left.total + right.total,
    sumNs: left.sumNs + right.sumNs,
  };
}

/** The upper bound of the bucket that holds the quantile (0 … 1), in microseconds; null if nothing was counted. */
export function quantileUs(histogram: Histogram, quantile: number): number | null {
  const total = histogram.counts.reduce((all, count) => all + count, 0);
  if (total === 0) return null;
  const rank = Math.max(1, Math.ceil(total * quantile));
  let seen = 0;
  for (const [bucket, count] of histogram.counts.entries()) {
    seen += count;
    if (seen >= rank) return upperBoundNs(bucket) / 1000;
  }
  return upperBoundNs(histogram.counts.length - 1) / 1000;
}

/** Cumulative counts at every power of two from about 4 µs to 2 s: the 20 `le` values that metrics show. */
export function folded(histogram: Histogram): { leSeconds: number; count: number }[] {
  const result: { leSeconds: number; count: number }[] = [];
  let count = 0;
  let next = 0;
  for (let power = 2; power < 22; power += 1) {
    const boundNs = 1024 * 2 ** power;
    while (next < histogram.counts.length && upperBoundNs(next) <= boundNs) {
      count += histogram.counts[next] ?? 0;
      next += 1;
    }
    result.push({ leSeconds: boundNs / 1e9, count });
  }
  return result;
}
