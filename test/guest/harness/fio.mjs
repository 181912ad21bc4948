// fio: a command line for a device, and what its report says.

/**
 * A fio command line for a device; lines of `job` replace or add to the usual ones.
 * @param {string} device
 * @param {Record<string, string | number>} job
 */
export function fioCommand(device, job) {
  const options = {
    name: "case",
    filename: device,
    ioengine: "libaio",
    direct: 1,
    iodepth: 16,
    bs: "4k",
    group_reporting: 1,
    allow_mounted_write: 0,
    ...job,
  };
  return [
    "fio",
    "--output-format=json",
    ...Object.entries(options).map(([key, value]) => `--${key}=${value}`),
  ].join(" ");
}

/** What matters of fio's JSON; throws when it reports an error. */
export function fioResult(text) {
  const start = text.indexOf("{");
  if (start < 0) throw new Error(`fio printed no JSON: ${text}`);
  const { jobs } = JSON.parse(text.slice(start, text.lastIndexOf("}") + 1));
  const failed = jobs.find((job) => job.error !== 0 || job.total_err > 0);
  if (failed !== undefined)
    throw new Error(`fio error ${failed.error} in job ${failed.jobname}: ${text.slice(0, start)}`);
  const sum = (pick) => jobs.reduce((total, job) => total + pick(job), 0);
  return {
    reads: sum((job) => job.read.total_ios),
    writes: sum((job) => job.write.total_ios),
    readBytes: sum((job) => job.read.io_bytes),
    writtenBytes: sum((job) => job.write.io_bytes),
    longestMs: Math.max(...jobs.flatMap((job) => [job.read.clat_ns.max, job.write.clat_ns.max])) / 1e6,
  };
}
