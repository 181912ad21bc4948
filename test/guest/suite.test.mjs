// The guest suite: a real Linux kernel, in QEMU, is the host of the real server. `node --test test/guest/suite.test.mjs`;
// one case: --test-name-pattern='part of its name'. See README.md next to this file.
import { after, test } from "node:test";
import { adminCases } from "./cases/admin.mjs";
import { changeCases } from "./cases/changes.mjs";
import { connectCases } from "./cases/connect.mjs";
import { discoveryCases } from "./cases/discovery.mjs";
import { filesystemCases } from "./cases/filesystem.mjs";
import { ioCases } from "./cases/io.mjs";
import { restartCases } from "./cases/restart.mjs";
import { Unavailable } from "./harness/kernel.mjs";
import { Suite } from "./harness/suite.mjs";

const CASES = [discoveryCases, connectCases, adminCases, ioCases, filesystemCases, changeCases, restartCases];

let suite = null;
try {
  suite = await Suite.open();
} catch (error) {
  if (!(error instanceof Unavailable)) throw error;
  test("guest suite", { skip: error.message }, () => {});
}
if (suite !== null) {
  after(() => suite.close());
  for (const define of CASES) define(suite);
}
