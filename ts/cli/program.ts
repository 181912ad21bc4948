// The command line. This file holds the grammar alone; what a command does stands in commands/, loaded when it runs,
// so that `keel --help` starts fast. Exit status: 0 done, 1 failed, 2 usage, 3 not found, 4 conflict, 5 no server,
// 6 refused because data could be lost.

import { readFileSync } from "node:fs";
import { Command, CommanderError, Option } from "commander";
import type { Beginning } from "../main/begin.js";
import { formatError, KeelError, toKeelError } from "../model/errors.js";
import { didYouMean } from "../model/nearest.js";
import { formats } from "./output.js";

export type CommonOptions = { socket?: string; output?: string; debug?: boolean };
/** `again`: the command line without --dry-run, as it would be typed. */
export type ChangeFlags = CommonOptions & { dryRun?: boolean; yes?: boolean; again?: string };

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

function serving(program: Command, beginning: Promise<Beginning> | null): void {
  program
    .command("serve")
    .description("run the server in the foreground")
    .option("-c, --config <file>", "configuration file (default: /etc/keel/keel.yaml if it exists)")
    .option("--state <directory>", "the durable directory, instead of what the configuration says")
    .option("--no-keeper", "without the keeper that makes crashes and restarts invisible to hosts")
    .addOption(socketOption())
    .action(async (options) => (await import("./commands/serve.js")).serveCommand(options, beginning));
  program
    .command("demo")
    .description("export a RAM disk, check it over TCP, and show how to connect")
    .option("--once", "end after the self-check: exit status 0 if it passed")
    .option("--port <number>", "TCP port (default: 4420 if free)")
    .option("--size <size>", "size of the RAM disk", "1GiB")
    .addOption(new Option("--place <directory>", "of a demo under its keeper").hideHelp())
    .action(async (options) => (await import("./commands/serve.js")).demoCommand(options, beginning));
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
  asking(ns.command("ls", { isDefault: true }))
    .description("the namespaces of a subsystem, or of all")
    .argument("[subsystem]", "name or NQN")
    .action(async (subsystem, options) =>
      (await import("./commands/show.js")).namespacesCommand(subsystem ?? null, options),
    );
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

const volumeCommands = () => import("./commands/volumes.js");

function devices(program: Command): void {
  const device = program.command("device").description("devices and volumes");
  asking(device.command("ls", { isDefault: true }))
    .description("every device")
    .action(async (options) => (await volumeCommands()).devicesCommand(options));
  changing(device.command("add"))
    .description("make a device")
    .argument("<name>", "its name")
    .argument("<spec>", "what it is, as in the configuration: '{mirror: [a, b]}'")
    .action(async (name, spec, options) => (await volumeCommands()).deviceAddCommand(name, spec, options));
  changing(device.command("remove"))
    .description("remove a device that nothing uses")
    .argument("<name>", "its name")
    .action(async (name, options) => (await volumeCommands()).deviceRemoveCommand(name, options));
  for (const verb of ["suspend", "resume"] as const) {
    changing(device.command(verb))
      .description(verb === "suspend" ? "let what is asked of it wait" : "let it go on")
      .argument("<name>", "its name")
      .action(async (name, options) => (await volumeCommands()).suspendCommand(verb, name, options));
  }
  changing(device.command("replace"))
    .description("give it another medium that has the content already; whoever uses it goes on")
    .argument("<name>", "its name")
    .argument("<spec>", "what it is from now on")
    .action(async (name, spec, options) =>
      (await volumeCommands()).deviceReplaceCommand(name, spec, options),
    );
  changing(device.command("migrate"))
    .description("copy it to another place while it is used, then go on there")
    .argument("<name>", "its name")
    .argument("[spec]", "what the other place is: '{file: /srv/new.img, size: 1GiB, create: true}'")
    .option("--to <device>", "a device that nothing uses, instead of a spec; it becomes this one")
    .option("--rate <size>", "copy at most so much per second")
    .option("--wait", "follow it to its end")
    .option("--cancel", "call it off: the device stays where it was")
    .action(async (name, spec, options) =>
      (await volumeCommands()).migrateCommand(name, spec ?? null, options),
    );
  changing(device.command("grow"))
    .description("append a range of another device to a linear volume")
    .argument("<name>", "the volume")
    .argument("<device>", "the other device")
    .option("--start <size>", "where the range begins (default: 0)")
    .option("--size <size>", "how long it is (default: to the end)")
    .action(async (name, part, options) => (await volumeCommands()).deviceGrowCommand(name, part, options));
  asking(device.command("accept"))
    .description("take the medium that is there now, although another one was there before")
    .argument("<name>", "its name")
    .action(async (name, options) => (await volumeCommands()).deviceAcceptCommand(name, options));
}

function mirrors(program: Command): void {
  const mirror = program.command("mirror").description("the legs of a mirror");
  const waiting = (command: Command): Command => command.option("--wait", "follow the job to its end");
  waiting(changing(mirror.command("add")))
    .description("add a leg; it is filled while the mirror is used")
    .argument("<mirror>", "the mirror")
    .argument("<device>", "the new leg")
    .action(async (name, device, options) =>
      (await volumeCommands()).mirrorAddCommand(name, device, options),
    );
  changing(mirror.command("remove"))
    .description("take a leg away for good")
    .argument("<mirror>", "the mirror")
    .argument("<leg>", "the leg")
    .action(async (name, leg, options) => (await volumeCommands()).mirrorRemoveCommand(name, leg, options));
  waiting(changing(mirror.command("replace")))
    .description("put another device in the place of a leg")
    .argument("<mirror>", "the mirror")
    .argument("<leg>", "the leg that goes")
    .argument("<device>", "the device that comes")
    .action(async (name, leg, device, options) =>
      (await volumeCommands()).mirrorReplaceCommand(name, leg, device, options),
    );
  const verbs = [
    ["detach", "detach", "go on without a leg; what changes meanwhile is remembered"],
    ["attach", "attach", "take a leg back: only what changed meanwhile is copied"],
    ["invalidate", "invalidate", "declare everything on a leg wrong: it is filled anew"],
    ["mark-clean", "mark_clean", "declare a leg equal to the others without copying anything"],
  ] as const;
  for (const [word, verb, text] of verbs) {
    const command = asking(mirror.command(word))
      .description(text)
      .argument("<mirror>", "the mirror")
      .argument("<leg>", "the leg");
    if (verb === "attach") command.option("--force", "even if it carries another volume or unknown content");
    if (verb === "attach" || verb === "invalidate") waiting(command);
    command.action(async (name, leg, options) =>
      (await volumeCommands()).legCommand(verb, name, leg, options),
    );
  }
  waiting(asking(mirror.command("scrub")))
    .description("compare the legs")
    .argument("<mirror>", "the mirror")
    .option("--repair", "make them equal where they differ")
    .action(async (name, options) => (await volumeCommands()).scrubCommand(name, options));
  asking(mirror.command("grow"))
    .description("make it as large as its legs are by now, while it is used")
    .argument("<mirror>", "the mirror")
    .action(async (name, options) => (await volumeCommands()).mirrorGrowCommand(name, options));
  changing(mirror.command("rate"))
    .description("how much a resync may copy per second")
    .argument("<mirror>", "the mirror")
    .argument("<rate>", "such as 100MiB; 0: as fast as the legs allow")
    .action(async (name, rate, options) => (await volumeCommands()).mirrorRateCommand(name, rate, options));
}

function jobs(program: Command): void {
  asking(program.command("graph"))
    .description("the tree of devices below a volume")
    .argument("[volume]", "a device or subsystem; default: all")
    .option("--json", "the same as -o json")
    .action(async (volume, options) => (await volumeCommands()).graphCommand(volume ?? null, options));
  const job = program.command("jobs").description("long operations");
  asking(job.command("ls", { isDefault: true }))
    .description("all of them, newest first")
    .action(async (options) => (await volumeCommands()).jobsCommand(options));
  asking(job.command("wait"))
    .description("follow one to its end")
    .argument("<id>", "its number")
    .option("--timeout <seconds>", "give up after that; the job goes on")
    .action(async (id, options) => (await volumeCommands()).jobWaitCommand(id, options));
  asking(job.command("cancel"))
    .description("end one as if it had not begun, as far as that is possible")
    .argument("<id>", "its number")
    .action(async (id, options) => (await volumeCommands()).jobCancelCommand(id, options));
}

function dst(program: Command): void {
  const repeat = (value: string, earlier: string[]): string[] => [...earlier, value];
  changing(program.command("dst"))
    .description("volumes by the command forms of DST: create a storage, add nodes, start, stop, remove")
    .requiredOption("-n, --name <storage>", "the storage; alone: shows it")
    .addOption(
      new Option("-A, --algorithm <algorithm>", "creates it, with the node that is given").choices([
        "alg_linear",
        "alg_mirror",
        "alg_stripe",
      ]),
    )
    .option("-a, --address <address>", "a remote node's IP address")
    .option("-p, --port <port>", "a remote node's port (default: 4420)")
    .option("-d, --disk <path>", "a local node: a file or block device")
    .option("-N, --nqn <nqn>", "a remote node's subsystem (default: the one of a storage of the same name)")
    .option("--nsid <id>", "a remote node's namespace (default: 1)")
    .option("-s, --offset <size>", "alg_linear: where in the node its range begins")
    .option("-S, --size <size>", "alg_linear: how long it is")
    .option("--create-size <size>", "make the file of a local node with this size")
    .option("--allow <nqn>", "with --start and --export: a host that may connect (default: any)", repeat, [])
    .option("-e, --export", "export the disk as a node for the storage of that name elsewhere")
    .option("--start", "export the storage")
    .option("--stop", "export it no longer; it stays")
    .option("--del-node", "take the node away (alg_mirror)")
    .option("--remove", "remove the storage and its nodes; what the nodes hold stays")
    .action(async (options) => (await import("./commands/dst.js")).dstCommand(options));
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

const quoted = (word: string): string =>
  /^[\w./:@%+=,-]+$/.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`;

/** Groups list where nothing is said; a word that is no command of theirs must not be taken for an argument of that. */
function refuseUnknown(group: Command): void {
  const [word] = group.args;
  if (word === undefined || word.startsWith("-") || word === "help") return;
  const names = group.commands.map((command) => command.name());
  if (names.includes(word)) return;
  group.error(`error: unknown command '${word}'${didYouMean(word, names)}`, {
    code: "commander.unknownCommand",
  });
}

/** `args`: the command line that is about to be parsed. */
export function buildProgram(
  args: readonly string[] = [],
  beginning: Promise<Beginning> | null = null,
): Command {
  const program = new Command("keel")
    .description("A storage server whose hosts notice no restart: block devices over NVMe/TCP.")
    .version(version())
    .option("--debug", "print stack traces")
    .addOption(socketOption())
    .hook("preAction", (root, action) => {
      const { socket } = root.opts<CommonOptions>();
      if (socket !== undefined) action.setOptionValue("socket", socket);
      const typed = args.filter((word) => word !== "--dry-run").map(quoted);
      action.setOptionValue("again", ["keel", ...typed].join(" "));
    })
    .configureHelp({ sortSubcommands: false })
    .showHelpAfterError("(keel help COMMAND shows what is allowed)")
    .exitOverride();
  serving(program, beginning);
  sharing(program);
  namespaces(program);
  devices(program);
  mirrors(program);
  jobs(program);
  dst(program);
  configuring(program);
  looking(program);
  const inherit = (command: Command): void => {
    for (const inner of command.commands) {
      inner.exitOverride().showHelpAfterError("(keel help COMMAND shows what is allowed)");
      if (inner.commands.length > 0) inner.hook("preSubcommand", refuseUnknown);
      inherit(inner);
    }
  };
  inherit(program);
  return program;
}

/** Runs one command line; answers the exit status. `beginning`: of a server that hosts may be waiting for. */
export async function runCli(
  args: readonly string[],
  beginning: Promise<Beginning> | null = null,
): Promise<number> {
  process.exitCode = 0;
  try {
    await buildProgram(args, beginning).parseAsync([...args], { from: "user" });
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
