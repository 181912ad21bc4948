// Time as nanoseconds of CLOCK_MONOTONIC, which all processes of one boot share: a deadline stored by a
// process that died is still meaningful to its successor.
#pragma once

#include <cstdint>
#include <ctime>

namespace base {

using Nanoseconds = std::uint64_t;

inline constexpr Nanoseconds microsecond = 1'000;
inline constexpr Nanoseconds millisecond = 1'000'000;
inline constexpr Nanoseconds second = 1'000'000'000;

inline Nanoseconds monotonic_now() {
    timespec now{};
    clock_gettime(CLOCK_MONOTONIC, &now);
    return static_cast<Nanoseconds>(now.tv_sec) * second + static_cast<Nanoseconds>(now.tv_nsec);
}

// Milliseconds since the epoch, for timestamps that people or hosts read.
inline std::uint64_t realtime_now_ms() {
    timespec now{};
    clock_gettime(CLOCK_REALTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1000 +
           static_cast<std::uint64_t>(now.tv_nsec) / 1'000'000;
}

}  // namespace base
