// One command's connection to the server.

import { Client, socketPath } from "../client.js";

export async function withServer<Value>(
  options: { socket?: string },
  work: (client: Client) => Promise<Value>,
): Promise<Value> {
  const client = new Client(socketPath(options.socket));
  try {
    return await work(client);
  } finally {
    client.close();
  }
}
