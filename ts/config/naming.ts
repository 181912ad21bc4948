// Names and paths that follow from others when the configuration does not give them.

import { join } from "node:path";
import type { DeviceDocument } from "./schema.js";

/** "example" is reserved for nobody: a site that has a domain of its own writes nqn: in the configuration. */
export const defaultNqn = (node: string, subsystem: string): string =>
  `nqn.2026-11.example.keel:${node}:${subsystem}`;

/** Where a configuration without `listen` listens. */
export const defaultEndpoints = { nvmeTcp: "0.0.0.0:4420", discovery: "0.0.0.0:8009" } as const;

/** The device that a delay or error device stands on. */
export const baseOf = (device: DeviceDocument): string | null =>
  "delay" in device ? device.delay : "error" in device ? device.error : null;

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
