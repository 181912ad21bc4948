// How the guest reaches the server. Two ways:
//   tap   a network namespace of this run's own holds a tap device (multiqueue), QEMU and the server: the server's TCP peer is the guest's kernel itself. Root only.
//   user  QEMU's user networking: no privileges, but QEMU ends the guest's TCP connections and opens its own to 127.0.0.1.
// The address that the guest dials and the address that the server listens on are part of the answer, so tests never know which way it is.
import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync } from "node:fs";
import { createServer } from "node:net";

const HOST_ADDRESS = "192.168.77.1";
const GUEST_ADDRESS = "192.168.77.2";
const HOST_ADDRESS_6 = "fd77:0:0:77::1";
/** Of a target in the guest: the one port of it that can be reached in both ways. */
export const TARGET_PORT = 4420;
const GUEST_ADDRESS_6 = "fd77:0:0:77::2";

/**
 * @typedef {object} Network
 * @property {"tap" | "user"} kind
 * @property {string} listen        address for the server to listen on
 * @property {string} dial          the same place as the guest calls it
 * @property {string} guestAddress  with prefix length
 * @property {{listen: string, dial: string, guestAddress: string}} six  the same for IPv6
 * @property {{address: string, port: number}} target  where the server finds TARGET_PORT of the guest
 * @property {string} gateway
 * @property {string[]} prefix      what to put in front of a command that must run where `listen` exists
 * @property {string[]} qemu        arguments for QEMU
 * @property {() => void} close
 */

/**
 * Opens the better way that works here; EVENKEEL_GUEST_NET=user|tap forces one.
 * @param {number} cpus
 * @returns {Promise<Network>}
 */
export async function openNetwork(cpus) {
  const wanted = process.env.EVENKEEL_GUEST_NET;
  if (wanted === "user") return await userNetwork();
  try {
    return await tapNetwork(cpus);
  } catch (error) {
    if (wanted === "tap") throw error;
    return await userNetwork();
  }
}

async function userNetwork() {
  const port = await freePort();
  return {
    kind: "user",
    listen: "127.0.0.1",
    dial: "10.0.2.2",
    guestAddress: "10.0.2.15/24",
    six: { listen: "::1", dial: "fec0::2", guestAddress: "fec0::15/64" },
    gateway: "10.0.2.2",
    target: { address: "127.0.0.1", port },
    prefix: [],
    qemu: [
      "-netdev",
      `user,id=net,hostfwd=tcp:127.0.0.1:${port}-:${TARGET_PORT}`,
      "-device",
      "virtio-net-pci,netdev=net,romfile=",
    ],
    close: () => {},
  };
}

async function freePort() {
  const server = createServer().listen(0, "127.0.0.1");
  await once(server, "listening");
  const { port } = server.address();
  server.close();
  return port;
}

async function tapNetwork(cpus) {
  if (process.getuid?.() !== 0 || !existsSync("/dev/net/tun"))
    throw new Error("a tap device needs root and /dev/net/tun");
  // The namespace lives as long as this process, which says hello once it is inside and ends when its standard input does, that is with us.
  const holder = spawn("unshare", ["--net", "sh", "-c", "echo inside; exec cat"], {
    stdio: ["pipe", "pipe", "inherit"],
  });
  const failed = once(holder, "error").then(([error]) => Promise.reject(error));
  const ended = once(holder, "exit").then(() => Promise.reject(new Error("unshare --net failed")));
  for (const promise of [failed, ended]) promise.catch(() => {});
  await Promise.race([once(holder.stdout, "data"), failed, ended]);
  holder.unref();
  for (const stream of [holder.stdin, holder.stdout]) stream.unref();

  const prefix = ["nsenter", `--net=/proc/${holder.pid}/ns/net`, "--"];
  const queues = Math.min(cpus, 4);
  const close = () => {
    holder.stdin.destroy();
    holder.kill();
  };
  try {
    const ip = (...args) =>
      execFileSync(prefix[0], [...prefix.slice(1), "ip", ...args], { stdio: ["ignore", "pipe", "pipe"] });
    ip("link", "set", "lo", "up");
    ip("tuntap", "add", "dev", "guest0", "mode", "tap", ...(queues > 1 ? ["multi_queue"] : []));
    ip("address", "add", `${HOST_ADDRESS}/30`, "dev", "guest0");
    ip("-6", "address", "add", `${HOST_ADDRESS_6}/64`, "dev", "guest0", "nodad");
    ip("link", "set", "guest0", "up");
  } catch (error) {
    close();
    throw error;
  }
  const multiqueue = queues > 1 ? [`,queues=${queues}`, `,mq=on,vectors=${2 * queues + 2}`] : ["", ""];
  return {
    kind: "tap",
    listen: HOST_ADDRESS,
    dial: HOST_ADDRESS,
    guestAddress: `${GUEST_ADDRESS}/30`,
    six: { listen: HOST_ADDRESS_6, dial: HOST_ADDRESS_6, guestAddress: `${GUEST_ADDRESS_6}/64` },
    gateway: HOST_ADDRESS,
    target: { address: GUEST_ADDRESS, port: TARGET_PORT },
    prefix,
    qemu: [
      "-netdev",
      `tap,id=net,ifname=guest0,script=no,downscript=no${multiqueue[0]}`,
      "-device",
      `virtio-net-pci,netdev=net,romfile=${multiqueue[1]}`,
    ],
    close,
  };
}
