// SPDK's method names for what this server can do too, with SPDK's parameters and answers, so that scripts written
// for rpc.py work. What differs: listeners belong to the whole server, so adding one for a subsystem adds it for all.

import { z } from "zod";
import {
  addDevice,
  addHost,
  addListener,
  addNamespace,
  addReferral,
  addSubsystem,
  findSubsystem,
  removeDevice,
  removeHost,
  removeListener,
  removeNamespace,
  removeReferral,
  removeSubsystem,
  resizeDevice,
} from "../config/edit.js";
import { parseEndpoint } from "../model/endpoint.js";
import { KeelError } from "../model/errors.js";
import { discoveryNqn, formatUuid, parseName } from "../model/ids.js";
import type { JsonObject } from "../model/json.js";
import type { DeviceReport, ListenerReport, ServerStatus, SubsystemReport } from "../model/status.js";
import { type ApiContext, type Method, spdkMethod as method } from "./method.js";

const none = z.strictObject({});
const blockSize = z.union([z.literal(512), z.literal(4096)]);

/** SPDK asks no questions: what a script removes is meant to go. */
const options = { dryRun: false, allowDataLoss: true };

const change = (context: ApiContext, edit: (raw: JsonObject, node: string) => JsonObject) =>
  context.server.change((raw) => edit(raw, context.server.settings.node), options);

const listenAddress = z.strictObject({
  trtype: z.string(),
  adrfam: z.string().optional(),
  traddr: z.string(),
  trsvcid: z.union([z.string(), z.number()]).optional(),
});

function endpointText(address: z.output<typeof listenAddress>, defaultPort: string): string {
  if (address.trtype.toUpperCase() !== "TCP") {
    throw new KeelError("E_RPC", `transport "${address.trtype}" is not here; known: TCP`);
  }
  const port = String(address.trsvcid ?? defaultPort);
  const text = address.traddr.includes(":") ? `[${address.traddr}]:${port}` : `${address.traddr}:${port}`;
  if (parseEndpoint(text) === null) throw new KeelError("E_RPC", `${text} is not an address and port`);
  return text;
}

const listenerAddress = (listener: ListenerReport) => ({
  trtype: "TCP",
  adrfam: listener.family === "ipv6" ? "IPv6" : "IPv4",
  traddr: listener.address,
  trsvcid: String(listener.port),
});

/** A name for a subsystem that is only known by its NQN: what follows the last colon, made unique. */
function nameOf(raw: JsonObject, nqn: string): string {
  const tail = (nqn.split(":").at(-1) ?? nqn)
    .replaceAll(/[^A-Za-z0-9._-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  const base = parseName(tail.slice(0, 56)) ?? "subsystem";
  const taken = Object.keys((raw["subsystems"] ?? {}) as JsonObject);
  let name: string = base;
  for (let number = 2; taken.includes(name); number += 1) name = `${base}-${number}`;
  return name;
}

const subsystemMethods: readonly Method[] = [
  method(
    "nvmf_create_subsystem",
    "Creates a subsystem without namespaces.",
    z.strictObject({
      nqn: z.string(),
      serial_number: z.string().optional(),
      model_number: z.string().optional(),
      allow_any_host: z.boolean().optional(),
      // Accepted as far as they say what is so anyway; rpc.py sends them unasked.
      max_namespaces: z.int().min(0).max(1024).optional(),
      ana_reporting: z.boolean().optional(),
      min_cntlid: z.literal(1).optional(),
      max_cntlid: z.literal(65519).optional(),
    }),
    async (context, parameters) => {
      await change(context, (raw) => {
        const subsystem: JsonObject = {
          nqn: parameters.nqn,
          hosts: parameters.allow_any_host === true ? "any" : [],
        };
        if (parameters.serial_number !== undefined) subsystem["serial"] = parameters.serial_number;
        if (parameters.model_number !== undefined) subsystem["model"] = parameters.model_number;
        return addSubsystem(raw, nameOf(raw, parameters.nqn), subsystem);
      });
      return true;
    },
  ),
  method(
    "nvmf_delete_subsystem",
    "Removes a subsystem.",
    z.strictObject({ nqn: z.string() }),
    async (context, { nqn }) => {
      await change(context, (raw, node) => removeSubsystem(raw, node, nqn));
      return true;
    },
  ),
  method(
    "nvmf_subsystem_add_ns",
    "Exports a device as a namespace.",
    z.strictObject({
      nqn: z.string(),
      namespace: z.strictObject({
        bdev_name: z.string(),
        nsid: z.int().optional(),
        uuid: z.string().optional(),
        nguid: z.string().optional(),
      }),
    }),
    async (context, { nqn, namespace: { bdev_name, nsid, uuid, nguid } }) => {
      const namespace: JsonObject = { device: bdev_name };
      if (nsid !== undefined) namespace["id"] = nsid;
      if (uuid !== undefined) namespace["uuid"] = uuid;
      if (nguid !== undefined) namespace["nguid"] = nguid;
      let id = 0;
      await change(context, (raw, node) => {
        id = addNamespace(raw, node, nqn, namespace);
        return raw;
      });
      return id;
    },
  ),
  method(
    "nvmf_subsystem_remove_ns",
    "Takes a namespace away.",
    z.strictObject({ nqn: z.string(), nsid: z.int() }),
    async (context, { nqn, nsid }) => {
      await change(context, (raw, node) => removeNamespace(raw, node, nqn, nsid));
      return true;
    },
  ),
  method(
    "nvmf_subsystem_add_host",
    "Admits a host.",
    z.strictObject({ nqn: z.string(), host: z.string() }),
    async (context, { nqn, host }) => {
      await change(context, (raw, node) => addHost(raw, node, nqn, host));
      return true;
    },
  ),
  method(
    "nvmf_subsystem_remove_host",
    "Admits a host no longer.",
    z.strictObject({ nqn: z.string(), host: z.string() }),
    async (context, { nqn, host }) => {
      await change(context, (raw, node) => removeHost(raw, node, nqn, host));
      return true;
    },
  ),
  method(
    "nvmf_subsystem_allow_any_host",
    "Admits every host, or only those on the list.",
    z.strictObject({ nqn: z.string(), allow_any_host: z.boolean() }),
    async (context, { nqn, allow_any_host }) => {
      await change(context, (raw, node) => {
        const { subsystem } = findSubsystem(raw, node, nqn);
        if (allow_any_host) subsystem["hosts"] = "any";
        else if (subsystem["hosts"] === "any") subsystem["hosts"] = [];
        return raw;
      });
      return true;
    },
  ),
];

const listenerMethods: readonly Method[] = [
  method(
    "nvmf_subsystem_add_listener",
    "Listens on an address (for the whole server).",
    z.strictObject({ nqn: z.string(), listen_address: listenAddress }),
    async (context, { nqn, listen_address }) => {
      const address = endpointText(listen_address, "4420");
      const { server } = context;
      if (nqn !== discoveryNqn)
        findSubsystem(structuredClone(server.configuration), server.settings.node, nqn);
      const { listeners } = await server.status();
      const wanted = parseEndpoint(address);
      const present = listeners.some(
        (one) => one.address === wanted?.address && one.port === wanted.port && !one.discoveryOnly,
      );
      if (present) return true;
      await change(context, (raw) =>
        addListener(raw, { [nqn === discoveryNqn ? "discovery" : "nvme-tcp"]: address }),
      );
      return true;
    },
  ),
  method(
    "nvmf_subsystem_remove_listener",
    "Listens on an address no longer, if no other subsystem is reached through it.",
    z.strictObject({ nqn: z.string(), listen_address: listenAddress }),
    async (context, { nqn, listen_address }) => {
      const { subsystems } = await context.server.status();
      const others = subsystems.filter((subsystem) => subsystem.nqn !== nqn);
      if (nqn !== discoveryNqn && others.length > 0) {
        throw new KeelError(
          "E_BUSY",
          `${others.length} other subsystem(s) are reached through the same listener`,
          {
            cause: "listeners belong to the whole server here",
            fix: "keel listen remove ADDRESS:PORT removes it for all of them",
          },
        );
      }
      await change(context, (raw) => removeListener(raw, endpointText(listen_address, "4420")));
      return true;
    },
  ),
  method(
    "nvmf_discovery_add_referral",
    "Points discovery to another discovery controller.",
    z.strictObject({ address: listenAddress, subnqn: z.string().optional() }),
    async (context, { address, subnqn }) => {
      const referral: JsonObject = { address: endpointText(address, "8009") };
      if (subnqn !== undefined) referral["nqn"] = subnqn;
      await change(context, (raw) => addReferral(raw, referral));
      return true;
    },
  ),
  method(
    "nvmf_discovery_remove_referral",
    "Points there no longer.",
    z.strictObject({ address: listenAddress, subnqn: z.string().optional() }),
    async (context, { address }) => {
      await change(context, (raw) => removeReferral(raw, endpointText(address, "8009")));
      return true;
    },
  ),
  method("nvmf_discovery_get_referrals", "Where discovery points to.", none, async (context) => {
    const { referrals } = await context.server.status();
    return referrals.map(({ address, port, nqn }) => ({
      address: {
        trtype: "TCP",
        adrfam: address.includes(":") ? "IPv6" : "IPv4",
        traddr: address,
        trsvcid: String(port),
      },
      subnqn: nqn,
    }));
  }),
  method(
    "nvmf_create_transport",
    "The TCP transport is always there; its limits stand in the configuration file, not in the parameters.",
    z.looseObject({ trtype: z.string() }),
    (_context, { trtype }) => {
      if (trtype.toUpperCase() !== "TCP")
        throw new KeelError("E_RPC", `transport "${trtype}" is not here; known: TCP`);
      return true;
    },
  ),
  method("nvmf_get_transports", "The transports and their limits.", none, (context) => {
    const { limits } = context.server.settings;
    return [
      {
        trtype: "TCP",
        max_queue_depth: limits.queueEntries,
        max_io_qpairs_per_ctrlr: limits.queuesPerController,
        in_capsule_data_size: limits.inCapsuleBytes,
        max_io_size: 1 << 20,
      },
    ];
  }),
];

const spdkSubsystem = (subsystem: SubsystemReport, status: ServerStatus) => ({
  nqn: subsystem.nqn,
  subtype: "NVMe",
  listen_addresses: status.listeners.filter((one) => !one.discoveryOnly).map(listenerAddress),
  allow_any_host: subsystem.allowAnyHost,
  hosts: subsystem.hosts.map((nqn) => ({ nqn })),
  serial_number: subsystem.serial,
  model_number: subsystem.model,
  max_namespaces: 1024,
  min_cntlid: 1,
  max_cntlid: 65519,
  namespaces: subsystem.namespaces.map((namespace) => ({
    nsid: namespace.nsid,
    bdev_name: namespace.device,
    name: namespace.device,
    nguid: namespace.nguid.toUpperCase(),
    uuid: formatUuid(namespace.uuid),
  })),
});

const optionalNqn = z.strictObject({ nqn: z.string().optional() });

async function chosen(
  context: ApiContext,
  nqn: string,
): Promise<{ status: ServerStatus; subsystem: SubsystemReport }> {
  const status = await context.server.status();
  const subsystem = status.subsystems.find((one) => one.nqn === nqn || one.name === nqn);
  if (subsystem === undefined) throw new KeelError("E_NOT_FOUND", `there is no subsystem "${nqn}"`);
  return { status, subsystem };
}

const queries: readonly Method[] = [
  method(
    "nvmf_get_subsystems",
    "Every subsystem, discovery first.",
    optionalNqn,
    async (context, { nqn }) => {
      const status = await context.server.status();
      const discovery = {
        nqn: discoveryNqn,
        subtype: "Discovery",
        listen_addresses: status.listeners.map(listenerAddress),
        allow_any_host: true,
        hosts: [],
      };
      const all = [discovery, ...status.subsystems.map((subsystem) => spdkSubsystem(subsystem, status))];
      if (nqn === undefined) return all;
      const found = all.filter((subsystem) => subsystem.nqn === nqn);
      if (found.length === 0) throw new KeelError("E_NOT_FOUND", `there is no subsystem "${nqn}"`);
      return found;
    },
  ),
  method(
    "nvmf_subsystem_get_controllers",
    "The controllers of a subsystem.",
    z.strictObject({ nqn: z.string() }),
    async (context, { nqn }) => {
      const { status, subsystem } = await chosen(context, nqn);
      return status.controllers
        .filter((controller) => controller.subsystem === subsystem.nqn)
        .map((controller) => ({
          cntlid: controller.cntlid,
          hostnqn: controller.hostNqn,
          hostid: formatUuid(controller.hostId),
          num_io_qpairs: controller.ioQueues,
        }));
    },
  ),
  method(
    "nvmf_subsystem_get_qpairs",
    "The queue pairs of a subsystem.",
    z.strictObject({ nqn: z.string() }),
    async (context, { nqn }) => {
      const { status, subsystem } = await chosen(context, nqn);
      return status.connections
        .filter((connection) => connection.subsystem === subsystem.nqn && connection.qid !== null)
        .map((connection) => ({
          cntlid: connection.cntlid,
          qid: connection.qid,
          state: connection.state === "ready" ? "enabled" : connection.state,
          hostnqn: connection.hostNqn,
          listen_address: {
            trtype: "TCP",
            adrfam: connection.localAddress.includes(":") ? "IPv6" : "IPv4",
            traddr: connection.localAddress,
            trsvcid: String(connection.localPort),
          },
          peer_address: {
            trtype: "TCP",
            adrfam: connection.peerAddress.includes(":") ? "IPv6" : "IPv4",
            traddr: connection.peerAddress,
            trsvcid: String(connection.peerPort),
          },
        }));
    },
  ),
  method(
    "nvmf_subsystem_get_listeners",
    "Where a subsystem is reached.",
    z.strictObject({ nqn: z.string() }),
    async (context, { nqn }) => {
      const { status } = await chosen(context, nqn);
      return status.listeners
        .filter((listener) => !listener.discoveryOnly)
        .map((listener) => ({
          address: listenerAddress(listener),
          ana_states: [{ ana_group: 1, ana_state: "optimized" }],
        }));
    },
  ),
  method("nvmf_get_stats", "Queue pairs, by reactor.", none, async (context) => {
    const status = await context.server.status();
    const queues = status.connections.filter((connection) => connection.qid !== null);
    return {
      tick_rate: 1_000_000_000,
      poll_groups: [
        {
          name: "reactor 0",
          current_admin_qpairs: queues.filter((connection) => connection.qid === 0).length,
          current_io_qpairs: queues.filter((connection) => connection.qid !== 0).length,
          transports: [{ trtype: "TCP" }],
        },
      ],
    };
  }),
];

/** SPDK's product names, by kind. */
const products: Readonly<Record<string, string>> = {
  ram: "Malloc disk",
  null: "Null disk",
  file: "URING bdev",
  blockdev: "URING bdev",
  delay: "delay",
  error: "Error Injection Disk",
};

const spdkDevice = (device: DeviceReport) => ({
  name: device.name,
  aliases: [],
  product_name: products[device.kind] ?? device.kind,
  block_size: device.blockBytes,
  num_blocks: device.blockBytes === 0 ? 0 : Math.floor(device.sizeBytes / device.blockBytes),
  claimed: device.usedBy.length > 0,
  supported_io_types: {
    read: true,
    write: !device.readOnly,
    flush: true,
    unmap: device.canDeallocate,
    write_zeroes: device.canWriteZeroes,
  },
  driver_specific: device.path === null ? {} : { filename: device.path },
});

const optionalName = z.strictObject({ name: z.string().optional() });

const selectDevices = async (context: ApiContext, name: string | undefined): Promise<DeviceReport[]> => {
  const { devices } = await context.server.status();
  const found = devices.filter((device) => name === undefined || device.name === name);
  if (name !== undefined && found.length === 0)
    throw new KeelError("E_NOT_FOUND", `there is no device "${name}"`);
  return found;
};

function freeName(raw: JsonObject, prefix: string): string {
  const taken = Object.keys((raw["devices"] ?? {}) as JsonObject);
  let number = 0;
  while (taken.includes(`${prefix}${number}`)) number += 1;
  return `${prefix}${number}`;
}

/** Malloc and null devices: the same parameters. */
const memoryDevice = (rpc: string, kind: "ram" | "null", prefix: string): Method =>
  method(
    rpc,
    `Creates a ${kind} device.`,
    z.strictObject({ name: z.string().optional(), num_blocks: z.int().positive(), block_size: blockSize }),
    async (context, { name, num_blocks, block_size }) => {
      let made = "";
      await change(context, (raw) => {
        made = name ?? freeName(raw, prefix);
        return addDevice(raw, made, { [kind]: String(BigInt(num_blocks) * BigInt(block_size)), block_size });
      });
      return made;
    },
  );

const pathDevice = (rpc: string): Method =>
  method(
    rpc,
    "Creates a device on a file or block device.",
    z.strictObject({
      name: z.string(),
      filename: z.string(),
      block_size: blockSize.optional(),
      readonly: z.boolean().optional(),
    }),
    async (context, { name, filename, block_size, readonly }) => {
      const kind = filename.startsWith("/dev/") ? "blockdev" : "file";
      const device: JsonObject = { [kind]: filename };
      if (block_size !== undefined) device["block_size"] = block_size;
      if (readonly === true) device["read_only"] = true;
      await change(context, (raw) => addDevice(raw, name, device));
      return name;
    },
  );

const deleteDevice = (rpc: string): Method =>
  method(rpc, "Removes a device.", z.strictObject({ name: z.string() }), async (context, { name }) => {
    await change(context, (raw) => removeDevice(raw, name));
    return true;
  });

const mebibyte = 1n << 20n;

const deviceMethods: readonly Method[] = [
  memoryDevice("bdev_malloc_create", "ram", "Malloc"),
  memoryDevice("bdev_null_create", "null", "Null"),
  pathDevice("bdev_uring_create"),
  pathDevice("bdev_aio_create"),
  ...[
    "bdev_malloc_delete",
    "bdev_null_delete",
    "bdev_uring_delete",
    "bdev_aio_delete",
    "bdev_delay_delete",
  ].map(deleteDevice),
  ...["bdev_malloc_resize", "bdev_null_resize"].map((rpc) =>
    method(
      rpc,
      "Gives a device a new size in MiB.",
      z.strictObject({ name: z.string(), new_size: z.int().positive() }),
      async (context, { name, new_size }) => {
        await change(context, (raw) => resizeDevice(raw, name, String(BigInt(new_size) * mebibyte)));
        return true;
      },
    ),
  ),
  ...["bdev_uring_rescan", "bdev_aio_rescan"].map((rpc) =>
    method(
      rpc,
      "Takes the size that the medium has now.",
      z.strictObject({ name: z.string() }),
      async (context, { name }) => {
        await context.server.rescan(name);
        return true;
      },
    ),
  ),
  method(
    "bdev_delay_create",
    "Creates a device that delays what it passes on; latencies in microseconds.",
    z.strictObject({
      name: z.string(),
      base_bdev_name: z.string(),
      avg_read_latency: z.int().nonnegative(),
      avg_write_latency: z.int().nonnegative(),
    }),
    async (context, { name, base_bdev_name, avg_read_latency, avg_write_latency }) => {
      const device = {
        delay: base_bdev_name,
        read: `${avg_read_latency}us`,
        write: `${avg_write_latency}us`,
      };
      await change(context, (raw) => addDevice(raw, name, device));
      return name;
    },
  ),
  method("bdev_get_bdevs", "The devices.", optionalName, async (context, { name }) =>
    (await selectDevices(context, name)).map(spdkDevice),
  ),
  method("bdev_get_iostat", "What the devices have done.", optionalName, async (context, { name }) => ({
    tick_rate: 1_000_000_000,
    bdevs: (await selectDevices(context, name)).map((device) => ({
      name: device.name,
      num_read_ops: device.completed[0] ?? 0,
      bytes_read: device.bytes[0] ?? 0,
      num_write_ops: device.completed[1] ?? 0,
      bytes_written: device.bytes[1] ?? 0,
      num_unmap_ops: device.completed[4] ?? 0,
      bytes_unmapped: device.bytes[4] ?? 0,
      queue_depth: device.inFlight,
      io_error: device.errors,
    })),
  })),
];

const others: readonly Method[] = [
  method("spdk_get_version", "The version of this server.", none, (context) => ({
    version: `Evenkeel ${context.version}`,
    fields: { name: "Evenkeel", version: context.version },
  })),
  method("save_config", "The configuration that holds.", none, (context) => context.server.configuration),
];

export const spdkMethods: readonly Method[] = [
  ...subsystemMethods,
  ...listenerMethods,
  ...queries,
  ...deviceMethods,
  ...others,
];
