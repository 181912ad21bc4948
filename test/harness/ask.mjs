// A client of the control socket.

import { connect } from "node:net";

/**
 * One request on a connection of its own. Rejects if nobody answers; with `refused` and the error's `code` if the answer
 * is an error.
 */
export function ask(socketPath, method, params = {}, patienceMs = 20_000) {
  return new Promise((resolve, reject) => {
    const socket = connect(socketPath);
    let text = "";
    const timer = setTimeout(() => socket.destroy(new Error(`no answer to ${method}`)), patienceMs);
    socket.setEncoding("utf8");
    socket.on("error", reject);
    socket.on("close", () => {
      clearTimeout(timer);
      reject(new Error(`the connection was closed during ${method}`));
    });
    socket.on("data", (chunk) => {
      text += chunk;
      if (!text.endsWith("\n")) return;
      const { result, error } = JSON.parse(text);
      if (error === undefined) resolve(result);
      else reject(Object.assign(new Error(error.message), { refused: true, code: error.data?.code }));
      socket.destroy();
    });
    socket.write(`${JSON.stringify({ jsonrpc: "2.0", id: 1, method, params })}\n`);
  });
}
