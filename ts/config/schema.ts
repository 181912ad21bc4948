// The configuration as people write it: one definition gives the checks, the types and the published JSON Schema
// (schema/keel.schema.json). What each key means for the server stands in docs/config.md; how defaults are filled in,
// in complete.ts; what refers to what is checked in references.ts.

import { z } from "zod";
import { endpointRule, familyOf, parseEndpoint } from "../model/endpoint.js";
import { nameRule, nqnRule, parseHex128, parseName, parseNqn, parseUuid } from "../model/ids.js";
import { blockActions, errorStatuses, inFlightPolicies, logLevels } from "../model/state.js";
import { parseDurationUs, parseSize, sizeMax } from "../model/units.js";

const sizeRule = "a size such as 10GiB, 512MiB or a number of bytes";
const durationRule = "a duration such as 5s, 200ms or 100us";

const size = z
  .union([z.string(), z.number()], { error: () => `expected ${sizeRule}` })
  .transform((value, context) => {
    const bytes =
      typeof value === "string"
        ? parseSize(value)
        : Number.isSafeInteger(value) && value >= 0
          ? BigInt(value)
          : null;
    if (bytes !== null && bytes <= sizeMax) return bytes;
    context.issues.push({
      code: "custom",
      input: value,
      message: `${JSON.stringify(value)} is not ${sizeRule}`,
    });
    return z.NEVER;
  });

const durationUs = z
  .union([z.string(), z.literal(0)], { error: () => `expected ${durationRule}` })
  .transform((value, context) => {
    const microseconds = typeof value === "string" ? parseDurationUs(value) : 0;
    if (microseconds !== null) return microseconds;
    context.issues.push({ code: "custom", input: value, message: `"${value}" is not ${durationRule}` });
    return z.NEVER;
  });

const text = (rule: string, accepts: (value: string) => boolean) =>
  z
    .string()
    .superRefine((value, context) => {
      if (!accepts(value)) {
        const shown = value.length > 80 ? `${value.slice(0, 80)}…` : value;
        context.addIssue({ code: "custom", message: `${JSON.stringify(shown)} is not ${rule}` });
      }
    })
    .meta({ description: rule });

const printable = (value: string): boolean => /^[\x20-\x7e]+$/.test(value);
const name = text(`a name (${nameRule})`, (value) => parseName(value) !== null);
const nqn = text(nqnRule, (value) => parseNqn(value) !== null);
const endpoint = text(endpointRule, (value) => parseEndpoint(value) !== null);
const uuid = text(
  "a UUID such as 7c1e6a1e-0000-4000-8000-000000000001",
  (value) => parseUuid(value) !== null,
);
const nguid = text("an NGUID: 32 hexadecimal digits, not all zero", (value) => parseHex128(value) !== null);
const address = text("an IPv4 or IPv6 address", (value) => familyOf(value) !== null);
const absolutePath = text(
  "an absolute path",
  (value) => value.startsWith("/") && !value.includes("\u0000") && value.length < 4096,
);
const blockSize = z.union([z.literal(512), z.literal(4096)]);
const digests = z.enum(["off", "optional", "required"]);
const count = (min: number, max: number) => z.int().min(min).max(max);

/** What every kind takes. */
const common = { suspended: z.boolean().optional() };
const whenLost = z.enum(["fail", "freeze"]);
const part = z.union(
  [name, z.strictObject({ device: name, start: size.optional(), size: size.optional() })],
  {
    error: () => "expected the name of a device, or { device, start, size }",
  },
);
const legsMax = 8;
const partsMax = 64;
const printableLine = text(
  "one line of printable text",
  (value) => value.length < 4096 && !/\p{Cc}/u.test(value),
);

/** One strict shape per device kind, named by the key that only this kind has. */
const plainShapes = {
  ram: z.strictObject({
    ram: size,
    block_size: blockSize.optional(),
    read_only: z.boolean().optional(),
    memory: text("a name of kept memory", (value) =>
      /^[A-Za-z0-9][A-Za-z0-9._@-]{0,79}$/.test(value),
    ).optional(),
    ...common,
  }),
  file: z.strictObject({
    file: absolutePath,
    size: size.optional(),
    create: z.boolean().optional(),
    block_size: blockSize.optional(),
    read_only: z.boolean().optional(),
    ...common,
  }),
  blockdev: z.strictObject({
    blockdev: absolutePath,
    block_size: blockSize.optional(),
    read_only: z.boolean().optional(),
    ...common,
  }),
  null: z.strictObject({
    null: size,
    block_size: blockSize.optional(),
    read_only: z.boolean().optional(),
    ...common,
  }),
  delay: z.strictObject({
    delay: name,
    read: durationUs.optional(),
    write: durationUs.optional(),
    flush: durationUs.optional(),
    ...common,
  }),
  error: z.strictObject({
    error: name,
    on: z.array(z.enum(blockActions)).min(1).optional(),
    status: z.enum(errorStatuses).optional(),
    offset: size.optional(),
    length: size.optional(),
    count: z.int().min(0).optional(),
    ...common,
  }),
  linear: z.strictObject({ linear: z.array(part).min(1).max(partsMax), ...common }),
  stripe: z.strictObject({ stripe: z.array(name).min(2).max(partsMax), chunk: size.optional(), ...common }),
  mirror: z.strictObject({
    mirror: z.array(name).min(1).max(legsMax),
    checksums: z.boolean().optional(),
    resync_rate: size.optional(),
    when_lost: whenLost.optional(),
    region: size.optional(),
    assume_clean: z.boolean().optional(),
    volume: uuid.optional(),
    ...common,
  }),
  "nvme-tcp": z.strictObject({
    "nvme-tcp": endpoint,
    nqn,
    nsid: count(1, 0xffff_fffe).optional(),
    addresses: z.array(endpoint).max(7).optional(),
    digests: z.enum(["off", "header", "data", "both"]).optional(),
    queues: count(1, 16).optional(),
    depth: count(1, 1024).optional(),
    keep_alive: durationUs.optional(),
    ping: durationUs.optional(),
    timeout: durationUs.optional(),
    deadline: durationUs.optional(),
    when_lost: whenLost.optional(),
    host_nqn: nqn.optional(),
    ...common,
  }),
  tcmu: z.strictObject({
    tcmu: text("the name of a handler, such as qcow", (value) => /^[A-Za-z0-9_-]{1,32}$/.test(value)),
    path: printableLine.optional(),
    handler: absolutePath.optional(),
    size: size.optional(),
    block_size: blockSize.optional(),
    read_only: z.boolean().optional(),
    timeout: durationUs.optional(),
    when_lost: z.enum(["resend", "fail"]).optional(),
    ...common,
  }),
} as const;

const plainDevice = z.union(Object.values(plainShapes));

export const deviceShapes = {
  ...plainShapes,
  // Written by the server while it copies a device to another place.
  migration: z.strictObject({
    migration: z.strictObject({ source: plainDevice, destination: plainDevice, rate: size.optional() }),
    ...common,
  }),
} as const;

export const listenShapes = {
  "nvme-tcp": z.strictObject({
    "nvme-tcp": endpoint,
    digests: digests.optional(),
    advertise: address.optional(),
  }),
  discovery: z.strictObject({ discovery: endpoint, advertise: address.optional() }),
} as const;

const device = z.union(Object.values(deviceShapes));

const listen = z.union([listenShapes["nvme-tcp"], listenShapes.discovery]);

const namespace = z.strictObject({
  id: count(1, 1024),
  device: name,
  uuid: uuid.optional(),
  nguid: nguid.optional(),
  read_only: z.boolean().optional(),
});

const subsystem = z.strictObject({
  nqn: nqn.optional(),
  serial: text(
    "1 to 20 printable ASCII characters",
    (value) => printable(value) && value.length <= 20,
  ).optional(),
  model: text(
    "1 to 40 printable ASCII characters",
    (value) => printable(value) && value.length <= 40,
  ).optional(),
  namespaces: z.array(namespace).max(1024).optional(),
  hosts: z
    .union([z.literal("any"), z.array(nqn).max(4096)], {
      error: () => 'expected "any" or a list of host NQNs',
    })
    .optional(),
  in_flight: z.enum(inFlightPolicies).optional(),
});

const referral = z.strictObject({ address: endpoint, nqn: nqn.optional() });

const limits = z.strictObject({
  connections: count(1, 2048).optional(),
  connections_per_host: count(1, 2048).optional(),
  controllers: count(1, 1024).optional(),
  queues_per_controller: count(1, 64).optional(),
  queue_entries: z.union([32, 64, 128, 256, 512, 1024].map((entries) => z.literal(entries))).optional(),
  memory: size.optional(),
  in_capsule: size.optional(),
  connect_timeout: durationUs.optional(),
  transfer_timeout: durationUs.optional(),
  admission_timeout: durationUs.optional(),
});

const describe = <Shape extends z.ZodType>(shape: Shape, description: string): Shape =>
  shape.meta({ description }) as Shape;

export const documentShape = z.strictObject({
  version: describe(z.literal(1), "Version of this format."),
  node: describe(name.optional(), "This server's name; default: the host name."),
  listen: describe(
    z.array(listen).max(64).optional(),
    "Where hosts connect. Default: 0.0.0.0:4420 and discovery on 0.0.0.0:8009.",
  ),
  devices: describe(z.record(z.string(), device).optional(), "Block devices by name."),
  subsystems: describe(z.record(z.string(), subsystem).optional(), "NVMe subsystems by name."),
  referrals: describe(
    z.array(referral).max(64).optional(),
    "Other discovery controllers that discovery points to.",
  ),
  limits: describe(limits.optional(), "Bounds that are laid out at start-up."),
  state: describe(absolutePath.optional(), "The durable directory; default /var/lib/keel."),
  sockets: describe(
    z
      .union([absolutePath, z.strictObject({ rpc: absolutePath.optional() })], {
        error: () => "expected a directory, or rpc: with the path of the control socket",
      })
      .optional(),
    "The directory of the control socket rpc.sock, or its path; default /run/keel.",
  ),
  log: describe(z.strictObject({ level: z.enum(logLevels).optional() }).optional(), "Logging."),
  http: describe(z.strictObject({ listen: endpoint }).optional(), "Prometheus metrics and health over HTTP."),
});

export type ConfigDocument = z.output<typeof documentShape>;
export type DeviceDocument = z.output<typeof device>;
export type PlainDeviceDocument = z.output<typeof plainDevice>;

export const topKeys = Object.keys(documentShape.shape);
export const deviceKinds = Object.keys(deviceShapes);
export const listenKinds = Object.keys(listenShapes);

/** What editors and other programs check a configuration against. */
export function jsonSchema(): Record<string, unknown> {
  const generated = z.toJSONSchema(documentShape, { io: "input", target: "draft-2020-12" }) as Record<
    string,
    unknown
  >;
  return { title: "Evenkeel configuration", ...generated };
}
