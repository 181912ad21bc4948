// What the engine says, in order, on the main thread: hosts that want to connect, hosts that came and went, devices
// that changed, what must be durable before a host is answered.

import { toKeelError } from "../model/errors.js";
import { namespaceKey } from "../model/ids.js";
import type { State } from "../model/state.js";
import type { EngineEvent } from "../native/addon.js";
import { admit } from "./admission.js";
import type { EventRing } from "./events.js";
import type { ServerParts } from "./server-parts.js";

export type EventHost = {
  desired(): State;
  stopping(): boolean;
  restartFailed(reason: string): void;
  deviceChanged(): void;
};

export class EngineEvents {
  private readonly parts: ServerParts;
  private readonly events: EventRing;
  private readonly host: EventHost;

  constructor(parts: ServerParts, events: EventRing, host: EventHost) {
    this.parts = parts;
    this.events = events;
    this.host = host;
  }

  take(event: EngineEvent): void {
    const { log, engine, directory } = this.parts;
    switch (event.type) {
      case "connect": {
        const decision = this.host.stopping()
          ? { allow: false, reason: "the server is stopping" }
          : admit(this.host.desired(), event);
        engine.admit(event.request, decision.allow, decision.reason);
        if (!decision.allow) {
          this.events.add("warn", `${event.hostNqn} refused at ${event.subsystem}: ${decision.reason}`);
          log.warn(
            { host: event.hostNqn, subsystem: event.subsystem, peer: event.peerAddress },
            `host refused: ${decision.reason}`,
          );
        }
        return;
      }
      case "write-protection":
        void this.keepProtection(event);
        return;
      case "log":
        log[event.level]({ area: event.area }, event.message);
        return;
      case "controller": {
        const text = `${event.hostNqn} ${event.change} ${event.change === "connected" ? "to" : "from"} ${event.subsystem}`;
        this.events.add("info", event.reason === "" ? text : `${text}: ${event.reason}`);
        log.info({ area: "host", cntlid: event.cntlid, reason: event.reason }, text);
        return;
      }
      case "discovery-generation":
        directory.reserveGeneration(event.generation).catch((error: unknown) => {
          log.error({}, `the discovery generation counter is not durable: ${toKeelError(error).message}`);
        });
        return;
      case "restart-failed":
        this.host.restartFailed(event.reason);
        this.events.add("error", `restart failed: ${event.reason}`);
        log.error(
          { area: "restart", code: "E_RESTART_FAILED" },
          `the new server did not start: ${event.reason}`,
        );
        return;
      case "device":
        this.host.deviceChanged();
        this.events.add(
          event.state === "ok" ? "info" : "warn",
          `device ${event.device}: ${event.state} ${event.reason}`.trimEnd(),
        );
        log.warn(
          { device: event.device, state: event.state },
          `device ${event.device}: ${event.state} ${event.reason}`.trimEnd(),
        );
    }
  }

  /** A host is answered, and what it asked for holds, once it is on the disk. */
  private async keepProtection(event: EngineEvent & { type: "write-protection" }): Promise<void> {
    const { engine, directory, log } = this.parts;
    const { request, subsystem, nsid, nguid, state } = event;
    const what = `${subsystem} namespace ${nsid}: write protection ${state === 0 ? "taken away" : "set"} by a host`;
    try {
      await directory.protect(namespaceKey(subsystem, nsid), nguid, state);
      engine.admit(request, true, "");
      this.events.add("info", what);
    } catch (thrown) {
      const reason = toKeelError(thrown).message;
      engine.admit(request, false, reason);
      log.error({ area: "host" }, `${what}, which cannot be kept: ${reason}`);
    }
  }
}
