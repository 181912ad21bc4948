// Start-up. Read from top to bottom, it is the map of the program:
//   configuration file → document (config) → durable directory (control) → native engine (native)
//   → server that reconciles the engine with the document (control) → control socket and metrics (api).

import { existsSync, readFileSync } from "node:fs";
import { hostname } from "node:os";
import { fileURLToPath } from "node:url";
import { Dispatcher } from "./api/dispatch.js";
import { MetricsServer } from "./api/http-server.js";
import { methods } from "./api/methods.js";
import { RpcServer } from "./api/rpc-server.js";
import { completeSettings, logLevelOf } from "./config/complete.js";
import { type Loaded, parseDocument, parseSources, readSources } from "./config/load.js";
import { defaultPaths, nodeOfHost, userPlace } from "./config/naming.js";
import { calm } from "./control/calm.js";
import { DurableDirectory } from "./control/durable-directory.js";
import { EventRelay } from "./control/event-relay.js";
import { goOn } from "./control/going-on.js";
import type { Log } from "./control/log.js";
import { rehearse } from "./control/rehearsal.js";
import { Server } from "./control/server.js";
import { addonOrError, type Beginning, begin, build, makeEngine } from "./main/begin.js";
import { type Logger, makeLogger } from "./main/logger.js";
import { formatEndpoint } from "./model/endpoint.js";
import { KeelError, toKeelError } from "./model/errors.js";
import type { JsonObject } from "./model/json.js";
import type { State } from "./model/state.js";
import type { Addon } from "./native/addon.js";
import { type Ahead, isAhead } from "./recovery/ahead.js";
import { keptConfigurationName, parseKept, preparedIn } from "./recovery/kept-configuration.js";
import { stillHolds } from "./recovery/prepared.js";

export { addonOrError } from "./main/begin.js";
export type { LoadResult } from "./native/addon.js";

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
  /** Take memory and connections from the keeper that started this process, if one did. */
  readonly useKeeper: boolean;
  /** What was begun before the command line was read; null: nothing yet. */
  readonly beginning: Promise<Beginning> | null;
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

export async function start(options: StartOptions): Promise<Running> {
  const node = nodeOfHost(hostname());
  const paths = defaultPaths(userPlace());
  const { addon, keeper, resumed } = await (options.beginning ?? begin(options.useKeeper));

  const close: (() => Promise<void>)[] = [];
  let complain = (text: string): void => void process.stderr.write(`${text}\n`);
  const closeAll = async (): Promise<void> => {
    for (let step = close.pop(); step !== undefined; step = close.pop()) {
      await step().catch((error: unknown) => complain(`stopping: ${toKeelError(error).message}`));
    }
  };
  if (resumed !== null) {
    close.push(
      () => resumed.directory.close(),
      () => resumed.engine.stop(),
    );
  }

  try {
    // The configuration: from the keeper, if a predecessor left it there, else from the file.
    const source = new ConfigurationSource(options, node);
    const early = source.forStart(keeper?.configuration ?? null);
    const { document } = early.layout;
    const settings = resumed?.settings ?? completeSettings(document, document.node ?? node, paths);
    const logger = options.logger ?? makeLogger(resumed?.logLevel ?? logLevelOf(early.file.document));
    const { log } = logger;
    complain = (text) => log.error({}, text);
    source.complain(log);
    resumed?.log.deliverTo(log);

    // The engine, ready to serve. A standby waits here, with everything loaded, until its predecessor is dead.
    const events = resumed?.events ?? new EventRelay();
    const engine = resumed?.engine ?? makeEngine(addon, settings);
    const context = { node, paths, firmware: version.slice(0, 8) };
    if (resumed === null) {
      engine.start((event) => events.take(event));
      close.push(() => engine.stop());
    }
    let taken = resumed !== null;
    const taking = resumed === null ? engine.takeOver() : Promise.resolve(resumed.takeover);
    let ahead: Ahead | null = null;
    if (resumed === null && engine.isStandby()) {
      const over = (): boolean => taken;
      const take = (): void => {
        taken = true;
      };
      taking.then(take, take);
      ahead = await rehearse(early.file, context, settings, over);
      log.info({}, "standby");
      await calm(over);
      await engine.beWarm();
    }
    const takeover = await taking;

    // From here on this process is the only one. Hosts wait: nothing here may wait for anything else.
    const kept = keeper === null || resumed !== null ? null : await engine.storedText(keptConfigurationName);
    const directory = resumed?.directory ?? (await DurableDirectory.open(settings.stateDirectory));
    if (resumed === null) close.splice(0, 0, () => directory.close());
    const current = kept === null || kept === keeper?.configuration;
    const known = resumed === null ? knownState(current ? ahead : null, kept, directory) : null;
    const gone = resumed?.gone ?? (known === null ? null : await goOn(engine, directory, known, log));
    const { file } = current ? early : source.forStart(kept);
    const { setLevel: setLogLevel } = logger;
    const { configFile } = source;
    const layout = early.layout.raw;
    const parts = {
      engine,
      directory,
      log,
      context,
      version,
      build,
      settings,
      layout,
      configFile,
      setLogLevel,
    };
    const server = new Server(parts, file, gone);
    events.deliverTo((event) => server.onEvent(event));
    close.splice(
      0,
      close.length,
      () => directory.close(),
      () => server.stop(),
    );
    await server.start(takeover);

    // Hosts go on. What follows may wait.
    let askShutdown: () => void = () => undefined;
    const shutdownAsked = new Promise<void>((resolve) => {
      askShutdown = resolve;
    });
    const reload = async (): Promise<void> => reloadFrom(server, () => source.read(), log);
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
    const places = {
      listening,
      socket: settings.rpcSocket,
      http: httpEndpoint,
      state: settings.stateDirectory,
    };
    log.info({ version, ...places, kept: takeover.kept, prepared: gone !== null }, "ready");

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

/** What to bring up before anything else is read: as the standby worked it out, or as the predecessor left it. */
function knownState(ahead: Ahead | null, kept: string | null, directory: DurableDirectory): State | null {
  if (ahead !== null && isAhead(ahead, directory)) return ahead.state;
  const prepared = preparedIn(kept, build);
  return prepared !== null && stillHolds(prepared, directory.changes) ? prepared.state : null;
}

/** The document that holds, and the one that memory and limits are laid out by: a crash changes neither. */
type StartDocuments = { readonly file: Loaded; readonly layout: Loaded };

/** Where the document comes from: given directly, a file, the built-in defaults, or what a predecessor left. */
class ConfigurationSource {
  readonly configFile: string | null;
  private readonly options: StartOptions;
  private readonly node: string;
  private complaint: string | null = null;

  constructor(options: StartOptions, node: string) {
    this.options = options;
    this.node = node;
    this.configFile = options.configFile ?? (existsSync(defaultConfigFile) ? defaultConfigFile : null);
  }

  /** As its file has it now, with what the command line says instead. */
  read(): Loaded {
    const { document, stateDirectory, rpcSocket } = this.options;
    const loaded =
      document !== null
        ? parseDocument(document, this.node)
        : this.configFile === null
          ? parseDocument({ version: 1 }, this.node)
          : parseSources(readSources(this.configFile), this.node);
    if (stateDirectory === null && rpcSocket === null) return loaded;
    const raw: JsonObject = { ...loaded.raw };
    if (stateDirectory !== null) raw["state"] = stateDirectory;
    if (rpcSocket !== null) raw["sockets"] = { rpc: rpcSocket };
    return parseDocument(raw, this.node);
  }

  /** `keptText`: what the predecessor left. A file with faults must not keep a successor from serving. */
  forStart(keptText: string | null): StartDocuments {
    const kept = parseKept(keptText);
    if (kept === null) return this.both(this.read());
    if (kept.readAgain) {
      try {
        return this.both(this.read());
      } catch (thrown) {
        this.complaint = toKeelError(thrown).message;
      }
    }
    try {
      return { file: parseDocument(kept.file, this.node), layout: parseDocument(kept.layout, this.node) };
    } catch {
      // Written by a version with other rules.
      return this.both(this.read());
    }
  }

  private both(loaded: Loaded): StartDocuments {
    return { file: loaded, layout: loaded };
  }

  complain(log: Log): void {
    if (this.complaint === null) return;
    log.error({}, `the configuration file has faults, what held before holds: ${this.complaint}`);
    this.complaint = null;
  }
}

async function reloadFrom(server: Server, read: () => Loaded, log: Log): Promise<void> {
  const { steps, needsRestart } = await server.reload(read);
  if (needsRestart.length > 0)
    log.warn({ keys: needsRestart }, "these changes take effect at the next start");
  log.info({ steps: steps.length }, "configuration read again");
}

/** Whether a keeper started this process. */
export const isKept = (): boolean => process.env["KEEL_KEEPER_FD"] !== undefined;

/**
 * `keel serve`: becomes the keeper, which starts `command` (this command again) and holds
 * its connections. The configuration is checked first, because a keeper would try a faulty one again and again.
 */
export function becomeKeeper(
  options: StartOptions,
  command: readonly string[],
  keeperOptions: readonly string[] = [],
): never {
  new ConfigurationSource(options, nodeOfHost(hostname())).read();
  const keeper = fileURLToPath(new URL("../build/Release/keel-keeper", import.meta.url));
  if (!existsSync(keeper)) throw new KeelError("E_NOT_BUILT", `the keeper ${keeper} is not built`);
  throw toKeelError(addonOrError().replaceProcess(keeper, [keeper, ...keeperOptions, "--", ...command]));
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

/**
 * The first SIGTERM or SIGINT. A later one ends the process at once, but not within a second: a terminal and a keeper
 * may both pass on the same Ctrl-C.
 */
export function stopSignal(): Promise<string> {
  return new Promise((resolve) => {
    let askedAt: number | null = null;
    for (const signal of ["SIGTERM", "SIGINT"] as const) {
      process.on(signal, () => {
        if (askedAt !== null && performance.now() - askedAt > 1000)
          process.exit(signal === "SIGINT" ? 130 : 143);
        askedAt ??= performance.now();
        resolve(signal);
      });
    }
  });
}
