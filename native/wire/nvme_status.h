// Status codes: Status Code Type and Status Code as one 16-bit value, and the Status Field of a completion.
//
// The codes themselves are in wire/nvme_status.def, from which the constants in `wire::status`, name_of() and
// the TypeScript values come. The same command-specific codes mean different things for Fabrics commands, so
// those have a name function of their own.
//
// NVM Express Base 2.0 §3.3.3.2.1 (status), §6 (Fabrics commands); NVM Command Set 1.0 §3.1.2.1.
#pragma once

#include <cstdint>

#include "wire/bit_field.h"

namespace wire {

// Status Code Type in bits 10:8, Status Code in bits 7:0. Do Not Retry is a property of one completion and
// not of the code: see status_field().
struct Status {
    std::uint16_t value = 0;

    constexpr std::uint8_t sct() const { return static_cast<std::uint8_t>((value >> 8) & 0x7); }
    constexpr std::uint8_t sc() const { return static_cast<std::uint8_t>(value & 0xFF); }
    constexpr bool ok() const { return value == 0; }
    friend constexpr bool operator==(Status, Status) = default;
};

// Status Code Types.
enum class StatusType : std::uint8_t {
    generic = 0,
    command_specific = 1,
    media_and_data_integrity = 2,
    path_related = 3,
    vendor_specific = 7,
};

namespace status {

#define WIRE_GENERIC_STATUS(number, identifier, text) inline constexpr Status identifier{number};
#define WIRE_COMMAND_STATUS(number, identifier, text) inline constexpr Status identifier{number};
#define WIRE_FABRICS_STATUS(number, identifier, text) inline constexpr Status identifier{number};
#define WIRE_MEDIA_STATUS(number, identifier, text) inline constexpr Status identifier{number};
#define WIRE_PATH_STATUS(number, identifier, text) inline constexpr Status identifier{number};
#include "wire/nvme_status.def"

}  // namespace status

// The Status Field of a completion (dword 3, bits 31:16): Phase Tag, Status Code, Status Code Type, Command
// Retry Delay, More, Do Not Retry. The Phase Tag is reserved over Fabrics and stays 0.
namespace status_bits {
inline constexpr BitField<std::uint16_t, 1, 11> code;
inline constexpr BitField<std::uint16_t, 12, 2> command_retry_delay;
inline constexpr Bit<std::uint16_t, 14> more;
inline constexpr Bit<std::uint16_t, 15> do_not_retry;
}  // namespace status_bits

// `crd` selects one of Identify Controller's CRDT1..3 (0: no delay); it has a meaning only without `dnr`.
constexpr std::uint16_t status_field(Status status, bool dnr, std::uint8_t crd = 0, bool more = false) {
    return static_cast<std::uint16_t>(
        status_bits::code.put(status.value) | status_bits::command_retry_delay.put(crd) |
        status_bits::more.put(more ? 1 : 0) | status_bits::do_not_retry.put(dnr ? 1 : 0));
}

constexpr Status status_of(std::uint16_t field) { return Status{status_bits::code.get(field)}; }

// The standard's words for a status of a command that is not a Fabrics command; nullptr for codes not listed.
const char* name_of(Status status);
// The same for a Fabrics command (opcode 7Fh).
const char* name_of_fabrics(Status status);

static_assert(sizeof(Status) == 2);

}  // namespace wire
