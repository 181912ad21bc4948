// Every error that a person can meet, in one table: what it means, why it happens, what to do. The CLI, the JSON-RPC
// `data` member and `keel explain` print from here, so a code without a row cannot be thrown.

export type ErrorEntry = {
  /** One sentence: what happened, whatever the occasion. */
  readonly text: string;
  readonly cause: string;
  /** A remedy; a command that works when pasted, where there is one. */
  readonly fix: string;
  /** What the command line exits with: 1 failed, 2 usage, 3 not found, 4 conflict, 5 unreachable, 6 data could be lost. */
  readonly exit: 1 | 2 | 3 | 4 | 5 | 6;
};

export const errorTable = {
  E_USAGE: {
    text: "the command was not understood",
    cause: "an option or argument is missing, unknown, or has a value that is not allowed",
    fix: "keel help",
    exit: 2,
  },
  E_CONFIG_READ: {
    text: "a configuration file cannot be read",
    cause: "it does not exist, is not readable for this user, or is larger than 4 MiB",
    fix: "name the file with keel serve -c FILE, and check its owner and mode",
    exit: 2,
  },
  E_CONFIG_SYNTAX: {
    text: "a configuration file is not valid YAML",
    cause: "indentation, quoting, a duplicate key, or a construct that YAML 1.2 does not have",
    fix: "correct the place that the message names",
    exit: 2,
  },
  E_CONFIG_KEY: {
    text: "the configuration has a key that does not exist",
    cause: "a spelling mistake, or a key that stands one level too high or too low",
    fix: "keel schema prints every key that exists",
    exit: 2,
  },
  E_CONFIG_VALUE: {
    text: "the configuration has a value that is not allowed",
    cause: "the value has the wrong type, unit or range",
    fix: "correct the place that the message names; keel schema prints what is allowed",
    exit: 2,
  },
  E_CONFIG_REFERENCE: {
    text: "the configuration refers to something that is not there, or not free",
    cause: "a device name is misspelled, the device was removed, or something else has it already",
    fix: "correct the place that the message names; keel device ls shows every device",
    exit: 2,
  },
  E_CONFIG_VERSION: {
    text: "the configuration is written for another version of this program",
    cause: "the version: key is missing or has a value that this program does not know",
    fix: "write version: 1",
    exit: 2,
  },
  E_NEEDS_RESTART: {
    text: "the setting cannot be changed while the server runs",
    cause: "it decides how memory and threads are laid out at start-up, or where the server keeps its state",
    fix: "write it into the configuration file and start the server anew",
    exit: 4,
  },
  E_NOT_FOUND: {
    text: "there is nothing of that name",
    cause: "the name is misspelled, or the thing was removed meanwhile",
    fix: "keel ls -o wide",
    exit: 3,
  },
  E_EXISTS: {
    text: "something of that name exists already",
    cause: "names of devices and subsystems, and NSIDs within a subsystem, are unique",
    fix: "choose another name, or remove the one that exists",
    exit: 4,
  },
  E_BUSY: {
    text: "it is in use",
    cause: "a namespace, a stacked device, another program or another server holds it",
    fix: "remove what the message names first",
    exit: 4,
  },
  E_NOT_READY: {
    text: "it is not ready yet",
    cause:
      "its medium has not been seen, so that its size is not known, or work that comes first is not done",
    fix: "keel graph shows its state and why; try again when it is ok",
    exit: 4,
  },
  E_DATA_LOSS: {
    text: "refused because data could be lost",
    cause: "the change removes or shrinks a device whose content exists nowhere else",
    fix: "repeat the command with --yes if the data may go",
    exit: 6,
  },
  E_PORT_IN_USE: {
    text: "cannot listen on this address and port",
    cause: "another program (the kernel's nvmet, another server) already listens there",
    fix: "ss -ltnp shows who listens; use another port in listen:, or keel listen add ADDRESS:PORT",
    exit: 4,
  },
  E_ADDRESS: {
    text: "the address cannot be used",
    cause: "no network interface of this machine has it (yet)",
    fix: "ip address shows this machine's addresses; 0.0.0.0 or [::] listens on all of them",
    exit: 1,
  },
  E_DENIED: {
    text: "the operating system did not allow it",
    cause: "the user that the server runs as has no right to the file, the device or the port",
    fix: "run as root, or give the user the right",
    exit: 1,
  },
  E_DEVICE_MISSING: {
    text: "the file or block device does not exist",
    cause: "the path is misspelled, or the device has not appeared yet",
    fix: "check the path; for a new file give a size and create: true (keel share PATH --size 10GiB)",
    exit: 3,
  },
  E_DEVICE_KIND: {
    text: "the path is not what the device kind needs",
    cause: "file: needs a regular file, blockdev: a block device",
    fix: "use the other kind for this path",
    exit: 1,
  },
  E_CONFLICT: {
    text: "it holds something that would be lost",
    cause: "the device carries content, or belongs to another volume, or went on without the others",
    fix: "if it may be overwritten: keel mirror attach MIRROR LEG --force",
    exit: 4,
  },
  E_FOREIGN: {
    text: "the medium is not the one that was there before",
    cause: "another target, image or disk is found under the same address, or it belongs to another volume",
    fix: "correct the address; if the new medium is meant: keel device accept NAME; for a leg of another volume: keel mirror attach MIRROR LEG --force, or give the mirror that volume:",
    exit: 4,
  },
  E_DEVICE_SIZE: {
    text: "the size does not fit the device",
    cause:
      "it is zero, not a multiple of the block size, larger than the medium, or the kind cannot change it",
    fix: "use a size that is a multiple of the block size and that the medium has",
    exit: 1,
  },
  E_NO_SPACE: {
    text: "there is no space left",
    cause: "the file system or the quota is full",
    fix: "df -h shows the file systems; free some space",
    exit: 1,
  },
  E_IO: {
    text: "the operating system reported an input/output error",
    cause: "the medium, its driver or the file system failed",
    fix: "dmesg and smartctl tell about the device",
    exit: 1,
  },
  E_LIMIT: {
    text: "a limit is reached",
    cause: "the number of connections, devices, subsystems or namespaces, or the memory for data, is used up",
    fix: "raise it under limits: and restart, or remove something",
    exit: 1,
  },
  E_NO_MEMORY: {
    text: "not enough memory",
    cause: "the machine, the cgroup or RLIMIT_MEMLOCK does not give what was asked for",
    fix: "lower limits.memory or the size of ram devices; ulimit -l shows the limit on locked memory",
    exit: 1,
  },
  E_UNSUPPORTED: {
    text: "this device, kernel or build cannot do that",
    cause: "the operation belongs to another kind of device, or a feature is missing below the server",
    fix: "keel device ls shows the kinds of devices; keel doctor says what this machine offers",
    exit: 1,
  },
  E_INVALID: {
    text: "a value is not valid here",
    cause: "the engine's own check refused what it was given",
    fix: "the message names the value and what is allowed",
    exit: 2,
  },
  E_UNREACHABLE: {
    text: "the server cannot be reached",
    cause: "it does not run, or it listens on another socket, or this user may not open the socket",
    fix: "keel serve starts it; --socket PATH or KEEL_SOCKET names its socket",
    exit: 5,
  },
  E_ALREADY_RUNNING: {
    text: "a server runs already",
    cause: "another server holds the same state directory or control socket",
    fix: "keel status talks to the one that runs; another one needs its own state: and sockets:",
    exit: 4,
  },
  E_STATE_DIRECTORY: {
    text: "the state directory cannot be used",
    cause: "it cannot be created, read or written by this user",
    fix: "run as root, or name another directory: keel serve --state DIRECTORY",
    exit: 1,
  },
  E_STATE_CORRUPT: {
    text: "a file in the state directory cannot be understood",
    cause: "it was edited, damaged, or written by a newer version",
    fix: "restore it from a backup, or move it away: the configuration file still holds what was written there by hand",
    exit: 1,
  },
  E_STATE_WRITE: {
    text: "the change could not be made durable and was undone",
    cause: "the state directory's file system is full, read-only or failing",
    fix: "df -h and dmesg tell about the file system; then repeat the command",
    exit: 1,
  },
  E_TIMEOUT: {
    text: "there was no answer in time",
    cause: "the server or the device below is stuck or very slow",
    fix: "keel status shows what waits; repeat the command later",
    exit: 1,
  },
  E_SELF_CHECK: {
    text: "the self-check failed",
    cause: "data read back differs from data written, or a command ended with an error",
    fix: "this is a fault of the server or the machine: keep the output and report it",
    exit: 1,
  },
  E_NOT_BUILT: {
    text: "the native addon is not built or does not load",
    cause: "npm install was not run here, or a system library went away",
    fix: "npm install",
    exit: 1,
  },
  E_RPC: {
    text: "the request is not valid",
    cause: "the method does not exist, a parameter is missing, unknown or has the wrong type",
    fix: "rpc_get_methods lists the methods",
    exit: 2,
  },
  E_NO_KEEPER: {
    text: "there is no keeper that could do this",
    cause: "the server was started without one, so nobody holds its connections while it restarts",
    fix: "start it with keel serve (without --no-keeper), or under systemd as packaging/systemd/keel.service does",
    exit: 4,
  },
  E_RESTART_FAILED: {
    text: "the new server did not start; the old one goes on",
    cause: "what is installed now is damaged, or refuses the configuration",
    fix: "correct what the server's log names, then keel restart",
    exit: 1,
  },
  E_STOPPED: {
    text: "the server is stopping",
    cause: "it was told to stop and takes no further changes",
    fix: "repeat the command when it runs again",
    exit: 4,
  },
  E_INTERNAL: {
    text: "something happened that should be impossible",
    cause: "a fault in this program",
    fix: "keep the log and report it",
    exit: 1,
  },
} as const satisfies Record<string, ErrorEntry>;

export type ErrorCode = keyof typeof errorTable;

export const isErrorCode = (code: unknown): code is ErrorCode =>
  typeof code === "string" && Object.hasOwn(errorTable, code);

export type ErrorDetails = {
  /** Where: a configuration path, a file position, an object's name. */
  path?: string | null;
  /** Instead of the table's general cause and fix. */
  cause?: string | null;
  fix?: string | null;
};

/** What crosses the control socket and is printed: complete text, no stack. */
export type ErrorReport = {
  code: ErrorCode;
  message: string;
  path: string | null;
  cause: string;
  fix: string;
};

export class KeelError extends Error {
  readonly code: ErrorCode;
  readonly path: string | null;
  readonly causeText: string;
  readonly fix: string;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(message);
    this.name = "KeelError";
    this.code = code;
    this.path = details.path ?? null;
    this.causeText = details.cause ?? errorTable[code].cause;
    this.fix = details.fix ?? errorTable[code].fix;
  }

  get exitCode(): number {
    return errorTable[this.code].exit;
  }

  report(): ErrorReport {
    return { code: this.code, message: this.message, path: this.path, cause: this.causeText, fix: this.fix };
  }
}

/** Linux error numbers that say more than the native side's general codes. */
const codeOfErrno: Readonly<Record<number, ErrorCode>> = {
  1: "E_DENIED",
  2: "E_DEVICE_MISSING",
  13: "E_DENIED",
  28: "E_NO_SPACE",
  98: "E_PORT_IN_USE",
  99: "E_ADDRESS",
  122: "E_NO_SPACE",
};
const generalCodes: readonly ErrorCode[] = ["E_INVALID", "E_NOT_FOUND", "E_IO"];

/** Whatever was thrown, as the one error class. Plain objects { code, message } come from the native side. */
export function toKeelError(thrown: unknown): KeelError {
  if (thrown instanceof KeelError) return thrown;
  const { code, message, errorNumber } = (typeof thrown === "object" && thrown !== null ? thrown : {}) as {
    code?: unknown;
    message?: unknown;
    errorNumber?: unknown;
  };
  const text = typeof message === "string" ? message : String(thrown);
  if (isErrorCode(code)) {
    const exact = typeof errorNumber === "number" ? codeOfErrno[errorNumber] : undefined;
    return new KeelError(exact !== undefined && generalCodes.includes(code) ? exact : code, text);
  }
  if (code === "ENOSPC" || code === "EDQUOT") return new KeelError("E_NO_SPACE", text);
  if (code === "EACCES" || code === "EPERM") return new KeelError("E_DENIED", text);
  return new KeelError("E_INTERNAL", text);
}

/** The error as people read it: what, then cause, then fix. */
export function formatError(report: ErrorReport): string {
  const where = report.path === null || report.message.includes(report.path) ? "" : `${report.path}: `;
  const lines = [`error ${report.code}  ${where}${report.message}`];
  lines.push(`  cause  ${report.cause}`);
  lines.push(`  fix    ${report.fix}`);
  return lines.join("\n");
}
