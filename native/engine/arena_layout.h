// The arena's regions, in this order; a change of any record's layout raises its version.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "durable/arena.h"
#include "engine/memories.h"
#include "engine/options.h"
#include "engine/restart_history.h"
#include "nvme/controller_record.h"
#include "transport/tcp_records.h"

namespace engine {

enum Region : std::size_t {
    connections,
    commands,
    transmit,
    stream,
    controllers,
    subsystems,
    namespaces,
    memories,
    restarts,
};

inline constexpr std::uint32_t nvme_records_version = 1 + KEEL_TEST_LAYOUT;
inline constexpr std::uint32_t namespace_records = KEEL_TEST_LAYOUT == 2 ? 2048 : 4096;

inline std::vector<durable::RegionSpec> regions_for(const Options& options) {
    using namespace transport;
    return {
        {"connections", connection_stride, options.connections_max, tcp_records_version},
        {"commands", command_stride, options.connections_max, tcp_records_version},
        {"transmit", transmit_stride, options.connections_max, tcp_records_version},
        {"stream", limits::receive_buffer_bytes, options.connections_max, tcp_records_version},
        {"controllers", sizeof(nvme::ControllerRecord), options.controllers_max, nvme_records_version},
        {"subsystems", sizeof(nvme::SubsystemRecord), limits::subsystems_max, nvme_records_version},
        {"namespaces", sizeof(nvme::NamespaceRecord), namespace_records, nvme_records_version},
        {"memories", sizeof(MemoryRecord), limits::devices_max, 1},
        {"restarts", sizeof(RestartArea), 1, 2},
    };
}

// Words in the arena's header.
inline constexpr std::size_t counter_generation = 0;  // of the discovery information
// The mark of the description that says the same as this arena, 0 if there is none. It is stored here after
// the description, and taken back before anything changes; so a description that is not the last word about
// the connections is recognized, even by a version that can read nothing else of this arena.
inline constexpr std::size_t counter_described = 1;

template <typename Record>
std::span<Record> records(durable::Arena& arena, Region region, std::uint32_t count) {
    return {reinterpret_cast<Record*>(arena.region(region).data()), count};
}

}  // namespace engine
