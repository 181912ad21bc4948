// Get Log Page, as one table: page → which controllers have it, how long it is, how a window of it is filled,
// and which event reading it clears.
//
// NVM Express Base 2.0 §5.16.

#include "wire/nvme_log.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "nvme/admin_commands.h"
#include "nvme/controller.h"
#include "nvme/discovery.h"
#include "nvme/features.h"
#include "nvme/io_commands.h"
#include "nvme/properties.h"
#include "nvme/target.h"

namespace nvme {

namespace {

struct Context {
    Controller& controller;
    QueuePair& queue;
    const wire::Sqe& sqe;
};

// The part of a page that the host asked for; the memory is zeroed, and what lies outside of it is dropped.
class LogWindow {
  public:
    LogWindow(std::byte* out, std::uint64_t offset, std::uint32_t length)
        : out_(out), offset_(offset), length_(length) {}

    std::uint64_t begin() const { return offset_; }
    std::uint64_t end() const { return offset_ + length_; }

    void put(std::uint64_t at, const void* data, std::size_t size) {
        const std::uint64_t from = std::max(at, begin());
        const std::uint64_t to = std::min(at + size, end());
        if (from < to) {
            std::memcpy(out_ + (from - offset_), static_cast<const std::byte*>(data) + (from - at),
                        to - from);
        }
    }

    template <typename Structure>
    void put(std::uint64_t at, const Structure& structure) {
        put(at, &structure, sizeof(structure));
    }

  private:
    std::byte* out_;
    std::uint64_t offset_;
    std::uint32_t length_;
};

// --- error information, health, firmware ---

void fill_errors(const Context& context, LogWindow& window) {
    const ControllerRecord& record = context.controller.record();
    const std::uint64_t available = std::min<std::uint64_t>(record.errors_logged, limits::error_log_entries);
    for (std::uint64_t i = 0; i < available; ++i) {
        const ErrorRecord& error = record.errors[(record.errors_logged - 1 - i) % limits::error_log_entries];
        wire::ErrorLogEntry entry;
        entry.error_count = error.count;
        entry.sqid = error.qid;
        entry.cid = error.cid;
        entry.status_field = error.status;
        entry.parameter_error_location = error.location;
        entry.lba = error.lba;
        entry.nsid = error.nsid;
        entry.trtype = static_cast<std::uint8_t>(wire::TransportType::tcp);
        entry.command_specific = error.command_specific;
        window.put(i * sizeof(entry), entry);
    }
}

wire::Status check_health(const Context& context) {
    const std::uint32_t nsid = context.sqe.nsid;  // LPA bit 0 is clear: not per namespace
    return nsid == 0 || nsid == wire::nsid_broadcast ? wire::status::success : wire::status::invalid_field;
}

std::uint64_t data_units(std::uint64_t bytes) { return bytes / 512'000 + (bytes % 512'000 != 0 ? 1 : 0); }

void fill_health(const Context& context, LogWindow& window) {
    Controller& controller = context.controller;
    Subsystem& subsystem = controller.subsystem();
    const SubsystemRecord& totals = subsystem.record();
    wire::SmartHealth health;
    const std::uint16_t temperature = controller.target().temperature();
    const FeatureValues& features = controller.features();
    std::uint8_t warning = 0;
    if (temperature >= features.temperature_over || temperature <= features.temperature_under) {
        warning |= wire::critical_warning::temperature;
    }
    const auto& namespaces = subsystem.namespaces();
    const bool all_read_only =
        !namespaces.empty() && std::all_of(namespaces.begin(), namespaces.end(), [](const auto& entry) {
            return entry.second->device().describe().read_only && !entry.second->spec().read_only;
        });
    if (all_read_only) {
        warning |= wire::critical_warning::read_only;
    }
    health.critical_warning = warning;
    health.composite_temperature = temperature;
    health.available_spare = 100;
    health.available_spare_threshold = 10;
    health.data_units_read.low = data_units(totals.read_bytes);
    health.data_units_written.low = data_units(totals.written_bytes);
    health.host_read_commands.low = totals.read_commands;
    health.host_write_commands.low = totals.write_commands;
    health.controller_busy_time.low =
        subsystem.busy_ns(controller.target().reactor().now()) / (60 * base::second);
    health.power_cycles.low = totals.restarts + 1;
    const std::uint64_t now_ms = base::realtime_now_ms();
    health.power_on_hours.low = now_ms > totals.created_ms ? (now_ms - totals.created_ms) / 3'600'000 : 0;
    health.unsafe_shutdowns.low = totals.unsafe_shutdowns;
    health.media_errors.low = totals.media_errors;
    health.error_log_entries.low = totals.error_entries;
    window.put(0, health);
}

void fill_firmware(const Context& context, LogWindow& window) {
    wire::FirmwareSlotLog log;
    const std::string& revision = context.controller.subsystem().spec().firmware;
    log.afi = 1;
    std::memset(log.frs[0], ' ', sizeof(log.frs[0]));
    std::memcpy(log.frs[0], revision.data(), std::min(revision.size(), sizeof(log.frs[0])));
    window.put(0, log);
}

// --- changed namespaces, effects ---

void fill_changed_namespaces(const Context& context, LogWindow& window) {
    const ControllerRecord& record = context.controller.record();
    wire::ChangedNamespaceList list;
    if (record.changed_count > limits::changed_namespaces_max) {
        list.nsid[0] = wire::changed_namespaces_overflow;
    } else {
        std::array<std::uint32_t, limits::changed_namespaces_max> sorted;
        auto* const end = std::copy_n(record.changed_namespaces, record.changed_count, sorted.begin());
        std::sort(sorted.begin(), end);
        std::copy(sorted.begin(), end, list.nsid);
    }
    window.put(0, list);
}

wire::Status check_effects(const Context& context) {
    const std::uint32_t csi = wire::log_cdw::csi.get(context.sqe.cdw14);
    return csi == static_cast<std::uint32_t>(wire::CommandSet::nvm) ? wire::status::success
                                                                    : wire::status::invalid_field;
}

void fill_effects(const Context& context, LogWindow& window) {
    wire::CommandEffectsLog log;
    for (const AdminCommandRow& row : admin_commands()) {
        if ((row.controllers & kind_bit(context.controller)) != 0) {
            log.admin[static_cast<std::size_t>(row.opcode)] = row.effects;
        }
    }
    if (!context.controller.is_discovery()) {
        for (const IoCommandRow& row : io_commands()) {
            log.io[static_cast<std::size_t>(row.opcode)] = row.effects;
        }
    }
    window.put(0, log);
}

void fill_features(const Context& context, LogWindow& window) {
    wire::FeatureEffectsLog log;
    fill_feature_effects(context.controller, log);
    window.put(0, log);
}

// --- asymmetric namespace access ---

bool groups_only(const Context& context) {
    return (wire::log_cdw::lsp.get(context.sqe.cdw10) & wire::ana_lsp_groups_only) != 0;
}

std::uint64_t ana_bytes(const Context& context) {
    const std::uint64_t ids = groups_only(context) ? 0 : context.controller.subsystem().namespaces().size();
    return sizeof(wire::AnaLogHeader) + sizeof(wire::AnaGroupDescriptor) + ids * sizeof(wire::le32);
}

void fill_ana(const Context& context, LogWindow& window) {
    Subsystem& subsystem = context.controller.subsystem();
    wire::AnaLogHeader header;
    header.change_count = subsystem.ana_change_count();
    header.descriptors = 1;
    window.put(0, header);
    wire::AnaGroupDescriptor group;
    group.anagrpid = ana_group;
    group.change_count = subsystem.ana_change_count();
    group.state = static_cast<std::uint8_t>(subsystem.ana_state());
    std::uint64_t at = sizeof(header) + sizeof(group);
    if (!groups_only(context)) {
        group.nsid_count = static_cast<std::uint32_t>(subsystem.namespaces().size());
        for (const auto& [nsid, ns] : subsystem.namespaces()) {
            const wire::le32 id = nsid;
            window.put(at, id);
            at += sizeof(id);
        }
    }
    window.put(sizeof(header), group);
}

// --- discovery ---

DiscoveryView view_of(const Context& context) {
    return {context.controller.target(), context.controller.host_nqn(),
            context.queue.connection().endpoint()};
}

std::uint64_t discovery_bytes(const Context& context) {
    return sizeof(wire::DiscoveryLogHeader) + view_of(context).entries() * sizeof(wire::DiscoveryLogEntry);
}

void fill_discovery(const Context& context, LogWindow& window) {
    constexpr std::uint64_t header_bytes = sizeof(wire::DiscoveryLogHeader);
    constexpr std::uint64_t entry_bytes = sizeof(wire::DiscoveryLogEntry);
    const DiscoveryView view = view_of(context);
    wire::DiscoveryLogHeader header;
    header.genctr = context.controller.target().discovery_generation();
    header.numrec = view.entries();
    header.recfmt = wire::discovery_record_format;
    window.put(0, header);
    std::uint64_t index = window.begin() > header_bytes ? (window.begin() - header_bytes) / entry_bytes : 0;
    for (; index < view.entries() && header_bytes + index * entry_bytes < window.end(); ++index) {
        window.put(header_bytes + index * entry_bytes, view.entry(index));
    }
}

// --- the table ---

void fill_supported(const Context& context, LogWindow& window);

template <std::uint64_t Bytes>
std::uint64_t fixed(const Context&) {
    return Bytes;
}

wire::Status check_nothing(const Context&) { return wire::status::success; }

struct LogRow {
    wire::LogPage page;
    std::uint8_t controllers;
    std::uint64_t (*bytes)(const Context& context);
    wire::Status (*check)(const Context& context);
    void (*fill)(const Context& context, LogWindow& window);
    AsyncEvent clears = AsyncEvent::count;  // count: none
};

constexpr std::array rows{
    LogRow{wire::LogPage::supported_log_pages, for_all, fixed<sizeof(wire::SupportedLogPages)>, check_nothing,
           fill_supported},
    LogRow{wire::LogPage::error_information, for_all,
           fixed<limits::error_log_entries * sizeof(wire::ErrorLogEntry)>, check_nothing, fill_errors,
           AsyncEvent::persistent_internal_error},
    LogRow{wire::LogPage::smart_health, for_io, fixed<sizeof(wire::SmartHealth)>, check_health, fill_health,
           AsyncEvent::temperature},
    LogRow{wire::LogPage::firmware_slot, for_io, fixed<sizeof(wire::FirmwareSlotLog)>, check_nothing,
           fill_firmware},
    LogRow{wire::LogPage::changed_namespace_list, for_io, fixed<sizeof(wire::ChangedNamespaceList)>,
           check_nothing, fill_changed_namespaces, AsyncEvent::namespace_attribute},
    LogRow{wire::LogPage::commands_supported_and_effects, for_all, fixed<sizeof(wire::CommandEffectsLog)>,
           check_effects, fill_effects},
    LogRow{wire::LogPage::asymmetric_namespace_access, for_io, ana_bytes, check_nothing, fill_ana,
           AsyncEvent::ana_change},
    LogRow{wire::LogPage::feature_identifiers_supported_and_effects, for_all,
           fixed<sizeof(wire::FeatureEffectsLog)>, check_nothing, fill_features},
    LogRow{wire::LogPage::discovery, for_discovery, discovery_bytes, check_nothing, fill_discovery,
           AsyncEvent::discovery_change},
};

void fill_supported(const Context& context, LogWindow& window) {
    wire::SupportedLogPages log;
    for (const LogRow& row : rows) {
        if ((row.controllers & kind_bit(context.controller)) != 0) {
            log.lid[static_cast<std::size_t>(row.page)] = wire::log_supported::lsupp;
        }
    }
    window.put(0, log);
}

const LogRow* find_row(const Controller& controller, const wire::Sqe& sqe) {
    const std::uint32_t page = wire::log_cdw::lid.get(sqe.cdw10);
    for (const LogRow& row : rows) {
        if (static_cast<std::uint32_t>(row.page) == page && (row.controllers & kind_bit(controller)) != 0) {
            return &row;
        }
    }
    return nullptr;
}

// After `done`: what was read is known to the host.
void clear_event(Command& command) {
    Controller* const controller = command.queue->controller();
    if (controller == nullptr) {
        return;
    }
    const auto event = static_cast<AsyncEvent>(command.step);
    if (event == AsyncEvent::namespace_attribute) {
        controller->record().changed_count = 0;
    }
    if (event == AsyncEvent::discovery_change) {
        controller->record().discovery_generation = controller->target().discovery_generation();
    }
    controller->clear(event);
}

}  // namespace

Admission admit_get_log_page(Controller& controller, const wire::Sqe& sqe) {
    if (find_row(controller, sqe) == nullptr) {
        return admit_refused(wire::status::invalid_log_page);
    }
    const std::uint64_t bytes = wire::log_bytes(sqe.cdw10, sqe.cdw11);
    if (bytes > limits::transfer_bytes_max) {
        return admit_refused(wire::status::invalid_field);
    }
    return admit_to_host(static_cast<std::uint32_t>(bytes));
}

void execute_get_log_page(Controller& controller, QueuePair& queue, Command& command) {
    const wire::Sqe& sqe = command.sqe();
    const LogRow* const row = find_row(controller, sqe);
    if (row == nullptr) {
        complete_invalid(queue, command, wire::status::invalid_log_page, sqe_byte_cdw10);
        return;
    }
    const Context context{controller, queue, sqe};
    const std::uint64_t bytes = wire::log_bytes(sqe.cdw10, sqe.cdw11);
    const std::uint64_t offset = wire::log_offset(sqe);
    if (bytes > limits::transfer_bytes_max || wire::log_cdw::ot.test(sqe.cdw14)) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw14);
        return;
    }
    if (offset % 4 != 0 || offset > row->bytes(context)) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw12);
        return;
    }
    if (const wire::Status status = row->check(context); !status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_nsid);
        return;
    }
    const auto length = static_cast<std::uint32_t>(bytes);
    if (!queue.allocate_data(command, length)) {
        return;
    }
    std::memset(command.data, 0, length);
    LogWindow window(command.data, offset, length);
    row->fill(context, window);
    if (row->clears != AsyncEvent::count && !wire::log_cdw::rae.test(sqe.cdw10)) {
        command.step = static_cast<std::uint32_t>(row->clears);
        command.after_done = clear_event;
    }
    queue.complete_ok(command);
}

}  // namespace nvme
