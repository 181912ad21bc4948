// Sizes and durations as people write them: "10GiB", "512", "4 KiB", "1.5 TB"; "5s", "200ms", "2m".
// Bytes are bigint, durations are whole milliseconds or microseconds as number.

const sizeUnits: Record<string, bigint> = {
  "": 1n,
  b: 1n,
  k: 1n << 10n,
  kib: 1n << 10n,
  m: 1n << 20n,
  mib: 1n << 20n,
  g: 1n << 30n,
  gib: 1n << 30n,
  t: 1n << 40n,
  tib: 1n << 40n,
  p: 1n << 50n,
  pib: 1n << 50n,
  kb: 1000n,
  mb: 1000_000n,
  gb: 1000_000_000n,
  tb: 1000_000_000_000n,
  pb: 1000_000_000_000_000n,
};

/** Larger than any device: 8 EiB − 1, what a signed 64-bit offset can address. */
export const sizeMax = (1n << 63n) - 1n;

/** Bytes, or null if the text is no size. A fraction is allowed if it gives whole bytes. */
export function parseSize(text: string): bigint | null {
  const match = /^(\d{1,19})(?:\.(\d{1,6}))?\s*([A-Za-z]*)$/.exec(text.trim());
  if (match === null) return null;
  const unit = sizeUnits[(match[3] ?? "").toLowerCase()];
  if (unit === undefined) return null;
  const fraction = match[2] ?? "";
  const scale = 10n ** BigInt(fraction.length);
  const scaled = (BigInt(match[1] ?? "0") * scale + BigInt(fraction === "" ? "0" : fraction)) * unit;
  if (scaled % scale !== 0n) return null;
  const bytes = scaled / scale;
  return bytes <= sizeMax ? bytes : null;
}

const binaryUnits = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];

/** For people: "1.5 GiB", at most one decimal. */
export function formatSize(bytes: bigint | number): string {
  let value = Number(bytes);
  let unit = 0;
  while (value >= 1024 && unit < binaryUnits.length - 1) {
    value /= 1024;
    unit += 1;
  }
  const text = unit === 0 || Number.isInteger(value) || value >= 100 ? value.toFixed(0) : value.toFixed(1);
  return `${text} ${binaryUnits[unit]}`;
}

/** For files and messages that must be exact: "10GiB" where it divides evenly, else plain bytes. */
export function exactSize(bytes: bigint): string {
  for (let unit = binaryUnits.length - 1; unit > 0; unit -= 1) {
    const size = 1n << BigInt(10 * unit);
    if (bytes >= size && bytes % size === 0n) return `${bytes / size}${binaryUnits[unit]}`;
  }
  return String(bytes);
}

const durationUnitsUs: Record<string, number> = {
  us: 1,
  µs: 1,
  ms: 1000,
  s: 1000_000,
  m: 60_000_000,
  min: 60_000_000,
  h: 3_600_000_000,
};

/** Whole microseconds, or null if the text is no duration. The unit is required, except for "0". */
export function parseDurationUs(text: string): number | null {
  if (text.trim() === "0") return 0;
  const match = /^(\d{1,9}(?:\.\d{1,6})?)\s*(us|µs|ms|s|min|m|h)$/.exec(text.trim());
  if (match === null) return null;
  const microseconds = Number(match[1]) * (durationUnitsUs[match[2] ?? ""] ?? Number.NaN);
  return Number.isFinite(microseconds) ? Math.round(microseconds) : null;
}

/** A time span for people: "12d 03:14", "3:14:09", "8.2s". */
export function formatSpan(milliseconds: number): string {
  const seconds = Math.max(0, milliseconds) / 1000;
  if (seconds < 60) return `${seconds.toFixed(seconds < 10 ? 1 : 0)}s`;
  const days = Math.floor(seconds / 86400);
  const hours = Math.floor((seconds % 86400) / 3600);
  const two = (value: number) => String(Math.floor(value)).padStart(2, "0");
  const minutes = two((seconds % 3600) / 60);
  return days > 0 ? `${days}d ${two(hours)}:${minutes}` : `${hours}:${minutes}:${two(seconds % 60)}`;
}

/** "112.4k", "31": at most four characters of number. */
export function formatCount(value: number): string {
  const units = ["", "k", "M", "G", "T"];
  let scaled = value;
  let unit = 0;
  while (scaled >= 999.95 && unit < units.length - 1) {
    scaled /= 1000;
    unit += 1;
  }
  const text = unit === 0 ? scaled.toFixed(0) : scaled.toFixed(1);
  return `${text}${units[unit]}`;
}
