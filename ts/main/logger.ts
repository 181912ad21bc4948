// The log: JSON lines to stderr, or, on a terminal, one plain line each.

import { createRequire } from "node:module";
import type { Log } from "../control/log.js";
import { type LogLevel, logLevels } from "../model/state.js";

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

function pinoAt(level: LogLevel) {
  // Loaded for the first line: a successor has said nothing by the time that hosts wait for.
  const { pino } = createRequire(import.meta.url)("pino") as typeof import("pino");
  const plain = pino.destination({ dest: 2, sync: true });
  const destination = process.stderr.isTTY
    ? { write: (line: string) => void plain.write(prettyLine(line)) }
    : plain;
  return pino({ level, base: { pid: process.pid }, timestamp: pino.stdTimeFunctions.isoTime }, destination);
}

export function makeLogger(first: LogLevel): Logger {
  let level = first;
  let logger: ReturnType<typeof pinoAt> | null = null;
  const at =
    (urgent: LogLevel): Log["info"] =>
    (fields, message) => {
      if (logLevels.indexOf(urgent) < logLevels.indexOf(level)) return;
      logger ??= pinoAt(level);
      logger[urgent](fields, message);
    };
  return {
    log: { debug: at("debug"), info: at("info"), warn: at("warn"), error: at("error") },
    setLevel: (next) => {
      level = next;
      if (logger !== null) logger.level = next;
    },
  };
}
