// Restarts as people ask about them: how often, why, how long hosts waited, what was carried over. Lies in
// the arena, so it lasts as long as the connections do.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace engine {

struct RestartRecord {
    std::uint64_t number;         // 1 is the first; 0: empty
    std::uint64_t time_ms;        // realtime, when service went on
    std::uint64_t died_ns;        // CLOCK_MONOTONIC: the death was noticed
    std::uint64_t go_ns;          // the successor was told to serve, and had all descriptors
    std::uint64_t configured_ns;  // devices, subsystems and listeners were there
    std::uint64_t served_ns;      // connections were read and answered again
    // The same clock. A standby was started, loaded and mapped before the death. 0: unknown, or not yet.
    std::uint64_t started_ns;     // the successor's process was made
    std::uint64_t loaded_ns;      // its program runs
    std::uint64_t mapped_ns;      // arena and data pool are mapped, the ring is there
    std::uint64_t barrier_ns;     // no device waited any more for the dead process's I/O to end
    std::uint64_t first_byte_ns;  // the first bytes to a host were on their way
    std::uint64_t previous_pid;
    std::uint32_t carried;  // connections
    std::uint32_t begun;
    std::uint32_t refused;
    std::uint32_t executed;  // commands executed again
    char reason[24];         // crash, watchdog, upgrade, keeper
    char exit[16];
};
static_assert(sizeof(RestartRecord) == 152);

struct RestartTotals {
    static constexpr std::uint32_t pause_buckets = 16;  // below 1 ms · 2^i; the last one: all above
    std::uint64_t restarts;
    std::uint64_t crash, watchdog, upgrade, other;
    std::uint64_t carried, refused, executed;
    std::uint64_t pause_sum_ns;
    std::uint64_t pause_counts[pause_buckets];
};

struct RestartArea {
    static constexpr std::uint32_t kept = 64;
    RestartTotals totals;
    RestartRecord records[kept];
};

// Answers where the record lies, for what is known only later.
RestartRecord& remember(RestartArea& area, const RestartRecord& record);
// Newest first.
std::vector<RestartRecord> restarts_of(const RestartArea& area);

}  // namespace engine
