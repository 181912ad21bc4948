// What is known of media that may be out of reach when the server starts: a namespace of another machine, an image
// behind a handler, a mirror whose legs are to be read first. With it a device has its size at once, hosts go on, and
// another medium under the same address is recognised. Recorded by what the medium is, not by what the device is
// called: a new name or another address of the same target changes nothing.

import { isJsonObject, type Json, type JsonObject } from "../model/json.js";
import type { DeviceWanted, KnownFacts } from "../model/state.js";

export type Media = Readonly<Record<string, KnownFacts>>;

/** null: nothing has to be remembered about it. */
export function mediumKey(device: DeviceWanted): string | null {
  const { remote, tcmu, mirror } = device;
  if (remote !== null) return `nvme ${remote.subnqn} ${remote.nsid}`;
  if (tcmu !== null) return `tcmu ${tcmu.handler} ${tcmu.configuration}`;
  return mirror === null ? null : `mirror ${mirror.volume}`;
}

export function knownFacts(media: Media, device: DeviceWanted): KnownFacts | null {
  const key = mediumKey(device);
  return key === null || !Object.hasOwn(media, key) ? null : (media[key] ?? null);
}

/** `media` with what is known now and without what no device uses any more; the same object if that is no change. */
export function remembered(
  media: Media,
  devices: readonly DeviceWanted[],
  seen: ReadonlyMap<string, KnownFacts>,
): Media {
  const next: Record<string, KnownFacts> = {};
  for (const device of devices) {
    const key = mediumKey(device);
    if (key === null) continue;
    const facts = seen.get(device.name) ?? knownFacts(media, device);
    if (facts !== null) next[key] = facts;
  }
  const equal = (left: KnownFacts | undefined, right: KnownFacts | undefined): boolean =>
    left?.sizeBytes === right?.sizeBytes &&
    left?.blockBytes === right?.blockBytes &&
    left?.identity === right?.identity;
  const keys = Object.keys(next);
  const unchanged =
    keys.length === Object.keys(media).length && keys.every((key) => equal(next[key], media[key]));
  return unchanged ? media : next;
}

export const formatMedia = (media: Media): JsonObject => ({
  version: 1,
  media: Object.fromEntries(
    Object.entries(media).map(([key, { sizeBytes, blockBytes, identity }]): [string, Json] => [
      key,
      { sizeBytes: String(sizeBytes), blockBytes, identity },
    ]),
  ),
});

/** null: damaged. */
export function parseMedia(value: JsonObject): Media | null {
  const { media } = value;
  if (!isJsonObject(media)) return null;
  const result: Record<string, KnownFacts> = {};
  for (const [key, entry] of Object.entries(media)) {
    const { sizeBytes, blockBytes, identity } = isJsonObject(entry) ? entry : {};
    if (typeof sizeBytes !== "string" || !/^\d{1,19}$/.test(sizeBytes)) return null;
    if ((blockBytes !== 512 && blockBytes !== 4096) || typeof identity !== "string") return null;
    result[key] = { sizeBytes: BigInt(sizeBytes), blockBytes, identity };
  }
  return result;
}
