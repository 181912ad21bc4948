// Which packages of the operating system a step needs, whether they are there, and how to get them.

import { spawnSync } from "node:child_process";
import { accessSync, constants, existsSync } from "node:fs";
import { delimiter, join } from "node:path";

const binaryFolders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin", "/usr/local/sbin"];
const headerFolders = ["/usr/include", "/usr/local/include"];

export function findBinary(name) {
  for (const folder of binaryFolders) {
    const path = join(folder, name);
    try {
      accessSync(path, constants.X_OK);
      return path;
    } catch {
      // not in this folder
    }
  }
  return null;
}

const binary = (name) => () => findBinary(name) !== null;
const header = (name) => () => headerFolders.some((folder) => existsSync(join(folder, name)));
const runtimeOfClang = () =>
  ["x86_64", "aarch64"].some((cpu) =>
    existsSync(`/usr/lib/llvm-14/lib/clang/14.0.6/lib/linux/libclang_rt.fuzzer-${cpu}.a`),
  );

const handlerFolders = ["/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"];

/** Presence is asked of the file system, not of dpkg: what was installed by other means counts too. */
const present = {
  "g++": () => process.env.CXX !== undefined || binary("g++")(),
  make: binary("make"),
  python3: binary("python3"),
  "liburing-dev": header("liburing.h"),
  "libisal-dev": header("isa-l/crc.h"),
  "doctest-dev": header("doctest/doctest.h"),
  "clang-14": binary("clang++-14"),
  "libclang-rt-14-dev": runtimeOfClang,
  "clang-format-14": binary("clang-format-14"),
  "qemu-system-x86": binary("qemu-system-x86_64"),
  "busybox-static": () => existsSync("/bin/busybox") || binary("busybox")(),
  kmod: binary("modprobe"),
  cpio: binary("cpio"),
  "nvme-cli": binary("nvme"),
  fio: binary("fio"),
  iproute2: binary("ip"),
  xfsprogs: binary("mkfs.xfs"),
  e2fsprogs: binary("mkfs.ext4"),
  "tcmu-runner": () =>
    handlerFolders.some((folder) => existsSync(join(folder, "tcmu-runner/handler_qcow.so"))),
  "qemu-utils": binary("qemu-img"),
  systemd: () => existsSync("/lib/systemd/systemd"),
};

export const buildPackages = ["g++", "make", "python3", "liburing-dev", "libisal-dev"];
export const checkPackages = ["clang-format-14"];
export const unitPackages = ["doctest-dev", "clang-14", "libclang-rt-14-dev"];
/** Packaged tcmu-runner handlers and what checks their images; without them those tests skip. */
export const handlerPackages = ["tcmu-runner", "qemu-utils"];
export const guestPackages = [
  "qemu-system-x86",
  "busybox-static",
  "kmod",
  "cpio",
  "nvme-cli",
  "fio",
  "iproute2",
  "xfsprogs",
  "e2fsprogs",
  "systemd",
];

export const missing = (packages) => packages.filter((name) => !present[name]());

/** The one line that a person pastes to get the packages. */
export function installCommand(packages) {
  const sudo = process.getuid?.() === 0 ? "" : "sudo ";
  const names = packages.join(" ");
  return `${sudo}apt-get update && ${sudo}apt-get install -y --no-install-recommends ${names}`;
}

export const mayInstall = () =>
  process.getuid?.() === 0 && findBinary("apt-get") !== null && !process.env.KEEL_NO_APT;

/** Installs with apt-get; null when all are there afterwards, else what went wrong (the tail of its output). */
export function installPackages(packages) {
  const options = {
    stdio: ["ignore", "pipe", "pipe"],
    encoding: "utf8",
    env: { ...process.env, DEBIAN_FRONTEND: "noninteractive" },
    maxBuffer: 64 << 20,
  };
  const lock = ["-o", "DPkg::Lock::Timeout=300"];
  const updated = spawnSync("apt-get", ["update", "-q", ...lock], options);
  const install = ["install", "-y", "-q", "--no-install-recommends", ...lock, ...packages];
  const installed = spawnSync("apt-get", install, options);
  const absent = missing(packages);
  if (installed.status === 0 && absent.length === 0) return null;
  const output = [updated.stderr, installed.stdout, installed.stderr].join("\n").trimEnd().split("\n");
  return `${output.slice(-15).join("\n")}\nstill missing: ${absent.join(" ")}`;
}
