// File systems: made, filled, checked across umount, mount and reconnect.
import { file, NQN, oneDisk, ram } from "../harness/config.mjs";

const SYSTEMS = {
  ext4: { make: "mkfs.ext4 -q -F", check: "e2fsck -fn" },
  xfs: { make: "mkfs.xfs -q -f", check: "xfs_repair -n" },
};

/** Files of all sizes with known checksums; some overwritten, some removed. */
const FILL = `
  mount $DEVICE /mnt && mkdir -p /mnt/tree && cd /mnt/tree
  head -c 32M /dev/urandom >/tmp/pool
  for index in $(seq 30); do
    dd if=/tmp/pool of=file-$index bs=$((index * 677)) count=$((1 + index % 13)) skip=$index status=none
  done
  dd if=/tmp/pool of=large bs=1M status=none
  for index in $(seq 1 7 30); do rm file-$index; done
  for index in $(seq 2 9 30); do dd if=/tmp/pool of=file-$index bs=512 count=7 seek=3 conv=notrunc status=none; done
  find . -type f | sort | xargs sha256sum >/run/checksums
  cd / && sync && umount /mnt`;

const VERIFY = `
  forget_cache $DEVICE
  mount $DEVICE /mnt && cd /mnt/tree && sha256sum --quiet -c /run/checksums && [ "$(find . -type f | wc -l)" = "$(wc -l </run/checksums)" ]
  cd / && umount /mnt`;

export function filesystemCases(suite) {
  for (const [name, { make, check }] of Object.entries(SYSTEMS)) {
    for (const blockBytes of [512, 4096]) {
      suite.case(
        `files on ${name} over ${blockBytes} byte blocks keep their checksums across umount and reconnect`,
        { config: (directory) => oneDisk(file(`${directory}/disk`, 512, blockBytes)) },
        async ({ host }) => {
          let device = await host.attach(NQN, { queues: 2 });
          await host.run(
            `set -e; DEVICE=${device}; ${make} $DEVICE; ${FILL}; ${VERIFY}; ${check} $DEVICE >/dev/null`,
            { deadlineS: 120 },
          );
          await host.disconnect(NQN);
          device = await host.attach(NQN, { headerDigest: true, dataDigest: true });
          await host.run(`set -e; DEVICE=${device}; ${VERIFY}; ${check} $DEVICE >/dev/null`, {
            deadlineS: 120,
          });
          await host.disconnect(NQN);
        },
      );
    }
  }

  suite.case(
    "trim of a mounted file system frees the blocks and harms no file",
    { config: oneDisk(ram(512, 4096)) },
    async ({ host }) => {
      const device = await host.attach(NQN);
      await host.run(
        `set -e; DEVICE=${device}; mkfs.ext4 -q -F $DEVICE; mount $DEVICE /mnt; mkdir /mnt/tree; head -c 100M /dev/urandom >/mnt/tree/keep; head -c 200M /dev/zero >/mnt/drop; sync
       sha256sum /mnt/tree/keep >/run/checksum; rm /mnt/drop; sync; fstrim -v /mnt; umount /mnt; forget_cache $DEVICE; mount $DEVICE /mnt; sha256sum --quiet -c /run/checksum; umount /mnt`,
        { deadlineS: 120 },
      );
    },
  );
}
