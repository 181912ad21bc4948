// The Linux NVMe/TCP host in the guest, seen through nvme-cli and sysfs.
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";

const PRELUDE = readFileSync(fileURLToPath(new URL("prelude.sh", import.meta.url)), "utf8");
const PRELUDE_PATH = "/run/prelude.sh";

export const DISCOVERY_NQN = "nqn.2014-08.org.nvmexpress.discovery";

/** Who this guest is unless a case says otherwise. */
export const HOST_NQN = "nqn.2014-08.org.nvmexpress:uuid:5a0c3a52-7c5e-4b65-9e0f-5f1d6a0e6b01";
export const HOST_ID = "5a0c3a52-7c5e-4b65-9e0f-5f1d6a0e6b01";

/**
 * @typedef {object} Place      where a target listens, as the guest calls it
 * @property {string} address
 * @property {number} port
 */

/**
 * @typedef {object} ConnectOptions
 * @property {string} [hostNqn]
 * @property {string} [hostId]
 * @property {boolean} [headerDigest]
 * @property {boolean} [dataDigest]
 * @property {number} [queues]        I/O queues
 * @property {number} [writeQueues]
 * @property {number} [pollQueues]
 * @property {number} [queueSize]
 * @property {number} [keepAliveS]
 * @property {number} [controllerLossS]
 * @property {number} [reconnectDelayS]
 * @property {boolean} [disableSqFlow]
 */

/** Each option's nvme-cli spelling. */
const CONNECT_FLAGS = {
  headerDigest: () => "-g",
  dataDigest: () => "-G",
  queues: (count) => `-i ${count}`,
  writeQueues: (count) => `-W ${count}`,
  pollQueues: (count) => `-P ${count}`,
  queueSize: (size) => `-Q ${size}`,
  keepAliveS: (seconds) => `-k ${seconds}`,
  controllerLossS: (seconds) => `-l ${seconds}`,
  reconnectDelayS: (seconds) => `-c ${seconds}`,
  disableSqFlow: () => "-d",
};

export class NvmeHost {
  #guest;
  #place;

  /** @param {import("./guest.mjs").Guest} guest @param {() => {io: Place, discovery: Place}} place */
  constructor(guest, place) {
    this.#guest = guest;
    this.#place = place;
  }

  /** Loads the drivers and the shell functions; once after each boot. */
  async prepare() {
    await this.#guest.upload(PRELUDE_PATH, PRELUDE);
    await this.#guest.run("modprobe -a nvme-tcp xfs ext4");
  }

  /** Runs a script that has the prelude's functions. */
  async run(script, options) {
    return await this.#guest.run(`. ${PRELUDE_PATH}\n${script}`, options);
  }

  async try(script, options) {
    return await this.#guest.try(`. ${PRELUDE_PATH}\n${script}`, options);
  }

  start(script, options) {
    return this.#guest.start(`. ${PRELUDE_PATH}\n${script}`, options);
  }

  async waitFor(script, options) {
    await this.#guest.waitFor(`. ${PRELUDE_PATH}\n${script}`, options);
  }

  /** nvme-cli's answer to `nvme ARGUMENTS -o json`. */
  async json(command, options) {
    const text = await this.run(`nvme ${command} -o json`, options);
    return JSON.parse(text);
  }

  /** `nvme discover` for people, as a command. */
  discoverCommand() {
    const { address, port } = this.#place().discovery;
    return `nvme discover -t tcp -a ${address} -s ${port} -q ${HOST_NQN} -I ${HOST_ID}`;
  }

  /** The discovery log's records. */
  async discover({ hostNqn = HOST_NQN, hostId = HOST_ID, place = this.#place().discovery } = {}) {
    const command = `discover -t tcp -a ${place.address} -s ${place.port} -q ${hostNqn} -I ${hostId}`;
    const { records } = await this.json(command);
    return records;
  }

  /** The nvme-cli command line that connects to `nqn`. */
  connectCommand(nqn, options = {}) {
    const { hostNqn = HOST_NQN, hostId = HOST_ID, place = this.#place().io, ...flags } = options;
    const spelled = Object.entries(flags)
      .filter(([, value]) => value !== false)
      .map(([name, value]) => CONNECT_FLAGS[name](value));
    return [
      "nvme connect -t tcp",
      `-a ${place.address} -s ${place.port} -n ${nqn} -q ${hostNqn} -I ${hostId}`,
      ...spelled,
    ].join(" ");
  }

  /**
   * Connects and waits until the controller is live.
   * @param {string} nqn
   * @param {ConnectOptions & {place?: Place}} [options]
   * @returns {Promise<string>} the controller's name ("nvme0")
   */
  async connect(nqn, options = {}) {
    const before = (await this.run(`controllers ${nqn}`)).split("\n");
    await this.run(this.connectCommand(nqn, options));
    const after = (await this.run(`controllers ${nqn}`)).split("\n");
    const [controller] = after.filter((name) => !before.includes(name));
    if (controller === undefined) throw new Error(`nvme connect made no controller for ${nqn}`);
    await this.waitLive(controller);
    return controller;
  }

  /** One more controller for a subsystem that is connected already; asked of the kernel, because nvme-cli refuses. */
  async connectDuplicate(nqn) {
    const { address, port } = this.#place().io;
    const options = [
      "transport=tcp",
      `traddr=${address}`,
      `trsvcid=${port}`,
      `nqn=${nqn}`,
      `hostnqn=${HOST_NQN}`,
      `hostid=${HOST_ID}`,
      "nr_io_queues=1",
      "duplicate_connect",
    ];
    await this.run(`echo -n '${options.join(",")}' >/dev/nvme-fabrics`);
  }

  async waitLive(controller, deadlineS = 60) {
    await this.waitFor(`[ "$(cat /sys/class/nvme/${controller}/state)" = live ]`, {
      deadlineS,
      what: `${controller} is live`,
    });
  }

  /** The block device of a namespace, once it is there. */
  async device(nqn, nsid = 1, deadlineS = 60) {
    const script = `. ${PRELUDE_PATH}; until namespace_device ${nqn} ${nsid}; do sleep 0.05; done`;
    const result = await this.#guest.try(script, { deadlineS });
    if (result.status !== 0)
      throw new Error(`no block device for namespace ${nsid} of ${nqn} after ${deadlineS} s`);
    return result.stdout.trim();
  }

  /** Connects and waits for namespace 1. @returns {Promise<string>} its block device */
  async attach(nqn, options = {}) {
    await this.connect(nqn, options);
    return await this.device(nqn);
  }

  async disconnect(nqn) {
    await this.run(`nvme disconnect -n ${nqn}`);
    await this.waitFor(`[ -z "$(controllers ${nqn})" ]`, { what: `${nqn} is disconnected` });
  }

  /** Leaves nothing mounted and nothing connected, whatever a case did; fails when that cannot be had. */
  async cleanUp() {
    await this.#guest.stopAll();
    await this.run(
      `awk '$1 ~ "^/dev/nvme" {print $2}' /proc/mounts | while read -r point; do umount "$point" || umount -l "$point"; done
       for path in /sys/class/nvme/nvme*; do [ -e "$path" ] && echo 1 >"$path/delete_controller"; done
       rm -rf /tmp/*
       ! ls /sys/class/nvme/nvme* >/dev/null 2>&1`,
      { deadlineS: 60 },
    );
  }

  /** Attribute of a controller in sysfs. */
  async attribute(controller, name) {
    return await this.run(`cat /sys/class/nvme/${controller}/${name}`);
  }
}
