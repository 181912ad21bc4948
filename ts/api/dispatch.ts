// JSON-RPC 2.0: one message text in, one answer text (or none) out. Never throws, whatever comes in.

import { type ErrorCode, errorTable, KeelError, toKeelError } from "../model/errors.js";
import { isJsonObject, toJson } from "../model/json.js";
import { didYouMean } from "../model/nearest.js";
import type { ApiContext, Method } from "./method.js";

const batchMax = 100;

const parseError = -32700;
const invalidRequest = -32600;
const methodNotFound = -32601;
const invalidParameters = -32602;
const serverError = -32000;

type Id = string | number | null;
type Answer =
  | { jsonrpc: "2.0"; id: Id; result: unknown }
  | { jsonrpc: "2.0"; id: Id; error: { code: number; message: string; data: unknown } };

const isId = (value: unknown): value is Id =>
  value === null || typeof value === "number" || (typeof value === "string" && value.length <= 1024);

function failure(id: Id, code: number, error: KeelError): Answer {
  const { message, ...rest } = error.report();
  return { jsonrpc: "2.0", id, error: { code, message, data: rest } };
}

/** -32602 for what the caller can correct in the call itself, a server error for everything else. */
const numberOf = (code: ErrorCode): number => (errorTable[code].exit === 2 ? invalidParameters : serverError);

export class Dispatcher {
  private readonly methods: ReadonlyMap<string, Method>;
  private readonly context: ApiContext;

  constructor(methods: readonly Method[], context: ApiContext) {
    this.methods = new Map(methods.map((method) => [method.name, method]));
    this.context = context;
  }

  async answer(text: string): Promise<string | null> {
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      return toJson(failure(null, parseError, new KeelError("E_RPC", "the message is not JSON")));
    }
    if (!Array.isArray(message)) {
      const answer = await this.one(message);
      return answer === null ? null : toJson(answer);
    }
    if (message.length === 0 || message.length > batchMax) {
      const text = message.length === 0 ? "an empty batch" : `a batch has at most ${batchMax} requests`;
      return toJson(failure(null, invalidRequest, new KeelError("E_RPC", text)));
    }
    const answers: Answer[] = [];
    for (const request of message) {
      const answer = await this.one(request);
      if (answer !== null) answers.push(answer);
    }
    return answers.length === 0 ? null : toJson(answers);
  }

  /** null for a notification: it has no answer, not even an error. */
  private async one(request: unknown): Promise<Answer | null> {
    if (!isJsonObject(request))
      return failure(null, invalidRequest, new KeelError("E_RPC", "a request is an object"));
    const { id, method, params } = request;
    const notification = !Object.hasOwn(request, "id");
    const answerId: Id = isId(id) ? id : null;
    if (request["jsonrpc"] !== "2.0" || typeof method !== "string" || (!notification && !isId(id))) {
      const text = 'a request has "jsonrpc": "2.0", a "method" and an "id" that is text or a number';
      return failure(answerId, invalidRequest, new KeelError("E_RPC", text));
    }
    const found = this.methods.get(method);
    if (found === undefined) {
      const shown = method.slice(0, 100);
      const text = `there is no method "${shown}".${didYouMean(shown, [...this.methods.keys()])}`;
      return notification ? null : failure(answerId, methodNotFound, new KeelError("E_RPC", text));
    }
    try {
      if (params !== undefined && params !== null && !isJsonObject(params)) {
        throw new KeelError("E_RPC", `${method} takes its parameters by name`);
      }
      const result = await found.call(this.context, params);
      return notification ? null : { jsonrpc: "2.0", id: answerId, result: result ?? null };
    } catch (thrown) {
      const error = toKeelError(thrown);
      return notification ? null : failure(answerId, numberOf(error.code), error);
    }
  }

  /** The answer to a stream that cannot be followed any further. */
  static streamFault(why: string): string {
    return toJson(failure(null, parseError, new KeelError("E_RPC", `the message is ${why}`)));
  }
}
