// What the durable directory learns while the server runs: identities that were given out, volumes of mirrors, and what
// was found out about media.

import { randomUUID } from "node:crypto";
import type { Identities } from "../config/complete.js";
import { toKeelError } from "../model/errors.js";
import { namespaceKey } from "../model/ids.js";
import { isJsonObject, type JsonObject, sameJson } from "../model/json.js";
import type { KnownFacts, State } from "../model/state.js";
import { isServing } from "../model/status.js";
import type { NativeEngine } from "../native/addon.js";
import { mediumKey, remembered } from "../recovery/media.js";
import type { DurableDirectory } from "./durable-directory.js";
import type { Log } from "./log.js";

/** Whatever hosts may see gets an identity that is never derived again. */
export async function rememberIdentities(directory: DurableDirectory, state: State): Promise<void> {
  const { identities } = directory;
  const namespaces = { ...identities.namespaces };
  const serials = { ...identities.serials };
  for (const { nqn, serial, namespaces: list } of state.subsystems) {
    serials[nqn] = serial;
    for (const { nsid, uuid, nguid } of list) namespaces[namespaceKey(nqn, nsid)] = { uuid, nguid };
  }
  const next: Identities = { ...identities, namespaces, serials };
  if (!sameJson(next, identities)) await directory.writeIdentities(next);
}

/**
 * Each mirror gets a volume of its own when it is first seen; one of the same name later is another volume. What none
 * of `documents` names is forgotten.
 */
export async function nameVolumes(
  directory: DurableDirectory,
  ...documents: readonly JsonObject[]
): Promise<void> {
  const { identities } = directory;
  const volumes: Record<string, string> = {};
  for (const { devices } of documents) {
    if (!isJsonObject(devices)) continue;
    for (const [name, device] of Object.entries(devices)) {
      if (isJsonObject(device) && device["mirror"] !== undefined)
        volumes[name] ??= identities.volumes[name] ?? randomUUID().replaceAll("-", "");
    }
  }
  if (!sameJson(volumes, identities.volumes)) await directory.writeIdentities({ ...identities, volumes });
}

/** What the engine has found out about media, for starts at which they are out of reach. */
export async function rememberMedia(
  directory: DurableDirectory,
  engine: NativeEngine,
  actual: State,
  desired: State,
): Promise<void> {
  const { media } = directory;
  const slow = actual.devices.some((device) => mediumKey(device) !== null);
  if (!slow && Object.keys(media).length === 0) return;
  const seen = new Map<string, KnownFacts>();
  for (const { name, state, sizeBytes, blockBytes, identity } of (await engine.status()).devices) {
    if (sizeBytes > 0n && isServing(state)) seen.set(name, { sizeBytes, blockBytes, identity });
  }
  // Devices that could not be made yet keep what is known of them.
  const next = remembered(media, [...actual.devices, ...desired.devices], seen);
  if (next !== media) await directory.writeMedia(next);
}

/** Write protection ends with its namespace. */
export async function forgetProtections(
  directory: DurableDirectory,
  desired: State,
  log: Log,
): Promise<void> {
  const present = new Map<string, string>();
  for (const { nqn, namespaces } of desired.subsystems) {
    for (const { nsid, nguid } of namespaces) present.set(namespaceKey(nqn, nsid), nguid);
  }
  await directory
    .forgetProtections((key, nguid) => present.get(key) === nguid)
    .catch((error: unknown) => log.error({}, toKeelError(error).message));
}
