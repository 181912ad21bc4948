#include "base/crc32c.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string_view>
#include <vector>

namespace {

std::span<const std::byte> bytes_of(std::string_view text) { return std::as_bytes(std::span(text)); }

// Bit by bit from the definition, sharing nothing with the code under test.
std::uint32_t reference(std::span<const std::byte> bytes) {
    std::uint32_t remainder = 0xFFFFFFFF;
    for (const std::byte byte : bytes) {
        for (unsigned bit = 0; bit < 8; ++bit) {
            const bool in = ((std::to_integer<unsigned>(byte) >> bit) & 1) != 0;
            const bool out = (remainder & 1) != 0;
            remainder >>= 1;
            if (in != out) remainder ^= 0x82F63B78;
        }
    }
    return ~remainder;
}

std::uint32_t portable(std::span<const std::byte> bytes) {
    return base::crc32c_finish(base::crc32c_update_portable(base::crc32c_seed, bytes));
}

std::uint64_t chosen_seed() {
    const char* given = std::getenv("TEST_SEED");
    return given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
}

}  // namespace

TEST_CASE("crc32c of the published vectors") {
    CHECK(base::crc32c(bytes_of("123456789")) == 0xE3069283);
    CHECK(base::crc32c({}) == 0);

    std::array<std::byte, 32> block{};
    CHECK(base::crc32c(block) == 0x8A9136AA);
    block.fill(std::byte{0xFF});
    CHECK(base::crc32c(block) == 0x62A8AB43);
    for (std::size_t i = 0; i < block.size(); ++i)
        block[i] = static_cast<std::byte>(i);
    CHECK(base::crc32c(block) == 0x46DD794E);
    for (std::size_t i = 0; i < block.size(); ++i)
        block[i] = static_cast<std::byte>(31 - i);
    CHECK(base::crc32c(block) == 0x113FDB5C);

    // An iSCSI SCSI Read (10) command PDU.
    constexpr std::array<unsigned char, 48> read_10 = {
        0x01, 0xC0, 0, 0,    0, 0, 0, 0,    0,    0, 0, 0, 0, 0, 0, 0, 0x14, 0, 0, 0, 0, 0, 0x04, 0,
        0,    0,    0, 0x14, 0, 0, 0, 0x18, 0x28, 0, 0, 0, 0, 0, 0, 0, 0x02, 0, 0, 0, 0, 0, 0,    0};
    CHECK(base::crc32c(std::as_bytes(std::span(read_10))) == 0xD9963A56);
}

TEST_CASE("crc32c is the same on every path, at every length and alignment, and for every split") {
    const std::uint64_t seed = chosen_seed();
    INFO("TEST_SEED=" << seed);
    std::mt19937_64 random(seed);
    std::vector<std::byte> memory(8192 + 64);
    for (std::byte& byte : memory)
        byte = static_cast<std::byte>(random());

    const auto check = [&](std::size_t offset, std::size_t length) {
        const auto part = std::span<const std::byte>(memory).subspan(offset, length);
        const std::uint32_t expected = reference(part);
        CAPTURE(offset);
        CAPTURE(length);
        REQUIRE(base::crc32c(part) == expected);
        REQUIRE(portable(part) == expected);
        const std::size_t split = length == 0 ? 0 : random() % (length + 1);
        std::uint32_t state = base::crc32c_update(base::crc32c_seed, part.first(split));
        state = base::crc32c_update(state, part.subspan(split));
        REQUIRE(base::crc32c_finish(state) == expected);
    };
    for (std::size_t length = 0; length <= 600; ++length)
        check(random() % 64, length);
    for (int i = 0; i < 200; ++i)
        check(random() % 64, random() % 8192);
}

TEST_CASE("crc32c finds a single flipped bit") {
    std::array<std::byte, 4096> block{};
    const std::uint32_t before = base::crc32c(block);
    for (const std::size_t at : {std::size_t{0}, std::size_t{17}, block.size() - 1}) {
        block[at] ^= std::byte{0x10};
        CHECK(base::crc32c(block) != before);
        block[at] ^= std::byte{0x10};
    }
    CHECK(base::crc32c(block) == before);
}
