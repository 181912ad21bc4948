// Bad input for the control plane: any YAML, any argument, any bytes on the control socket get a clear answer, and the
// server goes on.

import assert from "node:assert/strict";
import { writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import { join } from "node:path";
import { after, before, suite, test } from "node:test";
import { connect, randomFrom, startServer, subnqn } from "./host/fixture.js";
import { type Json, type JsonObject, rawRpc, run, type Server } from "./host/server.js";

const stackTrace = /\n\s+at .+:\d+:\d+/;

suite("bad input", () => {
  let server: Server;
  before(async () => {
    server = await startServer();
  });
  after(async () => {
    const controller = await connect(server);
    assert.equal((await controller.identify(1)).status, 0, "hosts are served as before");
    controller.close();
    await server.stop();
  });

  async function applied(text: string | Buffer) {
    const path = join(server.directory, "bad.yaml");
    writeFileSync(path, text);
    return server.keel("apply", "-f", path, "--dry-run");
  }

  const documents: [string, string | Buffer, RegExp][] = [
    ["an empty file", "", /./],
    ["no mapping", "- 1\n- 2\n", /bad\.yaml:1/],
    ["a scalar", "hello", /bad\.yaml:1/],
    ["a tab", "version: 1\n\tlisten: []\n", /bad\.yaml:2/],
    ["an unclosed bracket", "version: 1\nlisten: [\n", /bad\.yaml:/],
    ["an unknown key", "version: 1\nlistne: []\n", /bad\.yaml:2:1.*listen/s],
    ["a wrong type", "version: 1\ndevices:\n  a: 5\n", /bad\.yaml:3/],
    ["an unknown device kind", "version: 1\ndevices:\n  a: { rma: 1GiB }\n", /bad\.yaml:3.*ram/s],
    ["a bad size", "version: 1\ndevices:\n  a: { ram: lots }\n", /bad\.yaml:3.*size/s],
    ["a negative size", "version: 1\ndevices:\n  a: { ram: -5 }\n", /bad\.yaml:3/],
    [
      "a missing device",
      "version: 1\nsubsystems:\n  s: { namespaces: [{ id: 1, device: nobody }] }\n",
      /bad\.yaml:3.*nobody/s,
    ],
    ["a circle of devices", "version: 1\ndevices:\n  a: { delay: b }\n  b: { delay: a }\n", /bad\.yaml:/],
    ["a duplicate key", "version: 1\nversion: 1\n", /bad\.yaml:2/],
    [
      "NSID 0",
      "version: 1\ndevices: { a: { null: 1GiB } }\nsubsystems:\n  s: { namespaces: [{ id: 0, device: a }] }\n",
      /bad\.yaml:4/,
    ],
    ["a bad NQN", "version: 1\nsubsystems:\n  s: { nqn: hello world }\n", /bad\.yaml:3/],
    ["another version", "version: 99\n", /bad\.yaml:1/],
    [
      "an alias bomb",
      `version: 1\na: &a [x,x,x,x,x,x,x,x,x]\n${"bcdefghi"
        .split("")
        .map((n, i) => `${n}: &${n} [${Array(9).fill(`*${"abcdefgh"[i]}`).join(",")}]`)
        .join("\n")}\n`,
      /./,
    ],
    ["nested brackets", `version: 1\nlisten: ${"[".repeat(20_000)}`, /./],
    ["bytes that are not UTF-8", Buffer.from([0x76, 0xff, 0xfe, 0x00, 0x3a, 0x20, 0x31]), /./],
    [
      "a prototype key",
      "version: 1\n__proto__: { a: 1 }\ndevices: { constructor: { ram: 1MiB }, __proto__: { ram: 1MiB } }\n",
      /./,
    ],
    ["a YAML tag", "version: !!js/function 'function(){}'\n", /./],
    ["a million bytes of one word", `version: ${"1".repeat(1_000_000)}\n`, /./],
  ];
  for (const [what, text, expected] of documents) {
    test(`a configuration with ${what} is refused with its place`, async () => {
      const { status, out, err } = await applied(text);
      const said = out + err;
      assert.ok(
        status !== null && status >= 1 && status <= 5,
        `exit status ${status}: ${said.slice(0, 500)}`,
      );
      assert.match(said, expected);
      assert.doesNotMatch(said, stackTrace);
      assert.ok(said.length < 20_000, `${said.length} characters`);
    });
  }

  test("random changes to a good configuration never end in a crash or a stack trace", async () => {
    const random = randomFrom("random YAML");
    const good = JSON.stringify(server.document(), null, 2);
    const words = [
      "null",
      "~",
      "true",
      "{}",
      "[]",
      "-1",
      "1e99",
      '""',
      "&a",
      "*a",
      "!!",
      "\t",
      ":",
      "- ",
      "}",
      "0x10",
      ".nan",
    ];
    for (let round = 0; round < 12; round += 1) {
      let text = good;
      for (let change = 0; change <= random(3); change += 1) {
        const at = random(text.length);
        const word = words[random(words.length)] ?? "";
        text = text.slice(0, at) + word + text.slice(at + random(20));
      }
      const { status, out, err } = await applied(text);
      assert.ok(status !== null && status <= 5, `exit status ${status}`);
      assert.doesNotMatch(out + err, stackTrace, text);
      assert.doesNotMatch(out + err, /E_INTERNAL/, text);
    }
  });

  const commands: string[][] = [
    ["nonsense"],
    ["--nonsense"],
    ["serve", "-c"],
    ["serve", "-c", "/nonexistent/keel.yaml"],
    ["serve", "-c", "/"],
    ["apply"],
    ["apply", "-f", "/dev/null"],
    ["apply", "-f", "/dev/zero"],
    ["serve", "-c", "/dev/zero"],
    ["ls", "--nonsense"],
    ["ls", "-o", "nonsense"],
    ["share"],
    ["share", "/nonexistent/disk.img"],
    ["share", ""],
    ["get", "\u0000".replace("\u0000", "\u0001")],
    ["set", "a=b=c"],
    ["hosts", "x".repeat(10_000)],
    ["--socket", "/nonexistent/rpc.sock", "ls"],
    ["--socket", "x".repeat(5000), "ls"],
  ];
  for (const args of commands) {
    test(`keel ${args.join(" ").slice(0, 50)} ends with a message and no stack trace`, async () => {
      const { status, out, err } = await server.keel(...args);
      assert.ok(status !== null && status >= 1 && status <= 5, `exit status ${status}: ${out}${err}`);
      assert.ok((out + err).trim().length > 0, "a message");
      assert.doesNotMatch(out + err, stackTrace);
      assert.doesNotMatch(out + err, /E_INTERNAL/);
    });
  }

  test("what a command says about an empty argument or a wrong place names it", async () => {
    for (const [args, words] of [
      [["share", ""], /the path is empty/],
      [["set", "", "1"], /the path is empty/],
      [["--socket", "/etc/passwd", "status"], /no socket/],
    ] as const) {
      const { err } = await server.keel(...args);
      assert.match(err, words);
    }
  });

  test("each command has a help text", async () => {
    for (const args of [["--help"], ["serve", "--help"], ["apply", "--help"], ["ls", "--help"]]) {
      const { status, out } = await run(args);
      assert.equal(status, 0, args.join(" "));
      assert.match(out, /Usage|usage/);
    }
  });

  const requests: [string, Json | string, number][] = [
    ["no JSON", "{nonsense}\n", -32700],
    ["a number", "17\n", -32700],
    ["an empty batch", "[]\n", -32600],
    ["no method", { jsonrpc: "2.0", id: 1 }, -32600],
    ["a method that is a number", { jsonrpc: "2.0", id: 1, method: 5 }, -32600],
    ["an unknown method", { jsonrpc: "2.0", id: 1, method: "nonsense" }, -32601],
    ["the name of an object's method", { jsonrpc: "2.0", id: 1, method: "__proto__" }, -32601],
    ["the name of a constructor", { jsonrpc: "2.0", id: 1, method: "constructor" }, -32601],
    [
      "unknown parameters",
      { jsonrpc: "2.0", id: 1, method: "nvmf_create_subsystem", params: { nonsense: 1 } },
      -32602,
    ],
    [
      "parameters that are a string",
      { jsonrpc: "2.0", id: 1, method: "nvmf_create_subsystem", params: "x" },
      -32602,
    ],
    [
      "parameters of wrong types",
      { jsonrpc: "2.0", id: 1, method: "nvmf_create_subsystem", params: { nqn: [1, 2] } },
      -32602,
    ],
  ];
  for (const [what, request, code] of requests) {
    test(`a control request with ${what} is answered with error ${code}`, async () => {
      const text = typeof request === "string" ? request : `${JSON.stringify(request)}\n`;
      const answer = JSON.parse(await rawRpc(server.rpcSocket, Buffer.from(text), isWhole)) as JsonObject;
      const error = answer["error"] as { code: number; message: string } | undefined;
      // -32600 is near -32602 in what it says; a scalar is no request and, to who cuts the stream, no message either.
      const near = code === -32602 || code === -32700 ? [code, -32600] : [code];
      assert.ok(error !== undefined && near.includes(error.code), JSON.stringify(answer));
      assert.ok(!JSON.stringify(answer).includes(".js:"), "no stack");
    });
  }

  const isWhole = (text: string): boolean => {
    try {
      JSON.parse(text);
      return true;
    } catch {
      return false;
    }
  };

  test("random bytes on the control socket neither crash nor hang it", async () => {
    const random = randomFrom("random RPC");
    const sample = JSON.stringify({ jsonrpc: "2.0", id: 1, method: "nvmf_get_subsystems", params: {} });
    for (let round = 0; round < 200; round += 1) {
      const bytes = Buffer.from(sample);
      for (let change = 0; change <= random(6); change += 1) bytes[random(bytes.length)] = random(256);
      const noise =
        random(3) === 0 ? Buffer.from(Array.from({ length: 1 + random(3000) }, () => random(256))) : bytes;
      await new Promise<void>((resolve) => {
        const socket = createConnection(server.rpcSocket);
        socket.on("error", () => resolve());
        socket.on("close", () => resolve());
        socket.on("data", () => socket.destroy());
        socket.end(noise);
      });
    }
    assert.ok(Array.isArray(await server.rpc("rpc_get_methods")));
  });

  test("a request without end is cut off, and memory stays", async () => {
    const before = server.residentBytes();
    const socket = createConnection(server.rpcSocket);
    const closed = new Promise<void>((resolve) => socket.on("close", () => resolve()));
    socket.on("error", () => undefined);
    socket.write('{"jsonrpc":"2.0","id":1,"method":"');
    const chunk = Buffer.alloc(1 << 20, 0x61);
    for (let count = 0; count < 256 && !socket.destroyed; count += 1) {
      await new Promise<void>((resolve) => socket.write(chunk, () => resolve()));
    }
    const grown = server.residentBytes() - before;
    socket.destroy();
    await closed;
    assert.ok(grown < 128 << 20, `${(grown / 1e6).toFixed(0)} MB for an endless request`);
    assert.ok(Array.isArray(await server.rpc("rpc_get_methods")));
  });

  test("deeply nested parameters are refused", async () => {
    for (const depth of [100, 50_000]) {
      const nested = `${'{"a":'.repeat(depth)}1${"}".repeat(depth)}`;
      const request = `{"jsonrpc":"2.0","id":1,"method":"nvmf_create_subsystem","params":${nested}}\n`;
      // The server may close while the rest of the request is still on its way.
      const text = await rawRpc(server.rpcSocket, Buffer.from(request), isWhole).catch(() => null);
      if (text !== null) assert.ok((JSON.parse(text) as JsonObject)["error"] !== undefined, text);
      assert.ok(Array.isArray(await server.rpc("rpc_get_methods")), "the next one is served");
    }
  });

  test("what a failed change touched is as before", async () => {
    const before = JSON.stringify(await server.rpc("nvmf_get_subsystems"));
    await assert.rejects(
      server.rpc("nvmf_subsystem_add_ns", { nqn: subnqn, namespace: { nsid: 1, bdev_name: "big" } }),
    );
    await assert.rejects(
      server.rpc("nvmf_subsystem_add_ns", { nqn: subnqn, namespace: { nsid: 50, bdev_name: "nobody" } }),
    );
    await assert.rejects(server.rpc("nvmf_create_subsystem", { nqn: subnqn }));
    assert.equal(JSON.stringify(await server.rpc("nvmf_get_subsystems")), before);
  });
});
