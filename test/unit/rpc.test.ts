import assert from "node:assert/strict";
import { spawnSync } from "node:child_process";
import { chmodSync, existsSync, mkdtempSync, rmSync, statSync, writeFileSync } from "node:fs";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { z } from "zod";
import { Dispatcher } from "../../dist/api/dispatch.js";
import { Framer, messageBytesMax } from "../../dist/api/framing.js";
import { type ApiContext, type Method, method } from "../../dist/api/method.js";
import { methods } from "../../dist/api/methods.js";
import { type Patience, RpcServer } from "../../dist/api/rpc-server.js";
import { Client } from "../../dist/cli/client.js";
import { KeelError } from "../../dist/model/errors.js";
import { makeRandom } from "./random.js";

const quiet = {
  debug: () => undefined,
  info: () => undefined,
  warn: () => undefined,
  error: () => undefined,
};

const small: readonly Method[] = [
  method(
    "echo",
    "Answers what it was given.",
    z.strictObject({ value: z.unknown() }),
    (_context, { value }) => value,
  ),
  method("fail", "Fails.", z.strictObject({}), () => {
    throw new KeelError("E_BUSY", "not now", { fix: "later" });
  }),
  method("large", "A long answer.", z.strictObject({ bytes: z.int() }), (_context, { bytes }) =>
    "x".repeat(bytes),
  ),
];
const dispatcher = new Dispatcher(small, {} as unknown as ApiContext);

const ask = async (message: unknown): Promise<Record<string, unknown>> =>
  JSON.parse(
    (await dispatcher.answer(typeof message === "string" ? message : JSON.stringify(message))) ?? "null",
  ) as Record<string, unknown>;

test("messages are cut where JSON values end, however the bytes arrive", () => {
  const random = makeRandom();
  const samples = [
    "{}",
    '{"a":"}{"}',
    '{"a":"\\""}',
    '[{"a":[]},{}]',
    '{"text":"ü€\\\\"}',
    '{"deep":[[[[1]]]]}',
  ];
  for (let round = 0; round < 500; round += 1) {
    const sent = Array.from({ length: 1 + random.below(6) }, () => random.pick(samples));
    const stream = Buffer.from(sent.join(random.pick(["", "\n", " \r\n\t"])));
    const framer = new Framer();
    const got: string[] = [];
    for (let at = 0; at < stream.length; ) {
      const length = 1 + random.below(7);
      const { messages, fault } = framer.push(stream.subarray(at, at + length));
      assert.equal(fault, null);
      got.push(...messages);
      at += length;
    }
    assert.deepEqual(got, sent, `seed ${random.seed}`);
    assert.equal(framer.pending, false);
  }
});

test("what is no JSON object, too deep or too long is a fault and keeps nothing", () => {
  assert.equal(new Framer().push(Buffer.from("GET / HTTP/1.1\r\n")).fault, "not an object or array");
  assert.equal(new Framer().push(Buffer.from("[".repeat(100))).fault, "too deep");
  assert.equal(new Framer().push(Buffer.from(`{"a":"${"x".repeat(messageBytesMax)}"}`)).fault, "too long");
  const slow = new Framer();
  let fault: string | null = null;
  slow.push(Buffer.from('{"a":"'));
  for (let sent = 0; fault === null && sent < 2 * messageBytesMax; sent += 65536)
    fault = slow.push(Buffer.alloc(65536, 0x78)).fault;
  assert.equal(fault, "too long");
});

test("hostile bytes are messages or a fault, never anything else", async () => {
  const random = makeRandom();
  const pieces = [
    "{",
    "}",
    "[",
    "]",
    '"',
    "\\",
    ":",
    ",",
    "1",
    "null",
    '"jsonrpc":"2.0"',
    '"method":"echo"',
    '"id":1',
    '"params":',
    "\u0000",
    "\n",
    "é",
  ];
  for (let round = 0; round < 3000; round += 1) {
    const text = Array.from({ length: random.below(25) }, () => random.pick(pieces)).join("");
    const { messages } = new Framer().push(Buffer.from(text));
    for (const message of messages) {
      const answer = await dispatcher.answer(message);
      if (answer !== null) assert.doesNotThrow(() => JSON.parse(answer), `seed ${random.seed}`);
    }
  }
});

test("a request is answered with its id", async () => {
  assert.deepEqual(await ask({ jsonrpc: "2.0", id: 7, method: "echo", params: { value: [1] } }), {
    jsonrpc: "2.0",
    id: 7,
    result: [1],
  });
  assert.deepEqual(await ask({ jsonrpc: "2.0", id: "a", method: "echo", params: { value: null } }), {
    jsonrpc: "2.0",
    id: "a",
    result: null,
  });
});

test("each kind of wrong request has the standard's number", async () => {
  const numberOf = async (message: unknown) => ((await ask(message))["error"] as { code: number }).code;
  assert.equal(await numberOf("{nonsense}"), -32700);
  assert.equal(await numberOf([]), -32600);
  assert.equal(await numberOf({ id: 1, method: "echo" }), -32600);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: {}, method: "echo" }), -32600);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: 1, method: "nothing" }), -32601);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: 1, method: "constructor" }), -32601);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: 1, method: "echo", params: [1] }), -32602);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: 1, method: "echo", params: { valeu: 1 } }), -32602);
  assert.equal(await numberOf({ jsonrpc: "2.0", id: 1, method: "fail" }), -32000);
});

test("an error carries its code, cause and fix, and a wrong parameter the nearest name", async () => {
  const failed = (await ask({ jsonrpc: "2.0", id: 1, method: "fail" }))["error"] as Record<string, unknown>;
  assert.equal(failed["message"], "not now");
  assert.deepEqual((failed["data"] as Record<string, unknown>)["code"], "E_BUSY");
  assert.equal((failed["data"] as Record<string, unknown>)["fix"], "later");
  const wrong = (await ask({ jsonrpc: "2.0", id: 1, method: "echo", params: { valeu: 1 } }))[
    "error"
  ] as Record<string, unknown>;
  assert.match(String(wrong["message"]), /"valeu" is not a parameter of echo\. Did you mean "value"\?/);
});

test("a batch is answered as one list, without its notifications", async () => {
  const answers = await ask([
    { jsonrpc: "2.0", id: 1, method: "echo", params: { value: "a" } },
    { jsonrpc: "2.0", method: "echo", params: { value: "b" } },
    { jsonrpc: "2.0", id: 2, method: "fail" },
    5,
  ]);
  assert.ok(Array.isArray(answers));
  assert.deepEqual(
    answers.map((answer: Record<string, unknown>) => [answer["id"], "error" in answer]),
    [
      [1, false],
      [2, true],
      [null, true],
    ],
  );
  assert.equal(await dispatcher.answer(JSON.stringify([{ jsonrpc: "2.0", method: "echo" }])), null);
});

test("every method has a summary and a name of its own", () => {
  const names = methods.map(({ name }) => name);
  assert.equal(new Set(names).size, names.length);
  for (const { name, summary } of methods) assert.match(summary, /\.$/, name);
  for (const name of ["keel.status", "nvmf_create_subsystem", "bdev_get_bdevs", "rpc_get_methods"])
    assert.ok(names.includes(name), name);
});

async function withServer(
  work: (path: string, server: RpcServer) => Promise<void>,
  patience?: Patience,
): Promise<void> {
  const directory = mkdtempSync(join(tmpdir(), "keel-rpc-"));
  const path = join(directory, "run", "rpc.sock");
  const server = await RpcServer.listen(path, dispatcher, quiet, patience);
  try {
    await work(path, server);
  } finally {
    await server.close();
    rmSync(directory, { recursive: true, force: true });
  }
}

/** Everything that comes back after `bytes`, until the server closes or `lines` lines are there. */
function exchange(path: string, bytes: Buffer | string, lines: number): Promise<string> {
  return new Promise((resolve, reject) => {
    const socket = connect(path);
    let text = "";
    const timer = setTimeout(() => reject(new Error(`only ${JSON.stringify(text)} came`)), 60_000);
    const done = (): void => {
      clearTimeout(timer);
      socket.destroy();
      resolve(text);
    };
    socket.setEncoding("utf8");
    socket.on("error", () => undefined);
    socket.on("close", done);
    socket.on("data", (chunk: string) => {
      text += chunk;
      if (text.split("\n").length > lines) done();
    });
    socket.write(bytes);
  });
}

const request = (id: number, value: string): string =>
  JSON.stringify({ jsonrpc: "2.0", id, method: "echo", params: { value } });

test("requests on one connection are answered in order, with or without newlines", async () => {
  await withServer(async (path) => {
    const many = Array.from({ length: 100 }, (_, index) => request(index, "x")).join("");
    const answers = (await exchange(path, many, 100)).trim().split("\n");
    assert.deepEqual(
      answers.map((line) => (JSON.parse(line) as { id: number }).id),
      [...Array(100).keys()],
    );
  });
});

test("a stream that cannot be followed is answered once and closed", async () => {
  await withServer(async (path) => {
    const answer = await exchange(path, "GET / HTTP/1.1\r\n\r\n", 5);
    assert.equal((JSON.parse(answer) as { error: { code: number } }).error.code, -32700);
    const both = await exchange(path, `${request(1, "x")}nonsense`, 5);
    assert.equal(both.trim().split("\n").length, 2);
  });
});

test("random bytes never stop the server from answering others", async () => {
  const random = makeRandom();
  await withServer(
    async (path) => {
      for (let round = 0; round < 50; round += 1) {
        const bytes = Buffer.from(Array.from({ length: 1 + random.below(2000) }, () => random.below(256)));
        await exchange(path, bytes, 1);
      }
      const client = new Client(path);
      assert.equal(await client.call("echo", { value: "alive" }), "alive", `seed ${random.seed}`);
      client.close();
    },
    { unfinishedMs: 20, unreadMs: 10_000 },
  );
});

async function until(condition: () => boolean, what: string): Promise<void> {
  const deadline = Date.now() + 60_000;
  while (!condition()) {
    assert.ok(Date.now() < deadline, what);
    await new Promise((resolve) => setTimeout(resolve, 5));
  }
}

test("a client that does not read is dropped and holds nobody else up", async () => {
  await withServer(
    async (path, server) => {
      const deaf = connect(path);
      deaf.on("error", () => undefined);
      deaf.pause();
      for (let id = 0; id < 20; id += 1) {
        deaf.write(JSON.stringify({ jsonrpc: "2.0", id, method: "large", params: { bytes: 4 << 20 } }));
      }
      const client = new Client(path);
      assert.equal(await client.call("echo", { value: 1 }), 1);
      client.close();
      await until(() => server.clients === 0, "the deaf client is still there");
      deaf.destroy();
    },
    { unfinishedMs: 10_000, unreadMs: 50 },
  );
});

test("a message that is never finished ends its connection", async () => {
  await withServer(
    async (path, server) => {
      const idle = connect(path);
      const slow = connect(path);
      slow.on("error", () => undefined);
      slow.write('{"jsonrpc":');
      await new Promise<void>((resolve) => slow.once("close", () => resolve()));
      await until(() => server.clients === 1, "a connection that says nothing stays, the other does not");
      idle.destroy();
    },
    { unfinishedMs: 50, unreadMs: 10_000 },
  );
});

test("the socket is for its owner and group alone", async () => {
  await withServer(async (path) => {
    assert.equal(statSync(path).mode & 0o777, 0o660);
    assert.ok(statSync(path).isSocket());
  });
});

test("a socket that a dead server left is taken over, one that lives is not", async () => {
  const directory = mkdtempSync(join(tmpdir(), "keel-rpc-"));
  const path = join(directory, "rpc.sock");
  try {
    const first = await RpcServer.listen(path, dispatcher, quiet);
    await assert.rejects(
      RpcServer.listen(path, dispatcher, quiet),
      (error: unknown) => error instanceof KeelError && error.code === "E_ALREADY_RUNNING",
    );
    await first.close();
    const script =
      "require('node:net').createServer().listen(process.argv[1], () => process.kill(process.pid, 'SIGKILL'))";
    spawnSync(process.execPath, ["-e", script, path]);
    assert.ok(existsSync(path), "a kill leaves the socket behind");
    const second = await RpcServer.listen(path, dispatcher, quiet);
    await second.close();
    writeFileSync(path, "precious");
    chmodSync(path, 0o600);
    await assert.rejects(RpcServer.listen(path, dispatcher, quiet), /exists and is not a socket/);
    assert.equal(statSync(path).size, 8);
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});

test("the client says when nobody is there and when what is there is no server", async () => {
  const directory = mkdtempSync(join(tmpdir(), "keel-rpc-"));
  try {
    const nobody = new Client(join(directory, "none.sock"));
    await assert.rejects(
      nobody.call("echo"),
      (error: unknown) =>
        error instanceof KeelError && error.code === "E_UNREACHABLE" && error.exitCode === 5,
    );
    const path = join(directory, "other.sock");
    const other = createServer((socket) => socket.resume().end("220 mail.example ESMTP\r\n"));
    await new Promise<void>((resolve) => other.listen(path, resolve));
    const client = new Client(path);
    await assert.rejects(client.call("echo"), /does not speak JSON-RPC/);
    client.close();
    await new Promise<void>((resolve) => other.close(() => resolve()));
  } finally {
    rmSync(directory, { recursive: true, force: true });
  }
});
