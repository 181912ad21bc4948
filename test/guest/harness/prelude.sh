# Shell functions that every script of a case may use. NVME_HOST, DIAL and the like are set by the harness in front of this file.

# Block device of namespace NSID of subsystem NQN (its multipath head where there is one); fails while there is none.
namespace_device() {
  for path in /sys/block/nvme*n*; do
    [ "$(cat "$path/device/subsysnqn" 2>/dev/null)" = "$1" ] || continue
    [ "$(cat "$path/nsid" 2>/dev/null)" = "$2" ] || continue
    name=${path##*/}
    [ -b "/dev/$name" ] && [ "$(cat "$path/size")" != 0 ] && echo "/dev/$name" && return
  done
  return 1
}

# Names of the controllers connected to subsystem NQN, one per line.
controllers() {
  for path in /sys/class/nvme/nvme*; do
    [ "$(cat "$path/subsysnqn" 2>/dev/null)" = "$1" ] && echo "${path##*/}"
  done
  return 0
}

# Drops what the page cache holds of DEVICE, so that the next read asks the target.
forget_cache() {
  sync
  blockdev --flushbufs "$1"
  echo 3 >/proc/sys/vm/drop_caches
}

# Size of DEVICE in bytes.
device_bytes() { blockdev --getsize64 "$1"; }

# Requests that wait for their completion, on all NVMe paths together.
inflight() { cat /sys/block/nvme*n*/inflight | awk '{ count += $1 + $2 } END { print count + 0 }'; }
