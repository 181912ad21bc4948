// A run of bits inside a register or a command dword, named once and used for reading and writing.
#pragma once

#include <type_traits>

namespace wire {

// `Width` bits of an unsigned `Word`, the lowest of them at bit `Shift`.
template <typename Word, unsigned Shift, unsigned Width>
struct BitField {
    static_assert(std::is_unsigned_v<Word> && Width > 0 && Shift + Width <= sizeof(Word) * 8);

    static constexpr unsigned shift = Shift;
    static constexpr unsigned width = Width;
    static constexpr Word value_max =
        static_cast<Word>(static_cast<Word>(~Word{0}) >> (sizeof(Word) * 8 - Width));
    static constexpr Word mask = static_cast<Word>(value_max << Shift);

    static constexpr Word get(Word word) { return static_cast<Word>((word >> Shift) & value_max); }
    // The value at its place with all other bits clear, to be joined by `|`. Excess bits are cut off.
    static constexpr Word put(Word value) { return static_cast<Word>((value & value_max) << Shift); }
    static constexpr Word replace(Word word, Word value) {
        return static_cast<Word>((word & static_cast<Word>(~mask)) | put(value));
    }
    static constexpr bool test(Word word) { return (word & mask) != 0; }
};

template <typename Word, unsigned Shift>
using Bit = BitField<Word, Shift, 1>;

}  // namespace wire
