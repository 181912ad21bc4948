// Prometheus' text format, written line by line. Names follow node_exporter's disk words, base units, `_total` on
// counters. [Prometheus exposition formats, text format 0.0.4]

export type MetricType = "counter" | "gauge" | "histogram";
export type Labels = Readonly<Record<string, string | number>>;

const escapeLabel = (value: string): string =>
  value.replaceAll("\\", "\\\\").replaceAll('"', '\\"').replaceAll("\n", "\\n");
const escapeHelp = (value: string): string => value.replaceAll("\\", "\\\\").replaceAll("\n", "\\n");

export class MetricsText {
  private readonly lines: string[] = [];
  private readonly families = new Set<string>();

  /** Begins a family; every sample of it follows before the next family begins. */
  family(
    name: string,
    type: MetricType,
    help: string,
  ): (labels: Labels, value: number, suffix?: string) => void {
    if (!/^[a-z_][a-z0-9_]*$/.test(name) || this.families.has(name)) throw new Error(`metric family ${name}`);
    this.families.add(name);
    this.lines.push(`# HELP ${name} ${escapeHelp(help)}`, `# TYPE ${name} ${type}`);
    return (labels, value, suffix = "") => {
      const pairs = Object.entries(labels).map(([key, text]) => `${key}="${escapeLabel(String(text))}"`);
      const set = pairs.length === 0 ? "" : `{${pairs.join(",")}}`;
      this.lines.push(`${name}${suffix}${set} ${Number.isFinite(value) ? value : "NaN"}`);
    };
  }

  toString(): string {
    return `${this.lines.join("\n")}\n`;
  }
}
