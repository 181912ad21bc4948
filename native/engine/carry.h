// What one version leaves to another whose arena has a different layout: a description of everything live, by
// names and values (carry_text.h). The successor rebuilds its own arena from it and then takes the
// connections over as after any death.
//
// A description is as good as the moment at which it was made: no receive in flight, and nothing done after
// it. quiesce.cc sees to that, and the mark in the old arena's header vouches for it.
//
// What a command owns in the data pool is described by its place there, and copied: the successor has a pool
// of its own, so device reads that the dead process left in flight reach nobody. Memory of devices goes by
// name and is not touched. The flight recorders are not carried.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "durable/arena.h"
#include "engine/carry_text.h"
#include "engine/options.h"
#include "reactor/data_buffers.h"
#include "transport/tcp_transport.h"

namespace engine {

struct CarrySource {
    durable::Arena& arena;
    const Options& options;
    transport::TcpTransport& transport;
    std::string pool_name;  // of the data pool, in the keeper's store
    std::uint64_t mark;     // distinguishes this description from all others of this machine's run
};

std::string describe(const CarrySource& source);

// The part of a description that says which it is.
struct CarryOrigin {
    std::uint64_t mark = 0;
    std::string pool_name;
};
CarryOrigin origin_of(const CarryText& text);

struct CarryTarget {
    durable::Arena& arena;  // fresh
    const Options& options;
    reactor::DataBuffers& buffers;
    std::span<const std::byte> old_pool;
    // How many bytes a process has taken from the socket of this connection; nothing if there is no socket.
    std::function<std::optional<std::uint64_t>(std::uint64_t id)> received;
};

struct CarryResult {
    std::uint32_t connections = 0;
    std::uint64_t discovery_generation = 0;
    std::vector<std::pair<std::uint64_t, std::string>> lost;  // connection, why it cannot go on
};

// Never fails as a whole: what contradicts itself or does not fit is left out. The buffers of commands are
// chosen, filled and free again: adoption reserves them.
CarryResult restore(const CarryText& text, const CarryTarget& target);

}  // namespace engine
