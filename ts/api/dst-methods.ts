// DST's command forms over the control socket: what `keel dst` uses.

import { stat } from "node:fs/promises";
import { z } from "zod";
import {
  addNode,
  algorithms,
  type DstNode,
  exportDisk,
  type LocalNode,
  removeNode,
  removeStorage,
  startStorage,
  stopStorage,
} from "../config/dst.js";
import { KeelError } from "../model/errors.js";
import { parseName } from "../model/ids.js";
import { changeOptions, type Method, method, optionsOf } from "./method.js";

const size = z.union([z.string(), z.int().nonnegative()]).transform(String);
const storage = z.string();
const node = {
  address: z.string().optional(),
  port: z.int().min(1).max(65535).optional(),
  nqn: z.string().optional(),
  nsid: z.int().optional(),
  path: z.string().startsWith("/").optional(),
  create_size: size.optional(),
};
type NodeParameters = z.output<z.ZodObject<typeof node>>;

const defaultPort = 4420;

async function localNode(path: string, createSize: string | null): Promise<LocalNode> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT" && createSize !== null) return null;
    const code = error.code === "ENOENT" ? "E_DEVICE_MISSING" : "E_DENIED";
    throw new KeelError(code, `cannot use ${path} (${error.code ?? error.message})`, { path });
  });
  if (found?.isBlockDevice() === true) return { path, kind: "blockdev", size: null };
  return { path, kind: "file", size: found === null ? createSize : null };
}

async function nodeOf(given: NodeParameters): Promise<DstNode> {
  const { address, path } = given;
  if (address !== undefined && path === undefined)
    return { address, port: given.port ?? defaultPort, nqn: given.nqn ?? null, nsid: given.nsid ?? null };
  if (path !== undefined && address === undefined) return localNode(path, given.create_size ?? null);
  throw new KeelError("E_RPC", "a node is either an address or the path of a local disk");
}

function checkName(name: string): void {
  if (parseName(name) === null) throw new KeelError("E_USAGE", `"${name}" is not a name for a storage`);
}

export const dstMethods: readonly Method[] = [
  method(
    "keel.dst.add",
    "Creates a storage with an algorithm, or adds a node to one. Answers the node's name.",
    z.strictObject({
      storage,
      algorithm: z.enum(algorithms).optional(),
      ...node,
      start: size.optional(),
      size: size.optional(),
      ...changeOptions,
    }),
    async ({ server }, parameters) => {
      checkName(parameters.storage);
      const place = await nodeOf(parameters);
      const range = { start: parameters.start ?? null, size: parameters.size ?? null };
      let name = "";
      const result = await server.change((raw) => {
        name = addNode(raw, parameters.storage, parameters.algorithm ?? null, place, range);
        return raw;
      }, optionsOf(parameters));
      return { ...result, node: name };
    },
  ),
  method(
    "keel.dst.remove_node",
    "Takes a node away from a mirrored storage.",
    z.strictObject({ storage, ...node, ...changeOptions }),
    async ({ server }, parameters) => {
      const place = await nodeOf(parameters);
      return server.change((raw) => removeNode(raw, parameters.storage, place), optionsOf(parameters));
    },
  ),
  method(
    "keel.dst.export",
    "Exports a local disk for the storage of that name on another machine.",
    z.strictObject({
      storage,
      path: z.string().startsWith("/"),
      create_size: size.optional(),
      allow: z.array(z.string()).optional(),
      ...changeOptions,
    }),
    async ({ server }, parameters) => {
      checkName(parameters.storage);
      const disk = await localNode(parameters.path, parameters.create_size ?? null);
      return server.change(
        (raw) => exportDisk(raw, parameters.storage, disk, parameters.allow ?? []),
        optionsOf(parameters),
      );
    },
  ),
  method(
    "keel.dst.start",
    "Exports a storage.",
    z.strictObject({ storage, allow: z.array(z.string()).optional(), ...changeOptions }),
    ({ server }, parameters) =>
      server.change(
        (raw) => startStorage(raw, parameters.storage, parameters.allow ?? []),
        optionsOf(parameters),
      ),
  ),
  method(
    "keel.dst.stop",
    "Exports a storage no longer; it stays.",
    z.strictObject({ storage, ...changeOptions }),
    ({ server }, parameters) =>
      server.change((raw) => stopStorage(raw, parameters.storage), optionsOf(parameters)),
  ),
  method(
    "keel.dst.remove",
    "Removes a storage and its nodes; what the nodes hold stays.",
    z.strictObject({ storage, ...changeOptions }),
    ({ server }, parameters) =>
      server.change((raw) => removeStorage(raw, parameters.storage), optionsOf(parameters)),
  ),
];
