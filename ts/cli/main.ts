// Where `keel` begins: runs the command line that the process was started with.

import { runCli } from "./program.js";

// `keel metrics | head`: the reader went away, nobody is left to tell.
process.stdout.on("error", () => process.exit(0));
process.exitCode = await runCli(process.argv.slice(2));
