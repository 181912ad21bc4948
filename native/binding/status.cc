#include "binding/status.h"

#include <cstdlib>

#include "binding/values.h"
#include "engine/version.h"
#include "wire/nvme_properties.h"

namespace binding {

namespace {

template <typename Entry, typename Convert>
Napi::Value list_of(Napi::Env env, const std::vector<Entry>& entries, Convert convert) {
    Napi::Array array = Napi::Array::New(env, entries.size());
    for (std::uint32_t index = 0; index < entries.size(); ++index) {
        array.Set(index, convert(env, entries[index]));
    }
    return array;
}

// [key, text or bigint]
Napi::Value detail_value(Napi::Env env, const block::Details::value_type& detail) {
    Napi::Array pair = Napi::Array::New(env, 2);
    pair.Set(0u, detail.first);
    if (const auto* text = std::get_if<std::string>(&detail.second)) {
        pair.Set(1u, *text);
    } else {
        pair.Set(1u, big(env, *std::get_if<std::uint64_t>(&detail.second)));
    }
    return pair;
}

Napi::Value namespace_value(Napi::Env env, const engine::NamespaceStatus& entry) {
    const nvme::NamespaceStatus& ns = entry.status;
    Napi::Object object = Napi::Object::New(env);
    object.Set("nsid", number(env, ns.nsid));
    object.Set("device", ns.device);
    object.Set("nguid", hex_of(ns.nguid));
    object.Set("uuid", hex_of(ns.uuid));
    object.Set("blocks", big(env, ns.blocks));
    object.Set("blockBytes", number(env, ns.block_bytes));
    object.Set("readOnly", Napi::Boolean::New(env, ns.read_only));
    object.Set("writeProtected", Napi::Boolean::New(env, ns.write_protection != 0));
    object.Set("readCommands", number(env, ns.counters.read_commands));
    object.Set("writeCommands", number(env, ns.counters.write_commands));
    object.Set("otherCommands", number(env, ns.counters.other_commands));
    object.Set("fuaCommands", number(env, ns.counters.fua_commands));
    object.Set("readBytes", number(env, ns.counters.read_bytes));
    object.Set("writtenBytes", number(env, ns.counters.written_bytes));
    object.Set("errors", number(env, ns.counters.errors));
    object.Set("readLatency", histogram_of(env, entry.read_latency));
    object.Set("writeLatency", histogram_of(env, entry.write_latency));
    return object;
}

Napi::Value subsystem_value(Napi::Env env, const engine::SubsystemStatus& subsystem) {
    const nvme::SubsystemSpec& spec = subsystem.status.spec;
    Napi::Object object = Napi::Object::New(env);
    object.Set("nqn", spec.nqn);
    object.Set("serial", spec.serial);
    object.Set("model", spec.model);
    object.Set("allowAnyHost", Napi::Boolean::New(env, spec.allow_any_host));
    object.Set("hosts", array_of(env, spec.hosts));
    object.Set("namespaces", list_of(env, subsystem.namespaces, namespace_value));
    return object;
}

const char* controller_state(const nvme::ControllerStatus& controller) {
    if (wire::csts::cfs.get(controller.csts) != 0) {
        return "failed";
    }
    if (wire::csts::shst.get(controller.csts) != 0) {
        return "shutdown";
    }
    return wire::csts::rdy.get(controller.csts) != 0 ? "ready" : "disabled";
}

Napi::Value controller_value(Napi::Env env, const nvme::ControllerStatus& controller) {
    std::uint32_t io_queues = 0;
    std::uint32_t in_flight = 0;
    std::string address;
    for (const nvme::QueueStatus& queue : controller.queues) {
        io_queues += queue.qid != 0 ? 1 : 0;
        in_flight += queue.commands;
        if (queue.qid == 0) {
            address = queue.endpoint.peer_address;
        }
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("cntlid", number(env, controller.cntlid));
    object.Set("subsystem", controller.subsystem_nqn);
    object.Set("hostNqn", controller.host_nqn);
    object.Set("hostId", hex_of(controller.host_id));
    object.Set("discovery", Napi::Boolean::New(env, controller.discovery));
    object.Set("keepAliveMs", number(env, controller.kato_ms));
    object.Set("state", controller_state(controller));
    object.Set("connectedSinceMs", number(env, controller.created_ms));
    object.Set("address", address);
    object.Set("ioQueues", number(env, io_queues));
    object.Set("commandsInFlight", number(env, in_flight));
    object.Set("pendingEvents", number(env, controller.parked_event_requests));
    object.Set("errorLogEntries", number(env, controller.errors));
    return object;
}

Napi::Value connection_value(Napi::Env env, const engine::ConnectionStatus& entry) {
    const transport::ConnectionStatus& connection = entry.status;
    const bool connected = !entry.subsystem.empty();
    Napi::Object object = Napi::Object::New(env);
    object.Set("slot", number(env, connection.slot));
    object.Set("listener", connection.endpoint.local_address + ":" + connection.endpoint.local_service);
    object.Set("peerAddress", connection.endpoint.peer_address);
    object.Set("peerPort", number(env, std::strtoul(connection.endpoint.peer_service.c_str(), nullptr, 10)));
    object.Set("localAddress", connection.endpoint.local_address);
    object.Set("localPort",
               number(env, std::strtoul(connection.endpoint.local_service.c_str(), nullptr, 10)));
    object.Set("cntlid", connected ? number(env, entry.cntlid) : env.Null());
    object.Set("subsystem", connected ? Napi::String::New(env, entry.subsystem) : env.Null());
    object.Set("hostNqn", connected ? Napi::String::New(env, entry.host_nqn) : env.Null());
    object.Set("qid", connected ? number(env, entry.queue.qid) : env.Null());
    object.Set("entries", number(env, entry.queue.entries));
    object.Set("headerDigest", Napi::Boolean::New(env, connection.header_digest));
    object.Set("dataDigest", Napi::Boolean::New(env, connection.data_digest));
    object.Set("state", connection.state);
    object.Set("receivedBytes", number(env, connection.counters.received_bytes));
    object.Set("sentBytes", number(env, connection.counters.sent_bytes));
    object.Set("commands", number(env, connection.counters.commands));
    object.Set("inFlight", number(env, connection.commands_in_flight));
    return object;
}

}  // namespace

Napi::Value device_value(Napi::Env env, const engine::DeviceStatus& device) {
    const block::Description& description = device.description;
    Napi::Object object = Napi::Object::New(env);
    object.Set("name", device.name);
    object.Set("kind", device.kind);
    object.Set("sizeBytes", big(env, description.size_bytes));
    object.Set("blockBytes", number(env, description.block_bytes));
    object.Set("physicalBlockBytes", number(env, description.physical_block_bytes));
    object.Set("readOnly", Napi::Boolean::New(env, description.read_only));
    object.Set("volatileCache", Napi::Boolean::New(env, description.volatile_cache));
    object.Set("canDeallocate", Napi::Boolean::New(env, description.can_deallocate));
    object.Set("canWriteZeroes", Napi::Boolean::New(env, description.can_write_zeroes));
    object.Set("rotational", Napi::Boolean::New(env, description.rotational));
    object.Set("state", device.state);
    object.Set("reason", device.reason);
    object.Set("inFlight", number(env, device.counters.in_flight));
    object.Set("errors", number(env, device.counters.errors));
    Napi::Array completed = Napi::Array::New(env, std::size(device.counters.completed));
    Napi::Array bytes = Napi::Array::New(env, std::size(device.counters.bytes));
    for (std::uint32_t action = 0; action < std::size(device.counters.completed); ++action) {
        completed.Set(action, number(env, device.counters.completed[action]));
        bytes.Set(action, number(env, device.counters.bytes[action]));
    }
    object.Set("completed", completed);
    object.Set("bytes", bytes);
    object.Set("claimedBy", array_of(env, device.claimed_by));
    object.Set("identity", device.identity);
    object.Set("suspended", Napi::Boolean::New(env, device.suspended));
    object.Set("details", list_of(env, device.details, detail_value));
    object.Set("parts", array_of(env, device.parts));
    return object;
}

Napi::Value listener_value(Napi::Env env, const transport::ListenerStatus& listener) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("id", listener.id);
    object.Set("address", listener.address);
    object.Set("family", listener.family);
    object.Set("port", number(env, listener.port));
    object.Set("discoveryOnly", Napi::Boolean::New(env, listener.discovery_only));
    return object;
}

Napi::Value status_value(Napi::Env env, const engine::Status& status) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("version", engine::version);
    object.Set("devices", list_of(env, status.devices, device_value));
    object.Set("subsystems", list_of(env, status.subsystems, subsystem_value));
    object.Set("controllers", list_of(env, status.controllers, controller_value));
    object.Set("connections", list_of(env, status.connections, connection_value));
    object.Set("listeners", list_of(env, status.listeners, listener_value));
    object.Set("discoveryGeneration", big(env, status.discovery_generation));
    object.Set("dataPoolBytes", big(env, status.data_pool_bytes));
    object.Set("dataPoolUsedBytes", big(env, status.data_pool_used_bytes));
    object.Set("reactorCpuNs", number(env, status.reactor_cpu_ns));
    object.Set("reactorIterations", number(env, status.reactor_iterations));
    Napi::Object disconnects = Napi::Object::New(env);
    for (const auto& [reason, count] : status.disconnects) {
        disconnects.Set(reason, number(env, count));
    }
    object.Set("disconnects", disconnects);
    object.Set("connectionsAccepted", number(env, status.connections_accepted));
    object.Set("connectionsRefused", number(env, status.connections_refused));
    return object;
}

Napi::Value takeover_value(Napi::Env env, const engine::Takeover& takeover) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("kept", Napi::Boolean::New(env, takeover.kept));
    object.Set("carried", Napi::Boolean::New(env, takeover.carried));
    object.Set("reason", takeover.go.reason);
    object.Set("exit", takeover.go.exit);
    object.Set("previousPid", number(env, takeover.go.previous_pid));
    object.Set("restarts", number(env, takeover.go.restarts));
    return object;
}

Napi::Value adoption_value(Napi::Env env, const engine::Adoption& adoption) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("carriedArena", Napi::Boolean::New(env, adoption.carried_arena));
    object.Set("carried", number(env, adoption.carried));
    object.Set("begun", number(env, adoption.begun));
    object.Set("executed", number(env, adoption.executed));
    object.Set("refused", array_of(env, adoption.refused));
    return object;
}

namespace {

Napi::Value restart_value(Napi::Env env, const engine::RestartRecord& record) {
    const auto part = [&](std::uint64_t from, std::uint64_t to) -> Napi::Value {
        return Napi::Number::New(env, from != 0 && to > from ? static_cast<double>(to - from) / 1e6 : 0);
    };
    Napi::Object object = Napi::Object::New(env);
    object.Set("number", number(env, record.number));
    object.Set("timeMs", number(env, record.time_ms));
    object.Set("reason", record.reason);
    object.Set("exit", record.exit);
    object.Set("previousPid", number(env, record.previous_pid));
    object.Set("pauseMs", part(record.died_ns, record.served_ns));
    object.Set("startMs", part(record.died_ns, record.go_ns));
    object.Set("configureMs", part(record.go_ns, record.configured_ns));
    object.Set("adoptMs", part(record.configured_ns, record.served_ns));
    // After the death; null: before it, or not known.
    const auto since = [&](std::uint64_t at) -> Napi::Value {
        return record.died_ns != 0 && at > record.died_ns ? part(record.died_ns, at) : env.Null();
    };
    object.Set("processMs", since(record.started_ns));
    object.Set("loadedMs", since(record.loaded_ns));
    object.Set("mappedMs", since(record.mapped_ns));
    object.Set("barrierMs", since(record.barrier_ns));
    object.Set("firstByteMs", since(record.first_byte_ns));
    object.Set("carried", number(env, record.carried));
    object.Set("begun", number(env, record.begun));
    object.Set("refused", number(env, record.refused));
    object.Set("executed", number(env, record.executed));
    return object;
}

Napi::Value pdu_value(Napi::Env env, const transport::FlightEntry& entry) {
    const char* type = wire::name_of(static_cast<wire::PduType>(entry.type));
    Napi::Object object = Napi::Object::New(env);
    object.Set("timeNs", big(env, entry.time_ns));
    object.Set("type", type != nullptr ? type : "unknown");
    object.Set("cid", number(env, entry.cid));
    object.Set("opcode", number(env, entry.opcode));
    object.Set("bytes", number(env, entry.pdu_bytes));
    object.Set("streamOffset", big(env, entry.stream_offset));
    object.Set("detail", number(env, entry.detail));
    return object;
}

Napi::Value last_pdus_of_one(Napi::Env env, const engine::LastPdus& last) {
    Napi::Object object = Napi::Object::New(env);
    object.Set("connection", number(env, last.connection));
    object.Set("hostNqn", last.host_nqn);
    object.Set("qid", number(env, last.qid));
    object.Set("received", big(env, last.received));
    object.Set("sent", big(env, last.sent));
    object.Set("commandsInFlight", number(env, last.commands_in_flight));
    object.Set("pdus", list_of(env, last.pdus, pdu_value));
    return object;
}

}  // namespace

Napi::Value restarts_value(Napi::Env env, const engine::RestartArea& area) {
    const engine::RestartTotals& totals = area.totals;
    Napi::Object object = Napi::Object::New(env);
    object.Set("restarts", number(env, totals.restarts));
    object.Set("crash", number(env, totals.crash));
    object.Set("watchdog", number(env, totals.watchdog));
    object.Set("upgrade", number(env, totals.upgrade));
    object.Set("other", number(env, totals.other));
    object.Set("carried", number(env, totals.carried));
    object.Set("refused", number(env, totals.refused));
    object.Set("executed", number(env, totals.executed));
    object.Set("pauseSumNs", number(env, totals.pause_sum_ns));
    Napi::Array counts = Napi::Array::New(env, engine::RestartTotals::pause_buckets);
    for (std::uint32_t bucket = 0; bucket < engine::RestartTotals::pause_buckets; ++bucket) {
        counts.Set(bucket, number(env, totals.pause_counts[bucket]));
    }
    object.Set("pauseCounts", counts);
    object.Set("last", list_of(env, engine::restarts_of(area), restart_value));
    return object;
}

Napi::Value last_pdus_value(Napi::Env env, const std::vector<engine::LastPdus>& connections) {
    return list_of(env, connections, last_pdus_of_one);
}

Napi::Value keeper_value(Napi::Env env, const engine::KeeperInfo& info) {
    if (info.pid == 0) {
        return env.Null();
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("pid", number(env, info.pid));
    object.Set("sinceMs", number(env, info.since_ms));
    object.Set("keeperStarts", number(env, info.keeper_starts));
    object.Set("restarts", number(env, info.restarts));
    object.Set("lastReason", info.last_reason);
    object.Set("memoryFiles", number(env, info.memory));
    object.Set("listeners", number(env, info.listeners));
    object.Set("connections", number(env, info.connections));
    object.Set("accepted", number(env, info.accepted));
    object.Set("refused", number(env, info.refused));
    object.Set("standby", info.standby);
    object.Set("standbyPid", number(env, info.standby_pid));
    object.Set("systemd", Napi::Boolean::New(env, info.systemd));
    return object;
}

Napi::Value event_value(Napi::Env env, const engine::Event& event) {
    using Kind = engine::Event::Kind;
    Napi::Object object = Napi::Object::New(env);
    switch (event.kind) {
        case Kind::connect:
            object.Set("type", "connect");
            object.Set("request", number(env, event.request));
            object.Set("subsystem", event.subsystem);
            object.Set("hostNqn", event.host_nqn);
            object.Set("hostId", hex_of(event.host_id));
            object.Set("peerAddress", event.peer_address);
            object.Set("peerPort", number(env, event.peer_port));
            break;
        case Kind::write_protection:
            object.Set("type", "write-protection");
            object.Set("request", number(env, event.request));
            object.Set("subsystem", event.subsystem);
            object.Set("nsid", number(env, event.nsid));
            object.Set("nguid", hex_of(event.nguid));
            object.Set("state", number(env, event.protection));
            break;
        case Kind::log:
            object.Set("type", "log");
            object.Set("level", event.level);
            object.Set("area", event.area);
            object.Set("message", event.message);
            break;
        case Kind::controller:
            object.Set("type", "controller");
            object.Set("change", event.connected ? "connected" : "disconnected");
            object.Set("subsystem", event.subsystem);
            object.Set("hostNqn", event.host_nqn);
            object.Set("cntlid", number(env, event.cntlid));
            object.Set("reason", event.message);
            break;
        case Kind::discovery_generation:
            object.Set("type", "discovery-generation");
            object.Set("generation", big(env, event.generation));
            break;
        case Kind::device:
            object.Set("type", "device");
            object.Set("device", event.device);
            object.Set("state", event.state);
            object.Set("reason", event.reason);
            break;
        case Kind::restart_failed:
            object.Set("type", "restart-failed");
            object.Set("reason", event.reason);
            break;
    }
    return object;
}

}  // namespace binding
