#include "block/initiator/pattern.h"

#include <cstring>

#include "base/crc32c.h"

namespace block::initiator {

namespace {

constexpr std::uint64_t magic = 0x6e6565736b6c6565;  // no seed makes two of these equal

struct Head {
    std::uint64_t owner;  // magic and seed
    std::uint64_t lba;
    std::uint32_t generation;
    std::uint32_t checksum;  // of the block with this field 0
};
static_assert(sizeof(Head) == 24);

std::uint64_t mix(std::uint64_t value) {
    value ^= value >> 31;
    value *= 0x7fb5d329728ea185;
    value ^= value >> 27;
    value *= 0x81dadef4bc2dd44d;
    return value ^ (value >> 33);
}

std::uint32_t checksum_of(std::span<const std::byte> data) {
    Head head;
    std::memcpy(&head, data.data(), sizeof head);
    head.checksum = 0;
    std::uint32_t state = base::crc32c_seed;
    state = base::crc32c_update(state, {reinterpret_cast<const std::byte*>(&head), sizeof head});
    state = base::crc32c_update(state, data.subspan(sizeof head));
    return base::crc32c_finish(state);
}

}  // namespace

void write_pattern(std::span<std::byte> data, std::uint64_t seed, std::uint64_t lba,
                   std::uint32_t generation) {
    Head head{magic ^ seed, lba, generation, 0};
    const std::uint64_t start = mix(seed ^ mix(lba ^ mix(generation)));
    for (std::size_t at = sizeof head; at < data.size(); at += sizeof(std::uint64_t)) {
        const std::uint64_t word = start + at * 0x9e3779b97f4a7c15;
        std::memcpy(data.data() + at, &word, sizeof word);
    }
    std::memcpy(data.data(), &head, sizeof head);
    head.checksum = checksum_of(data);
    std::memcpy(data.data(), &head, sizeof head);
}

PatternReading read_pattern(std::span<const std::byte> data, std::uint64_t seed, std::uint64_t lba) {
    Head head;
    std::memcpy(&head, data.data(), sizeof head);
    if (head.owner != (magic ^ seed)) {
        return {};
    }
    if (head.checksum != checksum_of(data)) {
        return {PatternVerdict::corrupt, head.lba, head.generation};
    }
    return {head.lba == lba ? PatternVerdict::right : PatternVerdict::misplaced, head.lba, head.generation};
}

const char* name_of(PatternVerdict verdict) {
    switch (verdict) {
        case PatternVerdict::right: return "right";
        case PatternVerdict::foreign: return "foreign";
        case PatternVerdict::misplaced: return "misplaced";
        case PatternVerdict::corrupt: return "corrupt";
    }
    return "unknown";
}

}  // namespace block::initiator
