// Seeded random numbers for tests: print the seed, set KEEL_SEED to have the same run again.

export type Random = {
  readonly seed: number;
  next(): number;
  below(bound: number): number;
  pick<Value>(values: readonly Value[]): Value;
};

/** mulberry32 */
export function makeRandom(
  seed: number = Number(process.env["KEEL_SEED"] ?? Math.floor(Math.random() * 2 ** 31)),
): Random {
  let state = seed >>> 0;
  const next = (): number => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), 1 | state);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), 61 | mixed)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
  const below = (bound: number): number => Math.floor(next() * bound);
  return {
    seed,
    next,
    below,
    pick: (values) => {
      const value = values[below(values.length)];
      if (value === undefined) throw new Error("nothing to pick from");
      return value;
    },
  };
}
