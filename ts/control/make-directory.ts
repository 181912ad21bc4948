// mkdir -p that lasts: each new directory's name is on the medium before anything is put into it. (Node's own
// recursive mkdir also tries forever where a parent cannot exist, such as /proc/x/y.)

import { closeSync, fsyncSync, mkdirSync, openSync } from "node:fs";
import { dirname } from "node:path";

/** Synchronous: done once, at the start, and nothing to do at a restart. */
export function makeDirectory(path: string, mode: number): void {
  try {
    mkdirSync(path, { mode });
  } catch (thrown) {
    const { code } = thrown as NodeJS.ErrnoException;
    if (code === "EEXIST") return;
    if (code !== "ENOENT" || dirname(path) === path) throw thrown;
    makeDirectory(dirname(path), mode);
    mkdirSync(path, { mode });
  }
  const parent = openSync(dirname(path), "r");
  try {
    fsyncSync(parent);
  } finally {
    closeSync(parent);
  }
}
