// `keel demo` is what people meet first, and `kill -9` what they try first.

import assert from "node:assert/strict";
import { spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { dirname } from "node:path";
import { test } from "node:test";
import { pathToFileURL } from "node:url";
import { root } from "../../scripts/sources.mjs";
import { ask } from "../harness/ask.mjs";
import { until } from "../harness/until.mjs";
import { notBuilt, patienceMs, program } from "./keeper/keel.mjs";

test("keel demo goes on when its server is killed, and ends in order", {
  skip: notBuilt() ?? false,
  timeout: 300_000,
}, async () => {
  const demo = spawn(process.execPath, [program, "demo", "--size", "16MiB", "--port", "0"], {
    stdio: ["ignore", "pipe", "pipe"],
  });
  let output = "";
  for (const stream of [demo.stdout, demo.stderr]) {
    stream.setEncoding("utf8").on("data", (text) => {
      output += text;
    });
  }
  const ended = new Promise((resolve) => demo.once("exit", resolve));
  const printed = (pattern) =>
    until(
      String(pattern),
      () => {
        assert.equal(demo.exitCode, null, output);
        return pattern.exec(output);
      },
      patienceMs,
    ).catch((error) => {
      throw new Error(`${error.message}\n${output}`);
    });
  try {
    await printed(/Serving until Ctrl-C/);
    assert.match(output, /✔ self-check/);
    const pid = Number((await printed(/kill -9 (\d+)/))[1]);
    process.kill(pid, "SIGKILL");
    await printed(/↻ crash \(signal:9\)/);
    const socket = /KEEL_SOCKET=(\S+)/.exec(output)?.[1] ?? null;
    if (socket !== null) {
      const status = await ask(socket, "keel.status");
      assert.notEqual(status.pid, pid);
      assert.equal(status.subsystems[0].namespaces[0].sizeBytes, 16 << 20);
    }
    demo.kill("SIGINT");
    assert.equal(await ended, 0, output);
    if (socket !== null) assert.ok(!existsSync(dirname(socket)), "the demo leaves its folder behind");
  } finally {
    demo.kill("SIGKILL");
  }
});

/** The load generator of the addon, which every later `require` of it gets, says that a byte was wrong. */
const brokenCheck = (root) => `import { createRequire } from "node:module";
const addon = createRequire(${JSON.stringify(pathToFileURL(`${root}/x.js`).href)})("./build/Release/keel.node");
const { runLoad } = addon;
addon.runLoad = async (options) => ({ ...(await runLoad(options)), errors: ["a wrong byte"] });`;

for (const flags of [["--once"], []]) {
  test(`keel demo ${flags.join(" ")} whose self-check fails says so and ends with status 1`, {
    skip: notBuilt() ?? false,
    timeout: 300_000,
  }, async () => {
    const loader = `data:text/javascript,${encodeURIComponent(brokenCheck(root))}`;
    const words = ["--import", loader, program, "demo", "--size", "16MiB", "--port", "0", ...flags];
    const demo = spawn(process.execPath, words, { stdio: ["ignore", "pipe", "pipe"] });
    let output = "";
    for (const stream of [demo.stdout, demo.stderr]) {
      stream.setEncoding("utf8").on("data", (text) => {
        output += text;
      });
    }
    try {
      assert.equal(await new Promise((resolve) => demo.once("close", resolve)), 1, output);
      assert.match(output, /✘ self-check/);
      assert.match(output, /a wrong byte/);
      assert.doesNotMatch(output, /Serving|↻/);
    } finally {
      demo.kill("SIGKILL");
    }
  });
}
