import assert from "node:assert/strict";
import { readdirSync } from "node:fs";
import { join } from "node:path";
import { test } from "node:test";
import { fileURLToPath } from "node:url";
import { loadFile } from "../../dist/config/load.js";
import { topKeys } from "../../dist/config/schema.js";

const examples = fileURLToPath(new URL("../../examples/", import.meta.url));

test("every example is a valid configuration, and together they use every key", () => {
  const files = readdirSync(examples).filter((name) => name.endsWith(".yaml"));
  assert.ok(files.length > 0);
  const used = new Set(files.flatMap((name) => Object.keys(loadFile(join(examples, name), "node").raw)));
  assert.deepEqual([...topKeys].sort(), [...used].sort());
});
