// "10.0.0.5:4420", "[::1]:4420", ":4420", "4420": where to listen and what to point at.

import { isIPv4, isIPv6 } from "node:net";

export type Family = "ipv4" | "ipv6";
export type Endpoint = { readonly address: string; readonly family: Family; readonly port: number };

export const endpointRule =
  "ADDRESS:PORT with an IPv4 address or an IPv6 address in brackets, such as 0.0.0.0:4420 or [::]:4420";

export function familyOf(address: string): Family | null {
  if (isIPv4(address)) return "ipv4";
  // A zone ("fe80::1%eth0") names an interface of one machine: nothing that a host could be told.
  return isIPv6(address) && !address.includes("%") ? "ipv6" : null;
}

/** null if the text is no endpoint. Names are not resolved: what listens must be exact. */
export function parseEndpoint(text: string, defaultPort: number | null = null): Endpoint | null {
  const match = /^(?:\[([0-9a-fA-F:.]+)\]|([0-9.]*))(?::(\d{1,5}))?$/.exec(text.trim());
  if (match === null) return null;
  let address = match[1] ?? match[2] ?? "";
  let portText = match[3];
  if (match[1] === undefined && portText === undefined && /^\d{1,5}$/.test(address)) {
    portText = address;
    address = "";
  }
  if (address === "") address = "0.0.0.0";
  const family = familyOf(address);
  const port = portText === undefined ? defaultPort : Number(portText);
  if (family === null || port === null || port > 65535) return null;
  if ((family === "ipv6") !== (match[1] !== undefined)) return null;
  return { address, family, port };
}

export const formatEndpoint = (endpoint: { address: string; family?: Family; port: number }): string =>
  (endpoint.family ?? familyOf(endpoint.address)) === "ipv6"
    ? `[${endpoint.address}]:${endpoint.port}`
    : `${endpoint.address}:${endpoint.port}`;
