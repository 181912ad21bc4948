// The last things that happened, for `keel status` and `keel top`. Bounded.

import type { EventReport } from "../model/status.js";

const eventsMax = 200;

export class EventRing {
  private readonly events: EventReport[] = [];

  add(level: EventReport["level"], text: string): void {
    this.events.push({ timeMs: Date.now(), level, text: text.slice(0, 500) });
    if (this.events.length > eventsMax) this.events.shift();
  }

  list(): EventReport[] {
    return [...this.events];
  }
}
