// The methods about devices and volumes: what `keel device`, `keel mirror`, `keel jobs` and `keel graph` use.

import { z } from "zod";
import { addDevice, removeDevice } from "../config/edit.js";
import type { Place } from "../config/volume-edit.js";
import { KeelError } from "../model/errors.js";
import { graphOf } from "../model/graph.js";
import type { JsonObject } from "../model/json.js";
import { changeOptions, type Method, method, optionsOf } from "./method.js";

const size = z.union([z.string(), z.int().nonnegative()]).transform(String);
const spec = z.record(z.string(), z.unknown());
const named = { device: z.string() };
const legOf = { mirror: z.string(), leg: z.string() };

const placeOf = (given: { spec?: JsonObject | undefined; to?: string | undefined }): Place => {
  if (given.spec !== undefined && given.to === undefined) return { spec: given.spec };
  if (given.to !== undefined && given.spec === undefined) return { device: given.to };
  throw new KeelError("E_RPC", "give either a spec or the name of a device, not both");
};

const devices: readonly Method[] = [
  method(
    "keel.devices",
    "Every device.",
    z.strictObject({}),
    async ({ server }) => (await server.status()).devices,
  ),
  method(
    "keel.device.add",
    "Makes a device. `spec` is what stands behind its name in the configuration.",
    z.strictObject({ ...named, spec, ...changeOptions }),
    ({ server }, parameters) =>
      server.change(
        (raw) => addDevice(raw, parameters.device, parameters.spec as JsonObject),
        optionsOf(parameters),
      ),
  ),
  method(
    "keel.device.remove",
    "Removes a device that nothing uses.",
    z.strictObject({ ...named, ...changeOptions }),
    ({ server }, parameters) =>
      server.change((raw) => removeDevice(raw, parameters.device), optionsOf(parameters)),
  ),
  method(
    "keel.device.suspend",
    "Holds back what is asked of a device until it is resumed; everything else goes on.",
    z.strictObject({ ...named, ...changeOptions }),
    ({ server }, parameters) => server.volumes.suspend(parameters.device, optionsOf(parameters)),
  ),
  method(
    "keel.device.resume",
    "Lets a suspended device go on.",
    z.strictObject({ ...named, ...changeOptions }),
    ({ server }, parameters) => server.volumes.resume(parameters.device, optionsOf(parameters)),
  ),
  method(
    "keel.device.replace",
    "Gives a device another medium that has the content already; whoever uses it goes on.",
    z.strictObject({ ...named, spec, ...changeOptions }),
    ({ server }, parameters) =>
      server.volumes.replace(parameters.device, parameters.spec as JsonObject, optionsOf(parameters)),
  ),
  method(
    "keel.device.accept",
    "Takes the medium that is there now, although another one was there before.",
    z.strictObject(named),
    async ({ server }, { device }) => {
      await server.volumes.accept(device);
      return true;
    },
  ),
  method(
    "keel.device.migrate",
    "Copies a device to another place while it is used, then goes on there. Answers the job.",
    z.strictObject({
      ...named,
      spec: spec.optional(),
      to: z.string().optional(),
      rate: size.optional(),
      ...changeOptions,
    }),
    ({ server }, parameters) => {
      const place = placeOf({ spec: parameters.spec as JsonObject | undefined, to: parameters.to });
      return server.volumes.migrate(parameters.device, place, parameters.rate ?? null, optionsOf(parameters));
    },
  ),
  method(
    "keel.device.migrate.cancel",
    "Calls a migration off: the device stays where it was.",
    z.strictObject(named),
    ({ server }, { device }) => server.volumes.cancelMigration(device),
  ),
  method(
    "keel.device.grow",
    "Appends a range of another device to a linear volume.",
    z.strictObject({
      ...named,
      part: z.string(),
      start: size.optional(),
      size: size.optional(),
      ...changeOptions,
    }),
    ({ server }, parameters) =>
      server.volumes.grow(
        parameters.device,
        { device: parameters.part, start: parameters.start ?? null, size: parameters.size ?? null },
        optionsOf(parameters),
      ),
  ),
];

const mirrors: readonly Method[] = [
  method(
    "keel.mirror.add",
    "Adds a leg to a mirror; it is filled while the mirror is used. Answers the job.",
    z.strictObject({ mirror: z.string(), device: z.string(), ...changeOptions }),
    ({ server }, parameters) =>
      server.volumes.addLeg(parameters.mirror, parameters.device, optionsOf(parameters)),
  ),
  method(
    "keel.mirror.remove",
    "Takes a leg away from a mirror for good.",
    z.strictObject({ ...legOf, ...changeOptions }),
    ({ server }, parameters) =>
      server.volumes.removeLeg(parameters.mirror, parameters.leg, optionsOf(parameters)),
  ),
  method(
    "keel.mirror.replace",
    "Puts another device in the place of a leg. Answers the job that fills it.",
    z.strictObject({ ...legOf, device: z.string(), ...changeOptions }),
    ({ server }, { mirror, leg, device, ...rest }) =>
      server.volumes.replaceLeg(mirror, leg, device, optionsOf(rest)),
  ),
  method(
    "keel.mirror.detach",
    "Goes on without a leg; what changes meanwhile is remembered.",
    z.strictObject(legOf),
    ({ server }, { mirror, leg }) => server.volumes.legVerb("detach", mirror, leg),
  ),
  method(
    "keel.mirror.attach",
    "Takes a leg back: only what changed meanwhile is copied. `force` takes one that carries something else.",
    z.strictObject({ ...legOf, force: z.boolean().optional() }),
    ({ server }, { mirror, leg, force }) =>
      server.volumes.legVerb("attach", mirror, leg, force === true ? { force: "yes" } : {}),
  ),
  method(
    "keel.mirror.invalidate",
    "Declares everything on a leg wrong: it is filled anew.",
    z.strictObject(legOf),
    ({ server }, { mirror, leg }) => server.volumes.legVerb("invalidate", mirror, leg),
  ),
  method(
    "keel.mirror.mark_clean",
    "Declares a leg equal to the others without copying anything.",
    z.strictObject(legOf),
    ({ server }, { mirror, leg }) => server.volumes.legVerb("mark_clean", mirror, leg),
  ),
  method(
    "keel.mirror.scrub",
    "Compares the legs, and with `repair` makes them equal. Answers the job.",
    z.strictObject({ mirror: z.string(), repair: z.boolean().optional() }),
    ({ server }, { mirror, repair }) => server.volumes.scrub(mirror, repair ?? false),
  ),
  method(
    "keel.mirror.grow",
    "Makes a mirror as large as its legs are by now. Answers the size.",
    z.strictObject({ mirror: z.string() }),
    async ({ server }, { mirror }) => {
      server.volumes.findMirror(mirror);
      return { sizeBytes: await server.rescan(mirror) };
    },
  ),
  method(
    "keel.mirror.rate",
    "How many bytes per second a resync may copy; 0: as fast as the legs allow.",
    z.strictObject({ mirror: z.string(), rate: size, ...changeOptions }),
    ({ server }, parameters) =>
      server.volumes.setRate(parameters.mirror, parameters.rate, optionsOf(parameters)),
  ),
];

const looking: readonly Method[] = [
  method(
    "keel.graph",
    "The tree of devices below a volume, or all trees.",
    z.strictObject({ volume: z.string().optional() }),
    async ({ server }, { volume }) => graphOf(await server.status(), volume ?? null),
  ),
  method(
    "keel.jobs",
    "Long operations, newest first.",
    z.strictObject({}),
    async ({ server }) => (await server.status()).jobs,
  ),
  method(
    "keel.job.cancel",
    "Ends a long operation as if it had not begun, as far as that is possible.",
    z.strictObject({ id: z.int() }),
    async ({ server }, { id }) => {
      await server.volumes.cancelJob(id);
      return true;
    },
  ),
];

export const volumeMethods: readonly Method[] = [...looking, ...devices, ...mirrors];
