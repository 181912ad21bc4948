// One guest for all cases; for each case a target of its own, a clean host, and a look into the kernel's log afterwards.
import { mkdirSync, mkdtempSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "node:test";
import { accelerators, Guest } from "./guest.mjs";
import { prepareKernel, requirePrograms } from "./kernel.mjs";
import { KernelLog } from "./kernel-log.mjs";
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
      await suite.close();
      throw error;
    }
    const { remark } = accelerators();
    console.log(`guest: ${guest.release}, ${guest.accelerator}${remark ? ` (${remark})` : ""}, ${network.kind} network, up in ${guest.bootMs} ms, logs in ${directory}`);
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
   * @param {{config: object | ((directory: string) => object), allow?: RegExp[], skip?: string | false, deadlineMs?: number}} options  `allow`: kernel log lines that this case causes on purpose
   * @param {(context: CaseContext) => Promise<void>} body
   */
  case(name, { config, allow = [], skip = false, deadlineMs = CASE_DEADLINE_MS }, body) {
    test(name, { skip, timeout: deadlineMs }, async (t) => {
      const directory = join(this.#directory, `case-${++this.#caseCount}`);
      mkdirSync(directory, { recursive: true });
      const mark = await this.kernelLog.mark();
      const target = await this.#startTarget({
        network: this.#network,
        guest: this.guest,
        directory,
        config: typeof config === "function" ? config(directory) : config,
      });
      this.#target = target;
      try {
        await body({ guest: this.guest, host: this.host, target, kernelLog: this.kernelLog, mark, directory, t });
        await this.host.cleanUp();
        const trouble = await this.kernelLog.troubleSince(mark, allow);
        if (trouble.length > 0) throw new Error(`the host's kernel complained:\n${trouble.join("\n")}`);
        const complaints = target.complaints();
        if (complaints.length > 0) throw new Error(`the server complained:\n${complaints.join("\n")}`);
      } catch (error) {
        this.#failed = true;
        await this.#report(name, mark, target);
        await this.host.cleanUp().catch(() => {});
        throw error;
      } finally {
        await target.stop();
        this.#target = null;
      }
    });
  }

  async #report(name, mark, target) {
    const sections = [
      ["kernel log of the guest", (await this.kernelLog.since(mark).catch((error) => [error.message])).slice(-60).join("\n")],
      ["end of the server's log", target.logTail(40)],
    ];
    for (const [title, text] of sections) console.log(`--- ${name}: ${title}\n${text}`);
  }
}
