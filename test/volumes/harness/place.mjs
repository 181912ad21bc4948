// Machines of a test: each is a network namespace of its own on this machine, linked by virtual cables that can be cut.
// A namespace lives as long as the process that holds it, and that ends with this one, so nothing is left behind
// whatever happens. Without root there is one place only, this machine, and no cable.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";

export class Place {
  name;
  #holder;
  prefix;

  constructor(name, holder) {
    this.name = name;
    this.#holder = holder;
    this.prefix = holder === null ? [] : ["nsenter", `--net=/proc/${holder.pid}/ns/net`, "--"];
  }

  static here() {
    return new Place("here", null);
  }

  static async open(name) {
    const holder = spawn("unshare", ["--net", "sh", "-c", "ip link set lo up && echo inside; exec cat"], {
      stdio: ["pipe", "pipe", "inherit"],
    });
    const [said] = await Promise.race([
      once(holder.stdout, "data"),
      once(holder, "exit").then(() => {
        throw new Error("no network namespace can be made");
      }),
    ]);
    if (!String(said).includes("inside")) throw new Error(`the namespace ${name} has no loopback`);
    return new Place(name, holder);
  }

  get pid() {
    return this.#holder.pid;
  }

  run(...words) {
    const [command, ...args] = [...this.prefix, ...words];
    return execFileSync(command, args, { encoding: "utf8" });
  }

  close() {
    this.#holder?.stdin.end();
  }
}

/** A cable between two places: each end has an address of its own. */
export class Cable {
  #left;
  #leftEnd;

  constructor(left, right, number) {
    this.#left = left;
    this.#leftEnd = `keel${number}a`;
    const rightEnd = `keel${number}b`;
    left.run(
      "ip",
      "link",
      "add",
      this.#leftEnd,
      "type",
      "veth",
      "peer",
      "name",
      rightEnd,
      "netns",
      String(right.pid),
    );
    this.leftAddress = `10.77.${number}.1`;
    this.rightAddress = `10.77.${number}.2`;
    left.run("ip", "address", "add", `${this.leftAddress}/30`, "dev", this.#leftEnd);
    right.run("ip", "address", "add", `${this.rightAddress}/30`, "dev", rightEnd);
    left.run("ip", "link", "set", this.#leftEnd, "up");
    right.run("ip", "link", "set", rightEnd, "up");
  }

  cut() {
    this.#left.run("ip", "link", "set", this.#leftEnd, "down");
  }

  mend() {
    this.#left.run("ip", "link", "set", this.#leftEnd, "up");
  }
}

/** Whether namespaces and cables can be made here. */
export function canLink() {
  if (process.getuid?.() !== 0) return false;
  try {
    execFileSync(
      "unshare",
      ["--net", "ip", "link", "add", "keel0a", "type", "veth", "peer", "name", "keel0b"],
      {
        stdio: "ignore",
      },
    );
    return true;
  } catch {
    return false;
  }
}
