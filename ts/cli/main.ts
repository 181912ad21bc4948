// Where `keel` begins: runs the command line that the process was started with. A server that a keeper started begins
// before that: hosts may be waiting for it.

const kept = process.env["KEEL_KEEPER_FD"] !== undefined && ["serve", "demo"].includes(process.argv[2] ?? "");
const beginning = kept ? (await import("../main/begin.js")).begin(true) : null;
await beginning?.catch(() => undefined); // reported by whoever starts from there
const { runCli } = await import("./program.js");

// `keel metrics | head`: the reader went away, nobody is left to tell.
process.stdout.on("error", () => process.exit(0));
process.exitCode = await runCli(process.argv.slice(2), beginning);
