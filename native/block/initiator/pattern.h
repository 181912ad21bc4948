// What a verifying load writes: every logical block says who wrote it, where and when, and carries a checksum
// of itself. A block that was torn, misplaced, left out, or written by somebody else is told apart from one
// that is merely old.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace block::initiator {

// Fills one logical block (at least 32 bytes, a multiple of 8).
void write_pattern(std::span<std::byte> data, std::uint64_t seed, std::uint64_t lba,
                   std::uint32_t generation);

enum class PatternVerdict : std::uint8_t {
    right,      // written by this seed for this place
    foreign,    // no pattern, or one of another seed
    misplaced,  // of this seed, whole, but for another place
    corrupt,    // of this seed, but the checksum is wrong
};
const char* name_of(PatternVerdict verdict);

struct PatternReading {
    PatternVerdict verdict = PatternVerdict::foreign;
    std::uint64_t lba = 0;         // as the block says
    std::uint32_t generation = 0;  // as the block says
};

PatternReading read_pattern(std::span<const std::byte> data, std::uint64_t seed, std::uint64_t lba);

}  // namespace block::initiator
