// Get Features and Set Features as one table: feature → which controllers have it, its data, its default, how
// its value is read and set. No feature is saveable: what a host sets lasts until its controller is reset or
// ends; of namespaces also until the namespace is taken from it. Only the write protection state of a
// namespace belongs to the namespace and outlasts power cycles; of its states those without a power cycle or
// a permanence of their own are offered (NWPC bit 0).
//
// NVM Express Base 2.0 §5.15, §5.27 and §3.1.3.6 (support requirements); NVM Command Set 1.0 §4.1.3.

#include "nvme/features.h"

#include <algorithm>
#include <array>
#include <cstring>

#include "nvme/admin_commands.h"
#include "nvme/controller.h"
#include "nvme/properties.h"
#include "nvme/target.h"
#include "wire/nvme_identify.h"
#include "wire/nvme_io.h"
#include "wire/nvme_log.h"

namespace nvme {

namespace {

struct Context {
    Controller& controller;
    Command& command;

    const wire::Sqe& sqe() const { return command.sqe(); }
    std::uint32_t cdw11() const { return sqe().cdw11; }
    FeatureValues& values() const { return controller.features(); }
};

enum class Scope : std::uint8_t { controller, namespace_ };

struct FeatureRow {
    wire::FeatureId id;
    std::uint8_t controllers;
    Scope scope;
    std::uint32_t data_bytes;
    std::uint32_t default_value;
    // Dword 0 of the completion, which is the default value so far; data, if any, goes to zeroed memory.
    // `by_default`: the default is wanted, not the present value.
    wire::Status (*get)(const Context& context, bool by_default, std::uint32_t& value, std::byte* data);
    // Null: not changeable, Set Features ends with `refusal`.
    wire::Status (*set)(const Context& context);
    wire::Status refusal = wire::status::feature_not_changeable;
    // Not null: asked before `set`; true if it goes on with it later and ends the command itself.
    bool (*defer)(const Context& context) = nullptr;
};

// --- plain values: dword 11, kept as it was set ---

template <std::uint32_t FeatureValues::*Member>
wire::Status get_plain(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    if (!by_default) {
        value = context.values().*Member;
    }
    return wire::status::success;
}

template <std::uint32_t FeatureValues::*Member, std::uint32_t Mask>
wire::Status set_plain(const Context& context) {
    if ((context.cdw11() & ~Mask) != 0) {
        return wire::status::invalid_field;
    }
    context.values().*Member = context.cdw11();
    return wire::status::success;
}

// --- temperature threshold ---

constexpr std::uint16_t under_default = 0;

wire::Status get_temperature(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    namespace field = wire::feature_temperature_threshold;
    const std::uint32_t which = field::thsel.get(context.cdw11());
    if (field::tmpsel.get(context.cdw11()) != field::tmpsel_composite || which > field::thsel_under) {
        return wire::status::invalid_field;
    }
    const bool over = which == field::thsel_over;
    if (by_default) {
        value = over ? temperature_warning : under_default;
    } else {
        value = over ? context.values().temperature_over : context.values().temperature_under;
    }
    return wire::status::success;
}

wire::Status set_temperature(const Context& context) {
    namespace field = wire::feature_temperature_threshold;
    const std::uint32_t sensor = field::tmpsel.get(context.cdw11());
    const std::uint32_t which = field::thsel.get(context.cdw11());
    if ((sensor != field::tmpsel_composite && sensor != field::tmpsel_all) || which > field::thsel_under) {
        return wire::status::invalid_field;
    }
    const auto kelvin = static_cast<std::uint16_t>(field::tmpth.get(context.cdw11()));
    (which == field::thsel_over ? context.values().temperature_over : context.values().temperature_under) =
        kelvin;
    context.controller.check_temperature();
    return wire::status::success;
}

// --- error recovery ---

wire::Status get_error_recovery(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    if (!by_default) {
        value = wire::feature_error_recovery::tler.put(
            context.controller.record().error_recovery[context.sqe().nsid - 1]);
    }
    return wire::status::success;
}

wire::Status set_error_recovery(const Context& context) {
    // DULBE needs namespaces that can tell a deallocated block (NSFEAT bit 2).
    if ((context.cdw11() & ~wire::feature_error_recovery::tler.mask) != 0) {
        return wire::status::invalid_field;
    }
    const auto limit = static_cast<std::uint16_t>(wire::feature_error_recovery::tler.get(context.cdw11()));
    const std::uint32_t nsid = context.sqe().nsid;
    for (const auto& [attached, ns] : context.controller.subsystem().namespaces()) {
        if (nsid == attached || nsid == wire::nsid_broadcast) {
            context.controller.record().error_recovery[attached - 1] = limit;
        }
    }
    return wire::status::success;
}

// --- power ---

wire::Status set_power(const Context& context) {
    if (wire::feature_power_management::power_state.get(context.cdw11()) != 0) {
        return wire::status::invalid_field;  // NPSS 0: there is one power state
    }
    context.values().power_management = context.cdw11() & wire::feature_power_management::workload_hint.mask;
    return wire::status::success;
}

// --- number of queues ---

// 0's based.
std::uint32_t queues_most(Controller& controller) {
    const std::uint32_t configured =
        std::min(controller.target().limits().io_queues_per_controller, limits::io_queues_per_controller_max);
    return std::max(configured, 1u) - 1;
}

wire::Status get_queues(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    namespace field = wire::feature_number_of_queues;
    const std::uint32_t most = queues_most(context.controller);
    const FeatureValues& values = context.values();
    const bool granted = values.queues_set != 0 && !by_default;
    value = field::nsqr.put(granted ? values.queues_granted_sq : most) |
            field::ncqr.put(granted ? values.queues_granted_cq : most);
    return wire::status::success;
}

wire::Status set_queues(const Context& context) {
    namespace field = wire::feature_number_of_queues;
    const std::uint32_t sq = field::nsqr.get(context.cdw11());
    const std::uint32_t cq = field::ncqr.get(context.cdw11());
    if (sq > field::count_max || cq > field::count_max) {
        return wire::status::invalid_field;
    }
    if (context.controller.io_queue_count() != 0) {
        return wire::status::command_sequence_error;
    }
    const std::uint32_t most = queues_most(context.controller);
    FeatureValues& values = context.values();
    values.queues_granted_sq = static_cast<std::uint16_t>(std::min(sq, most));
    values.queues_granted_cq = static_cast<std::uint16_t>(std::min(cq, most));
    values.queues_set = 1;
    context.command.record->result0 =
        field::nsqr.put(values.queues_granted_sq) | field::ncqr.put(values.queues_granted_cq);
    return wire::status::success;
}

// --- events, keep alive ---

wire::Status set_events(const Context& context) {
    const std::uint32_t possible = context.controller.is_discovery()
                                       ? wire::async_events::discovery_log
                                       : wire::async_events::smart_critical_warnings |
                                             wire::async_events::namespace_attribute |
                                             wire::async_events::ana_change;
    if ((context.cdw11() & ~possible) != 0) {
        return wire::status::invalid_field;
    }
    context.values().async_event_configuration = context.cdw11();
    context.command.after_done = [](Command& command) {
        if (Controller* const controller = command.queue->controller()) {
            controller->events_configured();
        }
    };
    return wire::status::success;
}

wire::Status get_keep_alive(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    value = by_default ? 0 : context.controller.record().kato_ms;
    return wire::status::success;
}

wire::Status set_keep_alive(const Context& context) {
    context.controller.set_keep_alive(context.cdw11());
    return wire::status::success;
}

// --- timestamp, host behavior, host identifier ---

wire::Status get_timestamp(const Context& context, bool by_default, std::uint32_t&, std::byte* data) {
    auto& timestamp = *new (data) wire::TimestampData{};
    if (by_default) {
        return wire::status::success;
    }
    const FeatureValues& values = context.values();
    const base::Nanoseconds now = context.controller.target().reactor().now();
    const std::uint64_t elapsed_ms =
        now > values.timestamp_set_ns ? (now - values.timestamp_set_ns) / base::millisecond : 0;
    timestamp.set_value(values.timestamp_ms + elapsed_ms);
    timestamp.attributes = wire::timestamp_attributes::origin.put(values.timestamp_origin);
    return wire::status::success;
}

wire::Status set_timestamp(const Context& context) {
    const auto& timestamp = *reinterpret_cast<const wire::TimestampData*>(context.command.data);
    FeatureValues& values = context.values();
    values.timestamp_ms = timestamp.value();
    values.timestamp_set_ns = context.controller.target().reactor().now();
    values.timestamp_origin = wire::timestamp_attributes::origin_set_features;
    return wire::status::success;
}

wire::Status get_host_behavior(const Context& context, bool by_default, std::uint32_t&, std::byte* data) {
    auto& behavior = *new (data) wire::HostBehavior{};
    if (!by_default) {
        behavior.acre = context.values().host_behavior[0];
        behavior.etdas = context.values().host_behavior[1];
        behavior.lbafee = context.values().host_behavior[2];
    }
    return wire::status::success;
}

wire::Status set_host_behavior(const Context& context) {
    const auto& behavior = *reinterpret_cast<const wire::HostBehavior*>(context.command.data);
    if (behavior.acre > 1 || behavior.etdas > 1 || behavior.lbafee > 1) {
        return wire::status::invalid_field;
    }
    context.values().host_behavior[0] = behavior.acre;
    context.values().host_behavior[1] = behavior.etdas;
    context.values().host_behavior[2] = behavior.lbafee;
    return wire::status::success;
}

wire::Status get_host_identifier(const Context& context, bool, std::uint32_t& value, std::byte* data) {
    if (!wire::feature_host_identifier::exhid.test(context.cdw11())) {
        return wire::status::invalid_field;  // Fabrics: 128 bits
    }
    value = wire::feature_host_identifier::exhid.put(1);
    std::memcpy(data, context.controller.record().host_id, wire::feature_host_identifier::bytes_extended);
    return wire::status::success;
}

// --- I/O command set profile, write protection ---

wire::Status set_profile(const Context& context) {
    if (wire::feature_io_command_set_profile::iocsci.get(context.cdw11()) != 0) {
        return wire::status::io_command_set_combination_rejected;
    }
    return wire::status::success;
}

wire::Status get_write_protect(const Context& context, bool by_default, std::uint32_t& value, std::byte*) {
    const Namespace* const ns = context.controller.find_namespace(context.sqe().nsid);
    if (ns == nullptr) {
        return wire::status::invalid_namespace_or_format;
    }
    value = by_default ? 0 : ns->write_protection_state();
    return wire::status::success;
}

wire::Status set_write_protect(const Context& context) {
    Namespace* const ns = context.controller.find_namespace(context.sqe().nsid);
    if (ns == nullptr) {
        return wire::status::invalid_namespace_or_format;
    }
    const std::uint32_t state = wire::feature_write_protect::state.get(context.cdw11());
    if (state > static_cast<std::uint32_t>(wire::WriteProtectState::write_protect)) {
        return wire::status::invalid_field;
    }
    if (ns->write_protection_state() != state) {
        ns->set_write_protection(state);
        context.controller.subsystem().write_protection_changed(*ns);
    }
    return wire::status::success;
}

void protection_decided(QueuePair& queue, Command& command, const Target::Decision& decision) {
    Controller* const controller = queue.controller();
    if (!decision.allow || controller == nullptr) {
        queue.complete(command, wire::status::internal_error);
        return;
    }
    const wire::Status status = set_write_protect({*controller, command});
    if (!status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_cdw11);
        return;
    }
    queue.complete_ok(command);
}

// A state that holds must also hold after a power cut, so it is kept durably first.
bool keep_write_protect(const Context& context) {
    const Namespace* const ns = context.controller.find_namespace(context.sqe().nsid);
    const std::uint32_t state = wire::feature_write_protect::state.get(context.cdw11());
    if (ns == nullptr || state > static_cast<std::uint32_t>(wire::WriteProtectState::write_protect) ||
        state == ns->write_protection_state()) {
        return false;
    }
    const ProtectionRequest request{context.controller.subsystem().spec().nqn, ns->nsid(), ns->spec().nguid,
                                    state};
    return context.controller.target().ask_protection(request, *context.command.queue, context.command,
                                                      protection_decided);
}

// --- the table ---

using Id = wire::FeatureId;

constexpr std::array rows{
    FeatureRow{Id::arbitration, for_io, Scope::controller, 0, 0, get_plain<&FeatureValues::arbitration>,
               set_plain<&FeatureValues::arbitration, 0xFFFFFF07>},
    FeatureRow{Id::power_management, for_io, Scope::controller, 0, 0,
               get_plain<&FeatureValues::power_management>, set_power},
    FeatureRow{Id::temperature_threshold, for_io, Scope::controller, 0, temperature_warning, get_temperature,
               set_temperature},
    FeatureRow{Id::error_recovery, for_io, Scope::namespace_, 0, 0, get_error_recovery, set_error_recovery},
    FeatureRow{Id::volatile_write_cache, for_io, Scope::controller, 0,
               wire::feature_volatile_write_cache::wce.put(1),
               get_plain<&FeatureValues::volatile_write_cache>,
               set_plain<&FeatureValues::volatile_write_cache, wire::feature_volatile_write_cache::wce.mask>},
    FeatureRow{Id::number_of_queues, for_io, Scope::controller, 0, 0, get_queues, set_queues},
    FeatureRow{Id::write_atomicity_normal, for_io, Scope::controller, 0, 0,
               get_plain<&FeatureValues::write_atomicity>,
               set_plain<&FeatureValues::write_atomicity, wire::feature_write_atomicity::dn.mask>},
    FeatureRow{Id::async_event_configuration, for_all, Scope::controller, 0, 0,
               get_plain<&FeatureValues::async_event_configuration>, set_events},
    FeatureRow{Id::timestamp, for_io, Scope::controller, sizeof(wire::TimestampData), 0, get_timestamp,
               set_timestamp},
    FeatureRow{Id::keep_alive_timer, for_all, Scope::controller, 0, 0, get_keep_alive, set_keep_alive},
    FeatureRow{Id::host_behavior_support, for_io, Scope::controller, sizeof(wire::HostBehavior), 0,
               get_host_behavior, set_host_behavior},
    FeatureRow{Id::io_command_set_profile, for_io, Scope::controller, 0, 0,
               get_plain<&FeatureValues::command_set_profile>, set_profile},
    // Fabrics: the identifier comes with Connect.
    FeatureRow{Id::host_identifier, for_all, Scope::controller, wire::feature_host_identifier::bytes_extended,
               0, get_host_identifier, nullptr, wire::status::command_sequence_error},
    FeatureRow{Id::namespace_write_protection, for_io, Scope::namespace_, 0, 0, get_write_protect,
               set_write_protect, wire::status::feature_not_changeable, keep_write_protect},
};

const FeatureRow* find_row(const Controller& controller, const wire::Sqe& sqe) {
    const std::uint32_t id = wire::feature_cdw::fid.get(sqe.cdw10);
    for (const FeatureRow& row : rows) {
        if (static_cast<std::uint32_t>(row.id) == id && (row.controllers & kind_bit(controller)) != 0) {
            return &row;
        }
    }
    return nullptr;
}

wire::FeatureSelect select_of(const wire::Sqe& sqe) {
    return static_cast<wire::FeatureSelect>(wire::feature_cdw::sel.get(sqe.cdw10));
}

// A namespace that is named must exist, and must be meant; where one is meant, it must be named. All at once
// can be set, but not got.
wire::Status check_nsid(const Controller& controller, const FeatureRow& row, const wire::Sqe& sqe, bool set) {
    const std::uint32_t nsid = sqe.nsid;
    if (nsid == 0 || nsid == wire::nsid_broadcast) {
        const bool meant = row.scope == Scope::controller || (set && nsid == wire::nsid_broadcast);
        return meant ? wire::status::success : wire::status::invalid_namespace_or_format;
    }
    if (controller.find_namespace(nsid) == nullptr) {
        return wire::status::invalid_namespace_or_format;
    }
    return set && row.scope == Scope::controller ? wire::status::feature_not_namespace_specific
                                                 : wire::status::success;
}

}  // namespace

// --- Get Features ---

Admission admit_get_features(Controller& controller, const wire::Sqe& sqe) {
    const FeatureRow* const row = find_row(controller, sqe);
    const bool capabilities = select_of(sqe) == wire::FeatureSelect::supported_capabilities;
    if (row == nullptr || row->data_bytes == 0 || capabilities) {
        return Admission{};
    }
    return admit_to_host(row->data_bytes);
}

void execute_get_features(Controller& controller, QueuePair& queue, Command& command) {
    const wire::Sqe& sqe = command.sqe();
    const FeatureRow* const row = find_row(controller, sqe);
    const wire::FeatureSelect select = select_of(sqe);
    if (row == nullptr || select > wire::FeatureSelect::supported_capabilities) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw10);
        return;
    }
    if (const wire::Status status = check_nsid(controller, *row, sqe, false); !status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_nsid);
        return;
    }
    if (select == wire::FeatureSelect::supported_capabilities) {
        namespace capability = wire::feature_capabilities;
        command.record->result0 = (row->set != nullptr ? capability::changeable : 0) |
                                  (row->scope == Scope::namespace_ ? capability::namespace_specific : 0);
        queue.complete_ok(command);
        return;
    }
    if (row->data_bytes != 0) {
        if (!queue.allocate_data(command, row->data_bytes)) {
            return;
        }
        std::memset(command.data, 0, row->data_bytes);
    }
    // Nothing is saveable, so the saved value is the default one.
    const bool by_default = select != wire::FeatureSelect::current;
    std::uint32_t value = row->default_value;
    const wire::Status status = row->get({controller, command}, by_default, value, command.data);
    if (!status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_cdw11);
        return;
    }
    command.record->result0 = value;
    queue.complete_ok(command);
}

// --- Set Features ---

Admission admit_set_features(Controller& controller, const wire::Sqe& sqe) {
    const FeatureRow* const row = find_row(controller, sqe);
    if (row == nullptr || row->data_bytes == 0 || row->set == nullptr ||
        wire::feature_cdw::sv.test(sqe.cdw10)) {
        return Admission{};
    }
    return admit_from_host(row->data_bytes);
}

void execute_set_features(Controller& controller, QueuePair& queue, Command& command) {
    const wire::Sqe& sqe = command.sqe();
    const FeatureRow* const row = find_row(controller, sqe);
    if (row == nullptr) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw10);
        return;
    }
    if (wire::feature_cdw::sv.test(sqe.cdw10)) {
        complete_invalid(queue, command, wire::status::feature_not_saveable, sqe_byte_cdw10 + 3);
        return;
    }
    if (row->set == nullptr) {
        complete_invalid(queue, command, row->refusal, sqe_byte_cdw10);
        return;
    }
    if (const wire::Status status = check_nsid(controller, *row, sqe, true); !status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_nsid);
        return;
    }
    if (row->defer != nullptr && row->defer({controller, command})) {
        return;
    }
    const wire::Status status = row->set({controller, command});
    if (!status.ok()) {
        complete_invalid(queue, command, status, sqe_byte_cdw11);
        return;
    }
    queue.complete_ok(command);
}

// --- for others ---

void Controller::reset_features() {
    FeatureValues& values = record_.features;
    values = FeatureValues{};
    std::ranges::fill(record_.error_recovery, std::uint16_t{0});
    values.temperature_over = temperature_warning;
    values.temperature_under = under_default;
    values.volatile_write_cache = wire::feature_volatile_write_cache::wce.put(1);
    values.timestamp_set_ns = target_.reactor().now();
}

void fill_feature_effects(const Controller& controller, wire::FeatureEffectsLog& log) {
    for (const FeatureRow& row : rows) {
        if ((row.controllers & kind_bit(controller)) == 0) {
            continue;
        }
        const std::uint32_t scope =
            row.scope == Scope::namespace_ ? wire::scope::namespace_ : wire::scope::controller;
        std::uint32_t effects = wire::feature_effects::fsupp | wire::feature_effects::fsp.put(scope);
        if (row.id == Id::namespace_write_protection) {
            effects |= wire::feature_effects::ncc;
        }
        log.fid[static_cast<std::size_t>(row.id)] = effects;
    }
}

}  // namespace nvme
