// Waiting in tests: for a condition, with a deadline, never for a fixed time.

import { setTimeout as pause } from "node:timers/promises";

/** Sanitizers and busy machines are slow; what fails fails for good, so generous limits cost nothing. */
export const patienceMs = 60_000;

/** What `promise` resolves to, or an error that says what did not happen in time. */
export async function within<Value>(
  promise: Promise<Value>,
  what: string,
  milliseconds = patienceMs,
): Promise<Value> {
  const { promise: late, reject } = deferred<never>();
  const timer = setTimeout(() => reject(new Error(`${what}: not within ${milliseconds} ms`)), milliseconds);
  try {
    return await Promise.race([promise, late]);
  } finally {
    clearTimeout(timer);
  }
}

/** Asks again and again until the answer is not null. */
export async function until<Value>(
  ask: () => Promise<Value | null> | Value | null,
  what: string,
  milliseconds = patienceMs,
): Promise<Value> {
  const deadline = performance.now() + milliseconds;
  for (let gap = 2; ; gap = Math.min(gap * 2, 100)) {
    const answer = await ask();
    if (answer !== null) return answer;
    if (performance.now() > deadline) throw new Error(`${what}: not within ${milliseconds} ms`);
    await pause(gap);
  }
}

export type Deferred<Value> = {
  readonly promise: Promise<Value>;
  readonly resolve: (value: Value) => void;
  readonly reject: (error: Error) => void;
};

export function deferred<Value>(): Deferred<Value> {
  let resolve: (value: Value) => void = () => undefined;
  let reject: (error: Error) => void = () => undefined;
  const promise = new Promise<Value>((yes, no) => {
    resolve = yes;
    reject = no;
  });
  return { promise, resolve, reject };
}
