// What the guest's kernel said, and what it must not have said.
//
// The rule of the suite: at the end of a case the log since its beginning holds no line that a correct target can cause. A case that provokes one
// on purpose names it with `allow`.

/** A line of the storage stack that tells of trouble. */
const TROUBLE = [
  /\bnvme\b.*\b(error|errors|timeout|timed out|reset|resetting|reconnect\w*|failed|failure|fail|abort\w*|invalid|mismatch|duplicate|unsupported|unable|bogus|unexpected|wrong|dead|lost)\b/i,
  /firmware bug/i,
  /identifiers changed|genctr|without response|queue stuck|Device not ready/i,
  /\b(Buffer )?I\/O error\b|critical \w+ error|blk_update_request/i,
  /(EXT4-fs|XFS|JBD2)\b.*\b(error|warning|corrupt\w*|shutdown|abort\w*)\b/i,
  /\bBUG:|\bWARNING:|Call Trace|general protection|hung_task|blocked for more than|soft lockup|rcu.*stall|Oops/,
];

/** Lines that match the above and are harmless. */
const HARMLESS = [
  /nvme.*: mapped \d+\/\d+\/\d+ default\/read\/poll queues/,
  /callbacks suppressed$/,
  /Shutdown timeout set to/,
];

/**
 * A keep-alive that waited for more than a quarter of its timeout. On a busy machine a server's start may take that long,
 * and so may anything at all in a guest whose processor is emulated: then cases count these lines and do not fail.
 */
export const LATE_KEEP_ALIVE = /long keepalive RTT/;

/** A line that says that the host noticed an interruption of its connection. A restarted server must cause none of these. */
const INTERRUPTION =
  /\bnvme\b.*\b(reconnect\w*|error recovery|timeout|timed out|reset\w*|Connect command failed|failed to connect|keep.?alive (?!RTT)|Removing ctrl|creating \d+ I\/O queues|connection reset|closed by|no usable path|no available path)\b/i;

const WARNING_LEVELS = /^\w+\s*:(emerg|alert|crit|err|warn)\s*:/;

let nextMark = 1;

export class KernelLog {
  #guest;

  /** @param {import("./guest.mjs").Guest} guest */
  constructor(guest) {
    this.#guest = guest;
  }

  /** A place in the log to which `since` refers. */
  async mark() {
    const mark = `evenkeel mark ${process.pid}-${nextMark++}`;
    await this.renew(mark);
    return mark;
  }

  /** Sets a mark again: after a reboot the log begins anew. */
  async renew(mark) {
    await this.#guest.run(`echo '<6>${mark}' >/dev/kmsg`);
  }

  /** Lines that came after the mark, each "facility:level: [time] text". */
  async since(mark) {
    const text = await this.#guest.run("dmesg --decode --nopager");
    const lines = text.split("\n");
    const at = lines.findIndex((line) => line.endsWith(mark));
    if (at < 0) throw new Error(`the guest's kernel log no longer holds "${mark}"`);
    return lines.slice(at + 1).filter((line) => !line.includes("evenkeel mark "));
  }

  /**
   * Lines since the mark that tell of trouble.
   * @param {string} mark
   * @param {RegExp[]} allow
   */
  async troubleSince(mark, allow = []) {
    const lines = await this.since(mark);
    return lines.filter((line) => isTrouble(line) && !allow.some((pattern) => pattern.test(line)));
  }

  /** Lines since the mark in which the host tells that it noticed an interruption. */
  async interruptionsSince(mark) {
    const lines = await this.since(mark);
    return lines.filter((line) => INTERRUPTION.test(line));
  }
}

function isTrouble(line) {
  if (HARMLESS.some((pattern) => pattern.test(line))) return false;
  if (TROUBLE.some((pattern) => pattern.test(line))) return true;
  return WARNING_LEVELS.test(line) && /nvme/i.test(line);
}
