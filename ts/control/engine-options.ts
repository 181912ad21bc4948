// The settings of a configuration as the engine takes them.

import type { Settings } from "../model/state.js";
import type { EngineOptions } from "../native/addon.js";

export function engineOptions(settings: Settings, discoveryGeneration: bigint): EngineOptions {
  const { limits } = settings;
  return {
    arenaDescriptor: null,
    dataDescriptor: null,
    dataPoolBytes: limits.memoryBytes,
    connectionsMax: limits.connections,
    connectionsPerHostMax: limits.connectionsPerHost,
    controllersMax: limits.controllers,
    inCapsuleBytesIo: limits.inCapsuleBytes,
    maxQueueEntries: limits.queueEntries,
    ioQueuesPerControllerMax: limits.queuesPerController,
    connectTimeoutMs: limits.connectTimeoutMs,
    transferTimeoutMs: limits.transferTimeoutMs,
    admissionTimeoutMs: limits.admissionTimeoutMs,
    serverName: settings.node,
    discoveryGeneration,
  };
}
