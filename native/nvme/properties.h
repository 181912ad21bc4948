// What a controller promises in its properties and Identify data, in one place, because hosts compare the
// two.
#pragma once

#include <cstdint>

#include "base/limits.h"
#include "wire/nvme_properties.h"

namespace nvme {

inline constexpr std::uint32_t controller_version = wire::version(2, 0, 0);
// CAP.TO and CRTO: longest time for CSTS.RDY to follow CC.EN, in 500 ms. Becoming ready takes no time;
// ceasing to be waits for the devices' last requests.
inline constexpr std::uint32_t ready_timeout_500ms = 30;
inline constexpr std::uint16_t keep_alive_granularity_100ms = 10;  // KAS
inline constexpr std::uint8_t io_sqe_exponent = 6;                 // 64 bytes
inline constexpr std::uint8_t io_cqe_exponent = 4;                 // 16 bytes
// No sensor reports to a controller made of software: the composite temperature is set by the engine or
// nominal.
inline constexpr std::uint16_t temperature_nominal = 298;   // kelvin
inline constexpr std::uint16_t temperature_warning = 343;   // WCTEMP
inline constexpr std::uint16_t temperature_critical = 353;  // CCTEMP

}  // namespace nvme
