// `keel doctor`: what this machine offers and what stands in the way, each line with its remedy.

import { accessSync, constants, existsSync, readFileSync } from "node:fs";
import { createServer } from "node:net";
import { freemem, hostname } from "node:os";
import { dirname } from "node:path";
import { parseSources, readSources } from "../config/load.js";
import { defaultPaths, nodeOfHost, userPlace } from "../config/naming.js";
import { addonOrError, defaultConfigFile } from "../main.js";
import { toKeelError } from "../model/errors.js";
import { formatSize } from "../model/units.js";

export type Finding = {
  readonly what: string;
  readonly verdict: "ok" | "warn" | "bad";
  readonly text: string;
  /** null if there is nothing to do. */
  readonly fix: string | null;
};

const ok = (what: string, text: string): Finding => ({ what, verdict: "ok", text, fix: null });

const read = (path: string): string | null => {
  try {
    return readFileSync(path, "utf8").trim();
  } catch {
    return null;
  }
};

function nodeVersion(): Finding {
  const [major = 0, minor = 0] = process.versions.node.split(".").map(Number);
  const text = `v${process.versions.node}`;
  if (major > 20 || (major === 20 && minor >= 19)) return ok("node", text);
  return { what: "node", verdict: "bad", text: `${text} is too old`, fix: "install Node 20.19 or later" };
}

function engine(): Finding[] {
  try {
    const probe = addonOrError().probe();
    const uring: Finding = probe.ioUring
      ? ok("io_uring", `kernel ${probe.kernel}`)
      : {
          what: "io_uring",
          verdict: "bad",
          text: probe.reason ?? "not available",
          fix: "sysctl kernel.io_uring_disabled=0; in a container, allow io_uring in the seccomp profile",
        };
    return [ok("addon", "loads"), uring, ok("crc32c", probe.crc32c), ok("huge pages", probe.hugePages)];
  } catch (thrown) {
    const { message, fix } = toKeelError(thrown);
    return [{ what: "addon", verdict: "bad", text: message, fix }];
  }
}

function limit(name: string): number | null {
  const line = read("/proc/self/limits")
    ?.split("\n")
    .find((candidate) => candidate.startsWith(name));
  const soft = line?.slice(name.length).trim().split(/\s+/)[0];
  if (soft === undefined) return null;
  return soft === "unlimited" ? Number.POSITIVE_INFINITY : Number(soft);
}

function limits(): Finding[] {
  const files = limit("Max open files") ?? 0;
  const locked = limit("Max locked memory") ?? 0;
  const findings: Finding[] = [];
  findings.push(
    files >= 4096
      ? ok("open files", String(files))
      : {
          what: "open files",
          verdict: "warn",
          text: `${files}: one is needed per connection`,
          fix: "ulimit -n 65536, or LimitNOFILE= in the unit",
        },
  );
  findings.push(
    locked >= 8 << 20
      ? ok("locked memory", Number.isFinite(locked) ? formatSize(locked) : "unlimited")
      : {
          what: "locked memory",
          verdict: "warn",
          text: `${formatSize(locked)}: registered buffers may not fit`,
          fix: "ulimit -l unlimited, or LimitMEMLOCK=infinity in the unit",
        },
  );
  const free = freemem();
  findings.push(
    free >= 256 << 20
      ? ok("memory", `${formatSize(free)} free`)
      : {
          what: "memory",
          verdict: "warn",
          text: `${formatSize(free)} free`,
          fix: "lower limits.memory and the size of ram devices",
        },
  );
  return findings;
}

function port(number: number, what: string): Promise<Finding> {
  return new Promise((resolve) => {
    const probe = createServer();
    probe.once("error", (error: NodeJS.ErrnoException) => {
      const text =
        error.code === "EADDRINUSE"
          ? "in use (by a running keel, or by another target)"
          : (error.code ?? error.message);
      resolve({
        what,
        verdict: "warn",
        text: `${number} ${text}`,
        fix: `ss -ltnp 'sport = :${number}' shows by whom`,
      });
    });
    probe.listen({ port: number, host: "0.0.0.0", exclusive: true }, () => {
      probe.close(() => resolve(ok(what, `${number} is free`)));
    });
  });
}

function writable(path: string, what: string): Finding {
  let present = path;
  while (!existsSync(present) && present !== "/") present = dirname(present);
  try {
    accessSync(present, constants.W_OK);
    return ok(what, path);
  } catch {
    return {
      what,
      verdict: "warn",
      text: `${path} cannot be written by this user`,
      fix: "run as root, or choose another with keel serve --state DIRECTORY --socket PATH",
    };
  }
}

function configuration(file: string): Finding {
  if (!existsSync(file)) return ok("configuration", `${file} does not exist: built-in defaults`);
  try {
    const { document } = parseSources(readSources(file), nodeOfHost(hostname()));
    const count = Object.keys(document.subsystems ?? {}).length;
    return ok("configuration", `${file}: ${count} subsystem${count === 1 ? "" : "s"}`);
  } catch (thrown) {
    return {
      what: "configuration",
      verdict: "bad",
      text: toKeelError(thrown).message,
      fix: "correct the places named",
    };
  }
}

function kernelHost(): Finding {
  const release = read("/proc/sys/kernel/osrelease") ?? "";
  const loaded = existsSync("/sys/module/nvme_tcp");
  const builtin = (read(`/lib/modules/${release}/modules.builtin`) ?? "").includes("nvme-tcp");
  const loadable = (read(`/lib/modules/${release}/modules.dep`) ?? "").includes("nvme-tcp");
  if (loaded || builtin || loadable)
    return ok("nvme-tcp host", loaded ? "loaded" : "can be loaded: modprobe nvme-tcp");
  return {
    what: "nvme-tcp host",
    verdict: "warn",
    text: "this kernel has none: this machine cannot connect as a host itself",
    fix: "connect from another machine",
  };
}

export async function diagnose(configFile: string | null): Promise<Finding[]> {
  const paths = defaultPaths(userPlace());
  return [
    nodeVersion(),
    ...engine(),
    ...limits(),
    await port(4420, "nvme-tcp port"),
    await port(8009, "discovery port"),
    writable(paths.state, "state"),
    writable(dirname(paths.rpcSocket), "socket"),
    configuration(configFile ?? defaultConfigFile),
    kernelHost(),
  ];
}
