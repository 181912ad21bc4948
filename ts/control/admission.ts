// Who may connect: a pure decision on one Connect command. The engine checks the allow list as well; this is where
// what the engine does not know is decided (a subsystem that is being taken away, limits per host).

import { discoveryNqn } from "../model/ids.js";
import type { State } from "../model/state.js";

export type ConnectRequest = { readonly subsystem: string; readonly hostNqn: string };
export type Decision = { readonly allow: boolean; readonly reason: string };

/** `desired`: what should be; a subsystem on its way out admits nobody although it still exists. */
export function admit(desired: State, request: ConnectRequest): Decision {
  // Everybody may ask what there is; the log shows each host what it may use.
  if (request.subsystem === discoveryNqn) return { allow: true, reason: "discovery" };
  const subsystem = desired.subsystems.find(({ nqn }) => nqn === request.subsystem);
  if (subsystem === undefined) return { allow: false, reason: "there is no such subsystem" };
  if (subsystem.allowAnyHost || subsystem.hosts.includes(request.hostNqn))
    return { allow: true, reason: "allowed" };
  return { allow: false, reason: "the host is not allowed; keel hosts add allows it" };
}
