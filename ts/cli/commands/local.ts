// Commands that need no server.

import { jsonSchema } from "../../config/schema.js";
import { errorTable, isErrorCode, KeelError } from "../../model/errors.js";
import { didYouMean } from "../../model/nearest.js";
import { print, printData } from "../output.js";

export function schemaCommand(): void {
  printData(jsonSchema(), "json");
}

export function explainCommand(code: string | null): void {
  if (code === null) {
    const codes = Object.entries(errorTable);
    const width = Math.max(...codes.map(([name]) => name.length));
    print(codes.map(([name, entry]) => `${name.padEnd(width)}  ${entry.text}`).join("\n"));
    return;
  }
  const wanted = code.toUpperCase();
  if (!isErrorCode(wanted)) {
    const hint = didYouMean(wanted, Object.keys(errorTable));
    throw new KeelError("E_NOT_FOUND", `there is no error code ${wanted.slice(0, 64)}.${hint}`, {
      fix: "keel explain lists all of them",
    });
  }
  const entry = errorTable[wanted];
  print(`${wanted}  ${entry.text}\n  cause  ${entry.cause}\n  fix    ${entry.fix}\n  exit   ${entry.exit}`);
}

export async function doctorCommand(options: { config?: string; output?: string }): Promise<void> {
  const { diagnose } = await import("../../main/doctor.js");
  const findings = await diagnose(options.config ?? null);
  if (options.output === "json" || options.output === "yaml") printData(findings, options.output);
  else {
    const width = Math.max(...findings.map(({ what }) => what.length));
    for (const { what, verdict, text, fix } of findings) {
      print(`${verdict.padEnd(4)}  ${what.padEnd(width)}  ${text}`);
      if (fix !== null) print(`      ${"".padEnd(width)}  fix: ${fix}`);
    }
  }
  process.exitCode = findings.some(({ verdict }) => verdict === "bad") ? 1 : 0;
}
