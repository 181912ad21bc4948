// Names of things, each with a type of its own so that one cannot be passed for another. A value of these types has
// been checked by its parser here.

declare const brand: unique symbol;
type Branded<Base, Name extends string> = Base & { readonly [brand]: Name };

/** NVMe qualified name of a subsystem or host. [NVMe base 2.0 §4.5] */
export type Nqn = Branded<string, "Nqn">;
/** Name of a device or subsystem in the configuration. */
export type Name = Branded<string, "Name">;
/** 1 … 2³² − 2. */
export type Nsid = Branded<number, "Nsid">;
/** 32 lower-case hexadecimal digits, not all zero. */
export type Hex128 = Branded<string, "Hex128">;

export const discoveryNqn = "nqn.2014-08.org.nvmexpress.discovery" as Nqn;
export const nqnBytesMax = 223;
export const nsidMax = 0xffff_fffe;

const namePattern = /^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$/;
export const nameRule = "1 to 64 letters, digits, '.', '_' or '-', beginning with a letter or digit";

export const parseName = (text: string): Name | null => (namePattern.test(text) ? (text as Name) : null);

export const nqnRule =
  "an NVMe qualified name: nqn.YYYY-MM.reverse.domain:name or nqn.2014-08.org.nvmexpress:uuid:…, at most 223 bytes";

/** Visible ASCII only: NQNs are UTF-8 in the standard, but hosts quote them in paths and udev rules. */
export function parseNqn(text: string): Nqn | null {
  if (text.length > nqnBytesMax || !/^nqn\.\d{4}-(0[1-9]|1[0-2])\.[\x21-\x7e]+$/.test(text)) return null;
  const uuid = /^nqn\.2014-08\.org\.nvmexpress:uuid:(.*)$/.exec(text);
  if (uuid !== null && parseUuid(uuid[1] ?? "") === null) return null;
  return text as Nqn;
}

export const parseNsid = (value: number): Nsid | null =>
  Number.isInteger(value) && value >= 1 && value <= nsidMax ? (value as Nsid) : null;

/** A UUID in its usual form, as 32 digits; the nil UUID is none. */
export function parseUuid(text: string): Hex128 | null {
  if (!/^[0-9a-fA-F]{8}-([0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}$/.test(text)) return null;
  return parseHex128(text.replaceAll("-", ""));
}

/** 16 bytes as 32 digits; dashes are allowed anywhere between bytes. */
export function parseHex128(text: string): Hex128 | null {
  const digits = text.replaceAll("-", "").toLowerCase();
  return /^[0-9a-f]{32}$/.test(digits) && !/^0+$/.test(digits) ? (digits as Hex128) : null;
}

export const formatUuid = (hex: string): string =>
  hex.replace(/^(.{8})(.{4})(.{4})(.{4})(.{12})$/, "$1-$2-$3-$4-$5");

/** A namespace of a subsystem, as the durable directory names it. */
export const namespaceKey = (nqn: string, nsid: number): string => `${nqn} ${nsid}`;
