// `keel restart` and `keel postmortem`.

import { setTimeout as sleep } from "node:timers/promises";
import { KeelError } from "../../model/errors.js";
import type { RestartReport, ServerStatus } from "../../model/status.js";
import { Client, socketPath } from "../client.js";
import { print, printData, tableText } from "../output.js";
import type { CommonOptions } from "../program.js";
import { withServer } from "./session.js";

const restartDeadlineMs = 60_000;
const askAgainMs = 50;

/** The status of whichever server answers now, or null while none does. */
async function statusNow(path: string): Promise<ServerStatus | null> {
  const client = new Client(path);
  try {
    return await client.call<ServerStatus>("keel.status", {}, 5_000);
  } catch {
    return null;
  } finally {
    client.close();
  }
}

async function replaced(path: string, before: ServerStatus): Promise<ServerStatus> {
  const deadline = Date.now() + restartDeadlineMs;
  while (Date.now() < deadline) {
    const now = await statusNow(path);
    if (now !== null && now.pid !== before.pid) return now;
    if (now !== null && now.restartFailure !== null && now.restartFailure.timeMs >= before.nowMs) {
      throw new KeelError("E_RESTART_FAILED", `the new server did not start: ${now.restartFailure.reason}`);
    }
    await sleep(askAgainMs);
  }
  throw new KeelError("E_TIMEOUT", `the server was not replaced within ${restartDeadlineMs / 1000} s`);
}

export async function restartCommand(options: CommonOptions & { reason: string }): Promise<void> {
  const path = socketPath(options.socket);
  const before = await withServer({ socket: path }, async (client) => {
    const status = await client.call<ServerStatus>("keel.status");
    await client.call("keel.restart", { reason: options.reason });
    return status;
  });
  const after = await replaced(path, before);
  const last: RestartReport | null = after.restarts.last[0] ?? null;
  if (options.output === "json" || options.output === "yaml") {
    printData(
      { pid: after.pid, previousPid: before.pid, version: after.version, restart: last },
      options.output,
    );
    return;
  }
  const build = before.version === after.version ? after.version : `${before.version} → ${after.version}`;
  const facts =
    last === null
      ? "restarted"
      : `carried ${last.carried} connections, ${last.executed} commands in flight · pause ${last.pauseMs.toFixed(1)} ms`;
  print(`${facts} · build ${build}`);
}

type Pdu = {
  timeNs: number;
  type: string;
  cid: number;
  opcode: number;
  bytes: number;
  streamOffset: number;
  detail: number;
};
type Connection = {
  connection: number;
  hostNqn: string;
  qid: number;
  received: number;
  sent: number;
  commandsInFlight: number;
  pdus: Pdu[];
};

export async function postmortemCommand(options: CommonOptions): Promise<void> {
  const connections = await withServer(options, (client) => client.call<Connection[]>("keel.postmortem"));
  if (options.output === "json" || options.output === "yaml") {
    printData(connections, options.output);
    return;
  }
  if (connections.length === 0) {
    print("no server before this one left connections");
    return;
  }
  for (const { connection, hostNqn, qid, received, sent, commandsInFlight, pdus } of connections) {
    print(
      `connection ${connection}  ${hostNqn} queue ${qid}  received ${received}  sent ${sent}  in flight ${commandsInFlight}`,
    );
    if (pdus.length === 0) continue;
    const last = pdus[pdus.length - 1]?.timeNs ?? 0;
    const table = tableText(pdus, [
      { title: "MS", value: (pdu) => ((pdu.timeNs - last) / 1e6).toFixed(3), right: true },
      { title: "PDU", value: (pdu) => pdu.type },
      { title: "CID", value: (pdu) => pdu.cid, right: true },
      { title: "OPCODE", value: (pdu) => `0x${pdu.opcode.toString(16).padStart(2, "0")}` },
      { title: "BYTES", value: (pdu) => pdu.bytes, right: true },
      { title: "AT", value: (pdu) => pdu.streamOffset, right: true },
      { title: "DETAIL", value: (pdu) => pdu.detail, right: true },
    ]);
    print(table.replaceAll(/^/gm, "  "));
  }
}
