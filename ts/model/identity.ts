// Identities that hosts mount by. Derived from one random server UUID and the names of things, so that they are the
// same after every restart, and different on every server. [RFC 4122 §4.3: name-based, SHA-1]

import { createHash } from "node:crypto";
import { formatUuid, type Hex128, type Nqn } from "./ids.js";

/** The version-5 UUID of `name` in the name space `namespace` (32 digits). */
export function nameUuid(namespace: Hex128, name: string): Hex128 {
  const digest = createHash("sha1").update(Buffer.from(namespace, "hex")).update(name, "utf8").digest();
  const bytes = digest.subarray(0, 16);
  bytes[6] = ((bytes[6] ?? 0) & 0x0f) | 0x50;
  bytes[8] = ((bytes[8] ?? 0) & 0x3f) | 0x80;
  return bytes.toString("hex") as Hex128;
}

export type NamespaceIdentity = { readonly uuid: Hex128; readonly nguid: Hex128 };

export function namespaceIdentity(server: Hex128, nqn: Nqn | string, nsid: number): NamespaceIdentity {
  return {
    uuid: nameUuid(server, `namespace ${nqn} ${nsid} uuid`),
    nguid: nameUuid(server, `namespace ${nqn} ${nsid} nguid`),
  };
}

/** 20 characters, as the Identify Controller data structure holds. [NVMe base 2.0 figure 275, SN] */
export const subsystemSerial = (server: Hex128, nqn: Nqn | string): string =>
  `EK${nameUuid(server, `subsystem ${nqn} serial`).slice(0, 18).toUpperCase()}`;

/** A mirror that nothing was recorded about. */
export const mirrorVolume = (server: Hex128, name: string): Hex128 =>
  nameUuid(server, `mirror ${name} volume`);

/** Who this server is to the targets that it uses itself. */
export type HostIdentity = { readonly hostnqn: string; readonly hostid: Hex128 };

/** Targets expect that a UUID NQN and the host identifier are the same UUID. [NVMe base 2.0 §4.5.2] */
export function hostIdentity(server: Hex128): HostIdentity {
  const hostid = nameUuid(server, "host");
  return { hostnqn: `nqn.2014-08.org.nvmexpress:uuid:${formatUuid(hostid)}`, hostid };
}
