// Controller properties: offsets and layouts.
//
// Over Fabrics they are read and written with Property Get and Property Set, never mapped; of the
// memory-based ones only those of the message-based transport model exist.
//
// NVM Express Base 2.0 §3.1.3 (properties), §3.1.4.1.
#pragma once

#include <cstdint>

#include "wire/bit_field.h"

namespace wire {

namespace property {
inline constexpr std::uint32_t cap = 0x00;   // Controller Capabilities, 8 bytes
inline constexpr std::uint32_t vs = 0x08;    // Version
inline constexpr std::uint32_t cc = 0x14;    // Controller Configuration
inline constexpr std::uint32_t csts = 0x1C;  // Controller Status
inline constexpr std::uint32_t nssr = 0x20;  // NVM Subsystem Reset
inline constexpr std::uint32_t nssd = 0x64;  // NVM Subsystem Shutdown
inline constexpr std::uint32_t crto = 0x68;  // Controller Ready Timeouts
}  // namespace property

// Controller Capabilities (CAP), 64 bits.
namespace cap {
inline constexpr BitField<std::uint64_t, 0, 16> mqes;    // Maximum Queue Entries Supported, 0's based
inline constexpr Bit<std::uint64_t, 16> cqr;             // Contiguous Queues Required: 1 over Fabrics
inline constexpr BitField<std::uint64_t, 17, 2> ams;     // Arbitration Mechanism Supported
inline constexpr BitField<std::uint64_t, 24, 8> to;      // Timeout, in 500 ms
inline constexpr BitField<std::uint64_t, 32, 4> dstrd;   // Doorbell Stride: 0 over Fabrics
inline constexpr Bit<std::uint64_t, 36> nssrs;           // NVM Subsystem Reset Supported
inline constexpr BitField<std::uint64_t, 37, 8> css;     // Command Sets Supported
inline constexpr Bit<std::uint64_t, 45> bps;             // Boot Partition Support
inline constexpr BitField<std::uint64_t, 46, 2> cps;     // Controller Power Scope
inline constexpr BitField<std::uint64_t, 48, 4> mpsmin;  // Memory Page Size Minimum, 2^(12 + n)
inline constexpr BitField<std::uint64_t, 52, 4> mpsmax;  // Memory Page Size Maximum, 2^(12 + n)
inline constexpr Bit<std::uint64_t, 56> pmrs;            // Persistent Memory Region Supported
inline constexpr Bit<std::uint64_t, 57> cmbs;            // Controller Memory Buffer Supported
inline constexpr Bit<std::uint64_t, 58> nsss;            // NVM Subsystem Shutdown Supported
inline constexpr Bit<std::uint64_t, 59> crwms;           // Controller Ready With Media Support
inline constexpr Bit<std::uint64_t, 60> crims;           // Controller Ready Independent of Media Support

inline constexpr std::uint64_t css_nvm = 1u << 0;  // values inside css: the NVM Command Set
inline constexpr std::uint64_t css_io_command_sets =
    1u << 6;  // one or more I/O command sets, chosen by CC.CSS 110b
inline constexpr std::uint64_t css_admin_only = 1u << 7;  // no I/O command set
}  // namespace cap

// Version (VS).
constexpr std::uint32_t version(std::uint32_t major, std::uint32_t minor, std::uint32_t tertiary) {
    return (major << 16) | (minor << 8) | tertiary;
}

// Controller Configuration (CC), 32 bits.
namespace cc {
inline constexpr Bit<std::uint32_t, 0> en;               // Enable
inline constexpr BitField<std::uint32_t, 4, 3> css;      // I/O Command Set Selected
inline constexpr BitField<std::uint32_t, 7, 4> mps;      // Memory Page Size, 2^(12 + n)
inline constexpr BitField<std::uint32_t, 11, 3> ams;     // Arbitration Mechanism Selected
inline constexpr BitField<std::uint32_t, 14, 2> shn;     // Shutdown Notification
inline constexpr BitField<std::uint32_t, 16, 4> iosqes;  // I/O Submission Queue Entry Size, 2^n
inline constexpr BitField<std::uint32_t, 20, 4> iocqes;  // I/O Completion Queue Entry Size, 2^n
inline constexpr Bit<std::uint32_t, 24> crime;           // Controller Ready Independent of Media Enable

inline constexpr std::uint32_t css_nvm = 0;  // values of css
inline constexpr std::uint32_t css_all_supported =
    6;  // all supported I/O command sets, by I/O Command Set Profile
inline constexpr std::uint32_t css_admin_only = 7;
inline constexpr std::uint32_t shn_none = 0;  // values of shn
inline constexpr std::uint32_t shn_normal = 1;
inline constexpr std::uint32_t shn_abrupt = 2;
}  // namespace cc

// Controller Status (CSTS), 32 bits.
namespace csts {
inline constexpr Bit<std::uint32_t, 0> rdy;           // Ready
inline constexpr Bit<std::uint32_t, 1> cfs;           // Controller Fatal Status
inline constexpr BitField<std::uint32_t, 2, 2> shst;  // Shutdown Status
inline constexpr Bit<std::uint32_t, 4> nssro;         // NVM Subsystem Reset Occurred
inline constexpr Bit<std::uint32_t, 5> pp;            // Processing Paused
inline constexpr Bit<std::uint32_t, 6> st;            // Shutdown Type

inline constexpr std::uint32_t shst_normal_operation = 0;  // values of shst
inline constexpr std::uint32_t shst_occurring = 1;
inline constexpr std::uint32_t shst_complete = 2;
}  // namespace csts

// Controller Ready Timeouts (CRTO), 32 bits, both in 500 ms.
namespace crto {
inline constexpr BitField<std::uint32_t, 0, 16> crwmt;   // Controller Ready With Media Timeout
inline constexpr BitField<std::uint32_t, 16, 16> crimt;  // Controller Ready Independent of Media Timeout
}  // namespace crto

// The value of NSSR that requests an NVM Subsystem Reset ("NVMe").
inline constexpr std::uint32_t nssr_reset_signature = 0x4E564D65;

static_assert(cap::crims.mask == 1ull << 60 && cc::iocqes.mask == 0x00F00000 && csts::shst.mask == 0x0C);

}  // namespace wire
