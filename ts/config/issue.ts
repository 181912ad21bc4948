// A fault in a configuration, and how several of them become one error.

import { type ErrorCode, KeelError } from "../model/errors.js";
import type { PathPart, Position } from "./yaml.js";

export type Issue = {
  readonly code: ErrorCode;
  /** null for a configuration that did not come from a file. */
  readonly position: Position | null;
  readonly path: readonly PathPart[];
  readonly message: string;
};

const issuesShown = 20;

/** "subsystems.pg.hosts[0]"; keys that are not plain names are quoted. */
export function formatPath(path: readonly PathPart[]): string {
  return path
    .map((part, index) => {
      if (typeof part === "number") return `[${part}]`;
      const text = /^[A-Za-z0-9_-]+$/.test(part) ? part : JSON.stringify(part);
      return index === 0 ? text : `.${text}`;
    })
    .join("");
}

export function formatIssue(issue: Issue): string {
  const place =
    issue.position === null ? "" : `${issue.position.file}:${issue.position.line}:${issue.position.column}  `;
  const path = issue.path.length === 0 ? "" : `${formatPath(issue.path)}: `;
  return `${place}${path}${issue.message}`;
}

/** One line per fault, in the order of the file. */
export function configError(issues: readonly Issue[]): KeelError {
  const ordered = [...issues].sort(
    (left, right) =>
      (left.position?.file ?? "").localeCompare(right.position?.file ?? "") ||
      (left.position?.line ?? 0) - (right.position?.line ?? 0) ||
      (left.position?.column ?? 0) - (right.position?.column ?? 0),
  );
  const [first] = ordered;
  if (first === undefined) return new KeelError("E_INTERNAL", "a configuration was refused without a reason");
  const lines = ordered.slice(0, issuesShown).map(formatIssue);
  if (ordered.length > issuesShown) lines.push(`and ${ordered.length - issuesShown} more`);
  return new KeelError(first.code, lines.join("\n"), { path: formatPath(first.path) });
}
