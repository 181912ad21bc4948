// Holds the engine's events and the log's lines of a start until there is somebody to take them.

import type { EngineEvent } from "../native/addon.js";
import type { Log } from "./log.js";

export class EventRelay {
  private waiting: EngineEvent[] = [];
  private deliver: (event: EngineEvent) => void = (event) => this.waiting.push(event);

  take(event: EngineEvent): void {
    this.deliver(event);
  }

  deliverTo(receiver: (event: EngineEvent) => void): void {
    this.deliver = receiver;
    for (const event of this.waiting.splice(0)) receiver(event);
  }
}

/** What is said before the logger is loaded, which costs more than hosts should wait for. */
export class HeldLog {
  readonly log: Log;
  private lines: ((log: Log) => void)[] = [];
  private receiver: Log | null = null;

  constructor() {
    const at =
      (urgency: keyof Log): Log["info"] =>
      (fields, message) =>
        this.say((log) => log[urgency](fields, message));
    this.log = { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") };
  }

  deliverTo(receiver: Log): void {
    this.receiver = receiver;
    for (const line of this.lines.splice(0)) line(receiver);
  }

  private say(line: (log: Log) => void): void {
    if (this.receiver === null) this.lines.push(line);
    else line(this.receiver);
  }
}
