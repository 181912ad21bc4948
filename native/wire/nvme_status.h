// Status codes: Status Code Type and Status Code as one 16-bit value, and the Status Field of a completion.
//
// The lists below are the one place where a code, its identifier and its text meet; the constants in
// `wire::status`, name_of() and the TypeScript values all come from them. The same command-specific codes
// mean different things for Fabrics commands, so those have a list and a name function of their own.
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

// row(value, identifier, text)
#define WIRE_GENERIC_STATUSES(row)                                                                           \
    row(0x000, success, "Successful Completion") row(0x001, invalid_opcode, "Invalid Command Opcode") row(   \
        0x002, invalid_field,                                                                                \
        "Invalid Field in Command") row(0x003, command_id_conflict,                                          \
                                        "Command ID Conflict") row(0x004, data_transfer_error,               \
                                                                   "Data Transfer Error")                    \
        row(0x005, aborted_power_loss, "Commands Aborted due to Power Loss Notification") row(               \
            0x006, internal_error,                                                                           \
            "Internal Error") row(0x007, abort_requested,                                                    \
                                  "Command Abort Requested") row(0x008, aborted_sq_deletion,                 \
                                                                 "Command Aborted due to SQ Deletion")       \
            row(0x009, aborted_failed_fused, "Command Aborted due to Failed Fused Command") row(             \
                0x00A, aborted_missing_fused,                                                                \
                "Command Aborted due to Missing Fused Command") row(0x00B, invalid_namespace_or_format,      \
                                                                    "Invalid Namespace or Format")           \
                row(0x00C, command_sequence_error, "Command Sequence Error") row(                            \
                    0x00D, invalid_sgl_segment_descriptor,                                                   \
                    "Invalid SGL Segment Descriptor") row(0x00E, invalid_sgl_descriptor_count,               \
                                                          "Invalid Number of SGL Descriptors")               \
                    row(0x00F, data_sgl_length_invalid, "Data SGL Length Invalid") row(                      \
                        0x010, metadata_sgl_length_invalid,                                                  \
                        "Metadata SGL Length Invalid") row(0x011, sgl_descriptor_type_invalid,               \
                                                           "SGL Descriptor Type Invalid")                    \
                        row(0x012, invalid_use_of_cmb, "Invalid Use of Controller Memory Buffer") row(       \
                            0x013, prp_offset_invalid,                                                       \
                            "PRP Offset Invalid") row(0x014, atomic_write_unit_exceeded,                     \
                                                      "Atomic Write Unit Exceeded") row(0x015,               \
                                                                                        operation_denied,    \
                                                                                        "Operation Denied")  \
                            row(0x016, sgl_offset_invalid, "SGL Offset Invalid") row(                        \
                                0x018, host_id_inconsistent_format,                                          \
                                "Host Identifier Inconsistent Format") row(0x019, keep_alive_timer_expired,  \
                                                                           "Keep Alive Timer Expired")       \
                                row(0x01A, keep_alive_timeout_invalid, "Keep Alive Timeout Invalid") row(    \
                                    0x01B, aborted_preempt_and_abort,                                        \
                                    "Command Aborted due to Preempt and Abort") row(0x01C, sanitize_failed,  \
                                                                                    "Sanitize Failed")       \
                                    row(0x01D, sanitize_in_progress, "Sanitize In Progress") row(            \
                                        0x01E, sgl_data_block_granularity_invalid,                           \
                                        "SGL Data Block Granularity Invalid")                                \
                                        row(0x01F, command_not_supported_in_cmb,                             \
                                            "Command Not Supported for Queue in CMB")                        \
                                            row(0x020, namespace_write_protected,                            \
                                                "Namespace is Write Protected")                              \
                                                row(0x021, command_interrupted, "Command Interrupted")       \
                                                    row(0x022, transient_transport_error,                    \
                                                        "Transient Transport Error")                         \
                                                        row(0x023, command_prohibited_by_lockdown,           \
                                                            "Command Prohibited by Command and Feature "     \
                                                            "Lockdown") row(0x024,                           \
                                                                            admin_command_media_not_ready,   \
                                                                            "Admin Command Media Not Ready") \
                                                            row(0x080, lba_out_of_range, "LBA Out of Range") \
                                                                row(0x081, capacity_exceeded,                \
                                                                    "Capacity Exceeded")                     \
                                                                    row(0x082, namespace_not_ready,          \
                                                                        "Namespace Not Ready")               \
                                                                        row(0x083, reservation_conflict,     \
                                                                            "Reservation Conflict")          \
                                                                            row(0x084, format_in_progress,   \
                                                                                "Format In Progress")

#define WIRE_COMMAND_SPECIFIC_STATUSES(row)                                                                                \
    row(0x100, completion_queue_invalid, "Completion Queue Invalid") row(                                                  \
        0x101, invalid_queue_identifier,                                                                                   \
        "Invalid Queue Identifier") row(0x102, invalid_queue_size,                                                         \
                                        "Invalid Queue Size") row(0x103, abort_limit_exceeded,                             \
                                                                  "Abort Command Limit Exceeded")                          \
        row(0x105, async_event_limit_exceeded, "Asynchronous Event Request Limit Exceeded") row(                           \
            0x106, invalid_firmware_slot,                                                                                  \
            "Invalid Firmware Slot") row(0x107, invalid_firmware_image,                                                    \
                                         "Invalid Firmware Image") row(0x108, invalid_interrupt_vector,                    \
                                                                       "Invalid Interrupt Vector")                         \
            row(0x109, invalid_log_page, "Invalid Log Page") row(0x10A, invalid_format, "Invalid Format") row(             \
                0x10B, firmware_needs_conventional_reset,                                                                  \
                "Firmware Activation Requires Conventional Reset") row(0x10C, invalid_queue_deletion,                      \
                                                                       "Invalid Queue Deletion") row(0x10D,                \
                                                                                                     feature_not_saveable, \
                                                                                                     "Featu"               \
                                                                                                     "re "                 \
                                                                                                     "Ident"               \
                                                                                                     "ifier"               \
                                                                                                     " Not "               \
                                                                                                     "Savea"               \
                                                                                                     "ble")                \
                row(0x10E, feature_not_changeable, "Feature Not Changeable") row(                                          \
                    0x10F, feature_not_namespace_specific,                                                                 \
                    "Feature Not Namespace Specific") row(0x110, firmware_needs_subsystem_reset,                           \
                                                          "Firmware Activation Requires NVM Subsystem "                    \
                                                          "Reset") row(0x111,                                              \
                                                                       firmware_needs_controller_reset,                    \
                                                                       "Firmware Activation Requires "                     \
                                                                       "Controller Level Reset")                           \
                    row(0x112, firmware_needs_maximum_time_violation,                                                      \
                        "Firmware Activation Requires Maximum Time Violation")                                             \
                        row(0x113, firmware_activation_prohibited, "Firmware Activation Prohibited") row(                  \
                            0x114, overlapping_range,                                                                      \
                            "Overlapping Range") row(0x115, namespace_insufficient_capacity,                               \
                                                     "Namespace Insufficient Capacity")                                    \
                            row(0x116, namespace_identifier_unavailable, "Namespace Identifier Unavailable") row(          \
                                0x118, namespace_already_attached,                                                         \
                                "Namespace Already Attached") row(0x119, namespace_is_private,                             \
                                                                  "Namespace Is Private")                                  \
                                row(0x11A, namespace_not_attached, "Namespace Not Attached") row(                          \
                                    0x11B, thin_provisioning_not_supported,                                                \
                                    "Thin Provisioning Not Supported") row(0x11C, controller_list_invalid,                 \
                                                                           "Controller List Invalid")                      \
                                    row(0x11D, self_test_in_progress, "Device Self-test In Progress") row(                 \
                                        0x11E, boot_partition_write_prohibited,                                            \
                                        "Boot Partition Write Prohibited") row(0x11F,                                      \
                                                                               invalid_controller_identifier,              \
                                                                               "Invalid Controller "                       \
                                                                               "Identifier")                               \
                                        row(0x120, invalid_secondary_controller_state,                                     \
                                            "Invalid Secondary Controller State") row(0x121,                               \
                                                                                      invalid_controller_resource_count,   \
                                                                                      "Invalid Number of "                 \
                                                                                      "Controller "                        \
                                                                                      "Resources")                         \
                                            row(0x122, invalid_resource_identifier,                                        \
                                                "Invalid Resource Identifier")                                             \
                                                row(0x123, sanitize_prohibited_pmr,                                        \
                                                    "Sanitize Prohibited While Persistent Memory Region is "               \
                                                    "Enabled") row(0x124, ana_group_identifier_invalid,                    \
                                                                   "ANA Group Identifier Invalid")                         \
                                                    row(0x125, ana_attach_failed, "ANA Attach Failed") row(                \
                                                        0x126, insufficient_capacity,                                      \
                                                        "Insufficient Capacity")                                           \
                                                        row(0x127, namespace_attachment_limit_exceeded,                    \
                                                            "Namespace Attachment Limit Exceeded")                         \
                                                            row(0x128, prohibition_not_supported,                          \
                                                                "Prohibition of Command Execution Not "                    \
                                                                "Supported") row(0x129,                                    \
                                                                                 io_command_set_not_supported,             \
                                                                                 "I/O Command Set Not "                    \
                                                                                 "Supported")                              \
                                                                row(0x12A, io_command_set_not_enabled,                     \
                                                                    "I/O Command Set Not Enabled")                         \
                                                                    row(0x12B,                                             \
                                                                        io_command_set_combination_rejected,               \
                                                                        "I/O Command Set Combination "                     \
                                                                        "Rejected") row(0x12C,                             \
                                                                                        invalid_io_command_set,            \
                                                                                        "Invalid I/O "                     \
                                                                                        "Command Set")                     \
                                                                        row(0x12D, identifier_unavailable,                 \
                                                                            "Identifier Unavailable")                      \
                                                                            row(0x180,                                     \
                                                                                conflicting_attributes,                    \
                                                                                "Conflicting Attributes")                  \
                                                                                row(0x181,                                 \
                                                                                    invalid_protection_information,        \
                                                                                    "Invalid Protection "                  \
                                                                                    "Information")                         \
                                                                                    row(0x182,                             \
                                                                                        write_to_read_only_range,          \
                                                                                        "Attempted Write "                 \
                                                                                        "to Read Only "                    \
                                                                                        "Range")                           \
                                                                                        row(0x183,                         \
                                                                                            command_size_limit_exceeded,   \
                                                                                            "Command Size "                \
                                                                                            "Limit "                       \
                                                                                            "Exceeded")

#define WIRE_FABRICS_STATUSES(row)                                                 \
    row(0x180, connect_incompatible_format, "Connect Incompatible Format")         \
        row(0x181, connect_controller_busy, "Connect Controller Busy")             \
            row(0x182, connect_invalid_parameters, "Connect Invalid Parameters")   \
                row(0x183, connect_restart_discovery, "Connect Restart Discovery") \
                    row(0x184, connect_invalid_host, "Connect Invalid Host")       \
                        row(0x185, invalid_queue_type, "Invalid Queue Type")       \
                            row(0x190, discover_restart, "Discover Restart")       \
                                row(0x191, authentication_required, "Authentication Required")

#define WIRE_MEDIA_STATUSES(row)                                                                          \
    row(0x280, write_fault, "Write Fault") row(0x281, unrecovered_read_error, "Unrecovered Read Error")   \
        row(0x282, guard_check_error, "End-to-end Guard Check Error")                                     \
            row(0x283, application_tag_check_error, "End-to-end Application Tag Check Error")             \
                row(0x284, reference_tag_check_error, "End-to-end Reference Tag Check Error") row(        \
                    0x285, compare_failure, "Compare Failure") row(0x286, access_denied, "Access Denied") \
                    row(0x287, deallocated_or_unwritten_block, "Deallocated or Unwritten Logical Block")  \
                        row(0x288, storage_tag_check_error, "End-to-End Storage Tag Check Error")

#define WIRE_PATH_STATUSES(row)                                                      \
    row(0x300, internal_path_error, "Internal Path Error")                           \
        row(0x301, ana_persistent_loss, "Asymmetric Access Persistent Loss")         \
            row(0x302, ana_inaccessible, "Asymmetric Access Inaccessible")           \
                row(0x303, ana_transition, "Asymmetric Access Transition")           \
                    row(0x360, controller_pathing_error, "Controller Pathing Error") \
                        row(0x370, host_pathing_error, "Host Pathing Error")         \
                            row(0x371, aborted_by_host, "Command Aborted By Host")

namespace status {

#define WIRE_DECLARE_STATUS(number, identifier, text) inline constexpr Status identifier{number};
WIRE_GENERIC_STATUSES(WIRE_DECLARE_STATUS)
WIRE_COMMAND_SPECIFIC_STATUSES(WIRE_DECLARE_STATUS)
WIRE_FABRICS_STATUSES(WIRE_DECLARE_STATUS)
WIRE_MEDIA_STATUSES(WIRE_DECLARE_STATUS)
WIRE_PATH_STATUSES(WIRE_DECLARE_STATUS)
#undef WIRE_DECLARE_STATUS

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
