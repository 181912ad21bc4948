// One guest for all cases; for each case a target of its own, a clean host, and a look into the kernel's log afterwards.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { accelerators, Guest, withDeadline } from "./guest.mjs";
import { prepareKernel, requirePrograms } from "./kernel.mjs";
import { KernelLog, LATE_KEEP_ALIVE } from "./kernel-log.mjs";
import { openNetwork } from "./network.mjs";
import { NvmeHost } from "./nvme-host.mjs";
import { startServer } from "./server.mjs";

const CASE_DEADLINE_MS = 300_000;

/**
 * @typedef {object} CaseContext
 * @property {Guest} guest
 * @property {NvmeHost} host
 * @property {import("./server.mjs").Server} target
 * @property {KernelLog} kernelLog
 * @property {string} mark          where this case begins in the kernel's log
 * @property {string} directory     a folder of this case's own on this machine
 * @property {import("node:test").TestContext} t
 */

export class Suite {
  #network;
  #directory;
  #target = null;
  #caseCount = 0;
  #failed = false;
  #startTarget;

  /** Boots the guest. @throws {import("./kernel.mjs").Unavailable} */
  static async open({ cpus = 2, memoryMib = 1536 } = {}) {
    requirePrograms();
    const kernel = prepareKernel();
    const directory = mkdtempSync(join(tmpdir(), "evenkeel-guest-"));
    const network = await openNetwork(cpus);
    const guest = new Guest({ kernel, network, directory, cpus, memoryMib });
    const standIn = process.env.EVENKEEL_GUEST_TARGET;
    const startTarget = standIn ? (await import(standIn)).startTarget : startServer;
    const suite = new Suite(guest, network, directory, startTarget);
    try {
      await guest.boot();
      await suite.host.prepare();
    } catch (error) {
      console.log(guest.consoleTail());
      suite.#failed = true;
      await suite.close();
      throw error;
    }
    const { remark } = accelerators();
    console.log(
      `guest: ${guest.release}, ${guest.accelerator}${remark ? ` (${remark})` : ""}, ${network.kind} network, up in ${guest.bootMs} ms, logs in ${directory}`,
    );
    return suite;
  }

  constructor(guest, network, directory, startTarget) {
    this.guest = guest;
    this.kernelLog = new KernelLog(guest);
    this.host = new NvmeHost(guest, () => this.#target.places);
    this.#network = network;
    this.#directory = directory;
    this.#startTarget = startTarget;
  }

  /** Ends the guest; the logs stay when a case failed. */
  async close() {
    await this.guest.powerOff();
    this.#network.close();
    if (!this.#failed) rmSync(this.#directory, { recursive: true, force: true });
  }

  /**
   * Defines a test with a target of its own.
   * @param {string} name
   * @param {{config: object | ((directory: string) => object), keeper?: boolean, allow?: RegExp[], skip?: string | false, deadlineMs?: number}} options  `allow`: kernel log lines that this case causes on purpose; `keeper`: the server runs under a keeper
   * @param {(context: CaseContext) => Promise<void>} body
   */
  case(name, { config, keeper = false, allow = [], skip = false, deadlineMs = CASE_DEADLINE_MS }, body) {
    test(name, { skip }, async (t) => {
      const directory = join(this.#directory, `case-${++this.#caseCount}`);
      mkdirSync(directory, { recursive: true });
      const { guest, host, kernelLog } = this;
      const mark = await kernelLog.mark();
      let target = null;
      try {
        target = await this.#startTarget({
          network: this.#network,
          guest,
          directory,
          keeper,
          config: typeof config === "function" ? config(directory) : config,
        });
        this.#target = target;
        await withDeadline(
          body({ guest, host, target, kernelLog, mark, directory, t }),
          deadlineMs,
          () => `the case is not done after ${deadlineMs / 1000} s`,
        );
        await host.cleanUp();
        const late = (await kernelLog.since(mark)).filter((line) => LATE_KEEP_ALIVE.test(line));
        if (late.length > 0) t.diagnostic(`${late.length} late keep-alives, the last: ${late.at(-1)}`);
        const slow = guest.accelerator === "kvm" ? [] : [LATE_KEEP_ALIVE];
        refuse("the host's kernel complained", await kernelLog.troubleSince(mark, [...allow, ...slow]));
        refuse("the server complained", target.complaints());
        await target.stop();
      } catch (error) {
        this.#failed = true;
        await this.#report(name, mark, target);
        await this.#recover(target);
        throw error;
      } finally {
        this.#target = null;
      }
    });
  }

  /** After a failure nothing is left of the case: the next one meets a clean host, a fresh one if need be. */
  async #recover(target) {
    const clean = await this.host.cleanUp().then(
      () => true,
      () => false,
    );
    await target?.stop().catch((error) => console.log(error.message));
    if (clean) return;
    console.log("guest: rebooted, because it could not be cleaned up");
    await this.guest.reboot();
    await this.host.prepare();
  }

  async #report(name, mark, target) {
    const sections = [
      [
        "kernel log of the guest",
        (await this.kernelLog.since(mark).catch((error) => [error.message])).slice(-60).join("\n"),
      ],
      ["end of the server's log", target?.logTail(40) ?? "(it did not start)"],
    ];
    for (const [title, text] of sections) console.log(`--- ${name}: ${title}\n${text}`);
  }
}

function refuse(what, lines) {
  if (lines.length > 0) throw new Error(`${what}:\n${lines.join("\n")}`);
}
