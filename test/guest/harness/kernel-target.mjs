// The Linux kernel's own NVMe/TCP target in the guest, set up through configfs.
//
// Its media: two disks of this machine (they outlive the guest's boots), memory of the guest (null_blk; gone with it),
// and a file there, which can grow.
import { TARGET_PORT } from "./network.mjs";

const NVMET = "/sys/kernel/config/nvmet";

export const TARGET_NQN = "nqn.2026-11.example.kernel:media";

/** Namespaces: by number, what is behind them. */
export const MEDIA = {
  disk512: { nsid: 1, path: "/dev/vda", mib: 48, blockBytes: 512 },
  disk4096: { nsid: 2, path: "/dev/vdb", mib: 48, blockBytes: 4096 },
  memory512: { nsid: 3, path: "/dev/nullb0", mib: 48, blockBytes: 512 },
  memory4096: { nsid: 4, path: "/dev/nullb1", mib: 48, blockBytes: 4096 },
  file: { nsid: 5, path: "/mnt/growing", mib: 16, blockBytes: 4096 },
};

/** The identity that the target tells for a namespace: the same after each boot. */
export const uuidOf = (nsid) => `0d9c2b1e-5a44-4c7e-9b0a-00000000000${nsid}`;

export class KernelTarget {
  #guest;

  /** @param {import("./guest.mjs").Guest} guest */
  constructor(guest) {
    this.#guest = guest;
  }

  /** After each boot. `hosts`: the NQNs that may connect. */
  async open(hosts) {
    const memory = ["memory512", "memory4096"].map((name, index) => {
      const { mib, blockBytes } = MEDIA[name];
      return `mkdir /sys/kernel/config/nullb/nullb${index} && cd /sys/kernel/config/nullb/nullb${index} &&
        echo ${mib} >size && echo ${blockBytes} >blocksize && echo 1 >memory_backed && echo 1 >discard && echo 1 >power`;
    });
    const { path, mib } = MEDIA.file;
    await this.#guest.run(
      `set -e
       modprobe -a virtio_blk nvmet nvmet-tcp
       modprobe null_blk nr_devices=0
       mountpoint -q /sys/kernel/config || mount -t configfs none /sys/kernel/config
       ${memory.join("\n")}
       truncate -s ${mib}M ${path}
       mkdir ${NVMET}/subsystems/${TARGET_NQN}
       ${hosts.map((host) => `mkdir ${NVMET}/hosts/${host}; ln -s ${NVMET}/hosts/${host} ${NVMET}/subsystems/${TARGET_NQN}/allowed_hosts/`).join("\n")}
       mkdir ${NVMET}/ports/1
       cd ${NVMET}/ports/1
       echo ipv4 >addr_adrfam; echo tcp >addr_trtype; echo 0.0.0.0 >addr_traddr; echo ${TARGET_PORT} >addr_trsvcid`,
    );
    for (const { nsid, path } of Object.values(MEDIA)) await this.#addNamespace(nsid, path);
    await this.listen();
  }

  async #addNamespace(nsid, path) {
    await this.#guest.run(
      `set -e
       mkdir ${this.#namespace(nsid)}; cd ${this.#namespace(nsid)}
       [ -b ${path} ] || echo 1 >buffered_io
       echo -n ${path} >device_path; echo ${uuidOf(nsid)} >device_uuid
       echo ${uuidOf(nsid).replaceAll("-", "")} >device_nguid; echo 1 >enable`,
    );
  }

  #namespace(nsid) {
    return `${NVMET}/subsystems/${TARGET_NQN}/namespaces/${nsid}`;
  }

  /** Offers the subsystem at the port: connections are accepted from here on. */
  async listen() {
    await this.#guest.run(`ln -s ${NVMET}/subsystems/${TARGET_NQN} ${NVMET}/ports/1/subsystems/`);
  }

  /** Takes it from the port: the kernel ends all connections and accepts no more. */
  async silence() {
    await this.#guest.run(`rm ${NVMET}/ports/1/subsystems/${TARGET_NQN}`);
  }

  /** Another medium under the same number, or the same again. */
  async exchange(nsid, path, uuid) {
    await this.#guest.run(
      `set -e
       cd ${this.#namespace(nsid)}
       echo 0 >enable; echo -n ${path} >device_path; echo ${uuid} >device_uuid
       echo ${uuid.replaceAll("-", "")} >device_nguid; echo 1 >enable`,
    );
  }

  async growFile(mib) {
    const { nsid, path } = MEDIA.file;
    await this.#guest.run(`truncate -s ${mib}M ${path} && echo 1 >${this.#namespace(nsid)}/revalidate_size`);
  }

  async cutLink() {
    await this.#guest.run("ip link set eth0 down");
  }

  /** The route is gone with the link. */
  async mendLink(gateway) {
    await this.#guest.run(`ip link set eth0 up; ip route replace default via ${gateway}`);
  }

  /** Nothing is on it any more. */
  async wipe({ path }) {
    await this.#guest.run(`blkdiscard -f -z ${path}`);
  }

  /** SHA-256 of each of `count` pieces of a device, read past all caches, or of a file, in the guest. */
  async digests(path, count, pieceMib) {
    const text = await this.#guest.run(
      `set -e
       [ -f ${path} ] || direct=iflag=direct
       for piece in $(seq 0 ${count - 1}); do
         dd if=${path} of=/tmp/piece bs=${pieceMib}M skip=$piece count=1 $direct 2>/dev/null
         [ "$(stat -c %s /tmp/piece)" = ${pieceMib * (1 << 20)} ]
         sha256sum </tmp/piece
       done`,
    );
    return text.split("\n").map((line) => line.split(" ")[0]);
  }
}
