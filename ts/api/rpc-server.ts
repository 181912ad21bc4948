// The control socket: JSON-RPC over a unix socket. Bounded everywhere: clients, message size, messages waiting, and
// what a client does not read. A connection that says nothing costs its descriptor and no timer.

import { chmod, chown, lstat, readFile, unlink } from "node:fs/promises";
import { connect, createServer, type Server as NetServer, type Socket } from "node:net";
import { dirname } from "node:path";
import type { Log } from "../control/log.js";
import { makeDirectory } from "../control/make-directory.js";
import { KeelError } from "../model/errors.js";
import { Dispatcher } from "./dispatch.js";
import { Framer } from "./framing.js";

const clientsMax = 256;
const waitingMessagesMax = 16;
/** How long a client may take to finish a message, and to read an answer. */
export type Patience = { readonly unfinishedMs: number; readonly unreadMs: number };
const usualPatience: Patience = { unfinishedMs: 30_000, unreadMs: 10_000 };

const pathBytesMax = 107;

class Client {
  private readonly socket: Socket;
  private readonly dispatcher: Dispatcher;
  private readonly patience: Patience;
  private readonly framer = new Framer();
  private readonly waiting: string[] = [];
  private running = false;
  private ended = false;
  private unfinished: NodeJS.Timeout | null = null;

  constructor(socket: Socket, dispatcher: Dispatcher, patience: Patience) {
    this.socket = socket;
    this.patience = patience;
    this.dispatcher = dispatcher;
    socket.on("data", (data) => this.receive(data));
    socket.on("error", () => socket.destroy());
    socket.on("end", () => {
      this.ended = true;
      if (!this.running) socket.end();
    });
    socket.on("close", () => this.clearUnfinished());
  }

  private receive(data: Buffer): void {
    const { messages, fault } = this.framer.push(data);
    this.waiting.push(...messages);
    if (this.waiting.length > waitingMessagesMax) this.socket.pause();
    if (messages.length > 0 || !this.framer.pending) this.clearUnfinished();
    if (this.framer.pending && this.unfinished === null && fault === null) {
      this.unfinished = setTimeout(() => this.socket.destroy(), this.patience.unfinishedMs).unref();
    }
    if (fault !== null) {
      this.socket.pause();
      this.clearUnfinished();
    }
    void this.work(fault);
  }

  private clearUnfinished(): void {
    if (this.unfinished !== null) clearTimeout(this.unfinished);
    this.unfinished = null;
  }

  /** Answers in the order of the requests, one at a time. */
  private async work(fault: string | null): Promise<void> {
    if (fault !== null) this.waiting.push("");
    if (this.running) return;
    this.running = true;
    for (
      let text = this.waiting.shift();
      text !== undefined && !this.socket.destroyed;
      text = this.waiting.shift()
    ) {
      const broken = text === "";
      const answer = broken
        ? Dispatcher.streamFault(fault ?? "not JSON")
        : await this.dispatcher.answer(text);
      if (answer !== null && !this.socket.destroyed) await this.send(`${answer}\n`);
      if (broken) {
        this.socket.destroySoon();
        return;
      }
      if (this.waiting.length === 0 && this.socket.isPaused()) this.socket.resume();
    }
    this.running = false;
    if (this.ended) this.socket.end();
  }

  /** Resolves when the client has taken it; a client that does not read is dropped. */
  private send(text: string): Promise<void> {
    if (this.socket.write(text)) return Promise.resolve();
    return new Promise((resolve) => {
      const done = (): void => {
        clearTimeout(timer);
        this.socket.off("drain", done);
        this.socket.off("close", done);
        resolve();
      };
      const timer = setTimeout(() => this.socket.destroy(), this.patience.unreadMs);
      this.socket.on("drain", done);
      this.socket.on("close", done);
    });
  }
}

/** True if somebody listens there. */
function answers(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(path);
    socket.once("connect", () => {
      socket.destroy();
      resolve(true);
    });
    socket.once("error", () => resolve(false));
  });
}

/** A socket that a dead server left is removed; anything else in the way is not ours to remove. */
async function clearTheWay(path: string): Promise<void> {
  const present = await lstat(path).catch(() => null);
  if (present === null) return;
  if (!present.isSocket()) {
    throw new KeelError("E_ALREADY_RUNNING", `${path} exists and is not a socket`, {
      path,
      cause: "a file stands where the control socket should be",
      fix: "remove it, or set sockets: { rpc: PATH }",
    });
  }
  if (await answers(path))
    throw new KeelError("E_ALREADY_RUNNING", `another server listens on ${path}`, { path });
  await unlink(path).catch(() => undefined);
}

/** The group "keel" may use the socket, where there is such a group. */
async function giveToGroup(path: string): Promise<void> {
  if (process.getuid?.() !== 0) return;
  const groups = await readFile("/etc/group", "utf8").catch(() => "");
  const id = /^keel:[^:]*:(\d+):/m.exec(groups)?.[1];
  if (id !== undefined) await chown(path, 0, Number(id)).catch(() => undefined);
}

export class RpcServer {
  private readonly server: NetServer;
  private readonly sockets: Set<Socket>;
  readonly path: string;

  private constructor(server: NetServer, sockets: Set<Socket>, path: string) {
    this.server = server;
    this.sockets = sockets;
    this.path = path;
  }

  static async listen(
    path: string,
    dispatcher: Dispatcher,
    log: Log,
    patience: Patience = usualPatience,
  ): Promise<RpcServer> {
    if (Buffer.byteLength(path) > pathBytesMax) {
      throw new KeelError("E_CONFIG_VALUE", `the socket path ${path} is longer than ${pathBytesMax} bytes`, {
        path,
      });
    }
    try {
      makeDirectory(dirname(path), 0o755);
    } catch (thrown) {
      throw refused(path, thrown);
    }
    await clearTheWay(path);
    const sockets = new Set<Socket>();
    const server = createServer({ allowHalfOpen: true }, (socket) => {
      sockets.add(socket);
      socket.on("close", () => sockets.delete(socket));
      new Client(socket, dispatcher, patience);
    });
    server.maxConnections = clientsMax;
    server.on("drop", () =>
      log.warn({ area: "rpc" }, `a control connection was refused: ${clientsMax} are open`),
    );
    await new Promise<void>((resolve, reject) => {
      server.once("error", (error) => reject(refused(path, error)));
      // bind happens within listen: nobody else can connect before the mode is set.
      const mask = process.umask(0o117);
      try {
        server.listen(path, resolve);
      } finally {
        process.umask(mask);
      }
    });
    await chmod(path, 0o660);
    await giveToGroup(path);
    return new RpcServer(server, sockets, path);
  }

  get clients(): number {
    return this.sockets.size;
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.server.close(() => resolve()));
    for (const socket of this.sockets) socket.destroySoon();
    await closed;
  }
}

function refused(path: string, thrown: unknown): KeelError {
  const { code } = thrown as NodeJS.ErrnoException;
  if (code === "EADDRINUSE")
    return new KeelError("E_ALREADY_RUNNING", `another server listens on ${path}`, { path });
  return new KeelError("E_DENIED", `cannot make the control socket ${path} (${code ?? String(thrown)})`, {
    path,
    fix: "run as root, or name another place: keel serve --socket PATH",
  });
}
