// What a JSON-RPC method is: a name, the shape of its parameters, a sentence, and what it does.

import { z } from "zod";
import type { Server } from "../control/server.js";
import { KeelError } from "../model/errors.js";
import { didYouMean } from "../model/nearest.js";

/** What methods may use of the process around the server. */
export type ApiContext = {
  readonly server: Server;
  readonly version: string;
  /** Begins an orderly stop; returns at once. */
  readonly shutdown: () => void;
  /** Reads the configuration file again. */
  readonly reload: () => Promise<unknown>;
};

export type Method = {
  readonly name: string;
  readonly summary: string;
  readonly parameters: z.ZodObject;
  readonly call: (context: ApiContext, parameters: unknown) => Promise<unknown>;
};

export function method<Shape extends z.ZodObject>(
  name: string,
  summary: string,
  parameters: Shape,
  run: (context: ApiContext, parameters: z.output<Shape>) => Promise<unknown> | unknown,
): Method {
  return {
    name,
    summary,
    parameters,
    call: async (context, given) => run(context, parse(name, parameters, given)),
  };
}

/**
 * A method with a name of SPDK's. Its rpc.py sends all switches of a command, also those that nobody asked for: one
 * that is off and unknown here asks for nothing that this server would do.
 */
export function spdkMethod<Shape extends z.ZodObject>(
  name: string,
  summary: string,
  parameters: Shape,
  run: (context: ApiContext, parameters: z.output<Shape>) => Promise<unknown> | unknown,
): Method {
  const plain = method(name, summary, parameters, run);
  return { ...plain, call: (context, given) => plain.call(context, withoutOffSwitches(given, parameters)) };
}

function withoutOffSwitches(given: unknown, shape: z.ZodObject): unknown {
  if (typeof given !== "object" || given === null || Array.isArray(given)) return given;
  const left = Object.entries(given).flatMap(([key, value]): [string, unknown][] => {
    const known: unknown = Object.hasOwn(shape.shape, key) ? shape.shape[key] : undefined;
    if (known === undefined && value === false) return [];
    return [[key, known instanceof z.ZodObject ? withoutOffSwitches(value, known) : value]];
  });
  return Object.fromEntries(left);
}

function parse<Shape extends z.ZodObject>(name: string, shape: Shape, given: unknown): z.output<Shape> {
  const result = shape.safeParse(given ?? {});
  if (result.success) return result.data;
  const texts = result.error.issues.slice(0, 5).map((issue) => {
    const path = issue.path.map(String).join(".");
    if (issue.code === "unrecognized_keys") {
      const allowed = issue.path.length === 0 ? Object.keys(shape.shape) : [];
      return issue.keys
        .map(
          (key) =>
            `"${key}" is not a parameter of ${name}.${didYouMean(key, allowed) || ` Allowed: ${allowed.join(", ") || "none"}`}`,
        )
        .join("; ");
    }
    return `${path === "" ? "the parameters" : path}: ${issue.message.replace(/^Invalid input: /, "")}`;
  });
  throw new KeelError("E_RPC", texts.join("; "), { path: name });
}

/** Parameters of every method that changes something. */
export const changeOptions = {
  dry_run: z.boolean().optional(),
  yes: z.boolean().optional(),
};

export const optionsOf = (parameters: { dry_run?: boolean | undefined; yes?: boolean | undefined }) => ({
  dryRun: parameters.dry_run ?? false,
  allowDataLoss: parameters.yes ?? false,
});
