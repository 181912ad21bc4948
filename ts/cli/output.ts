// What the command line prints: tables for people, JSON and YAML for programs.

import { stringify } from "yaml";
import { toJson } from "../model/json.js";

export const formats = ["table", "wide", "json", "yaml"] as const;
export type Format = (typeof formats)[number];

export type Column<Row> = {
  readonly title: string;
  readonly value: (row: Row) => string | number;
  readonly right?: boolean;
  /** Only in `-o wide`. */
  readonly wide?: boolean;
};

/** Control characters in names that came from hosts must not reach a terminal. */
const visible = (text: string): string => text.replaceAll(/\p{Cc}/gu, "?");

export function tableText<Row>(rows: readonly Row[], columns: readonly Column<Row>[]): string {
  const cells = [
    columns.map((column) => column.title),
    ...rows.map((row) => columns.map((column) => visible(String(column.value(row))))),
  ];
  const widths = columns.map((_, index) => Math.max(...cells.map((line) => line[index]?.length ?? 0)));
  return cells
    .map((line) =>
      line
        .map((cell, index) => {
          const width = widths[index] ?? 0;
          return columns[index]?.right === true ? cell.padStart(width) : cell.padEnd(width);
        })
        .join("  ")
        .trimEnd(),
    )
    .join("\n");
}

export function print(text: string): void {
  process.stdout.write(text.endsWith("\n") ? text : `${text}\n`);
}

export function printData(value: unknown, format: "json" | "yaml"): void {
  print(format === "json" ? toJson(value, 2) : stringify(JSON.parse(toJson(value)) as unknown));
}

export function printRows<Row>(
  rows: readonly Row[],
  columns: readonly Column<Row>[],
  format: Format,
  empty: string,
): void {
  if (format === "json" || format === "yaml") {
    printData(rows, format);
    return;
  }
  const shown = columns.filter((column) => format === "wide" || column.wide !== true);
  print(rows.length === 0 ? empty : tableText(rows, shown));
}
