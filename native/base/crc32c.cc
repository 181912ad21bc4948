#include "base/crc32c.h"

#include <isa-l/crc.h>

#include <algorithm>
#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace base {

namespace {

constexpr std::uint32_t polynomial = 0x82F63B78;  // reflected

// table[k][b]: the effect of byte b followed by k zero bytes, so that eight bytes take eight look-ups.
using Tables = std::array<std::array<std::uint32_t, 256>, 8>;

constexpr Tables make_tables() {
    Tables tables{};
    for (std::uint32_t byte = 0; byte < 256; ++byte) {
        std::uint32_t value = byte;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1) ^ ((value & 1) != 0 ? polynomial : 0);
        }
        tables[0][byte] = value;
    }
    for (std::size_t k = 1; k < tables.size(); ++k) {
        for (std::size_t byte = 0; byte < 256; ++byte) {
            const std::uint32_t before = tables[k - 1][byte];
            tables[k][byte] = (before >> 8) ^ tables[0][before & 0xFF];
        }
    }
    return tables;
}

constexpr Tables tables = make_tables();

#if defined(__x86_64__)

// Below this a plain loop beats the library's set-up (1.6 against 22 ns for 8 bytes); above it the library's
// folded multiplication is up to ten times faster.
constexpr std::size_t library_bytes_min = 256;

template <typename Word>
Word load(const std::byte* from) {
    Word word;
    std::memcpy(&word, from, sizeof(word));
    return word;
}

__attribute__((target("sse4.2"))) std::uint32_t update_sse42(std::uint32_t state, const std::byte* at,
                                                             std::size_t left) {
    std::uint64_t wide = state;
    for (; left >= 8; at += 8, left -= 8) {
        wide = _mm_crc32_u64(wide, load<std::uint64_t>(at));
    }
    auto narrow = static_cast<std::uint32_t>(wide);
    if ((left & 4) != 0) {
        narrow = _mm_crc32_u32(narrow, load<std::uint32_t>(at));
        at += 4;
    }
    if ((left & 2) != 0) {
        narrow = _mm_crc32_u16(narrow, load<std::uint16_t>(at));
        at += 2;
    }
    if ((left & 1) != 0) {
        narrow = _mm_crc32_u8(narrow, load<std::uint8_t>(at));
    }
    return narrow;
}

std::uint32_t update_library(std::uint32_t state, std::span<const std::byte> bytes) {
    // The library counts in int, and takes a pointer to what it only reads.
    constexpr std::size_t part_bytes_max = std::size_t{1} << 30;
    auto* at = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(bytes.data()));
    for (std::size_t left = bytes.size(); left != 0;) {
        const std::size_t part = std::min(left, part_bytes_max);
        state = crc32_iscsi(at, static_cast<int>(part), state);
        at += part;
        left -= part;
    }
    return state;
}

#endif

}  // namespace

std::uint32_t crc32c_update(std::uint32_t state, std::span<const std::byte> bytes) {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2") != 0) {
        return bytes.size() < library_bytes_min ? update_sse42(state, bytes.data(), bytes.size())
                                                : update_library(state, bytes);
    }
#endif
    return crc32c_update_portable(state, bytes);
}

const char* crc32c_method() {
#if defined(__x86_64__)
    if (__builtin_cpu_supports("sse4.2") != 0) {
        return "SSE4.2, isa-l for large buffers";
    }
#endif
    return "tables";
}

std::uint32_t crc32c_update_portable(std::uint32_t state, std::span<const std::byte> bytes) {
    std::size_t i = 0;
    const auto byte_at = [&](std::size_t index) { return std::to_integer<std::uint32_t>(bytes[index]); };
    for (; bytes.size() - i >= 8; i += 8) {
        const std::uint32_t low =
            state ^ (byte_at(i) | (byte_at(i + 1) << 8) | (byte_at(i + 2) << 16) | (byte_at(i + 3) << 24));
        state = tables[7][low & 0xFF] ^ tables[6][(low >> 8) & 0xFF] ^ tables[5][(low >> 16) & 0xFF] ^
                tables[4][low >> 24] ^ tables[3][byte_at(i + 4)] ^ tables[2][byte_at(i + 5)] ^
                tables[1][byte_at(i + 6)] ^ tables[0][byte_at(i + 7)];
    }
    for (; i < bytes.size(); ++i) {
        state = (state >> 8) ^ tables[0][(state ^ byte_at(i)) & 0xFF];
    }
    return state;
}

}  // namespace base
