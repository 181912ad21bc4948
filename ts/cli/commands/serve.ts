// `keel serve` and `keel demo`: the only commands that start a server.

import { resolve } from "node:path";
import { KeelError } from "../../model/errors.js";
import { parseSize } from "../../model/units.js";
import { print } from "../output.js";

const absolute = (path: string | undefined): string | null => (path === undefined ? null : resolve(path));

export async function serveCommand(options: {
  config?: string;
  state?: string;
  socket?: string;
}): Promise<void> {
  const { serve } = await import("../../main.js");
  process.exitCode = await serve({
    configFile: absolute(options.config),
    document: null,
    stateDirectory: absolute(options.state),
    rpcSocket: absolute(options.socket),
    logger: null,
  });
}

export async function demoCommand(options: { once?: boolean; port?: string; size: string }): Promise<void> {
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
  process.exitCode = await demo({ once: options.once ?? false, port, sizeBytes, print });
}
