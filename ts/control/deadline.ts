// Every wait has an end.

import { KeelError, toKeelError } from "../model/errors.js";

/** Rejects with E_TIMEOUT if `work` has not settled in time; `late` then hears how it ended after all. */
export function withDeadline<Value>(
  work: Promise<Value>,
  milliseconds: number,
  what: string,
  late: (succeeded: boolean) => void = () => undefined,
): Promise<Value> {
  return new Promise((resolve, reject) => {
    let over = false;
    const timer = setTimeout(() => {
      over = true;
      reject(new KeelError("E_TIMEOUT", `${what} took longer than ${milliseconds / 1000} s`));
    }, milliseconds);
    work.then(
      (value) => {
        clearTimeout(timer);
        if (over) late(true);
        else resolve(value);
      },
      (error: unknown) => {
        clearTimeout(timer);
        if (over) late(false);
        else reject(toKeelError(error));
      },
    );
  });
}
