// What most test files start with: a server with one subsystem over devices of every kind that needs no hardware.

import { join } from "node:path";
import { Controller, type ControllerOptions, type HostIdentity } from "./controller.js";
import type { QueuePair } from "./queue-pair.js";
import { type Config, freePort, Server } from "./server.js";
import type { Opening } from "./wire.js";

export const subnqn = "nqn.2014-08.org.nvmexpress:uuid:00000000-0000-4000-8000-00000000aaaa";

/** Namespaces of the standard configuration. */
export const Ns = { ram4k: 1, ram512: 2, zero: 3, slow: 4, faulty: 5, file: 6, readOnly: 7 } as const;

export const ramBytes = 64 << 20;
export const slowReadMs = 1500;

export async function standardConfig(directory: string, more: Config = {}): Promise<Config> {
  return {
    listen: [{ "nvme-tcp": `127.0.0.1:${await freePort()}` }, { discovery: `127.0.0.1:${await freePort()}` }],
    devices: {
      big: { ram: ramBytes },
      small: { ram: "16MiB", block_size: 512 },
      zero: { null: "1TiB" },
      below: { ram: "8MiB" },
      slow: { delay: "below", read: `${slowReadMs}ms` },
      under: { ram: "8MiB" },
      faulty: { error: "under", on: ["read"], status: "medium_error", offset: "4KiB", length: "4KiB" },
      disk: { file: join(directory, "disk.img"), size: "16MiB", create: true },
      fixed: { ram: "8MiB", read_only: true },
    },
    subsystems: {
      main: {
        nqn: subnqn,
        hosts: "any",
        namespaces: ["big", "small", "zero", "slow", "faulty", "disk", "fixed"].map((device, index) => ({
          id: index + 1,
          device,
          ...(device === "fixed" ? { read_only: true } : {}),
        })),
      },
    },
    ...more,
  };
}

export async function startServer(more: Config = {}): Promise<Server> {
  return Server.make(async (directory) => standardConfig(directory, more));
}

export async function connect(server: Server, more: Partial<ControllerOptions> = {}): Promise<Controller> {
  return Controller.connect({ endpoint: server.endpoint(), subnqn, ...more });
}

export type OpenOptions = {
  readonly entries?: number;
  readonly cattr?: number;
  readonly opening?: Opening;
  readonly host?: HostIdentity;
};

/** A controller with one I/O queue, closed when `use` is done. */
export async function withQueue(
  server: Server,
  use: (queue: QueuePair, controller: Controller) => Promise<void>,
  { entries = 128, cattr = 0, opening = {}, host }: OpenOptions = {},
): Promise<void> {
  const controller = await connect(server, { opening, ...(host === undefined ? {} : { host }) });
  try {
    await use(await controller.openQueue(1, entries, { cattr, opening }), controller);
  } finally {
    controller.close();
  }
}

/** Bytes that differ from place to place; the same seed gives the same bytes. */
export function pattern(bytes: number, seed = 1): Buffer {
  const data = Buffer.alloc(bytes);
  let state = (seed * 0x9e3779b1) >>> 0 || 1;
  for (let at = 0; at < bytes; ++at) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    data[at] = state & 0xff;
  }
  return data;
}

/** Numbers in 0 … limit − 1 from a seed that is printed: KEEL_TEST_SEED takes it back. */
export function randomFrom(name: string): (limit: number) => number {
  const given = process.env["KEEL_TEST_SEED"];
  let state = given === undefined ? Math.floor(Math.random() * 0x7fffffff) + 1 : Number(given);
  console.log(`${name}: KEEL_TEST_SEED=${state}`);
  return (limit) => {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    return (state >>> 0) % limit;
  };
}
