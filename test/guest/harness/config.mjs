// The server's configuration as the cases write it. Only here does the suite know the file format.

export const NQN = "nqn.2026-11.example.evenkeel:disk";
export const OTHER_NQN = "nqn.2026-11.example.evenkeel:other";

/** A RAM disk of `mib` MiB. */
export function ram(mib, blockBytes = 512) {
  return { ram: `${mib}MiB`, block_size: blockBytes };
}

/** A disk in the file at `path`, made if it is not there. */
export function file(path, mib, blockBytes = 512) {
  return { file: path, size: `${mib}MiB`, create: true, block_size: blockBytes };
}

/**
 * One subsystem whose namespaces are the given devices, in order from 1; any host may connect unless `hosts` says otherwise.
 * @param {object[]} devices
 * @param {{nqn?: string, hosts?: "any" | string[]}} [options]
 */
export function subsystem(devices, { nqn = NQN, hosts = "any" } = {}) {
  return { nqn, hosts, namespaces: new Map(devices.map((device, index) => [index + 1, device])) };
}

/**
 * What a target offers: subsystems by name. A case changes this object and applies it again.
 * @param {Record<string, ReturnType<typeof subsystem>>} subsystems
 * @param {{six?: boolean, limits?: object, parts?: Record<string, object>}} [options]  `six`: over IPv6 as well; `parts`: devices of which others are made
 */
export function offer(subsystems, { six = false, limits = {}, parts = {} } = {}) {
  return { subsystems, six, limits, parts };
}

/** The most common offer: one subsystem, one namespace. */
export function oneDisk(device, options) {
  return offer({ disk: subsystem([device], options) });
}

/** The file's content for an offer: JSON, which is YAML. */
export function renderConfig(
  { subsystems, six, limits, parts },
  { address, advertise, addressSix, advertiseSix, port, discoveryPort, stateDirectory, rpcSocket },
) {
  const devices = { ...parts };
  const rendered = {};
  for (const [name, { nqn, hosts, namespaces }] of Object.entries(subsystems)) {
    rendered[name] = { nqn, hosts, namespaces: [] };
    for (const [id, device] of namespaces) {
      devices[`${name}-${id}`] = device;
      rendered[name].namespaces.push({ id, device: `${name}-${id}` });
    }
  }
  return JSON.stringify(
    {
      version: 1,
      node: "guest-suite",
      listen: [
        { "nvme-tcp": `${address}:${port}`, advertise },
        { discovery: `${address}:${discoveryPort}`, advertise },
        ...(six ? [{ "nvme-tcp": `[${addressSix}]:${port}`, advertise: advertiseSix }] : []),
      ],
      state: stateDirectory,
      sockets: { rpc: rpcSocket },
      limits,
      devices,
      subsystems: rendered,
    },
    null,
    2,
  );
}
