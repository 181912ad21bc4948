// The command line. This file holds the grammar alone; what a command does stands in commands/, loaded when it runs,
// so that `keel --help` starts fast. Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 no server,
// 6 refused because data could be lost.

import { readFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import { formatError, KeelError, toKeelError } from "../model/errors.js";
import { formats } from "./output.js";

export type CommonOptions = { socket?: string; output?: string; debug?: boolean };
export type ChangeFlags = CommonOptions & { dryRun?: boolean; yes?: boolean };

const usageExit = 2;

function version(): string {
  const text = readFileSync(new URL("../../package.json", import.meta.url), "utf8");
  return (JSON.parse(text) as { version: string }).version;
}

const socketOption = (): Option =>
  new Option("--socket <path>", "the server's control socket (also KEEL_SOCKET)");
const outputOption = (): Option =>
  new Option("-o, --output <format>", "how to print").choices([...formats]).default("table");

/** A command that talks to the server. */
const asking = (command: Command): Command => command.addOption(socketOption()).addOption(outputOption());

/** A command that changes something. */
const changing = (command: Command): Command =>
  asking(command)
    .option("--dry-run", "say what would change, change nothing")
    .option("--yes", "go on even if data is lost or hosts lose a disk");

function serving(program: Command): void {
  program
    .command("serve")
    .description("run the server in the foreground")
    .option("-c, --config <file>", "configuration file (default: /etc/keel/keel.yaml if it exists)")
    .option("--state <directory>", "the durable directory, instead of what the configuration says")
    .option("--no-keeper", "without the keeper that makes crashes and restarts invisible to hosts")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/serve.js")).serveCommand(options));
  program
    .command("demo")
    .description("export a RAM disk, check it over TCP, and show how to connect")
    .option("--once", "end after the self-check: exit status 0 if it passed")
    .option("--port <number>", "TCP port (default: 4420 if free)")
    .option("--size <size>", "size of the RAM disk", "1GiB")
    .action(async (options) => (await import("./commands/serve.js")).demoCommand(options));
}

function sharing(program: Command): void {
  const repeat = (value: string, earlier: string[]): string[] => [...earlier, value];
  changing(program.command("share"))
    .description("export a file or block device")
    .argument("<path>", "the file or block device")
    .option("--name <name>", "its name (default: from the path)")
    .option("--allow <nqn>", 'a host that may connect, or "any"; repeatable', repeat, [])
    .option("--size <size>", "make the file with this size, or grow it")
    .addOption(new Option("--block-size <bytes>", "logical block size").choices(["512", "4096"]))
    .option("--read-only", "export it read-only")
    .action(async (path, options) => (await import("./commands/change.js")).shareCommand(path, options));
  changing(program.command("unshare"))
    .description("export it no longer; what files and block devices hold stays")
    .argument("<name>", "the share's name or NQN")
    .action(async (name, options) => (await import("./commands/change.js")).unshareCommand(name, options));

  const hosts = program.command("hosts").description("connected hosts, and who may connect");
  asking(hosts.command("ls", { isDefault: true }))
    .description("the hosts that are connected")
    .action(async (options) => (await import("./commands/show.js")).hostsCommand(options));
  for (const verb of ["add", "remove"] as const) {
    changing(hosts.command(verb))
      .description(verb === "add" ? "admit a host" : "admit a host no longer; it is disconnected")
      .argument("<subsystem>", "name or NQN")
      .argument("<host>", 'the host\'s NQN, or "any"')
      .action(async (subsystem, host, options) =>
        (await import("./commands/change.js")).hostCommand(verb, subsystem, host, options),
      );
  }
}

function namespaces(program: Command): void {
  const ns = program.command("ns").description("namespaces of a subsystem");
  changing(ns.command("add"))
    .description("export a device as a further namespace")
    .argument("<subsystem>", "name or NQN")
    .argument("<device>", "name of the device")
    .option("--id <nsid>", "namespace id (default: the lowest free one)")
    .option("--read-only", "export it read-only")
    .action(async (subsystem, device, options) =>
      (await import("./commands/change.js")).namespaceAddCommand(subsystem, device, options),
    );
  changing(ns.command("remove"))
    .description("take a namespace away; its device stays")
    .argument("<subsystem>", "name or NQN")
    .argument("<id>", "namespace id")
    .action(async (subsystem, id, options) =>
      (await import("./commands/change.js")).namespaceRemoveCommand(subsystem, id, options),
    );
  changing(ns.command("resize"))
    .description("give it a new size, or take the size that its medium has now")
    .argument("<subsystem>", "name or NQN")
    .argument("<id>", "namespace id")
    .argument("[size]", "such as 20GiB")
    .action(async (subsystem, id, size, options) =>
      (await import("./commands/change.js")).namespaceResizeCommand(subsystem, id, size ?? null, options),
    );

  const listen = program.command("listen").description("where the server listens");
  asking(listen.command("ls", { isDefault: true }))
    .description("the listeners")
    .action(async (options) => (await import("./commands/show.js")).listenersCommand(options));
  changing(listen.command("add"))
    .description("listen on a further address")
    .argument("<address>", "ADDRESS:PORT, IPv6 in brackets")
    .option("--discovery", "for discovery alone")
    .option("--advertise <address>", "the address that discovery tells hosts")
    .action(async (address, options) =>
      (await import("./commands/change.js")).listenerAddCommand(address, options),
    );
  changing(listen.command("remove"))
    .description("listen there no longer")
    .argument("<address>", "ADDRESS:PORT")
    .action(async (address, options) =>
      (await import("./commands/change.js")).listenerRemoveCommand(address, options),
    );
}

function configuring(program: Command): void {
  changing(program.command("apply"))
    .description("make a configuration file the one that holds")
    .requiredOption("-f, --file <file>", "the file; conf.d/*.yaml beside it belongs to it")
    .action(async (options) => (await import("./commands/change.js")).applyCommand(options));
  program
    .command("get")
    .description("the configuration that holds, or a part of it")
    .argument("[path]", "such as subsystems.pg.hosts")
    .addOption(socketOption())
    .addOption(new Option("-o, --output <format>", "how to print").choices(["yaml", "json"]).default("yaml"))
    .action(async (path, options) => (await import("./commands/show.js")).getCommand(path ?? "", options));
  changing(program.command("set"))
    .description("change one place of the configuration")
    .argument("<path>", "such as subsystems.pg.hosts")
    .argument("[value]", "the new value, as YAML")
    .option("--delete", "remove it instead")
    .action(async (path, value, options) =>
      (await import("./commands/change.js")).setCommand(path, value ?? null, options),
    );
  program
    .command("schema")
    .description("the JSON Schema of the configuration")
    .action(async () => (await import("./commands/local.js")).schemaCommand());
}

function looking(program: Command): void {
  asking(program.command("ls"))
    .description("what is exported")
    .action(async (options) => (await import("./commands/show.js")).lsCommand(options));
  asking(program.command("status"))
    .description("the server at a glance")
    .action(async (options) => (await import("./commands/show.js")).statusCommand(options));
  program
    .command("top")
    .description("live IOPS, bandwidth and latency")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/top.js")).topCommand(options));
  program
    .command("metrics")
    .description("the metrics as Prometheus text")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/show.js")).metricsCommand(options));
  asking(program.command("disconnect"))
    .description("disconnect a host; it may connect again")
    .argument("<host>", "the host's NQN")
    .argument("[subsystem]", "name or NQN; default: all")
    .action(async (host, subsystem, options) =>
      (await import("./commands/change.js")).disconnectCommand(host, subsystem ?? null, options),
    );
  program
    .command("reload")
    .description("read the configuration file again")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/change.js")).reloadCommand(options));
  asking(program.command("restart"))
    .description("replace the running server by what is installed now; hosts notice a short pause")
    .option("--reason <text>", "for the log", "asked for by keel restart")
    .action(async (options) => (await import("./commands/restart.js")).restartCommand(options));
  asking(program.command("postmortem"))
    .description("the last PDUs of each connection of the server that ended before this one")
    .action(async (options) => (await import("./commands/restart.js")).postmortemCommand(options));
  program
    .command("shutdown")
    .description("stop the server in an orderly way")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/change.js")).shutdownCommand(options));
  program
    .command("load")
    .description(
      "drive a namespace with the project's own initiator (writes to it unless --read-percent 100)",
    )
    .argument("<nqn>", "the subsystem's NQN")
    .option("--address <address>", "of the target", "127.0.0.1")
    .option("--port <number>", "of the target", "4420")
    .option("--nsid <number>", "namespace", "1")
    .option("--seconds <number>", "how long", "10")
    .option("--depth <number>", "commands outstanding on each connection", "32")
    .option("--connections <number>", "I/O queues", "1")
    .option("--block-size <size>", "of each command", "4KiB")
    .option("--read-percent <number>", "share of reads", "50")
    .option("--sequential", "in order instead of at random")
    .option("--verify", "every write carries a pattern, every read checks it")
    .option("--digests", "header and data digests")
    .addOption(new Option("-o, --output <format>", "how to print").choices(["text", "json"]).default("text"))
    .action(async (nqn, options) => (await import("./commands/load.js")).loadCommand(nqn, options));
  program
    .command("explain")
    .description("what an error code means and what to do")
    .argument("[code]", "such as E_PORT_IN_USE; default: all")
    .action(async (code) => (await import("./commands/local.js")).explainCommand(code ?? null));
  program
    .command("doctor")
    .description("what this machine offers and what stands in the way")
    .option("-c, --config <file>", "the configuration file to check")
    .addOption(
      new Option("-o, --output <format>", "how to print").choices(["table", "json", "yaml"]).default("table"),
    )
    .action(async (options) => (await import("./commands/local.js")).doctorCommand(options));
}

export function buildProgram(): Command {
  const program = new Command("keel")
    .description("A storage server whose hosts notice no restart: block devices over NVMe/TCP.")
    .version(version())
    .option("--debug", "print stack traces")
    .addOption(socketOption())
    .hook("preAction", (root, action) => {
      const { socket } = root.opts<CommonOptions>();
      if (socket !== undefined) action.setOptionValue("socket", socket);
    })
    .configureHelp({ sortSubcommands: false })
    .showHelpAfterError("(keel help COMMAND shows what is allowed)")
    .exitOverride();
  serving(program);
  sharing(program);
  namespaces(program);
  configuring(program);
  looking(program);
  const inherit = (command: Command): void => {
    for (const inner of command.commands) {
      inner.exitOverride().showHelpAfterError("(keel help COMMAND shows what is allowed)");
      inherit(inner);
    }
  };
  inherit(program);
  return program;
}

/** Runs one command line; answers the exit status. */
export async function runCli(args: readonly string[]): Promise<number> {
  process.exitCode = 0;
  try {
    await buildProgram().parseAsync([...args], { from: "user" });
    return Number(process.exitCode ?? 0);
  } catch (thrown) {
    if (thrown instanceof CommanderError) {
      // commander has printed what there is to say; help that was asked for is no error.
      return thrown.exitCode === 0 ? 0 : usageExit;
    }
    const error = toKeelError(thrown);
    process.stderr.write(`${formatError(error.report())}\n`);
    if (args.includes("--debug") && thrown instanceof Error) process.stderr.write(`${thrown.stack ?? ""}\n`);
    return error instanceof KeelError ? error.exitCode : 1;
  }
}
