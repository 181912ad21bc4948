// What Prometheus reads, judged by Prometheus' own checker where it is installed (promtool, Debian package
// prometheus; too large, and a service besides, to be installed for one test).

import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { after, before, suite, test } from "node:test";
import { blockRange, forceUnitAccess, Io } from "./host/command.js";
import { read, write } from "./host/controller.js";
import { Ns, pattern, startServer, subnqn, withQueue } from "./host/fixture.js";
import { freePort, type Server } from "./host/server.js";

const promtool = spawnSync("promtool", ["--version"]).error === undefined;

suite("metrics", () => {
  let server: Server;
  let url = "";
  before(async () => {
    const port = await freePort();
    url = `http://127.0.0.1:${port}/metrics`;
    server = await startServer({ http: { listen: `127.0.0.1:${port}` } });
  });
  after(async () => server?.stop());

  async function scrape(): Promise<string> {
    const answer = await fetch(url);
    assert.equal(answer.status, 200);
    assert.match(answer.headers.get("content-type") ?? "", /^text\/plain; version=0\.0\.4/);
    return answer.text();
  }

  /** The value of the one sample that has this name and these labels. */
  function sample(text: string, name: string, labels: Record<string, string>): number {
    const lines = text
      .split("\n")
      .filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `))
      .filter((line) => Object.entries(labels).every(([key, value]) => line.includes(`${key}="${value}"`)));
    assert.equal(lines.length, 1, `${name} ${JSON.stringify(labels)}: ${lines.join("; ")}`);
    return Number(lines[0]?.split(" ").at(-1));
  }

  test("counters say what a host did: commands and flushes, down to the device", async () => {
    await withQueue(server, async (queue) => {
      const before = await scrape();
      for (let count = 0; count < 5; count += 1) {
        assert.equal((await write(queue, BigInt(count), pattern(4096), 4096, { nsid: Ns.file })).status, 0);
        assert.equal((await read(queue, BigInt(count), 1, 4096, Ns.file)).status, 0);
        assert.equal((await queue.execute({ opcode: Io.flush, nsid: Ns.file })).status, 0);
      }
      const range = blockRange(8n, 1);
      const forced = {
        opcode: Io.write,
        nsid: Ns.file,
        ...range,
        cdw12: (range.cdw12 ?? 0) | forceUnitAccess,
      };
      assert.equal((await queue.execute(forced, { send: pattern(4096) })).status, 0);
      const after = await scrape();
      const grown = (name: string, labels: Record<string, string>) =>
        sample(after, name, labels) - sample(before, name, labels);
      const device = (action: string) =>
        grown("keel_device_requests_completed_total", { device: "disk", op: action });
      // FUA is the device's affair: a file has it for itself, or a flush follows.
      assert.deepEqual([device("read"), device("write")], [5, 6]);
      assert.ok(device("flush") >= 5);
      const commands = (type: string) =>
        grown(`keel_namespace_${type}_completed_total`, { nqn: subnqn, nsid: String(Ns.file) });
      const all = ["reads", "writes", "other_commands", "fua_commands"];
      assert.deepEqual(all.map(commands), [5, 6, 5, 1]);
    });
  });

  test("promtool finds no fault", { skip: promtool ? false : "promtool is not installed" }, async () => {
    await withQueue(server, async (queue) => {
      assert.equal((await read(queue, 0n, 1, 4096, Ns.ram4k)).status, 0);
      const { status, stdout, stderr } = spawnSync("promtool", ["check", "metrics"], {
        input: await scrape(),
        encoding: "utf8",
      });
      assert.deepEqual([status, stdout, stderr], [0, "", ""]);
    });
  });
});
