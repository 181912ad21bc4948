// What an epoll event is about: a kind and the generation or id of the thing. Looked up anew for each event,
// so that an event for what is gone meanwhile finds nothing.
#pragma once

#include <cstdint>

namespace keeper {

enum class Watched : std::uint8_t { signals = 1, process, channel, listener };

constexpr std::uint64_t watched(Watched what, std::uint64_t id = 0) {
    return static_cast<std::uint64_t>(what) << 56 | id;
}
constexpr Watched watched_kind(std::uint64_t value) { return static_cast<Watched>(value >> 56); }
constexpr std::uint64_t watched_id(std::uint64_t value) { return value & ((std::uint64_t{1} << 56) - 1); }

}  // namespace keeper
