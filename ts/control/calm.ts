// The end of what a program that has just been loaded does by itself: its code is compiled, its memory collected, on
// threads of its own and for longer than anybody waits for it. Whoever goes on meanwhile shares the processors with it.

import { setTimeout as sleep } from "node:timers/promises";

const windowMs = 10;
/** As long as this process has used less than this of a window for so many in a row, it is calm. */
const busyUs = 500;
const windows = 5;
const limitMs = 1_000;

/** Settles when this process is calm, or `over` says that nobody may wait any more, or after a second. */
export async function calm(over: () => boolean): Promise<void> {
  const end = performance.now() + limitMs;
  for (let quiet = 0; quiet < windows && !over() && performance.now() < end; ) {
    const before = process.cpuUsage();
    await sleep(windowMs);
    const { user, system } = process.cpuUsage(before);
    quiet = user + system < busyUs ? quiet + 1 : 0;
  }
}
