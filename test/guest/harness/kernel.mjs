// What the guest boots: a Debian kernel package, unpacked once into a cache, and an initrd made from busybox and this folder's `init` and `agent`.
// Nothing is installed into the running system but Debian packages (as root only, announced by one line), and no disk image is ever fetched.
import { execFileSync } from "node:child_process";
import { createHash } from "node:crypto";
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  writeFileSync,
} from "node:fs";
import { homedir } from "node:os";
import { basename, delimiter, dirname, join } from "node:path";
import { fileURLToPath } from "node:url";

const HERE = dirname(fileURLToPath(import.meta.url));

/** Modules that must be there before the root file system is; all others are loaded from the cache by modprobe. */
const BOOT_MODULES = ["virtio_pci", "virtio_net", "virtio_console", "9pnet_virtio", "9p", "overlay"];

/** Programs that the host or the guest (whose root is the host's) runs, each with the Debian package that brings it. */
const PROGRAMS = {
  "qemu-system-x86_64": "qemu-system-x86",
  busybox: "busybox-static",
  modprobe: "kmod",
  cpio: "cpio",
  nvme: "nvme-cli",
  fio: "fio",
  "mkfs.xfs": "xfsprogs",
  "mkfs.ext4": "e2fsprogs",
  blkdiscard: "util-linux",
  ip: "iproute2",
  udevadm: "udev",
};

/** Why the suite cannot run on this machine: shown as the reason of the skip. */
export class Unavailable extends Error {}

function run(command, args, options = {}) {
  return execFileSync(command, args, { encoding: "utf8", stdio: ["ignore", "pipe", "pipe"], ...options });
}

function findProgram(name) {
  const folders = [...(process.env.PATH ?? "").split(delimiter), "/usr/sbin", "/sbin"];
  return folders.map((folder) => join(folder, name)).find((path) => existsSync(path)) ?? null;
}

/** Makes sure that every program is there: installs the missing packages as root, otherwise names the command that would. */
export function requirePrograms() {
  const missing = Object.keys(PROGRAMS).filter((program) => findProgram(program) === null);
  if (missing.length === 0) return;
  const packages = [...new Set(missing.map((program) => PROGRAMS[program]))];
  const command = `apt-get install -y --no-install-recommends ${packages.join(" ")}`;
  if (process.getuid?.() !== 0 || findProgram("apt-get") === null || process.env.EVENKEEL_NO_INSTALL) {
    throw new Unavailable(`${missing.join(", ")} missing here; install with: sudo ${command}`);
  }
  console.log(`guest: ${command}`);
  try {
    run("apt-get", ["update", "-q"]);
    run("sh", ["-c", `DEBIAN_FRONTEND=noninteractive ${command}`]);
  } catch (error) {
    throw new Unavailable(`could not install ${packages.join(", ")}: ${firstLine(error)}`);
  }
}

function firstLine(error) {
  return String(error.stderr || error.message)
    .trim()
    .split("\n")[0];
}

/** The kernel package to boot: EVENKEEL_GUEST_KERNEL (a package name), or what Debian's meta package depends on. */
function kernelPackage() {
  const chosen = process.env.EVENKEEL_GUEST_KERNEL;
  if (chosen) return chosen;
  const found = /Depends: (linux-image-\S+)/.exec(run("apt-cache", ["depends", "linux-image-amd64"]));
  if (found === null) throw new Unavailable("apt knows no linux-image-amd64 package");
  return found[1];
}

function cachedKernels(cache) {
  if (!existsSync(cache)) return [];
  return readdirSync(cache).filter((name) => existsSync(join(cache, name, "vmlinuz")));
}

/**
 * The kernel to boot, downloaded and unpacked on first use.
 * @returns {{version: string, directory: string, vmlinuz: string, modules: string, initrd: string}}
 * @throws {Unavailable} when the package cannot be had
 */
export function prepareKernel() {
  const cache = join(process.env.XDG_CACHE_HOME ?? join(homedir(), ".cache"), "evenkeel", "guest");
  mkdirSync(cache, { recursive: true });
  let name;
  try {
    name = kernelPackage();
  } catch (error) {
    const [newest] = cachedKernels(cache).sort().reverse();
    if (newest === undefined)
      throw error instanceof Unavailable ? error : new Unavailable(`apt-cache: ${firstLine(error)}`);
    name = `linux-image-${newest}`;
  }
  const version = name.replace(/^linux-image-/, "");
  const directory = join(cache, version);
  if (!existsSync(join(directory, "vmlinuz"))) unpackKernel(name, version, directory);
  return {
    version,
    directory,
    vmlinuz: join(directory, "vmlinuz"),
    modules: join(directory, "modules"),
    initrd: prepareInitrd(version, directory),
  };
}

function unpackKernel(name, version, directory) {
  const work = mkdtempSync(`${directory}.`);
  try {
    downloadPackage(name, work);
    const [archive] = readdirSync(work).filter((file) => file.endsWith(".deb"));
    run("dpkg", ["-x", archive, "modules"], { cwd: work });
    rmSync(join(work, archive));
    renameSync(join(work, "modules", "boot", `vmlinuz-${version}`), join(work, "vmlinuz"));
    run(findProgram("depmod") ?? "depmod", ["-b", join(work, "modules"), version]);
    renameSync(work, directory);
  } catch (error) {
    rmSync(work, { recursive: true, force: true });
    if (existsSync(join(directory, "vmlinuz"))) return; // another run was quicker
    throw error instanceof Unavailable ? error : new Unavailable(`${name}: ${firstLine(error)}`);
  }
}

function downloadPackage(name, cwd) {
  try {
    run("apt-get", ["download", "-q", name], { cwd });
  } catch (first) {
    if (process.getuid?.() !== 0)
      throw new Unavailable(
        `apt-get download ${name}: ${firstLine(first)} (is apt's list fresh? sudo apt-get update)`,
      );
    run("apt-get", ["update", "-q"]);
    run("apt-get", ["download", "-q", name], { cwd });
  }
}

/** An initrd is named by what is in it, so a changed `init` or `agent` makes a new one and a parallel run never sees half of one. */
function prepareInitrd(version, directory) {
  const hash = createHash("sha256").update(JSON.stringify(BOOT_MODULES));
  for (const file of ["init", "agent"]) hash.update(readFileSync(join(HERE, file)));
  const initrd = join(directory, `initrd-${hash.digest("hex").slice(0, 12)}`);
  if (existsSync(initrd)) return initrd;

  const root = mkdtempSync(join(directory, "initrd."));
  for (const folder of ["bin", "dev", "proc", "sys", "modules"]) mkdirSync(join(root, folder));
  cpSync(findProgram("busybox"), join(root, "bin", "busybox"));
  const modules = moduleFiles(version, join(directory, "modules"));
  for (const file of modules) cpSync(file, join(root, "modules", basename(file)));
  writeFileSync(join(root, "modules.list"), `${modules.map((file) => basename(file)).join("\n")}\n`);
  writeFileSync(join(root, "init"), readFileSync(join(HERE, "init")), { mode: 0o755 });
  writeFileSync(join(root, "agent"), readFileSync(join(HERE, "agent")), { mode: 0o755 });
  run("sh", ["-c", `find . | cpio --quiet -o -H newc > '${root}.cpio'`], { cwd: root });
  renameSync(`${root}.cpio`, initrd);
  rmSync(root, { recursive: true });
  return initrd;
}

/** Files of the boot modules and all that they need, in loading order. */
function moduleFiles(version, base) {
  const files = BOOT_MODULES.flatMap((module) =>
    run(findProgram("modprobe"), ["-d", base, "-S", version, "--show-depends", module])
      .split("\n")
      .filter((line) => line.startsWith("insmod "))
      .map((line) => line.split(" ")[1]),
  );
  return [...new Set(files)];
}
