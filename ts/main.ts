// Start-up. Read from top to bottom, it is the map of the program:
//   configuration file → document (config) → durable directory (control) → native engine (native)
//   → server that reconciles the engine with the document (control) → control socket and metrics (api).

import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { Dispatcher } from "./api/dispatch.js";
import { MetricsServer } from "./api/http-server.js";
import { methods } from "./api/methods.js";
import { RpcServer } from "./api/rpc-server.js";
import { completeSettings, logLevelOf } from "./config/complete.js";
import { type Loaded, parseDocument, parseSources, readSources } from "./config/load.js";
import { defaultPaths, nodeOfHost, userPlace } from "./config/naming.js";
import { DurableDirectory } from "./control/durable-directory.js";
import { engineOptions } from "./control/engine-options.js";
import type { Log } from "./control/log.js";
import { Server } from "./control/server.js";
import { type Logger, makeLogger } from "./main/logger.js";
import { formatEndpoint } from "./model/endpoint.js";
import { KeelError, toKeelError } from "./model/errors.js";
import type { JsonObject } from "./model/json.js";
import { type Addon, loadAddon, type NativeEngine } from "./native/addon.js";

export const defaultConfigFile = "/etc/keel/keel.yaml";

export const version: string = (
  JSON.parse(readFileSync(new URL("../package.json", import.meta.url), "utf8")) as { version: string }
).version;

export type StartOptions = {
  /** null: the default file if it is there, else the built-in defaults. */
  readonly configFile: string | null;
  /** A document given directly (`keel demo`); no file is read then. */
  readonly document: JsonObject | null;
  /** Instead of what the configuration says. */
  readonly stateDirectory: string | null;
  readonly rpcSocket: string | null;
  readonly logger: Logger | null;
};

export type Running = {
  readonly server: Server;
  readonly addon: Addon;
  readonly log: Log;
  readonly rpcSocket: string;
  readonly httpEndpoint: string | null;
  /** Ends everything in order. Calling it again waits for the same end. */
  stop(): Promise<void>;
  /** Settled when somebody asked for the end over the control socket. */
  readonly shutdownAsked: Promise<void>;
  reload(): Promise<void>;
};

/** Loads the addon, or says how to get it. */
export function addonOrError(): Addon {
  try {
    return loadAddon();
  } catch (thrown) {
    const reason = thrown instanceof Error ? (thrown.message.split("\n")[0] ?? "") : String(thrown);
    throw new KeelError("E_NOT_BUILT", `the native addon does not load: ${reason}`);
  }
}

export async function start(options: StartOptions): Promise<Running> {
  const node = nodeOfHost(hostname());
  const paths = defaultPaths(userPlace());
  const configFile = options.configFile ?? (existsSync(defaultConfigFile) ? defaultConfigFile : null);
  const read = (): Loaded => withOverrides(readDocument(options, configFile, node), options, node);

  const file = read();
  const settings = completeSettings(file.document, file.document.node ?? node, paths);
  const logger = options.logger ?? makeLogger(logLevelOf(file.document));
  const { log } = logger;

  const addon = addonOrError();
  const directory = await DurableDirectory.open(settings.stateDirectory);
  const close: (() => Promise<void>)[] = [() => directory.close()];
  const closeAll = async (): Promise<void> => {
    for (let step = close.pop(); step !== undefined; step = close.pop()) {
      await step().catch((error: unknown) => log.error({}, `stopping: ${toKeelError(error).message}`));
    }
  };

  try {
    const engine = createEngine(addon, engineOptions(settings, await directory.takeGeneration()));
    const context = { node, paths, firmware: version.slice(0, 8) };
    const { setLevel: setLogLevel } = logger;
    const server = new Server({ engine, directory, log, context, version, configFile, setLogLevel }, file);
    close.push(() => server.stop());
    await server.start();

    let askShutdown: () => void = () => undefined;
    const shutdownAsked = new Promise<void>((resolve) => {
      askShutdown = resolve;
    });
    const reload = async (): Promise<void> => reloadFrom(server, read, log);
    const dispatcher = new Dispatcher(methods, {
      server,
      version,
      shutdown: () => setImmediate(askShutdown),
      reload,
    });
    const rpc = await RpcServer.listen(settings.rpcSocket, dispatcher, log);
    close.push(() => rpc.close());

    const http =
      settings.httpListen === null ? null : await MetricsServer.listen(settings.httpListen, server);
    if (http !== null) close.push(() => http.close());

    const { listeners } = await server.status();
    const httpEndpoint = http === null ? null : formatEndpoint(http.endpoint);
    const listening = listeners.map((listener) => formatEndpoint(listener));
    log.info(
      { version, listening, socket: settings.rpcSocket, http: httpEndpoint, state: settings.stateDirectory },
      "ready",
    );

    let stopped: Promise<void> | null = null;
    const stop = (): Promise<void> => {
      stopped ??= closeAll();
      return stopped;
    };
    return { server, addon, log, rpcSocket: settings.rpcSocket, httpEndpoint, stop, shutdownAsked, reload };
  } catch (thrown) {
    await closeAll();
    throw thrown;
  }
}

function readDocument(options: StartOptions, configFile: string | null, node: string): Loaded {
  if (options.document !== null) return parseDocument(options.document, node);
  return configFile === null
    ? parseDocument({ version: 1 }, node)
    : parseSources(readSources(configFile), node);
}

/** What the command line says holds against the file. */
function withOverrides(loaded: Loaded, options: StartOptions, node: string): Loaded {
  const raw: JsonObject = { ...loaded.raw };
  if (options.stateDirectory !== null) raw["state"] = options.stateDirectory;
  if (options.rpcSocket !== null) raw["sockets"] = { rpc: options.rpcSocket };
  return options.stateDirectory === null && options.rpcSocket === null ? loaded : parseDocument(raw, node);
}

function createEngine(addon: Addon, options: ReturnType<typeof engineOptions>): NativeEngine {
  try {
    return addon.createEngine(options);
  } catch (thrown) {
    throw toKeelError(thrown);
  }
}

async function reloadFrom(server: Server, read: () => Loaded, log: Log): Promise<void> {
  const { steps, needsRestart } = await server.reload(read);
  if (needsRestart.length > 0)
    log.warn({ keys: needsRestart }, "these changes take effect at the next start");
  log.info({ steps: steps.length }, "configuration read again");
}

/** `keel serve`: starts, serves until a signal or keel.shutdown, stops. Answers the exit status. */
export async function serve(options: StartOptions): Promise<number> {
  process.title = "keel";
  const running = await start(options);
  const { log } = running;
  process.on("SIGHUP", () => {
    running.reload().catch((error: unknown) => {
      const { code, message } = toKeelError(error);
      log.error({ code }, `the configuration was not read again: ${message}`);
    });
  });
  const fatal = (thrown: unknown): void => {
    log.error(
      { stack: thrown instanceof Error ? thrown.stack : null },
      `unexpected: ${toKeelError(thrown).message}`,
    );
    process.exit(1);
  };
  process.on("uncaughtException", fatal);
  process.on("unhandledRejection", fatal);
  const reason = await Promise.race([stopSignal(), running.shutdownAsked.then(() => "keel.shutdown")]);
  log.info({ reason }, "stopping");
  await running.stop();
  log.info({}, "stopped");
  return 0;
}

/** The first SIGTERM or SIGINT; a second one ends the process at once. */
export function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let asked = false;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        if (asked) process.exit(signal === "SIGINT" ? 130 : 143);
        asked = true;
        resolve(signal);
      });
    }
  });
}
