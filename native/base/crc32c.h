// CRC32C (Castagnoli, reflected polynomial 82F63B78h), the digest of NVMe/TCP and iSCSI.
//
// The whole-buffer form needs nothing else. The incremental form keeps the seed and the final inversion
// explicit: state = crc32c_seed; state = crc32c_update(state, part) for each part; crc32c_finish(state). Any
// split of the bytes into parts gives the same result. Safe to call from any thread.
//
// RFC 3720 §12.1 and appendix B.4; NVMe/TCP Transport 1.0 §3.1.1.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace base {

inline constexpr std::uint32_t crc32c_seed = 0xFFFFFFFF;

// Takes the bytes of one part into the running state.
std::uint32_t crc32c_update(std::uint32_t state, std::span<const std::byte> bytes);

constexpr std::uint32_t crc32c_finish(std::uint32_t state) { return ~state; }

// The digest of the bytes, as it goes on the wire in little-endian order.
inline std::uint32_t crc32c(std::span<const std::byte> bytes) {
    return crc32c_finish(crc32c_update(crc32c_seed, bytes));
}

// How this machine computes it, for people.
const char* crc32c_method();

// The portable form, for processors without the instruction; here so that tests can compare the two.
std::uint32_t crc32c_update_portable(std::uint32_t state, std::span<const std::byte> bytes);

}  // namespace base
