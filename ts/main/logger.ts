// The log: JSON lines to stderr, or, on a terminal, one plain line each.

import { pino } from "pino";
import type { Log } from "../control/log.js";
import type { LogLevel } from "../model/state.js";

const levelNames: Readonly<Record<number, string>> = {
  20: "debug",
  30: "info ",
  40: "warn ",
  50: "error",
  60: "fatal",
};
const hidden = new Set(["level", "time", "msg", "pid"]);

/** "12:01:22.123 warn  message  key=value" */
export function prettyLine(json: string): string {
  const record = JSON.parse(json) as Record<string, unknown>;
  const time = String(record["time"]).slice(11, 23);
  const level = levelNames[Number(record["level"])] ?? String(record["level"]);
  const fields = Object.entries(record)
    .filter(([key]) => !hidden.has(key))
    .map(([key, value]) => `${key}=${typeof value === "string" ? value : JSON.stringify(value)}`);
  return `${time} ${level} ${[String(record["msg"]), ...fields].join("  ")}\n`;
}

export type Logger = { readonly log: Log; readonly setLevel: (level: LogLevel) => void };

export function makeLogger(level: LogLevel): Logger {
  const plain = pino.destination({ dest: 2, sync: true });
  const destination = process.stderr.isTTY
    ? { write: (line: string) => void plain.write(prettyLine(line)) }
    : plain;
  const logger = pino(
    { level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime },
    destination,
  );
  return {
    log: logger,
    setLevel: (next) => {
      logger.level = next;
    },
  };
}
