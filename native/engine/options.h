// What the control plane decides before the engine starts. Complete: every field has its final value.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/limits.h"
#include "transport/tcp_connection.h"

namespace engine {

struct Options {
    int arena_descriptor = -1;  // -1: the engine makes its own, which dies with the process
    int data_descriptor = -1;
    std::uint64_t data_pool_bytes = limits::data_pool_bytes_default;
    std::uint32_t connections_max = 1024;
    std::uint32_t connections_per_host_max = 1024;
    std::uint32_t controllers_max = 1024;
    std::uint32_t controllers_per_host_max = 64;
    std::uint32_t in_capsule_bytes_io = limits::in_capsule_bytes_io_default;
    std::uint32_t max_queue_entries = limits::queue_entries_max;
    std::uint32_t io_queues_per_controller_max = limits::io_queues_per_controller_max;
    std::uint32_t connect_timeout_ms = 10'000;
    std::uint32_t transfer_timeout_ms = 30'000;
    std::uint32_t admission_timeout_ms = 3'000;
    std::string server_name;
    std::uint64_t discovery_generation = 1;
};

}  // namespace engine
