// One step of a plan, carried out on the engine. The only place that turns wanted state into native specs.

import { readFile, realpath } from "node:fs/promises";
import { basename, join } from "node:path";
import type { DeviceStep } from "../config/alterations.js";
import type { Step } from "../config/diff.js";
import { formatEndpoint } from "../model/endpoint.js";
import { KeelError, toKeelError } from "../model/errors.js";
import type { DeviceWanted, KnownFacts, ListenerWanted, SubsystemWanted } from "../model/state.js";
import type { DeviceSpec, ListenerSpec, NativeEngine, SubsystemSpec } from "../native/addon.js";

/** The logical block size that the kernel tells of a block device; 512 or 4096 are what hosts can use. */
async function logicalBlockBytes(path: string): Promise<number> {
  const name = basename(await realpath(path).catch(() => path));
  const device = await realpath(join("/sys/class/block", name)).catch(() => null);
  if (device !== null) {
    // A partition has its parent's queue.
    for (const queue of ["queue", "../queue"]) {
      const text = await readFile(join(device, queue, "logical_block_size"), "utf8").catch(() => "");
      const bytes = Number(text);
      if (bytes === 512 || bytes === 4096) return bytes;
    }
  }
  // Not found: opening it will say why better than we could here.
  return 512;
}

/** What was found out about a device's medium when it was first there; null: nothing. */
export type Known = (device: DeviceWanted) => KnownFacts | null;

async function deviceSpec(device: DeviceWanted, known: Known): Promise<DeviceSpec> {
  const automatic = device.kind === "blockdev" && device.blockBytes === 0 && device.path !== null;
  const blockBytes = automatic ? await logicalBlockBytes(device.path ?? "") : device.blockBytes;
  return { ...device, blockBytes, memoryDescriptor: null, known: known(device) };
}

function subsystemSpec(subsystem: SubsystemWanted): SubsystemSpec {
  const { nqn, serial, model, firmware, allowAnyHost, hosts, inFlight, cntlidMin, cntlidMax } = subsystem;
  return { nqn, serial, model, firmware, allowAnyHost, hosts: [...hosts], inFlight, cntlidMin, cntlidMax };
}

const listenerSpec = (listener: ListenerWanted): ListenerSpec => ({ ...listener, descriptor: null });

/** What a host has set about a namespace (Namespace Write Protection) and what outlasts the process. */
export type ProtectionOf = (nqn: string, nsid: number, nguid: string) => number;

/** Prepared by whoever made the decision durable; again if the engine did not want to wait so long. */
async function commit(engine: NativeEngine, name: string): Promise<void> {
  try {
    await engine.commitMigration(name);
  } catch (thrown) {
    if (toKeelError(thrown).code !== "E_NOT_READY") throw thrown;
    await engine.prepareMigration(name);
    await engine.commitMigration(name);
  }
}

async function alter(engine: NativeEngine, step: DeviceStep, known: Known): Promise<void> {
  switch (step.type) {
    case "replace-device":
      await engine.replaceDevice(await deviceSpec(step.device, known));
      return;
    case "device-command":
      return engine.deviceCommand(step.device.name, step.verb, { ...step.arguments });
    case "set-suspended":
      return step.suspended ? engine.suspendDevice(step.name) : engine.resumeDevice(step.name);
    case "begin-migration": {
      const bytesPerSecond = step.device.migration?.bytesPerSecond ?? 0n;
      return engine.beginMigration(
        step.device.name,
        await deviceSpec(step.destination, known),
        bytesPerSecond,
      );
    }
    case "end-migration":
      if (step.how === "cancel") return engine.cancelMigration(step.device.name);
      return commit(engine, step.device.name);
  }
}

async function carryOut(
  engine: NativeEngine,
  step: Step,
  known: Known,
  protectionOf: ProtectionOf,
): Promise<void> {
  switch (step.type) {
    case "replace-device":
    case "device-command":
    case "set-suspended":
    case "begin-migration":
    case "end-migration":
      return alter(engine, step, known);
    case "add-device":
      await engine.addDevice(await deviceSpec(step.device, known));
      return;
    case "remove-device":
      return engine.removeDevice(step.device.name);
    case "resize-device":
      await engine.resizeDevice(step.name, step.sizeBytes);
      return;
    case "add-subsystem":
      return engine.addSubsystem(subsystemSpec(step.subsystem));
    case "remove-subsystem":
      return engine.removeSubsystem(step.nqn);
    case "set-hosts":
      return engine.setHosts(step.nqn, step.allowAnyHost, [...step.hosts]);
    case "set-in-flight":
      return engine.setInFlight(step.nqn, step.inFlight);
    case "add-namespace": {
      const { nsid, nguid } = step.namespace;
      const writeProtection = protectionOf(step.nqn, nsid, nguid);
      return engine.addNamespace(step.nqn, { ...step.namespace, writeProtection });
    }
    case "remove-namespace":
      return engine.removeNamespace(step.nqn, step.nsid);
    case "set-read-only":
      return engine.setNamespaceReadOnly(step.nqn, step.nsid, step.readOnly);
    case "add-listener":
      await engine.addListener(listenerSpec(step.listener));
      return;
    case "set-listener":
      return engine.setListener(listenerSpec(step.listener));
    case "remove-listener":
      return engine.removeListener(step.listener.id);
    case "set-referrals":
      return engine.setReferrals(step.referrals.map((referral) => ({ ...referral })));
  }
}

/** What the step is about, for messages: a path in the configuration where there is one. */
export function subjectOf(step: Step): string {
  switch (step.type) {
    case "replace-device":
    case "device-command":
    case "begin-migration":
    case "end-migration":
    case "add-device":
    case "remove-device":
      return `devices.${step.device.name}`;
    case "resize-device":
    case "set-suspended":
      return `devices.${step.name}`;
    case "add-subsystem":
      return `subsystems.${step.subsystem.name}`;
    case "remove-subsystem":
    case "set-hosts":
    case "set-in-flight":
      return `subsystems.${step.name}`;
    case "add-namespace":
      return `subsystems.${step.name}.namespaces (id ${step.namespace.nsid})`;
    case "remove-namespace":
    case "set-read-only":
      return `subsystems.${step.name}.namespaces (id ${step.nsid})`;
    case "add-listener":
    case "set-listener":
    case "remove-listener":
      return `listen ${formatEndpoint(step.listener)}`;
    case "set-referrals":
      return "referrals";
  }
}

/** Throws KeelError with the step's subject as its path. */
export async function executeStep(
  engine: NativeEngine,
  step: Step,
  known: Known,
  protectionOf: ProtectionOf = () => 0,
): Promise<void> {
  try {
    await carryOut(engine, step, known, protectionOf);
  } catch (thrown) {
    const error = toKeelError(thrown);
    const subject = subjectOf(step);
    const message = error.message.includes(subject) ? error.message : `${subject}: ${error.message}`;
    throw new KeelError(error.code, message, { path: subject });
  }
}
