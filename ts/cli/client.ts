// The command line's end of the control socket: one request at a time, each with a deadline.

import { existsSync, statSync } from "node:fs";
import { connect, type Socket } from "node:net";
import { setTimeout as sleep } from "node:timers/promises";
import { defaultPaths, userPlace } from "../config/naming.js";
import { isErrorCode, KeelError } from "../model/errors.js";
import { isJsonObject, type JsonObject } from "../model/json.js";

const systemSocket = "/run/keel/rpc.sock";
const answerBytesMax = 256 << 20;
const successorMs = 1_000;
const askAgainMs = 20;

/** --socket, else KEEL_SOCKET, else the system's server if there is one, else this user's own. */
export function socketPath(option: string | undefined): string {
  const given = option ?? process.env["KEEL_SOCKET"];
  if (given !== undefined && given !== "") return given;
  return existsSync(systemSocket) ? systemSocket : defaultPaths(userPlace()).rpcSocket;
}

function errorFrom(error: unknown): KeelError {
  const { message, data } = isJsonObject(error) ? error : {};
  const { code, path, cause, fix } = isJsonObject(data) ? data : {};
  const textOr = (value: unknown): string | null => (typeof value === "string" ? value : null);
  return new KeelError(
    isErrorCode(code) ? code : "E_INTERNAL",
    textOr(message) ?? "the server answered with an error",
    {
      path: textOr(path),
      cause: textOr(cause),
      fix: textOr(fix),
    },
  );
}

export class Client {
  readonly path: string;
  private socket: Socket | null = null;
  private nextId = 1;

  constructor(path: string) {
    this.path = path;
  }

  /** The result, as the caller expects it. Throws the server's own error, or E_UNREACHABLE, or E_TIMEOUT. */
  async call<Result>(method: string, parameters: JsonObject = {}, deadlineMs = 90_000): Promise<Result> {
    const socket = await this.open();
    const id = this.nextId;
    this.nextId += 1;
    socket.write(`${JSON.stringify({ jsonrpc: "2.0", id, method, params: parameters })}\n`);
    const line = await this.line(socket, method, deadlineMs);
    let answer: unknown;
    try {
      answer = JSON.parse(line);
    } catch {
      throw new KeelError("E_UNREACHABLE", `what listens on ${this.path} does not speak JSON-RPC`);
    }
    if (!isJsonObject(answer) || (answer["id"] !== id && answer["id"] !== null)) {
      throw new KeelError("E_UNREACHABLE", `what listens on ${this.path} does not speak JSON-RPC`);
    }
    if (answer["error"] !== undefined) throw errorFrom(answer["error"]);
    return answer["result"] as Result;
  }

  close(): void {
    this.socket?.destroy();
    this.socket = null;
  }

  /** A socket that nobody listens on may be that of a server which is just being replaced. */
  private async open(): Promise<Socket> {
    if (this.socket !== null && !this.socket.destroyed) return this.socket;
    const deadline = performance.now() + successorMs;
    for (;;) {
      const socket = await this.tryOpen();
      if (typeof socket !== "string") {
        this.socket = socket;
        return socket;
      }
      if (socket !== "ECONNREFUSED" || performance.now() >= deadline) throw this.unreachable(socket);
      await sleep(askAgainMs);
    }
  }

  /** The socket, or why there is none. */
  private tryOpen(): Promise<Socket | string> {
    return new Promise((resolve) => {
      const socket = connect(this.path);
      socket.once("connect", () => resolve(socket));
      socket.once("error", (error: NodeJS.ErrnoException) => resolve(error.code ?? error.message));
    });
  }

  private unreachable(reason: string): KeelError {
    const causes: Readonly<Record<string, string>> = {
      ENOENT: "no server has made this socket: it does not run, or uses another one",
      ECONNREFUSED: "the server that made this socket runs no longer",
      EACCES: "this user may not open the socket",
    };
    const cause =
      reason === "ECONNREFUSED" && !statSync(this.path, { throwIfNoEntry: false })?.isSocket()
        ? "what stands there is no socket"
        : (causes[reason] ?? null);
    return new KeelError("E_UNREACHABLE", `cannot reach the server at ${this.path} (${reason})`, { cause });
  }

  private line(socket: Socket, method: string, deadlineMs: number): Promise<string> {
    return new Promise((resolve, reject) => {
      const chunks: Buffer[] = [];
      let bytes = 0;
      const settle = (act: () => void): void => {
        clearTimeout(timer);
        socket.off("data", onData).off("close", onClose).off("error", onClose);
        act();
      };
      const onData = (chunk: Buffer): void => {
        const end = chunk.indexOf(0x0a);
        chunks.push(end < 0 ? chunk : chunk.subarray(0, end));
        bytes += chunk.length;
        if (end >= 0) settle(() => resolve(Buffer.concat(chunks).toString("utf8")));
        else if (bytes > answerBytesMax)
          settle(() => reject(new KeelError("E_INTERNAL", "the answer is too long")));
      };
      const onClose = (): void =>
        settle(() =>
          reject(
            new KeelError("E_UNREACHABLE", `the server closed the connection during ${method}`, {
              cause:
                "it ended or is being replaced; a change that was under way is finished or undone by its successor",
              fix: "keel status shows the server that runs now; look whether the change took place, then repeat it if not",
            }),
          ),
        );
      const timer = setTimeout(() => {
        settle(() =>
          reject(
            new KeelError("E_TIMEOUT", `the server did not answer ${method} within ${deadlineMs / 1000} s`),
          ),
        );
        this.close();
      }, deadlineMs);
      socket.on("data", onData).on("close", onClose).on("error", onClose);
    });
  }
}
