// Metrics and health over HTTP: /metrics for Prometheus, /healthz for load balancers and orchestrators. Read-only.
// Bounded: connections, header size, time for a request; several scrapes at once share one answer.

import {
  createServer,
  type Server as HttpServer,
  type IncomingMessage,
  type ServerResponse,
} from "node:http";
import type { Server } from "../control/server.js";
import { serverMetrics } from "../metrics/server-metrics.js";
import { type Endpoint, formatEndpoint } from "../model/endpoint.js";
import { KeelError, toKeelError } from "../model/errors.js";

const connectionsMax = 64;
const requestMs = 10_000;

type Page = { readonly status: number; readonly type: string; readonly body: string };

const plain = "text/plain; charset=utf-8";

export class MetricsServer {
  private readonly http: HttpServer;
  readonly endpoint: Endpoint;

  private constructor(http: HttpServer, endpoint: Endpoint) {
    this.http = http;
    this.endpoint = endpoint;
  }

  static async listen(endpoint: Endpoint, server: Server): Promise<MetricsServer> {
    const pages = new Pages(server);
    const http = createServer(
      {
        maxHeaderSize: 8192,
        requestTimeout: requestMs,
        headersTimeout: requestMs,
        keepAliveTimeout: requestMs,
      },
      (request, response) => void pages.answer(request, response),
    );
    http.maxConnections = connectionsMax;
    http.on("clientError", (_error, socket) => socket.destroy());
    await new Promise<void>((resolve, reject) => {
      http.once("error", (error: NodeJS.ErrnoException) => reject(refused(endpoint, error)));
      http.listen({ host: endpoint.address, port: endpoint.port, ipv6Only: true }, resolve);
    });
    const address = http.address();
    const port = typeof address === "object" && address !== null ? address.port : endpoint.port;
    return new MetricsServer(http, { ...endpoint, port });
  }

  async close(): Promise<void> {
    const closed = new Promise<void>((resolve) => this.http.close(() => resolve()));
    this.http.closeAllConnections();
    await closed;
  }
}

class Pages {
  private readonly server: Server;
  private scrape: Promise<string> | null = null;

  constructor(server: Server) {
    this.server = server;
  }

  async answer(request: IncomingMessage, response: ServerResponse): Promise<void> {
    const page = await this.page(request.method ?? "", (request.url ?? "").split("?")[0] ?? "");
    response.writeHead(page.status, { "content-type": page.type, "cache-control": "no-store" });
    response.end(request.method === "HEAD" ? undefined : page.body);
  }

  private async page(method: string, path: string): Promise<Page> {
    if (method !== "GET" && method !== "HEAD")
      return { status: 405, type: plain, body: "only GET is allowed\n" };
    try {
      if (path === "/metrics") {
        return { status: 200, type: "text/plain; version=0.0.4; charset=utf-8", body: await this.metrics() };
      }
      if (path === "/healthz") {
        await this.server.status();
        return { status: 200, type: plain, body: "ok\n" };
      }
      if (path === "/") return { status: 200, type: plain, body: "/metrics\n/healthz\n" };
    } catch (thrown) {
      return { status: 503, type: plain, body: `${toKeelError(thrown).message}\n` };
    }
    return { status: 404, type: plain, body: "there is /metrics and /healthz\n" };
  }

  private metrics(): Promise<string> {
    this.scrape ??= this.server
      .status()
      .then(serverMetrics)
      .finally(() => {
        this.scrape = null;
      });
    return this.scrape;
  }
}

function refused(endpoint: Endpoint, error: NodeJS.ErrnoException): KeelError {
  const text = formatEndpoint(endpoint);
  if (error.code === "EADDRINUSE")
    return new KeelError("E_PORT_IN_USE", `cannot listen on ${text} for HTTP`, { path: "http.listen" });
  if (error.code === "EADDRNOTAVAIL")
    return new KeelError("E_ADDRESS", `no interface has the address of ${text}`, { path: "http.listen" });
  return new KeelError("E_DENIED", `cannot listen on ${text} for HTTP (${error.code ?? error.message})`, {
    path: "http.listen",
  });
}
