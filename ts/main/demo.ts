// `keel demo`: a RAM disk on the loopback address, checked with the project's own initiator over TCP before anything
// is claimed. Every number that it prints was measured just now. Its state lives in a temporary directory.
//
// Unless it ends after the self-check, it becomes a keeper, which starts it again with --place: so whoever kills the
// server sees that hosts go on.

import { randomInt } from "node:crypto";
import { existsSync } from "node:fs";
import { mkdtemp, readFile, rm, writeFile } from "node:fs/promises";
import { connect, createServer } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { defaultPaths, userPlace } from "../config/naming.js";
import {
  addonOrError,
  becomeKeeper,
  isKept,
  type Running,
  type StartOptions,
  start,
  stopSignal,
} from "../main.js";
import { KeelError } from "../model/errors.js";
import { isJsonObject, type JsonObject, toJson } from "../model/json.js";
import { exactSize, formatCount, formatSize } from "../model/units.js";
import type { Addon, LoadResult } from "../native/addon.js";
import type { Beginning } from "./begin.js";
import { makeLogger } from "./logger.js";

export type DemoOptions = {
  /** End after the self-check. */
  readonly once: boolean;
  /** null: 4420 if free, else any free port. */
  readonly port: number | null;
  readonly sizeBytes: bigint;
  /** Where a demo that became a keeper has its state. */
  readonly place: string | null;
  readonly beginning: Promise<Beginning> | null;
  /** This command again, for the keeper to run. */
  readonly commandAt: (place: string) => readonly string[];
  readonly print: (line: string) => void;
};

const address = "127.0.0.1";
const hostNqn = "nqn.2014-08.org.nvmexpress:uuid:6b65656c-0000-4000-8000-000000000001";
const checkedCommands = 8192;

function portIsFree(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", () => resolve(false));
    probe.listen({ port, host: address, exclusive: true }, () => probe.close(() => resolve(true)));
  });
}

const portOr = async (wanted: number): Promise<number> => ((await portIsFree(wanted)) ? wanted : 0);

function somebodyListens(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** The usual control socket if nobody has it, so that `keel top` finds the demo; else one of its own. */
async function controlSocket(directory: string, once: boolean): Promise<string> {
  const usual = defaultPaths(userPlace()).rpcSocket;
  const taken = existsSync(usual) && (await somebodyListens(usual));
  return once || taken ? join(directory, "rpc.sock") : usual;
}

function machineLines(addon: Addon): string[] {
  const probe = addon.probe();
  const mark = (good: boolean): string => (good ? "✔" : "–");
  const uring = probe.ioUring ? `kernel ${probe.kernel}` : (probe.reason ?? "not available");
  return [`  ${mark(probe.ioUring)} io_uring     ${uring}`, `  ✔ CRC32C       ${probe.crc32c}`];
}

function selfCheck(addon: Addon, port: number, subsystem: string): Promise<LoadResult> {
  return addon.runLoad({
    address,
    port,
    subsystem,
    hostNqn,
    nsid: 1,
    headerDigest: true,
    dataDigest: true,
    connections: 1,
    depth: 32,
    ioBytes: 4096,
    readPercent: 50,
    sequential: false,
    verify: true,
    count: checkedCommands,
    seconds: 0,
    seed: randomInt(2 ** 31),
  });
}

function checkLine(result: LoadResult): { good: boolean; line: string } {
  const good =
    result.errors.length === 0 && result.reads > 0 && result.writes > 0 && result.verifiedBlocks > 0;
  const count = (value: number): string => value.toLocaleString("en-US");
  const done = `${count(result.writes)} writes, ${count(result.reads)} reads, ${count(result.verifiedBlocks)} blocks verified`;
  const rate = `${formatCount(result.iops)} IOPS at 4 KiB`;
  return {
    good,
    line: `  ${good ? "✔" : "✘"} self-check   ${done}, digests on, ${result.errors.length} errors   ${rate}`,
  };
}

/** The exit status after a self-check that failed. Another start would find the same, so it ends the keeper too. */
const failed = 1;
const documentFile = "demo.json";

const startOptions = (
  document: JsonObject,
  useKeeper: boolean,
  beginning: Promise<Beginning> | null = null,
): StartOptions => ({
  configFile: null,
  document,
  stateDirectory: null,
  rpcSocket: null,
  useKeeper,
  beginning,
  logger: makeLogger("warn"),
});

async function newDocument(directory: string, options: DemoOptions): Promise<JsonObject> {
  const socket = await controlSocket(directory, options.once);
  return {
    version: 1,
    listen: [
      { "nvme-tcp": `${address}:${options.port ?? (await portOr(4420))}` },
      { discovery: `${address}:${await portOr(8009)}` },
    ],
    devices: { demo: { ram: exactSize(options.sizeBytes) } },
    subsystems: { demo: { namespaces: [{ id: 1, device: "demo" }], hosts: "any" } },
    state: join(directory, "state"),
    sockets: { rpc: socket },
    log: { level: "warn" },
  };
}

/** Answers the exit status. */
export async function demo(options: DemoOptions): Promise<number> {
  if (options.place !== null && (options.beginning !== null || isKept()))
    return serveKept(options.place, options);
  for (const line of machineLines(addonOrError())) options.print(line);
  const directory = await mkdtemp(join(tmpdir(), "keel-demo-"));
  let running: Running | null = null;
  try {
    const document = await newDocument(directory, options);
    if (!options.once) {
      await writeFile(join(directory, documentFile), toJson(document));
      becomeKeeper(startOptions(document, true), options.commandAt(directory), [
        "--log=error",
        `--final-code=${failed}`,
      ]);
    }
    running = await start(startOptions(document, false));
    return (await present(running, options)) ? 0 : failed;
  } finally {
    await running?.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

/** The server under its keeper: the first one presents itself, a successor says what became of the one before. */
async function serveKept(directory: string, options: DemoOptions): Promise<number> {
  const { print } = options;
  const document: unknown = JSON.parse(await readFile(join(directory, documentFile), "utf8"));
  if (!isJsonObject(document)) throw new KeelError("E_INTERNAL", "the demo's document is not one");
  const running = await start(startOptions(document, true, options.beginning));
  try {
    const { restarts } = await running.server.status();
    const [last] = restarts.last;
    if (last === undefined) {
      if (!(await present(running, options))) return failed;
    } else {
      const pause = `pause ${last.pauseMs.toFixed(1)} ms`;
      print(
        `  ↻ ${last.reason} (${last.exit})   ${last.carried} connections and ${last.executed} commands carried over, ${pause}`,
      );
    }
    await Promise.race([stopSignal(), running.shutdownAsked]);
    print("  stopping");
    return 0;
  } finally {
    await running.stop();
    await rm(directory, { recursive: true, force: true });
  }
}

async function present(running: Running, options: DemoOptions): Promise<boolean> {
  const { print } = options;
  const status = await running.server.status();
  const [subsystem] = status.subsystems;
  const io = status.listeners.find((listener) => !listener.discoveryOnly);
  const discovery = status.listeners.find((listener) => listener.discoveryOnly);
  if (subsystem === undefined || io === undefined)
    throw new KeelError("E_SELF_CHECK", "the demo subsystem is not there");
  const found = discovery === undefined ? "" : ` · ${discovery.address}:${discovery.port} discovery`;
  print(`  ✔ device       demo     ram ${formatSize(options.sizeBytes)}`);
  print(`  ✔ subsystem    ${subsystem.nqn}   namespace 1`);
  print(`  ✔ listening    ${io.address}:${io.port} nvme-tcp${found}`);

  const result = await selfCheck(running.addon, io.port, subsystem.nqn);
  const { good, line } = checkLine(result);
  print(line);
  for (const error of result.errors.slice(0, 10)) print(`                   ${error}`);
  if (!good || options.once) return good;

  const usual = running.rpcSocket === defaultPaths(userPlace()).rpcSocket;
  const prefix = usual ? "npx keel" : `KEEL_SOCKET=${running.rpcSocket} npx keel`;
  print("");
  print(`  Connect     sudo nvme connect -t tcp -a ${io.address} -s ${io.port} -n ${subsystem.nqn}`);
  print(`  Watch       ${prefix} top`);
  print(`  Look        ${prefix} status`);
  print(`  Share a disk of yours:  ${prefix} share /path/to/file-or-device --allow any`);
  print(
    `  Kill it     ${prefix} load ${subsystem.nqn}${io.port === 4420 ? "" : ` --port ${io.port}`} --verify & sleep 3; kill -9 ${process.pid}`,
  );
  print("");
  print("  Serving until Ctrl-C.");
  return true;
}
