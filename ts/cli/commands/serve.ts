// `keel serve` and `keel demo`: the only commands that start a server.

import { resolve } from "node:path";
import type { Beginning } from "../../main/begin.js";
import type { StartOptions } from "../../main.js";
import { KeelError } from "../../model/errors.js";
import { parseSize } from "../../model/units.js";
import { print } from "../output.js";

const absolute = (path: string | undefined): string | null => (path === undefined ? null : resolve(path));

type ServeFlags = { config?: string; state?: string; socket?: string; keeper?: boolean };

/** The words that started this program. */
function thisProgram(): string[] {
  const program = process.argv[1];
  if (program === undefined) throw new KeelError("E_INTERNAL", "this program does not know its own path");
  return [process.execPath, ...process.execArgv, resolve(program)];
}

/** The same command for the keeper to run; the channel in its environment tells it that it is kept. */
function serverCommand(options: ServeFlags): string[] {
  const given = (flag: string, value: string | undefined) =>
    value === undefined ? [] : [flag, resolve(value)];
  const places = [
    ...given("--config", options.config),
    ...given("--state", options.state),
    ...given("--socket", options.socket),
  ];
  return [...thisProgram(), "serve", ...places];
}

export async function serveCommand(options: ServeFlags, beginning: Promise<Beginning> | null): Promise<void> {
  const { becomeKeeper, isKept, serve } = await import("../../main.js");
  const start: StartOptions = {
    configFile: absolute(options.config),
    document: null,
    stateDirectory: absolute(options.state),
    rpcSocket: absolute(options.socket),
    useKeeper: true,
    beginning,
    logger: null,
  };
  if (options.keeper !== false && beginning === null && !isKept())
    becomeKeeper(start, serverCommand(options));
  process.exitCode = await serve(start);
}

type DemoFlags = { once?: boolean; port?: string; size: string; place?: string };

export async function demoCommand(options: DemoFlags, beginning: Promise<Beginning> | null): Promise<void> {
  const sizeBytes = parseSize(options.size);
  if (sizeBytes === null || sizeBytes < 1n << 20n || sizeBytes % 4096n !== 0n) {
    throw new KeelError(
      "E_USAGE",
      `--size ${options.size} is not a size of at least 1MiB in whole 4KiB blocks`,
    );
  }
  const port = options.port === undefined ? null : Number(options.port);
  if (port !== null && (!Number.isInteger(port) || port < 0 || port > 65535)) {
    throw new KeelError("E_USAGE", `--port ${options.port} is not a port number`);
  }
  const { demo } = await import("../../main/demo.js");
  process.exitCode = await demo({
    once: options.once ?? false,
    port,
    sizeBytes,
    place: absolute(options.place),
    beginning,
    commandAt: (place) => [...thisProgram(), "demo", "--size", options.size, "--place", place],
    print,
  });
}
