// Names and paths that follow from others when the configuration does not give them.

import { join } from "node:path";
import type { DeviceDocument } from "./schema.js";
import type { PathPart } from "./yaml.js";

/** "example" is reserved for nobody: a site that has a domain of its own writes nqn: in the configuration. */
export const defaultNqn = (node: string, subsystem: string): string =>
  `nqn.2026-11.example.keel:${node}:${subsystem}`;

/** Where a configuration without `listen` listens. */
export const defaultEndpoints = { nvmeTcp: "0.0.0.0:4420", discovery: "0.0.0.0:8009" } as const;

export type PartDocument = { readonly device: string; readonly start: bigint; readonly size: bigint };

/** The ranges of other devices that one stands on, each with its path within the device's document. */
export function partsOf(device: DeviceDocument): { part: PartDocument; path: readonly PathPart[] }[] {
  const whole = (name: string, path: readonly PathPart[]) => ({
    part: { device: name, start: 0n, size: 0n },
    path,
  });
  if ("delay" in device) return [whole(device.delay, ["delay"])];
  if ("error" in device) return [whole(device.error, ["error"])];
  if ("stripe" in device) return device.stripe.map((name, index) => whole(name, ["stripe", index]));
  if ("mirror" in device) return device.mirror.map((name, index) => whole(name, ["mirror", index]));
  if ("linear" in device) {
    return device.linear.map((part, index) => {
      const path = ["linear", index];
      if (typeof part === "string") return whole(part, path);
      return { part: { device: part.device, start: part.start ?? 0n, size: part.size ?? 0n }, path };
    });
  }
  if ("migration" in device) {
    return (["source", "destination"] as const).flatMap((side) =>
      partsOf(device.migration[side]).map(({ part, path }) => ({ part, path: ["migration", side, ...path] })),
    );
  }
  return [];
}

/** A node name from a host name: its first label, with what names may not have replaced. */
export function nodeOfHost(hostName: string): string {
  const label = (hostName.split(".")[0] ?? "")
    .replaceAll(/[^A-Za-z0-9_-]/g, "-")
    .replace(/^[^A-Za-z0-9]+/, "");
  return label.slice(0, 64) || "keel";
}

export type UserPlace = {
  readonly root: boolean;
  readonly runtimeDir: string | null;
  readonly stateHome: string | null;
  readonly home: string;
};

export type DefaultPaths = { readonly state: string; readonly rpcSocket: string };

/** The system's directories for root; a user's own for anybody else, so that nothing needs root. */
export function defaultPaths(user: UserPlace): DefaultPaths {
  if (user.root) return { state: "/var/lib/keel", rpcSocket: "/run/keel/rpc.sock" };
  const state = join(user.stateHome ?? join(user.home, ".local/state"), "keel");
  return {
    state,
    rpcSocket: join(user.runtimeDir ?? state, user.runtimeDir === null ? "rpc.sock" : "keel/rpc.sock"),
  };
}

export function userPlace(): UserPlace {
  const directory = (name: string): string | null => {
    const value = process.env[name];
    return value?.startsWith("/") === true ? value : null;
  };
  return {
    root: process.getuid?.() === 0,
    runtimeDir: directory("XDG_RUNTIME_DIR"),
    stateHome: directory("XDG_STATE_HOME"),
    home: directory("HOME") ?? "/tmp",
  };
}
