// `keel load`: the project's own initiator against an NVMe/TCP target, this server or any other. Ends with exit status 1
// if a byte was wrong, a command failed or a connection was lost.

import { addonOrError, type LoadResult } from "../../main.js";
import { KeelError } from "../../model/errors.js";
import { parseSize } from "../../model/units.js";

import { print } from "../output.js";

export type LoadFlags = {
  address: string;
  port: string;
  nsid: string;
  seconds: string;
  depth: string;
  connections: string;
  blockSize: string;
  readPercent: string;
  sequential?: boolean;
  verify?: boolean;
  digests?: boolean;
  output: string;
};

const hostNqn = "nqn.2014-08.org.nvmexpress:uuid:6b65656c-0000-4000-8000-000000000002";

function whole(flag: string, text: string, least: number, most: number): number {
  const value = Number(text);
  if (!Number.isInteger(value) || value < least || value > most) {
    throw new KeelError("E_USAGE", `--${flag} ${text} is not a whole number from ${least} to ${most}`);
  }
  return value;
}

function describe(result: LoadResult): void {
  const count = (value: number): string => Math.round(value).toLocaleString("en-US");
  print(
    `commands     ${count(result.commands)} in ${result.seconds.toFixed(1)} s: ${count(result.iops)} IOPS, ${(result.bytesPerSecond / 1e6).toFixed(0)} MB/s`,
  );
  print(
    `latency      mean ${result.meanUs.toFixed(0)} µs, p50 ${result.p50Us.toFixed(0)}, p99 ${result.p99Us.toFixed(0)}, p99.99 ${result.p9999Us.toFixed(0)}, max ${result.maxUs.toFixed(0)}`,
  );
  print(`longest gap  ${result.longestGapMs.toFixed(1)} ms without a completion`);
  if (result.verifiedBlocks > 0) print(`verified     ${count(result.verifiedBlocks)} blocks`);
  print(`errors       ${result.errors.length}`);
  for (const error of result.errors) print(`  ${error}`);
}

export async function loadCommand(subsystem: string, flags: LoadFlags): Promise<void> {
  const ioBytes = parseSize(flags.blockSize);
  if (ioBytes === null || ioBytes < 512n || ioBytes > 1n << 20n || ioBytes % 512n !== 0n) {
    throw new KeelError(
      "E_USAGE",
      `--block-size ${flags.blockSize} is not a size from 512 to 1MiB in whole 512-byte blocks`,
    );
  }
  const result = await addonOrError().runLoad({
    address: flags.address,
    port: whole("port", flags.port, 1, 65535),
    subsystem,
    hostNqn,
    nsid: whole("nsid", flags.nsid, 1, 0xfffffffe),
    headerDigest: flags.digests ?? false,
    dataDigest: flags.digests ?? false,
    connections: whole("connections", flags.connections, 1, 64),
    depth: whole("depth", flags.depth, 1, 1023),
    ioBytes: Number(ioBytes),
    readPercent: whole("read-percent", flags.readPercent, 0, 100),
    sequential: flags.sequential ?? false,
    verify: flags.verify ?? false,
    count: 0,
    seconds: whole("seconds", flags.seconds, 1, 86_400),
    seed: 0,
  });
  if (flags.output === "json") print(JSON.stringify(result, null, 2));
  else describe(result);
  if (result.errors.length > 0) process.exitCode = 1;
}
