// Random numbers that a seed repeats. KEEL_SEED: the seed of the run.

export const seed = Number(process.env.KEEL_SEED ?? Math.floor(Math.random() * 2 ** 31));

/** A function that gives numbers in [0, 1). */
export function randomNumbers(from) {
  let state = from >>> 0;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 32;
  };
}

const next = randomNumbers(seed);

/** A whole number below `bound`, of the run's seed. */
export const random = (bound) => Math.floor(next() * bound);
