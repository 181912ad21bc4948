// Log pages, except discovery (wire/nvme_fabrics.h).
//
// NVM Express Base 2.0 §5.16 (Get Log Page).
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/nvme.h"

namespace wire {

// Dwords of the Get Log Page command.
namespace log_cdw {
inline constexpr BitField<std::uint32_t, 0, 8> lid;         // dword 10: Log Page Identifier
inline constexpr BitField<std::uint32_t, 8, 7> lsp;         // dword 10: Log Specific Parameter
inline constexpr Bit<std::uint32_t, 15> rae;                // dword 10: Retain Asynchronous Event
inline constexpr BitField<std::uint32_t, 16, 16> numdl;     // dword 10: Number of Dwords Lower, 0's based
inline constexpr BitField<std::uint32_t, 0, 16> numdu;      // dword 11: Number of Dwords Upper
inline constexpr BitField<std::uint32_t, 16, 16> lsi;       // dword 11: Log Specific Identifier
inline constexpr BitField<std::uint32_t, 0, 7> uuid_index;  // dword 14
inline constexpr Bit<std::uint32_t, 23> ot;           // dword 14: Offset Type, 1: index instead of bytes
inline constexpr BitField<std::uint32_t, 24, 8> csi;  // dword 14
}  // namespace log_cdw

// Bytes asked for: up to 16 GiB.
constexpr std::uint64_t log_bytes(std::uint32_t cdw10, std::uint32_t cdw11) {
    const std::uint64_t dwords = (std::uint64_t{log_cdw::numdu.get(cdw11)} << 16) | log_cdw::numdl.get(cdw10);
    return (dwords + 1) * 4;
}

// Log Page Offset, from dwords 12 and 13.
constexpr std::uint64_t log_offset(const Sqe& sqe) {
    return (std::uint64_t{sqe.cdw13.value()} << 32) | sqe.cdw12.value();
}

// Supported Log Pages (00h): one entry per log page identifier.
struct SupportedLogPages {
    le32 lid[256]{};
};
static_assert(sizeof(SupportedLogPages) == 1024);

namespace log_supported {
inline constexpr std::uint32_t lsupp = 1u << 0;  // LID Supported
inline constexpr std::uint32_t ios = 1u << 1;    // Index Offset Supported
inline constexpr BitField<std::uint32_t, 16, 16> lid_specific;
}  // namespace log_supported

// Error Information (01h): one entry, newest first. An entry with an error count of 0 is not valid.
struct ErrorLogEntry {
    le64 error_count;
    le16 sqid;
    le16 cid;
    le16 status_field;              // as in the completion, Phase Tag included
    le16 parameter_error_location;  // byte in bits 7:0, bit in bits 10:8; FFFFh: no particular one
    le64 lba;
    le32 nsid;
    std::uint8_t vendor_specific = 0;
    std::uint8_t trtype = 0;
    std::uint8_t reserved30[2]{};
    le64 command_specific;
    le16 transport_type_specific;
    std::uint8_t reserved42[22]{};
};
static_assert(sizeof(ErrorLogEntry) == 64 && offsetof(ErrorLogEntry, status_field) == 12);
static_assert(offsetof(ErrorLogEntry, lba) == 16 && offsetof(ErrorLogEntry, nsid) == 24);
static_assert(offsetof(ErrorLogEntry, command_specific) == 32);

inline constexpr std::uint16_t parameter_location_none = 0xFFFF;
constexpr std::uint16_t parameter_location(std::uint8_t byte, std::uint8_t bit) {
    return static_cast<std::uint16_t>(byte | ((bit & 0x7) << 8));
}

// A 128-bit counter; only the lower half is ever used here.
struct Counter128 {
    le64 low;
    le64 high;
};
static_assert(sizeof(Counter128) == 16);

// SMART / Health Information (02h).
struct SmartHealth {
    std::uint8_t critical_warning = 0;
    le16 composite_temperature;                  // Kelvin
    std::uint8_t available_spare = 0;            // percent
    std::uint8_t available_spare_threshold = 0;  // percent
    std::uint8_t percentage_used = 0;
    std::uint8_t endurance_group_critical_warning = 0;
    std::uint8_t reserved7[25]{};
    Counter128 data_units_read;  // thousands of 512 bytes, rounded up
    Counter128 data_units_written;
    Counter128 host_read_commands;
    Counter128 host_write_commands;
    Counter128 controller_busy_time;  // minutes
    Counter128 power_cycles;
    Counter128 power_on_hours;
    Counter128 unsafe_shutdowns;
    Counter128 media_errors;
    Counter128 error_log_entries;
    le32 warning_temperature_time;   // minutes
    le32 critical_temperature_time;  // minutes
    le16 temperature_sensor[8]{};    // Kelvin, 0: not there
    le32 thermal_transition_count[2]{};
    le32 thermal_total_time[2]{};  // seconds
    std::uint8_t reserved232[280]{};
};
static_assert(sizeof(SmartHealth) == 512 && offsetof(SmartHealth, composite_temperature) == 1);
static_assert(offsetof(SmartHealth, data_units_read) == 32 && offsetof(SmartHealth, power_cycles) == 112);
static_assert(offsetof(SmartHealth, error_log_entries) == 176 &&
              offsetof(SmartHealth, temperature_sensor) == 200);
static_assert(offsetof(SmartHealth, thermal_total_time) == 224);

namespace critical_warning {
inline constexpr std::uint8_t spare_below_threshold = 1u << 0;
inline constexpr std::uint8_t temperature = 1u << 1;
inline constexpr std::uint8_t reliability_degraded = 1u << 2;
inline constexpr std::uint8_t read_only = 1u << 3;
inline constexpr std::uint8_t volatile_memory_backup_failed = 1u << 4;
inline constexpr std::uint8_t persistent_memory_unreliable = 1u << 5;
}  // namespace critical_warning

// Firmware Slot Information (03h).
struct FirmwareSlotLog {
    std::uint8_t afi = 0;  // active slot in bits 2:0, slot of the next reset in bits 6:4
    std::uint8_t reserved1[7]{};
    char frs[7][8]{};  // revisions of slots 1 to 7, padded with spaces; zeroes where there is none
    std::uint8_t reserved64[448]{};
};
static_assert(sizeof(FirmwareSlotLog) == 512 && offsetof(FirmwareSlotLog, frs) == 8);

// Changed Namespace List (04h): ascending, unused entries 0; a first entry of FFFFFFFFh means more than 1024.
struct ChangedNamespaceList {
    le32 nsid[1024]{};
};
static_assert(sizeof(ChangedNamespaceList) == 4096);

inline constexpr std::uint32_t changed_namespaces_overflow = 0xFFFFFFFF;

// Commands Supported and Effects (05h), one entry per opcode.
struct CommandEffectsLog {
    le32 admin[256]{};
    le32 io[256]{};
    std::uint8_t reserved2048[2048]{};
};
static_assert(sizeof(CommandEffectsLog) == 4096 && offsetof(CommandEffectsLog, io) == 1024);

namespace command_effects {
inline constexpr std::uint32_t csupp = 1u << 0;       // Command Supported
inline constexpr std::uint32_t lbcc = 1u << 1;        // Logical Block Content Change
inline constexpr std::uint32_t ncc = 1u << 2;         // Namespace Capability Change
inline constexpr std::uint32_t nic = 1u << 3;         // Namespace Inventory Change
inline constexpr std::uint32_t ccc = 1u << 4;         // Controller Capability Change
inline constexpr BitField<std::uint32_t, 16, 3> cse;  // Command Submission and Execution
inline constexpr Bit<std::uint32_t, 19> uuid_selection;
inline constexpr BitField<std::uint32_t, 20, 12> csp;   // Command Scope, command_scope bits
inline constexpr std::uint32_t cse_unrestricted = 0;    // values of cse
inline constexpr std::uint32_t cse_same_namespace = 1;  // no other command on the namespace
inline constexpr std::uint32_t cse_any_namespace = 2;   // no other command at all
}  // namespace command_effects

// Scopes in the effects of commands (CSP) and features (FSP).
namespace scope {
inline constexpr std::uint32_t namespace_ = 1u << 0;
inline constexpr std::uint32_t controller = 1u << 1;
inline constexpr std::uint32_t nvm_set = 1u << 2;
inline constexpr std::uint32_t endurance_group = 1u << 3;
inline constexpr std::uint32_t domain = 1u << 4;
inline constexpr std::uint32_t nvm_subsystem = 1u << 5;
}  // namespace scope

// Feature Identifiers Supported and Effects (12h), one entry per feature identifier.
struct FeatureEffectsLog {
    le32 fid[256]{};
};
static_assert(sizeof(FeatureEffectsLog) == 1024);

namespace feature_effects {
inline constexpr std::uint32_t fsupp = 1u << 0;  // FID Supported
inline constexpr std::uint32_t udcc = 1u << 1;   // User Data Content Change
inline constexpr std::uint32_t ncc = 1u << 2;
inline constexpr std::uint32_t nic = 1u << 3;
inline constexpr std::uint32_t ccc = 1u << 4;
inline constexpr Bit<std::uint32_t, 19> uuid_selection;
inline constexpr BitField<std::uint32_t, 20, 12> fsp;  // FID Scope, scope bits
}  // namespace feature_effects

// NVMe-MI Commands Supported and Effects (13h): 256 entries, then reserved.
struct ManagementEffectsLog {
    le32 command[256]{};
    std::uint8_t reserved1024[3072]{};
};
static_assert(sizeof(ManagementEffectsLog) == 4096);

// Asymmetric Namespace Access (0Ch): the header; descriptors follow, each with its namespace ids.
struct AnaLogHeader {
    le64 change_count;
    le16 descriptors;
    std::uint8_t reserved10[6]{};
};
static_assert(sizeof(AnaLogHeader) == 16);

enum class AnaState : std::uint8_t {
    optimized = 0x1,
    non_optimized = 0x2,
    inaccessible = 0x3,
    persistent_loss = 0x4,
    change = 0xF,
};

struct AnaGroupDescriptor {
    le32 anagrpid;
    le32 nsid_count;  // 0 where the host asked for groups only
    le64 change_count;
    std::uint8_t state = 0;  // AnaState in bits 3:0
    std::uint8_t reserved17[15]{};
};
static_assert(sizeof(AnaGroupDescriptor) == 32 && offsetof(AnaGroupDescriptor, state) == 16);

inline constexpr std::uint32_t ana_lsp_groups_only = 1u << 0;  // LSP bit 0: Return Groups Only

}  // namespace wire
