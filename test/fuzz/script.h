// The input of the connection fuzzer is a script: four bytes of set-up, then steps. A step is a byte that
// names its kind and connection, and operands whose length follows from the kind, so that the mutator can
// cut, repeat and insert whole steps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace fuzz {

inline constexpr std::size_t setup_bytes = 4;

// Low four bits of a step's first byte; bit 4: the connection; bits 5 … 7: an argument.
enum class Step : std::uint8_t {
    raw = 0,  // length, bytes: sent as they are
    command =
        1,    // opcode, flags, nsid, cid, data, mask, 4 bytes per set bit of the mask: a well-formed capsule
    sqe = 2,  // 64 bytes of SQE, 2 bytes of data length: a well-formed PDU around any command
    answer = 3,      // index, 2 bytes of piece length: H2CData for an R2T that came
    h2c_data = 4,    // cccid, 2 bytes TTAG, 4 bytes offset, 2 bytes length, flags: any H2CData
    receive = 5,     // 2 bytes: at most so many bytes arrive at once
    send = 6,        // 2 bytes: the socket takes at most so many bytes at once; 0: none
    time = 7,        // 2 bytes: milliseconds pass
    run = 8,         // iterations of the reactor
    control = 9,     // action, argument: the control plane changes something
    damage = 10,     // 2 bytes of offset, a byte: of the next PDU
    close = 11,      // how
    open = 12,       // mode: a new connection, if the old one has ended
    terminate = 13,  // 2 bytes FES
    connect = 14,    // variant, 2 bytes: a Connect with something wrong in it
    again = 15,      // index: a PDU that was sent before, once more
};

inline std::size_t operand_bytes(std::span<const std::uint8_t> step) {
    const auto at = [&](std::size_t index) -> std::size_t { return index < step.size() ? step[index] : 0; };
    switch (static_cast<Step>(at(0) & 15)) {
        case Step::raw: return 1 + at(1);
        case Step::command: {
            std::size_t words = 0;
            for (std::size_t mask = at(6); mask != 0; mask &= mask - 1) {
                ++words;
            }
            return 6 + 4 * words;
        }
        case Step::sqe: return 66;
        case Step::answer: return 3;
        case Step::h2c_data: return 10;
        case Step::receive:
        case Step::send:
        case Step::time:
        case Step::control:
        case Step::terminate: return 2;
        case Step::damage:
        case Step::connect: return 3;
        case Step::run:
        case Step::close:
        case Step::open:
        case Step::again: return 1;
    }
    return 0;
}

// Operands beyond the end of the input read as zeroes.
class Operands {
  public:
    explicit Operands(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}
    std::uint8_t u8() { return static_cast<std::uint8_t>(take(1)); }
    std::uint16_t u16() { return static_cast<std::uint16_t>(take(2)); }
    std::uint32_t u32() { return static_cast<std::uint32_t>(take(4)); }
    std::span<const std::uint8_t> rest() const {
        return bytes_.subspan(at_ < bytes_.size() ? at_ : bytes_.size());
    }

  private:
    std::uint64_t take(std::size_t bytes) {
        std::uint64_t value = 0;
        for (std::size_t i = 0; i < bytes; ++i, ++at_) {
            value |= std::uint64_t{at_ < bytes_.size() ? bytes_[at_] : std::uint8_t{0}} << (8 * i);
        }
        return value;
    }

    std::span<const std::uint8_t> bytes_;
    std::size_t at_ = 0;
};

inline std::vector<std::span<const std::uint8_t>> steps_of(std::span<const std::uint8_t> script) {
    std::vector<std::span<const std::uint8_t>> steps;
    while (!script.empty()) {
        std::size_t bytes = 1 + operand_bytes(script);
        bytes = bytes < script.size() ? bytes : script.size();
        steps.push_back(script.first(bytes));
        script = script.subspan(bytes);
    }
    return steps;
}

}  // namespace fuzz
