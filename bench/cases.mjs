// What is measured: one row per case, made from the tables below. A case is named by what it does, such as
// ram-read4k-qd32-c1, and chosen by words of its name.

const operations = {
  read4k: { read: true, bytes: 4096, sequential: false },
  write4k: { read: false, bytes: 4096, sequential: false },
  read128k: { read: true, bytes: 128 * 1024, sequential: true },
  write128k: { read: false, bytes: 128 * 1024, sequential: true },
};

const random = ["read4k", "write4k"];
const sequential = ["read128k", "write128k"];

function make(device, name, depth, connections, digests) {
  const operation = operations[name];
  return {
    name: `${device}-${name}-qd${depth}-c${connections}${digests ? "-digests" : ""}`,
    device,
    ...operation,
    depth,
    connections,
    digests,
  };
}

const all = ["ram", "null", "file"].flatMap((device) => [
  ...random.flatMap((name) =>
    [1, 4].flatMap((connections) =>
      [1, 32, 128].map((depth) => make(device, name, depth, connections, false)),
    ),
  ),
  ...sequential.map((name) => make(device, name, 32, 1, false)),
  ...random.map((name) => make(device, name, 32, 1, true)),
]);

/** Cases whose name is one of the words, or contains every word; all cases if there is none. */
export function chooseCases(words) {
  const named = all.filter(({ name }) => words.includes(name));
  return named.length > 0 ? named : all.filter(({ name }) => words.every((word) => name.includes(word)));
}

/** What NVMe/TCP moves for one I/O of a case, without digests: capsule and data up, PDU header and data down. */
export function wireBytes({ read, bytes }) {
  const capsule = 72;
  const dataHeader = 24; // with SUCCESS, so that no response capsule follows; a response capsule is as long
  return read ? { up: capsule, down: dataHeader + bytes } : { up: capsule + bytes, down: dataHeader };
}
