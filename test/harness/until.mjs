// Waiting for a condition, with a deadline that says what was waited for.

const pause = (ms) => new Promise((resolve) => setTimeout(resolve, ms));

/** Asks until the answer is neither null, undefined nor false. A probe that rejects ends the waiting. */
export async function until(what, probe, timeoutMs = 15_000, everyMs = 2) {
  const end = performance.now() + timeoutMs;
  for (;;) {
    const value = await probe();
    if (value !== null && value !== undefined && value !== false) return value;
    if (performance.now() > end) throw new Error(`waited ${timeoutMs} ms in vain: ${what}`);
    await pause(everyMs);
  }
}

/** Until the answer is truthy; a probe that rejects means "not yet", and what it said last stands in the failure. */
export async function eventually(what, probe, timeoutMs, everyMs = 20) {
  let last = null;
  const tolerant = async () => {
    try {
      last = null;
      return (await probe()) || null;
    } catch (error) {
      last = error;
      return null;
    }
  };
  return until(what, tolerant, timeoutMs, everyMs).catch((error) => {
    throw new Error(last === null ? error.message : `${error.message} (${last.message})`, { cause: last });
  });
}
