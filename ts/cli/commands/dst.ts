// `keel dst`: the command forms of DST. One command, whose options say what it does.

import { resolve } from "node:path";
import { KeelError } from "../../model/errors.js";
import type { JsonObject } from "../../model/json.js";
import type { ChangeFlags } from "../program.js";
import { change } from "./change.js";
import { graphCommand } from "./volumes.js";

export type DstFlags = ChangeFlags & {
  name: string;
  algorithm?: string;
  address?: string;
  port?: string;
  disk?: string;
  nqn?: string;
  nsid?: string;
  offset?: string;
  size?: string;
  createSize?: string;
  allow: string[];
  start?: boolean;
  stop?: boolean;
  export?: boolean;
  delNode?: boolean;
  remove?: boolean;
};

const actions = ["start", "stop", "export", "delNode", "remove"] as const;

function whole(text: string, option: string): number {
  if (/^\d{1,9}$/.test(text)) return Number(text);
  throw new KeelError("E_USAGE", `${option} "${text}" is not a whole number`);
}

function nodeOf(options: DstFlags): JsonObject {
  const node: JsonObject = {};
  if (options.address !== undefined) node["address"] = options.address;
  if (options.port !== undefined) node["port"] = whole(options.port, "-p");
  if (options.disk !== undefined) node["path"] = resolve(options.disk);
  if (options.nqn !== undefined) node["nqn"] = options.nqn;
  if (options.nsid !== undefined) node["nsid"] = whole(options.nsid, "--nsid");
  if (options.createSize !== undefined) node["create_size"] = options.createSize;
  return node;
}

const hasNode = (options: DstFlags): boolean => options.address !== undefined || options.disk !== undefined;

export async function dstCommand(options: DstFlags): Promise<void> {
  const { name: storage } = options;
  const chosen = actions.filter((action) => options[action] === true);
  if (chosen.length > 1)
    throw new KeelError("E_USAGE", "one of --start, --stop, --export, --del-node and --remove at a time");
  const [action] = chosen;
  const simple = (method: string, more: JsonObject, done: string): Promise<void> =>
    change(`keel.dst.${method}`, { storage, ...more }, options, () => done);
  switch (action) {
    case "start":
      return simple("start", { allow: options.allow }, `storage ${storage} is exported`);
    case "stop":
      return simple("stop", {}, `storage ${storage} is exported no longer`);
    case "remove":
      return simple("remove", {}, `storage ${storage} is removed; what its nodes hold stays`);
    case "delNode":
      if (!hasNode(options)) throw new KeelError("E_USAGE", "say which node: -a ADDRESS -p PORT, or -d DISK");
      return simple("remove_node", nodeOf(options), `storage ${storage} goes on without the node`);
    case "export": {
      if (options.disk === undefined) throw new KeelError("E_USAGE", "say which disk: -d DISK");
      const { path, create_size } = nodeOf(options);
      const more: JsonObject = { path: path ?? "", allow: options.allow };
      if (create_size !== undefined) more["create_size"] = create_size;
      return simple("export", more, `${options.disk} is a node for storage ${storage} on other machines`);
    }
    case undefined:
  }
  if (hasNode(options)) {
    const more = nodeOf(options);
    if (options.algorithm !== undefined) more["algorithm"] = options.algorithm;
    if (options.offset !== undefined) more["start"] = options.offset;
    if (options.size !== undefined) more["size"] = options.size;
    const done =
      options.algorithm === undefined
        ? `storage ${storage} has a node more`
        : `storage ${storage} is created`;
    return simple("add", more, done);
  }
  if (options.algorithm !== undefined) {
    throw new KeelError("E_USAGE", "a storage begins with a node: -a ADDRESS -p PORT, or -d DISK", {
      fix: `keel dst -n ${storage} -A ${options.algorithm} -d /dev/sdb`,
    });
  }
  return graphCommand(storage, options);
}
