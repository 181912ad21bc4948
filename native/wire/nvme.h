// Submission and completion queue entries, opcodes and identifiers shared by all transports.
//
// Structures here are exactly the bytes on the wire (alignment 1, little-endian fields): memory received from
// a peer may be viewed as one of them, and none of their fields has been checked.
//
// NVM Express Base 2.0 §3.3.3 (queue entries), §4.1.2 (SGL), §5 (admin), §6 (Fabrics); NVM Command Set 1.0
// §3.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/byte_order.h"
#include "wire/bit_field.h"
#include "wire/nvme_properties.h"
#include "wire/nvme_status.h"

namespace wire {

using base::le16;
using base::le32;
using base::le64;

inline constexpr std::uint32_t nsid_none = 0;
inline constexpr std::uint32_t nsid_broadcast = 0xFFFFFFFF;
inline constexpr std::uint16_t cid_none = 0xFFFF;  // not a command: Error Information log, Abort

// SGL descriptor types (high nibble of the SGL Identifier) and sub types (low nibble).
enum class SglType : std::uint8_t {
    data_block = 0x0,
    bit_bucket = 0x1,
    segment = 0x2,
    last_segment = 0x3,
    keyed_data_block = 0x4,
    transport_data_block = 0x5,
    vendor_specific = 0xF,
};

enum class SglSubtype : std::uint8_t {
    address = 0x0,
    offset = 0x1,
    transport = 0xA,
};

// The two SGL Identifiers that NVMe/TCP allows in a command.
inline constexpr std::uint8_t sgl_in_capsule = 0x01;  // data block with offset: the data is in the capsule
inline constexpr std::uint8_t sgl_transport =
    0x5A;  // transport data block: the data comes or goes in data PDUs

struct Sgl {
    le64 address;  // for sgl_in_capsule the offset from ICDOFF, for sgl_transport 0
    le32 length;   // bytes
    std::uint8_t reserved[3]{};
    std::uint8_t identifier = 0;

    constexpr SglType type() const { return static_cast<SglType>(identifier >> 4); }
    constexpr SglSubtype subtype() const { return static_cast<SglSubtype>(identifier & 0x0F); }
};
static_assert(sizeof(Sgl) == 16 && offsetof(Sgl, length) == 8 && offsetof(Sgl, identifier) == 15);

enum class Fuse : std::uint8_t { normal = 0, first = 1, second = 2, reserved = 3 };
enum class Psdt : std::uint8_t {
    prp = 0,
    sgl_contiguous_metadata = 1,
    sgl_metadata_segment = 2,
    reserved = 3
};

// Submission Queue Entry, common command format.
struct Sqe {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;  // FUSE in bits 1:0, PSDT in bits 7:6
    le16 cid;
    le32 nsid;  // byte 0 is FCTYPE in a Fabrics command
    le32 cdw2;
    le32 cdw3;
    le64 mptr;
    Sgl dptr;
    le32 cdw10;
    le32 cdw11;
    le32 cdw12;
    le32 cdw13;
    le32 cdw14;
    le32 cdw15;

    constexpr Fuse fuse() const { return static_cast<Fuse>(flags & 0x3); }
    constexpr Psdt psdt() const { return static_cast<Psdt>(flags >> 6); }
    constexpr std::uint8_t fctype() const { return static_cast<std::uint8_t>(nsid.value() & 0xFF); }
};
static_assert(sizeof(Sqe) == 64 && alignof(Sqe) == 1 && offsetof(Sqe, nsid) == 4 &&
              offsetof(Sqe, mptr) == 16);
static_assert(offsetof(Sqe, dptr) == 24 && offsetof(Sqe, cdw10) == 40 && offsetof(Sqe, cdw15) == 60);

constexpr std::uint8_t sqe_flags(Fuse fuse, Psdt psdt) {
    return static_cast<std::uint8_t>(static_cast<std::uint8_t>(fuse) |
                                     (static_cast<std::uint8_t>(psdt) << 6));
}

// Completion Queue Entry.
struct Cqe {
    le32 dw0;
    le32 dw1;
    le16 sqhd;  // reserved where SQ flow control is disabled
    le16 sqid;  // reserved over Fabrics
    le16 cid;
    le16 status;  // status_field()

    constexpr std::uint64_t dw01() const { return (std::uint64_t{dw1.value()} << 32) | dw0.value(); }
    constexpr void set_dw01(std::uint64_t value) {
        dw0 = static_cast<std::uint32_t>(value);
        dw1 = static_cast<std::uint32_t>(value >> 32);
    }
};
static_assert(sizeof(Cqe) == 16 && alignof(Cqe) == 1 && offsetof(Cqe, sqhd) == 8 &&
              offsetof(Cqe, status) == 14);

// Bits 1:0 of every opcode: who transfers data.
enum class DataDirection : std::uint8_t { none = 0, to_controller = 1, from_controller = 2, both = 3 };

// Not for Fabrics commands, whose direction is in FCTYPE instead (the function takes either byte).
constexpr DataDirection data_direction(std::uint8_t opcode) {
    return static_cast<DataDirection>(opcode & 0x3);
}

enum class AdminOpcode : std::uint8_t {
    delete_io_sq = 0x00,
    create_io_sq = 0x01,
    get_log_page = 0x02,
    delete_io_cq = 0x04,
    create_io_cq = 0x05,
    identify = 0x06,
    abort = 0x08,
    set_features = 0x09,
    get_features = 0x0A,
    async_event_request = 0x0C,
    namespace_management = 0x0D,
    firmware_commit = 0x10,
    firmware_image_download = 0x11,
    device_self_test = 0x14,
    namespace_attachment = 0x15,
    keep_alive = 0x18,
    directive_send = 0x19,
    directive_receive = 0x1A,
    virtualization_management = 0x1C,
    nvme_mi_send = 0x1D,
    nvme_mi_receive = 0x1E,
    capacity_management = 0x20,
    lockdown = 0x24,
    doorbell_buffer_config = 0x7C,
    fabrics = 0x7F,
    format_nvm = 0x80,
    security_send = 0x81,
    security_receive = 0x82,
    sanitize = 0x84,
    get_lba_status = 0x86,
};

enum class IoOpcode : std::uint8_t {
    flush = 0x00,
    write = 0x01,
    read = 0x02,
    write_uncorrectable = 0x04,
    compare = 0x05,
    write_zeroes = 0x08,
    dataset_management = 0x09,
    verify = 0x0C,
    reservation_register = 0x0D,
    reservation_report = 0x0E,
    reservation_acquire = 0x11,
    reservation_release = 0x15,
    copy = 0x19,
    fabrics = 0x7F,
};

// Fabrics Command Type.
enum class FabricsType : std::uint8_t {
    property_set = 0x00,
    connect = 0x01,
    property_get = 0x04,
    authentication_send = 0x05,
    authentication_receive = 0x06,
    disconnect = 0x08,
};

enum class LogPage : std::uint8_t {
    supported_log_pages = 0x00,
    error_information = 0x01,
    smart_health = 0x02,
    firmware_slot = 0x03,
    changed_namespace_list = 0x04,
    commands_supported_and_effects = 0x05,
    device_self_test = 0x06,
    telemetry_host_initiated = 0x07,
    telemetry_controller_initiated = 0x08,
    endurance_group = 0x09,
    predictable_latency_per_nvm_set = 0x0A,
    predictable_latency_event_aggregate = 0x0B,
    asymmetric_namespace_access = 0x0C,
    persistent_event_log = 0x0D,
    lba_status = 0x0E,
    endurance_group_event_aggregate = 0x0F,
    media_unit_status = 0x10,
    supported_capacity_configuration_list = 0x11,
    feature_identifiers_supported_and_effects = 0x12,
    nvme_mi_commands_supported_and_effects = 0x13,
    command_and_feature_lockdown = 0x14,
    boot_partition = 0x15,
    rotational_media = 0x16,
    discovery = 0x70,
    reservation_notification = 0x80,
    sanitize_status = 0x81,
};

enum class FeatureId : std::uint8_t {
    arbitration = 0x01,
    power_management = 0x02,
    lba_range_type = 0x03,
    temperature_threshold = 0x04,
    error_recovery = 0x05,
    volatile_write_cache = 0x06,
    number_of_queues = 0x07,
    interrupt_coalescing = 0x08,
    interrupt_vector_configuration = 0x09,
    write_atomicity_normal = 0x0A,
    async_event_configuration = 0x0B,
    autonomous_power_state_transition = 0x0C,
    host_memory_buffer = 0x0D,
    timestamp = 0x0E,
    keep_alive_timer = 0x0F,
    host_controlled_thermal_management = 0x10,
    non_operational_power_state_config = 0x11,
    read_recovery_level_config = 0x12,
    predictable_latency_mode_config = 0x13,
    predictable_latency_mode_window = 0x14,
    lba_status_information_attributes = 0x15,
    host_behavior_support = 0x16,
    sanitize_config = 0x17,
    endurance_group_event_configuration = 0x18,
    io_command_set_profile = 0x19,
    spinup_control = 0x1A,
    enhanced_controller_metadata = 0x7D,
    controller_metadata = 0x7E,
    namespace_metadata = 0x7F,
    software_progress_marker = 0x80,
    host_identifier = 0x81,
    reservation_notification_mask = 0x82,
    reservation_persistence = 0x83,
    namespace_write_protection = 0x84,
};

// Controller or Namespace Structure of an Identify command.
enum class Cns : std::uint8_t {
    identify_namespace = 0x00,
    identify_controller = 0x01,
    active_namespace_list = 0x02,
    namespace_identification_descriptors = 0x03,
    nvm_set_list = 0x04,
    command_set_namespace = 0x05,
    command_set_controller = 0x06,
    command_set_active_namespace_list = 0x07,
    command_set_independent_namespace = 0x08,
    namespace_format = 0x09,              // with a User Data Format index, capabilities of a format
    command_set_namespace_format = 0x0A,  // the same, specific to an I/O command set
    allocated_namespace_list = 0x10,
    allocated_namespace = 0x11,
    namespace_attached_controller_list = 0x12,
    subsystem_controller_list = 0x13,
    primary_controller_capabilities = 0x14,
    secondary_controller_list = 0x15,
    namespace_granularity_list = 0x16,
    uuid_list = 0x17,
    domain_list = 0x18,
    endurance_group_list = 0x19,
    command_set_allocated_namespace_list = 0x1A,
    command_set_allocated_namespace = 0x1B,
    io_command_set_combinations = 0x1C,
};

// I/O Command Set Identifier.
enum class CommandSet : std::uint8_t { nvm = 0x00, key_value = 0x01, zoned = 0x02 };

enum class AsyncEventType : std::uint8_t {
    error_status = 0,
    smart_health = 1,
    notice = 2,
    io_command_specific = 6,
    vendor_specific = 7,
};

// Asynchronous Event Information, by type.
enum class AsyncErrorInfo : std::uint8_t {
    write_to_invalid_doorbell = 0x00,
    invalid_doorbell_write_value = 0x01,
    diagnostic_failure = 0x02,
    persistent_internal_error = 0x03,
    transient_internal_error = 0x04,
    firmware_image_load_error = 0x05,
};

enum class AsyncSmartInfo : std::uint8_t {
    nvm_subsystem_reliability = 0x00,
    temperature_threshold = 0x01,
    spare_below_threshold = 0x02,
};

enum class AsyncNoticeInfo : std::uint8_t {
    namespace_attribute_changed = 0x00,
    firmware_activation_starting = 0x01,
    telemetry_log_changed = 0x02,
    asymmetric_namespace_access_change = 0x03,
    predictable_latency_event_aggregate_change = 0x04,
    lba_status_information_alert = 0x05,
    endurance_group_event_aggregate_change = 0x06,
    normal_nvm_subsystem_shutdown = 0x07,
    discovery_log_page_change = 0xF0,
};

enum class AsyncIoInfo : std::uint8_t {
    reservation_log_page_available = 0x00,
    sanitize_completed = 0x01,
    sanitize_completed_with_unexpected_deallocation = 0x02,
};

// Dword 0 of an Asynchronous Event Request's completion.
constexpr std::uint32_t async_event_dw0(AsyncEventType type, std::uint8_t info, LogPage log_page) {
    return static_cast<std::uint32_t>(type) | (std::uint32_t{info} << 8) |
           (static_cast<std::uint32_t>(log_page) << 16);
}

// The standard's words; nullptr for a value that is not an enumerator, which a byte from a peer may well be.
const char* name_of(AdminOpcode opcode);
const char* name_of(IoOpcode opcode);
const char* name_of(FabricsType type);
const char* name_of(LogPage page);
const char* name_of(FeatureId feature);
const char* name_of(Cns cns);
const char* name_of(AsyncEventType type);

}  // namespace wire
