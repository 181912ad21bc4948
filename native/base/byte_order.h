// Integers with a fixed byte order and alignment 1, so that wire structures need neither packing nor copying.
//
// A field declared `le32` occupies exactly four bytes at any address; reading and assigning convert. On a
// little-endian machine the little-endian types compile to plain loads and stores.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <type_traits>

namespace base {

template <typename Int>
constexpr Int byte_swap(Int value) {
    static_assert(std::is_unsigned_v<Int>);
    if constexpr (sizeof(Int) == 1) {
        return value;
    } else if constexpr (sizeof(Int) == 2) {
        return static_cast<Int>(__builtin_bswap16(value));
    } else if constexpr (sizeof(Int) == 4) {
        return __builtin_bswap32(value);
    } else {
        static_assert(sizeof(Int) == 8);
        return __builtin_bswap64(value);
    }
}

// An unsigned integer stored in `Order`, whatever the machine's own order is.
template <typename Int, std::endian Order>
class Ordered {
  public:
    constexpr Ordered() = default;
    constexpr Ordered(Int value) {
        *this = value;
    }  // NOLINT(google-explicit-constructor): reads like a field

    constexpr Ordered& operator=(Int value) {
        bytes_ = std::bit_cast<Bytes>(convert(value));
        return *this;
    }

    constexpr operator Int() const { return convert(std::bit_cast<Int>(bytes_)); }  // NOLINT

    constexpr Int value() const { return *this; }

  private:
    struct Bytes {
        std::uint8_t raw[sizeof(Int)];
    };

    static constexpr Int convert(Int value) {
        if constexpr (Order == std::endian::native) {
            return value;
        } else {
            return byte_swap(value);
        }
    }

    Bytes bytes_{};
};

using le16 = Ordered<std::uint16_t, std::endian::little>;
using le32 = Ordered<std::uint32_t, std::endian::little>;
using le64 = Ordered<std::uint64_t, std::endian::little>;
using be16 = Ordered<std::uint16_t, std::endian::big>;
using be32 = Ordered<std::uint32_t, std::endian::big>;
using be64 = Ordered<std::uint64_t, std::endian::big>;

static_assert(sizeof(le64) == 8 && alignof(le64) == 1);
static_assert(std::is_trivially_copyable_v<be32>);

}  // namespace base
