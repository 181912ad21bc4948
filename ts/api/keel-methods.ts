// The methods of this server's own: what the command line uses.

import { stat } from "node:fs/promises";
import { basename } from "node:path";
import { z } from "zod";
import {
  addHost,
  addListener,
  addNamespace,
  findNamespace,
  getPath,
  removeHost,
  removeListener,
  removeNamespace,
  resizeDevice,
  setPath,
  share,
  unshare,
} from "../config/edit.js";
import { defaultNqn } from "../config/naming.js";
import { jsonSchema } from "../config/schema.js";
import { serverMetrics } from "../metrics/server-metrics.js";
import { endpointRule, parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import { parseName } from "../model/ids.js";
import type { Json, JsonObject } from "../model/json.js";
import { hostRows, shareRows } from "../model/listing.js";
import { changeableSections } from "../recovery/changes.js";
import { type ApiContext, changeOptions, type Method, method, optionsOf } from "./method.js";

const none = z.strictObject({});

const change = (
  context: ApiContext,
  parameters: { dry_run?: boolean | undefined; yes?: boolean | undefined },
  edit: (raw: JsonObject, node: string) => JsonObject,
) => context.server.change((raw) => edit(raw, context.server.settings.node), optionsOf(parameters));

/** The device that exports a path: by what is there. */
async function deviceFor(
  path: string,
  size: string | undefined,
  blockSize: number | undefined,
  readOnly: boolean,
): Promise<JsonObject> {
  const found = await stat(path).catch((error: NodeJS.ErrnoException) => {
    if (error.code === "ENOENT") return null;
    throw new KeelError("E_DENIED", `cannot look at ${path} (${error.code ?? error.message})`, { path });
  });
  const device: JsonObject = {};
  if (found?.isBlockDevice() === true) {
    if (size !== undefined)
      throw new KeelError("E_USAGE", "a block device has its own size; leave --size out", { path });
    device["blockdev"] = path;
  } else if (found === null || found.isFile()) {
    if (found === null && size === undefined)
      throw new KeelError("E_DEVICE_MISSING", `${path} does not exist`, { path });
    device["file"] = path;
    if (size !== undefined) device["size"] = size;
    if (found === null) device["create"] = true;
  } else {
    throw new KeelError("E_DEVICE_KIND", `${path} is neither a file nor a block device`, { path });
  }
  if (blockSize !== undefined) device["block_size"] = blockSize;
  if (readOnly) device["read_only"] = true;
  return device;
}

const nameFrom = (path: string): string =>
  basename(path)
    .replace(/\.(img|raw|iso|qcow2)$/, "")
    .replaceAll(/[^A-Za-z0-9._-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "")
    .slice(0, 64);

const sizeParameter = z.union([z.string(), z.int().nonnegative()]).transform(String);

const shareMethod = method(
  "keel.share",
  "Exports a file or block device: device, subsystem and namespace in one.",
  z.strictObject({
    path: z.string().startsWith("/"),
    name: z.string().optional(),
    allow: z.array(z.string()).optional(),
    size: sizeParameter.optional(),
    block_size: z.union([z.literal(512), z.literal(4096)]).optional(),
    read_only: z.boolean().optional(),
    ...changeOptions,
  }),
  async (context, parameters) => {
    const name = parameters.name ?? nameFrom(parameters.path);
    if (parseName(name) === null)
      throw new KeelError("E_USAGE", `"${name}" is not a name; give one with --name`);
    const readOnly = parameters.read_only ?? false;
    const device = await deviceFor(parameters.path, parameters.size, parameters.block_size, readOnly);
    const result = await change(context, parameters, (raw) =>
      share(raw, name, device, parameters.allow ?? [], false),
    );
    const status = await context.server.status();
    const row = shareRows(status).find((candidate) => candidate.name === name) ?? null;
    const nqn = row?.nqn ?? defaultNqn(context.server.settings.node, name);
    return { ...result, name, nqn, nsid: 1, sizeBytes: row?.sizeBytes ?? 0, listeners: status.listeners };
  },
);

const sharing: readonly Method[] = [
  shareMethod,
  method(
    "keel.unshare",
    "Removes a subsystem and the devices that only it used. Files and block devices keep their content.",
    z.strictObject({ name: z.string(), ...changeOptions }),
    (context, parameters) => change(context, parameters, (raw, node) => unshare(raw, node, parameters.name)),
  ),
  method(
    "keel.hosts.add",
    'Admits a host (an NQN, or "any") to a subsystem.',
    z.strictObject({ subsystem: z.string(), host: z.string(), ...changeOptions }),
    (context, parameters) =>
      change(context, parameters, (raw, node) => addHost(raw, node, parameters.subsystem, parameters.host)),
  ),
  method(
    "keel.hosts.remove",
    "Admits a host no longer; if it is connected, it is disconnected.",
    z.strictObject({ subsystem: z.string(), host: z.string(), ...changeOptions }),
    (context, parameters) =>
      change(context, parameters, (raw, node) =>
        removeHost(raw, node, parameters.subsystem, parameters.host),
      ),
  ),
  method(
    "keel.namespace.add",
    "Exports a device as a further namespace of a subsystem.",
    z.strictObject({
      subsystem: z.string(),
      device: z.string(),
      id: z.int().optional(),
      uuid: z.string().optional(),
      nguid: z.string().optional(),
      read_only: z.boolean().optional(),
      ...changeOptions,
    }),
    async (context, parameters) => {
      const { subsystem, dry_run: _dryRun, yes: _yes, ...given } = parameters;
      const namespace = Object.fromEntries(
        Object.entries(given).filter(([, value]) => value !== undefined),
      ) as JsonObject;
      let id = 0;
      const result = await change(context, parameters, (raw, node) => {
        id = addNamespace(raw, node, subsystem, namespace);
        return raw;
      });
      return { ...result, nsid: id };
    },
  ),
  method(
    "keel.namespace.remove",
    "Takes a namespace away from a subsystem; its device stays.",
    z.strictObject({ subsystem: z.string(), id: z.int(), ...changeOptions }),
    (context, parameters) => {
      const { subsystem, id } = parameters;
      return change(context, parameters, (raw, node) => removeNamespace(raw, node, subsystem, id));
    },
  ),
  method(
    "keel.namespace.resize",
    "Gives a namespace's device a new size, or, without one, takes the size that its medium has now.",
    z.strictObject({ subsystem: z.string(), id: z.int(), size: sizeParameter.optional(), ...changeOptions }),
    async (context, parameters) => {
      const { server } = context;
      const raw = structuredClone(server.configuration);
      const { device } = findNamespace(raw, server.settings.node, parameters.subsystem, parameters.id);
      const name = String(device);
      const { size } = parameters;
      if (size !== undefined)
        return change(context, parameters, (document) => resizeDevice(document, name, size));
      return {
        applied: true,
        steps: [],
        unchanged: 0,
        lost: [],
        needsRestart: [],
        sizeBytes: await server.rescan(name),
      };
    },
  ),
  method(
    "keel.listener.add",
    "Listens on a further address.",
    z.strictObject({
      address: z.string(),
      discovery: z.boolean().optional(),
      advertise: z.string().optional(),
      ...changeOptions,
    }),
    (context, parameters) => {
      if (parseEndpoint(parameters.address) === null) {
        throw new KeelError("E_USAGE", `"${parameters.address}" is not ${endpointRule}`);
      }
      const entry: JsonObject = {
        [parameters.discovery === true ? "discovery" : "nvme-tcp"]: parameters.address,
      };
      if (parameters.advertise !== undefined) entry["advertise"] = parameters.advertise;
      return change(context, parameters, (raw) => addListener(raw, entry));
    },
  ),
  method(
    "keel.listener.remove",
    "Listens on an address no longer; connections that came through it stay.",
    z.strictObject({ address: z.string(), ...changeOptions }),
    (context, parameters) => change(context, parameters, (raw) => removeListener(raw, parameters.address)),
  ),
];

const configuring: readonly Method[] = [
  method(
    "keel.apply",
    "Makes the given configuration the one that holds: what it does not name is removed.",
    z.strictObject({ config: z.record(z.string(), z.unknown()), ...changeOptions }),
    (context, parameters) => context.server.apply(parameters.config as JsonObject, optionsOf(parameters)),
  ),
  method(
    "keel.get",
    "The configuration that holds, or what stands at a path of it.",
    z.strictObject({ path: z.string().max(1024).optional() }),
    (context, { path }) => getPath(context.server.configuration, path ?? ""),
  ),
  method(
    "keel.set",
    "Changes one place of the configuration; without a value, removes it.",
    z.strictObject({ path: z.string().min(1).max(1024), value: z.unknown().optional(), ...changeOptions }),
    (context, parameters) => {
      const root = /^"?([A-Za-z0-9_-]+)/.exec(parameters.path)?.[1] ?? "";
      const known = Object.keys((jsonSchema()["properties"] as JsonObject | undefined) ?? {});
      if (known.includes(root) && !changeableSections.includes(root)) {
        throw new KeelError("E_NEEDS_RESTART", `${parameters.path} cannot be changed while the server runs`, {
          path: parameters.path,
        });
      }
      return change(context, parameters, (raw) =>
        setPath(raw, parameters.path, parameters.value as Json | undefined),
      );
    },
  ),
  method("keel.reload", "Reads the configuration file again.", none, (context) => context.reload()),
  method("keel.schema", "The JSON Schema of the configuration.", none, () => jsonSchema()),
];

const observing: readonly Method[] = [
  method("keel.status", "Everything that the server says of itself.", none, (context) =>
    context.server.status(),
  ),
  method("keel.ls", "What is exported: one row per namespace.", none, async (context) =>
    shareRows(await context.server.status()),
  ),
  method("keel.hosts", "Who is connected: one row per controller.", none, async (context) =>
    hostRows(await context.server.status()),
  ),
  method("keel.metrics", "The metrics as Prometheus text.", none, async (context) =>
    serverMetrics(await context.server.status()),
  ),
  method("keel.version", "The server's version.", none, (context) => ({
    version: context.version,
    pid: process.pid,
  })),
];

const acting: readonly Method[] = [
  method(
    "keel.disconnect",
    "Disconnects a host, from one subsystem or from all; it may connect again.",
    z.strictObject({ host: z.string(), subsystem: z.string().optional() }),
    async (context, { host, subsystem }) => {
      const status = await context.server.status();
      const found = status.subsystems.find((one) => one.name === subsystem || one.nqn === subsystem);
      if (subsystem !== undefined && found === undefined) {
        throw new KeelError("E_NOT_FOUND", `there is no subsystem "${subsystem}"`);
      }
      const count = await context.server.disconnect(host, found?.nqn ?? null);
      if (count === 0)
        throw new KeelError("E_NOT_FOUND", `${host} is not connected`, { fix: "keel hosts lists who is" });
      return { disconnected: count };
    },
  ),
  method(
    "keel.restart",
    "Replaces the running server by what is installed now; needs a keeper. Answers at once.",
    z.strictObject({ reason: z.string().max(200).optional() }),
    async (context, { reason }) => {
      await context.server.restart(reason ?? "asked for over the control socket");
      return true;
    },
  ),
  method(
    "keel.postmortem",
    "The last PDUs of each connection of the server before this one.",
    none,
    (context) => context.server.lastPdus(),
  ),
  method("keel.shutdown", "Stops the server in an orderly way.", none, (context) => {
    context.shutdown();
    return true;
  }),
];

export const keelMethods: readonly Method[] = [...observing, ...sharing, ...configuring, ...acting];
