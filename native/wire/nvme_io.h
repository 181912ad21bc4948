// Fields of I/O commands and of features.
//
// NVM Command Set 1.0 §3.2 (commands), §4.1.3 (features); NVM Express Base 2.0 §5.14, §5.27 (Get and Set
// Features).
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/nvme.h"

namespace wire {

// Starting LBA of Compare, Read, Verify, Write, Write Uncorrectable and Write Zeroes; the destination of
// Copy.
constexpr std::uint64_t starting_lba(const Sqe& sqe) {
    return (std::uint64_t{sqe.cdw11.value()} << 32) | sqe.cdw10.value();
}

constexpr void set_starting_lba(Sqe& sqe, std::uint64_t lba) {
    sqe.cdw10 = static_cast<std::uint32_t>(lba);
    sqe.cdw11 = static_cast<std::uint32_t>(lba >> 32);
}

// Dword 12 of Compare, Read, Verify, Write, Write Uncorrectable and Write Zeroes.
namespace io_cdw12 {
inline constexpr BitField<std::uint32_t, 0, 16> nlb;     // Number of Logical Blocks, 0's based
inline constexpr BitField<std::uint32_t, 20, 4> dtype;   // Directive Type (Write, Write Zeroes in part)
inline constexpr Bit<std::uint32_t, 24> stc;             // Storage Tag Check
inline constexpr Bit<std::uint32_t, 25> deac;            // Deallocate (Write Zeroes)
inline constexpr BitField<std::uint32_t, 26, 4> prinfo;  // Protection Information: PRACT, PRCHK
inline constexpr Bit<std::uint32_t, 30> fua;             // Force Unit Access
inline constexpr Bit<std::uint32_t, 31> lr;              // Limited Retry
}  // namespace io_cdw12

// Logical blocks of such a command, at least 1 and at most 65536.
constexpr std::uint32_t logical_blocks(const Sqe& sqe) { return io_cdw12::nlb.get(sqe.cdw12) + 1; }

// Dword 13 of Read and Write.
namespace io_cdw13 {
inline constexpr BitField<std::uint32_t, 0, 8> dsm;      // Dataset Management hints
inline constexpr BitField<std::uint32_t, 16, 16> dspec;  // Directive Specific (Write)
}  // namespace io_cdw13

// Dataset Management.
namespace dsm_cdw {
inline constexpr BitField<std::uint32_t, 0, 8> nr;  // dword 10: Number of Ranges, 0's based
inline constexpr Bit<std::uint32_t, 0> idr;         // dword 11: Integral Dataset for Read
inline constexpr Bit<std::uint32_t, 1> idw;         // dword 11: Integral Dataset for Write
inline constexpr Bit<std::uint32_t, 2> ad;          // dword 11: Deallocate
}  // namespace dsm_cdw

struct DsmRange {
    le32 context_attributes;
    le32 nlb;  // not 0's based; 0 is an empty range
    le64 slba;
};
static_assert(sizeof(DsmRange) == 16);

// Copy.
namespace copy_cdw12 {
inline constexpr BitField<std::uint32_t, 0, 8> nr;        // Number of Ranges, 0's based
inline constexpr BitField<std::uint32_t, 8, 4> desfmt;    // Descriptor Format
inline constexpr BitField<std::uint32_t, 12, 4> prinfor;  // Protection Information of the read
inline constexpr BitField<std::uint32_t, 20, 4> dtype;
inline constexpr Bit<std::uint32_t, 24> stcw;             // Storage Tag Check of the write
inline constexpr Bit<std::uint32_t, 25> stcr;             // Storage Tag Check of the read
inline constexpr BitField<std::uint32_t, 26, 4> prinfow;  // Protection Information of the write
inline constexpr Bit<std::uint32_t, 30> fua;
inline constexpr Bit<std::uint32_t, 31> lr;
}  // namespace copy_cdw12

// Source range, descriptor format 0h.
struct CopyRange {
    std::uint8_t reserved0[8]{};
    le64 slba;
    le16 nlb;  // 0's based
    std::uint8_t reserved18[6]{};
    le32 eilbrt;
    le16 elbat;
    le16 elbatm;
};
static_assert(sizeof(CopyRange) == 32 && offsetof(CopyRange, slba) == 8 && offsetof(CopyRange, nlb) == 16);
static_assert(offsetof(CopyRange, eilbrt) == 24);

// Get Features and Set Features.
namespace feature_cdw {
inline constexpr BitField<std::uint32_t, 0, 8> fid;         // dword 10
inline constexpr BitField<std::uint32_t, 8, 3> sel;         // dword 10, Get Features
inline constexpr Bit<std::uint32_t, 31> sv;                 // dword 10, Set Features: Save
inline constexpr BitField<std::uint32_t, 0, 7> uuid_index;  // dword 14
}  // namespace feature_cdw

enum class FeatureSelect : std::uint8_t {
    current = 0,
    default_value = 1,
    saved = 2,
    supported_capabilities = 3
};

// Dword 0 of Get Features with Select 011b.
namespace feature_capabilities {
inline constexpr std::uint32_t saveable = 1u << 0;
inline constexpr std::uint32_t namespace_specific = 1u << 1;
inline constexpr std::uint32_t changeable = 1u << 2;
}  // namespace feature_capabilities

// Values of the features: dword 11 of Set Features, dword 0 of the completion of Get Features.
namespace feature_arbitration {
inline constexpr BitField<std::uint32_t, 0, 3> burst;                // 2^n commands, 7: no limit
inline constexpr BitField<std::uint32_t, 8, 8> low_priority_weight;  // 0's based
inline constexpr BitField<std::uint32_t, 16, 8> medium_priority_weight;
inline constexpr BitField<std::uint32_t, 24, 8> high_priority_weight;
}  // namespace feature_arbitration

namespace feature_power_management {
inline constexpr BitField<std::uint32_t, 0, 5> power_state;
inline constexpr BitField<std::uint32_t, 5, 3> workload_hint;
}  // namespace feature_power_management

namespace feature_temperature_threshold {
inline constexpr BitField<std::uint32_t, 0, 16> tmpth;  // Kelvin
inline constexpr BitField<std::uint32_t, 16, 4>
    tmpsel;  // 0: composite, 1 to 8: sensors, 15: all (Set Features)
inline constexpr BitField<std::uint32_t, 20, 2> thsel;  // 0: over, 1: under temperature
inline constexpr std::uint32_t tmpsel_composite = 0;
inline constexpr std::uint32_t tmpsel_all = 15;
inline constexpr std::uint32_t thsel_over = 0;
inline constexpr std::uint32_t thsel_under = 1;
}  // namespace feature_temperature_threshold

namespace feature_error_recovery {
inline constexpr BitField<std::uint32_t, 0, 16> tler;  // Time Limited Error Recovery, 100 ms
inline constexpr Bit<std::uint32_t, 16> dulbe;         // Deallocated or Unwritten Logical Block Error Enable
}  // namespace feature_error_recovery

namespace feature_volatile_write_cache {
inline constexpr Bit<std::uint32_t, 0> wce;
}  // namespace feature_volatile_write_cache

namespace feature_number_of_queues {                    // both 0's based
inline constexpr BitField<std::uint32_t, 0, 16> nsqr;   // submission queues requested, or allocated
inline constexpr BitField<std::uint32_t, 16, 16> ncqr;  // completion queues
inline constexpr std::uint32_t count_max = 0xFFFE;      // FFFFh is an invalid field
}  // namespace feature_number_of_queues

namespace feature_write_atomicity {
inline constexpr Bit<std::uint32_t, 0> dn;  // Disable Normal
}  // namespace feature_write_atomicity

// Asynchronous Event Configuration (0Bh): async_events in wire/nvme_identify.h.

// Keep Alive Timer (0Fh): the whole dword is KATO in milliseconds.

namespace feature_io_command_set_profile {
inline constexpr BitField<std::uint32_t, 0, 9> iocsci;  // index into CommandSetCombinations
}  // namespace feature_io_command_set_profile

namespace feature_host_identifier {
inline constexpr Bit<std::uint32_t, 0> exhid;  // 1: 128 bits (always so over Fabrics)
inline constexpr std::size_t bytes_extended = 16;
inline constexpr std::size_t bytes_short = 8;
}  // namespace feature_host_identifier

enum class WriteProtectState : std::uint8_t {  // feature 84h, bits 2:0
    none = 0,
    write_protect = 1,
    until_power_cycle = 2,
    permanent = 3,
};

namespace feature_write_protect {
inline constexpr BitField<std::uint32_t, 0, 3> state;
}  // namespace feature_write_protect

// Timestamp (0Eh), data of Get Features and Set Features.
struct TimestampData {
    std::uint8_t milliseconds[6]{};  // since the epoch, little-endian
    std::uint8_t attributes = 0;     // bit 0 Synch, bits 3:1 Timestamp Origin
    std::uint8_t reserved7 = 0;

    constexpr std::uint64_t value() const {
        std::uint64_t result = 0;
        for (unsigned i = 0; i < sizeof(milliseconds); ++i) {
            result |= std::uint64_t{milliseconds[i]} << (8 * i);
        }
        return result;
    }
    constexpr void set_value(std::uint64_t value_ms) {
        for (unsigned i = 0; i < sizeof(milliseconds); ++i) {
            milliseconds[i] = static_cast<std::uint8_t>(value_ms >> (8 * i));
        }
    }
};
static_assert(sizeof(TimestampData) == 8 && offsetof(TimestampData, attributes) == 6);

namespace timestamp_attributes {
inline constexpr Bit<std::uint8_t, 0> synch;  // the timer may have stopped
inline constexpr BitField<std::uint8_t, 1, 3> origin;
inline constexpr std::uint8_t origin_cleared = 0;       // values of origin: by a Controller Level Reset
inline constexpr std::uint8_t origin_set_features = 1;  // by Set Features
}  // namespace timestamp_attributes

// Host Behavior Support (16h), data of Get Features and Set Features. All fields are 0 or 1.
struct HostBehavior {
    std::uint8_t acre = 0;    // Advanced Command Retry Enable
    std::uint8_t etdas = 0;   // Extended Telemetry Data Area 4 Supported
    std::uint8_t lbafee = 0;  // LBA Format Extension Enable
    std::uint8_t reserved3[509]{};
};
static_assert(sizeof(HostBehavior) == 512);

// Abort: dword 10, and dword 0 of the completion.
namespace abort_cdw10 {
inline constexpr BitField<std::uint32_t, 0, 16> sqid;
inline constexpr BitField<std::uint32_t, 16, 16> cid;
}  // namespace abort_cdw10

inline constexpr std::uint32_t abort_not_aborted = 1u << 0;  // dword 0: the command was not aborted

}  // namespace wire
