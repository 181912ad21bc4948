// Texts of opcodes, identifiers and statuses, in the standard's words, for logs and generated values.
#include "wire/nvme.h"

namespace wire {

namespace {

struct StatusText {
    std::uint16_t value;
    const char* text;
};

// Ascending by value.
constexpr StatusText status_texts[] = {
#define WIRE_GENERIC_STATUS(number, identifier, text) {number, text},
#define WIRE_COMMAND_STATUS(number, identifier, text) {number, text},
#define WIRE_MEDIA_STATUS(number, identifier, text) {number, text},
#define WIRE_PATH_STATUS(number, identifier, text) {number, text},
#include "wire/nvme_status.def"
};

constexpr StatusText fabrics_status_texts[] = {
#define WIRE_FABRICS_STATUS(number, identifier, text) {number, text},
#include "wire/nvme_status.def"
};

}  // namespace

const char* name_of(Status status) {
    for (const StatusText& entry : status_texts) {
        if (entry.value == status.value) {
            return entry.text;
        }
    }
    return nullptr;
}

const char* name_of_fabrics(Status status) {
    for (const StatusText& entry : fabrics_status_texts) {
        if (entry.value == status.value) {
            return entry.text;
        }
    }
    return name_of(status);
}

const char* name_of(AdminOpcode opcode) {
    switch (opcode) {
        case AdminOpcode::delete_io_sq: return "Delete I/O Submission Queue";
        case AdminOpcode::create_io_sq: return "Create I/O Submission Queue";
        case AdminOpcode::get_log_page: return "Get Log Page";
        case AdminOpcode::delete_io_cq: return "Delete I/O Completion Queue";
        case AdminOpcode::create_io_cq: return "Create I/O Completion Queue";
        case AdminOpcode::identify: return "Identify";
        case AdminOpcode::abort: return "Abort";
        case AdminOpcode::set_features: return "Set Features";
        case AdminOpcode::get_features: return "Get Features";
        case AdminOpcode::async_event_request: return "Asynchronous Event Request";
        case AdminOpcode::namespace_management: return "Namespace Management";
        case AdminOpcode::firmware_commit: return "Firmware Commit";
        case AdminOpcode::firmware_image_download: return "Firmware Image Download";
        case AdminOpcode::device_self_test: return "Device Self-test";
        case AdminOpcode::namespace_attachment: return "Namespace Attachment";
        case AdminOpcode::keep_alive: return "Keep Alive";
        case AdminOpcode::directive_send: return "Directive Send";
        case AdminOpcode::directive_receive: return "Directive Receive";
        case AdminOpcode::virtualization_management: return "Virtualization Management";
        case AdminOpcode::nvme_mi_send: return "NVMe-MI Send";
        case AdminOpcode::nvme_mi_receive: return "NVMe-MI Receive";
        case AdminOpcode::capacity_management: return "Capacity Management";
        case AdminOpcode::lockdown: return "Lockdown";
        case AdminOpcode::doorbell_buffer_config: return "Doorbell Buffer Config";
        case AdminOpcode::fabrics: return "Fabrics";
        case AdminOpcode::format_nvm: return "Format NVM";
        case AdminOpcode::security_send: return "Security Send";
        case AdminOpcode::security_receive: return "Security Receive";
        case AdminOpcode::sanitize: return "Sanitize";
        case AdminOpcode::get_lba_status: return "Get LBA Status";
    }
    return nullptr;
}

const char* name_of(IoOpcode opcode) {
    switch (opcode) {
        case IoOpcode::flush: return "Flush";
        case IoOpcode::write: return "Write";
        case IoOpcode::read: return "Read";
        case IoOpcode::write_uncorrectable: return "Write Uncorrectable";
        case IoOpcode::compare: return "Compare";
        case IoOpcode::write_zeroes: return "Write Zeroes";
        case IoOpcode::dataset_management: return "Dataset Management";
        case IoOpcode::verify: return "Verify";
        case IoOpcode::reservation_register: return "Reservation Register";
        case IoOpcode::reservation_report: return "Reservation Report";
        case IoOpcode::reservation_acquire: return "Reservation Acquire";
        case IoOpcode::reservation_release: return "Reservation Release";
        case IoOpcode::copy: return "Copy";
        case IoOpcode::fabrics: return "Fabrics";
    }
    return nullptr;
}

const char* name_of(FabricsType type) {
    switch (type) {
        case FabricsType::property_set: return "Property Set";
        case FabricsType::connect: return "Connect";
        case FabricsType::property_get: return "Property Get";
        case FabricsType::authentication_send: return "Authentication Send";
        case FabricsType::authentication_receive: return "Authentication Receive";
        case FabricsType::disconnect: return "Disconnect";
    }
    return nullptr;
}

const char* name_of(LogPage page) {
    switch (page) {
        case LogPage::supported_log_pages: return "Supported Log Pages";
        case LogPage::error_information: return "Error Information";
        case LogPage::smart_health: return "SMART / Health Information";
        case LogPage::firmware_slot: return "Firmware Slot Information";
        case LogPage::changed_namespace_list: return "Changed Namespace List";
        case LogPage::commands_supported_and_effects: return "Commands Supported and Effects";
        case LogPage::device_self_test: return "Device Self-test";
        case LogPage::telemetry_host_initiated: return "Telemetry Host-Initiated";
        case LogPage::telemetry_controller_initiated: return "Telemetry Controller-Initiated";
        case LogPage::endurance_group: return "Endurance Group Information";
        case LogPage::predictable_latency_per_nvm_set: return "Predictable Latency Per NVM Set";
        case LogPage::predictable_latency_event_aggregate: return "Predictable Latency Event Aggregate";
        case LogPage::asymmetric_namespace_access: return "Asymmetric Namespace Access";
        case LogPage::persistent_event_log: return "Persistent Event Log";
        case LogPage::lba_status: return "LBA Status Information";
        case LogPage::endurance_group_event_aggregate: return "Endurance Group Event Aggregate";
        case LogPage::media_unit_status: return "Media Unit Status";
        case LogPage::supported_capacity_configuration_list: return "Supported Capacity Configuration List";
        case LogPage::feature_identifiers_supported_and_effects:
            return "Feature Identifiers Supported and Effects";
        case LogPage::nvme_mi_commands_supported_and_effects: return "NVMe-MI Commands Supported and Effects";
        case LogPage::command_and_feature_lockdown: return "Command and Feature Lockdown";
        case LogPage::boot_partition: return "Boot Partition";
        case LogPage::rotational_media: return "Rotational Media Information";
        case LogPage::discovery: return "Discovery";
        case LogPage::reservation_notification: return "Reservation Notification";
        case LogPage::sanitize_status: return "Sanitize Status";
    }
    return nullptr;
}

const char* name_of(FeatureId feature) {
    switch (feature) {
        case FeatureId::arbitration: return "Arbitration";
        case FeatureId::power_management: return "Power Management";
        case FeatureId::lba_range_type: return "LBA Range Type";
        case FeatureId::temperature_threshold: return "Temperature Threshold";
        case FeatureId::error_recovery: return "Error Recovery";
        case FeatureId::volatile_write_cache: return "Volatile Write Cache";
        case FeatureId::number_of_queues: return "Number of Queues";
        case FeatureId::interrupt_coalescing: return "Interrupt Coalescing";
        case FeatureId::interrupt_vector_configuration: return "Interrupt Vector Configuration";
        case FeatureId::write_atomicity_normal: return "Write Atomicity Normal";
        case FeatureId::async_event_configuration: return "Asynchronous Event Configuration";
        case FeatureId::autonomous_power_state_transition: return "Autonomous Power State Transition";
        case FeatureId::host_memory_buffer: return "Host Memory Buffer";
        case FeatureId::timestamp: return "Timestamp";
        case FeatureId::keep_alive_timer: return "Keep Alive Timer";
        case FeatureId::host_controlled_thermal_management: return "Host Controlled Thermal Management";
        case FeatureId::non_operational_power_state_config: return "Non-Operational Power State Config";
        case FeatureId::read_recovery_level_config: return "Read Recovery Level Config";
        case FeatureId::predictable_latency_mode_config: return "Predictable Latency Mode Config";
        case FeatureId::predictable_latency_mode_window: return "Predictable Latency Mode Window";
        case FeatureId::lba_status_information_attributes: return "LBA Status Information Attributes";
        case FeatureId::host_behavior_support: return "Host Behavior Support";
        case FeatureId::sanitize_config: return "Sanitize Config";
        case FeatureId::endurance_group_event_configuration: return "Endurance Group Event Configuration";
        case FeatureId::io_command_set_profile: return "I/O Command Set Profile";
        case FeatureId::spinup_control: return "Spinup Control";
        case FeatureId::enhanced_controller_metadata: return "Enhanced Controller Metadata";
        case FeatureId::controller_metadata: return "Controller Metadata";
        case FeatureId::namespace_metadata: return "Namespace Metadata";
        case FeatureId::software_progress_marker: return "Software Progress Marker";
        case FeatureId::host_identifier: return "Host Identifier";
        case FeatureId::reservation_notification_mask: return "Reservation Notification Mask";
        case FeatureId::reservation_persistence: return "Reservation Persistence";
        case FeatureId::namespace_write_protection: return "Namespace Write Protection Config";
    }
    return nullptr;
}

const char* name_of(Cns cns) {
    switch (cns) {
        case Cns::identify_namespace: return "Identify Namespace";
        case Cns::identify_controller: return "Identify Controller";
        case Cns::active_namespace_list: return "Active Namespace ID List";
        case Cns::namespace_identification_descriptors: return "Namespace Identification Descriptor List";
        case Cns::nvm_set_list: return "NVM Set List";
        case Cns::command_set_namespace: return "I/O Command Set Specific Identify Namespace";
        case Cns::command_set_controller: return "I/O Command Set Specific Identify Controller";
        case Cns::command_set_active_namespace_list:
            return "I/O Command Set Specific Active Namespace ID List";
        case Cns::command_set_independent_namespace: return "I/O Command Set Independent Identify Namespace";
        case Cns::namespace_format: return "Identify Namespace for Format";
        case Cns::command_set_namespace_format:
            return "I/O Command Set Specific Identify Namespace for Format";
        case Cns::allocated_namespace_list: return "Allocated Namespace ID List";
        case Cns::allocated_namespace: return "Identify Allocated Namespace";
        case Cns::namespace_attached_controller_list: return "Namespace Attached Controller List";
        case Cns::subsystem_controller_list: return "Controller List";
        case Cns::primary_controller_capabilities: return "Primary Controller Capabilities";
        case Cns::secondary_controller_list: return "Secondary Controller List";
        case Cns::namespace_granularity_list: return "Namespace Granularity List";
        case Cns::uuid_list: return "UUID List";
        case Cns::domain_list: return "Domain List";
        case Cns::endurance_group_list: return "Endurance Group List";
        case Cns::command_set_allocated_namespace_list:
            return "I/O Command Set Specific Allocated Namespace ID List";
        case Cns::command_set_allocated_namespace:
            return "I/O Command Set Specific Identify Allocated Namespace";
        case Cns::io_command_set_combinations: return "Identify I/O Command Set";
    }
    return nullptr;
}

const char* name_of(AsyncEventType type) {
    switch (type) {
        case AsyncEventType::error_status: return "Error Status";
        case AsyncEventType::smart_health: return "SMART / Health Status";
        case AsyncEventType::notice: return "Notice";
        case AsyncEventType::io_command_specific: return "I/O Command Specific Status";
        case AsyncEventType::vendor_specific: return "Vendor Specific";
    }
    return nullptr;
}

}  // namespace wire
