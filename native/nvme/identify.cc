// Identify, as one table: CNS → which controllers answer it, whether it names an I/O command set, and what it
// says.
//
// NVM Express Base 2.0 §5.17; NVM Command Set 1.0 §4.1.5; what hosts insist on decided where the standard
// leaves room.

#include "wire/nvme_identify.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <string_view>

#include "nvme/admin_commands.h"
#include "nvme/controller.h"
#include "nvme/io_commands.h"
#include "nvme/properties.h"
#include "nvme/target.h"
#include "wire/nvme_fabrics.h"

namespace nvme {

namespace {

struct Question {
    Controller& controller;
    QueuePair& queue;
    const wire::Sqe& sqe;

    Subsystem& subsystem() const { return controller.subsystem(); }
    std::uint32_t nsid() const { return sqe.nsid; }
};

// The answer goes to zeroed memory of identify_bytes.
template <typename Structure>
Structure& as(std::byte* out) {
    static_assert(sizeof(Structure) == wire::identify_bytes && alignof(Structure) == 1);
    return *new (out) Structure{};
}

template <std::size_t Size>
void put_text(char (&field)[Size], std::string_view text, char padding) {
    std::memset(field, padding, Size);
    std::memcpy(field, text.data(), std::min(text.size(), Size));
}

void put_128(std::uint8_t (&field)[16], std::uint64_t value) {
    for (std::size_t i = 0; i < 8; ++i) {
        field[i] = static_cast<std::uint8_t>(value >> (8 * i));
    }
}

bool has_command(wire::IoOpcode opcode) {
    return find_io_command(static_cast<std::uint8_t>(opcode)) != nullptr;
}

std::uint16_t optional_commands() {
    const auto bit = [](wire::IoOpcode opcode, std::uint16_t mask) {
        return has_command(opcode) ? mask : std::uint16_t{0};
    };
    return static_cast<std::uint16_t>(
        bit(wire::IoOpcode::compare, wire::oncs::compare) |
        bit(wire::IoOpcode::write_uncorrectable, wire::oncs::write_uncorrectable) |
        bit(wire::IoOpcode::dataset_management, wire::oncs::dataset_management) |
        bit(wire::IoOpcode::write_zeroes, wire::oncs::write_zeroes) |
        bit(wire::IoOpcode::verify, wire::oncs::verify) | bit(wire::IoOpcode::copy, wire::oncs::copy) |
        bit(wire::IoOpcode::reservation_register, wire::oncs::reservations) | wire::oncs::save_and_select |
        wire::oncs::timestamp);
}

// --- the controller ---

// What controllers of all kinds say.
void fill_common(const Question& question, wire::IdentifyController& id) {
    const SubsystemSpec& spec = question.subsystem().spec();
    put_text(id.sn, spec.serial, ' ');
    put_text(id.mn, spec.model, ' ');
    put_text(id.fr, spec.firmware, ' ');
    std::copy(spec.ieee_oui.begin(), spec.ieee_oui.end(), id.ieee);
    id.mdts = limits::mdts_exponent;
    id.cntlid = question.controller.cntlid();
    id.ver = controller_version;
    id.ctratt = wire::ctratt::host_identifier_128 | wire::ctratt::traffic_based_keep_alive;
    id.aerl = limits::async_event_requests_max - 1;
    id.elpe = limits::error_log_entries - 1;
    id.lpa =
        wire::lpa::extended_data | wire::lpa::supported_log_pages | wire::lpa::commands_supported_and_effects;
    id.kas = keep_alive_granularity_100ms;
    id.maxcmd = static_cast<std::uint16_t>(question.controller.target().limits().queue_entries);
    id.sgls = wire::sgls::supported.put(wire::sgls::supported_any_alignment) | wire::sgls::longer_than_data |
              wire::sgls::offset | wire::sgls::transport_data_block;
    put_text(id.subnqn, spec.nqn, '\0');
}

void put_capsule_sizes(const Question& question, wire::IdentifyController& id) {
    constexpr std::uint32_t sqe_bytes = sizeof(wire::Sqe);
    id.ioccsz = (sqe_bytes + question.queue.connection().traits().in_capsule_bytes_io) / 16;
    id.iorcsz = std::uint32_t{sizeof(wire::Cqe)} / 16;
}

void fill_io(const Question& question, wire::IdentifyController& id) {
    Subsystem& subsystem = question.subsystem();
    id.cmic = wire::cmic::multiple_ports | wire::cmic::multiple_controllers | wire::cmic::ana_reporting;
    id.rtd3e = ready_timeout_500ms * 500'000;  // µs: hosts wait this long for a shutdown
    id.oaes = wire::async_events::namespace_attribute | wire::async_events::ana_change;
    id.cntrltype = static_cast<std::uint8_t>(wire::ControllerType::io);
    id.crdt1 = 2;  // 200 ms: by then what was momentarily impossible mostly is possible
    id.acl = limits::abort_commands_max - 1;
    id.frmw = static_cast<std::uint8_t>(wire::frmw::slot_1_read_only.put(1) | wire::frmw::slots.put(1));
    id.wctemp = temperature_warning;
    id.cctemp = temperature_critical;
    std::uint64_t capacity = 0;
    for (const auto& [nsid, ns] : subsystem.namespaces()) {
        capacity += ns->blocks() << ns->block_shift();
    }
    put_128(id.tnvmcap, capacity);
    id.anatt = 10;
    id.anacap = wire::anacap::optimized | wire::anacap::non_optimized | wire::anacap::inaccessible |
                wire::anacap::persistent_loss | wire::anacap::change |
                wire::anacap::group_id_fixed_while_attached;
    id.anagrpmax = ana_group;
    id.nanagrpid = ana_group;
    id.sqes = io_sqe_exponent | (io_sqe_exponent << 4);
    id.cqes = io_cqe_exponent | (io_cqe_exponent << 4);
    id.nn = subsystem.spec().max_namespaces;
    id.mnan = subsystem.spec().max_namespaces;
    id.oncs = optional_commands();
    id.fuses = has_command(wire::IoOpcode::compare) ? wire::fuses_compare_and_write : std::uint16_t{0};
    // Always, whatever the present namespaces are: hosts look once, and a namespace that is added later may
    // need their flushes.
    id.vwc = static_cast<std::uint8_t>(wire::vwc::present |
                                       wire::vwc::flush_behavior.put(wire::vwc::flush_broadcast_supported));
    id.nwpc = wire::nwpc::write_protect;
    id.cdfs = has_command(wire::IoOpcode::copy) ? std::uint16_t{1} : std::uint16_t{0};  // descriptor format 0
    put_capsule_sizes(question, id);
    id.msdbd = 1;
    id.ofcs = wire::ofcs_disconnect;
}

void fill_discovery(const Question& question, wire::IdentifyController& id) {
    id.oaes = wire::async_events::discovery_log;
    id.cntrltype = static_cast<std::uint8_t>(wire::ControllerType::discovery);
    put_capsule_sizes(question, id);
    id.msdbd = 1;
}

wire::Status identify_controller(const Question& question, std::byte* out) {
    auto& id = as<wire::IdentifyController>(out);
    fill_common(question, id);
    if (question.controller.is_discovery()) {
        fill_discovery(question, id);
    } else {
        fill_io(question, id);
    }
    return wire::status::success;
}

wire::Status identify_nvm_controller(const Question&, std::byte* out) {
    as<wire::IdentifyNvmController>(out).wzsl = write_zeroes_pages_exponent;
    return wire::status::success;
}

// --- one namespace ---

bool valid_nsid(const Question& question) {
    return question.nsid() != 0 && question.nsid() <= question.subsystem().spec().max_namespaces;
}

std::uint8_t deallocate_features(const block::Description& description) {
    const bool zeroes = description.can_deallocate && description.deallocated_reads_zero;
    return static_cast<std::uint8_t>(
        wire::dlfeat::read_value.put(zeroes ? wire::dlfeat::read_zeroes : wire::dlfeat::read_not_reported) |
        wire::dlfeat::write_zeroes_deallocate.put(zeroes ? 1 : 0));
}

// Bytes as a 0's based number of blocks, as far as the field reaches.
std::uint16_t granularity(std::uint32_t bytes, const Namespace& ns) {
    const std::uint32_t blocks = std::max(bytes >> ns.block_shift(), 1u);
    return static_cast<std::uint16_t>(std::min(blocks, 65536u) - 1);
}

wire::Status identify_namespace(const Question& question, std::byte* out) {
    if (!valid_nsid(question)) {
        return wire::status::invalid_namespace_or_format;
    }
    Namespace* const ns = question.controller.find_namespace(question.nsid());
    auto& id = as<wire::IdentifyNamespace>(out);
    if (ns == nullptr) {
        return wire::status::success;  // inactive: all zeroes
    }
    const block::Description& description = ns->device().describe();
    id.nsze = ns->blocks();
    id.ncap = ns->blocks();
    id.nuse = ns->blocks();
    id.nsfeat = wire::nsfeat::optimal_performance;
    id.nmic = wire::nmic_shared;
    id.dlfeat = deallocate_features(description);
    put_128(id.nvmcap, ns->blocks() << ns->block_shift());
    id.npwg = granularity(description.physical_block_bytes, *ns);
    id.npwa = id.npwg;
    id.npdg = id.npwg;
    id.npda = id.npwg;
    id.nows = granularity(std::max(description.optimal_io_bytes, description.physical_block_bytes), *ns);
    if (has_command(wire::IoOpcode::copy)) {
        const std::uint32_t blocks = copy_blocks_max(ns->block_shift());
        id.mssrl = static_cast<std::uint16_t>(std::min(blocks, 0xFFFFu));
        id.mcl = blocks;
        id.msrc = limits::copy_ranges_max - 1;
    }
    id.anagrpid = ana_group;
    id.nsattr = ns->write_protected() ? wire::nsattr_write_protected : std::uint8_t{0};
    std::copy(ns->spec().nguid.begin(), ns->spec().nguid.end(), id.nguid);
    id.lbaf[0].lbads = static_cast<std::uint8_t>(ns->block_shift());
    return wire::status::success;
}

wire::Status identify_independent_namespace(const Question& question, std::byte* out) {
    if (!valid_nsid(question)) {
        return wire::status::invalid_namespace_or_format;
    }
    Namespace* const ns = question.controller.find_namespace(question.nsid());
    auto& id = as<wire::IdentifyNamespaceIndependent>(out);
    if (ns == nullptr) {
        return wire::status::success;
    }
    id.nsfeat =
        ns->device().describe().rotational ? wire::nsfeat_independent::rotational_media : std::uint8_t{0};
    id.nmic = wire::nmic_shared;
    id.anagrpid = ana_group;
    id.nsattr = ns->write_protected() ? wire::nsattr_write_protected : std::uint8_t{0};
    id.nstat = wire::nstat_ready;
    return wire::status::success;
}

// Neither metadata nor protection information: an active namespace and an inactive one look alike.
wire::Status identify_nvm_namespace(const Question& question, std::byte* out) {
    if (!valid_nsid(question)) {
        return wire::status::invalid_namespace_or_format;
    }
    as<wire::IdentifyNvmNamespace>(out);
    return wire::status::success;
}

wire::Status identify_descriptors(const Question& question, std::byte* out) {
    Namespace* const ns =
        valid_nsid(question) ? question.controller.find_namespace(question.nsid()) : nullptr;
    if (ns == nullptr) {
        return wire::status::invalid_namespace_or_format;
    }
    std::size_t at = 0;
    const auto put = [&](wire::NamespaceIdType type, const std::uint8_t* value) {
        auto& descriptor = *new (out + at) wire::NamespaceIdDescriptor{};
        descriptor.nidt = static_cast<std::uint8_t>(type);
        descriptor.nidl = wire::namespace_id_bytes(type);
        std::memcpy(out + at + sizeof(descriptor), value, descriptor.nidl);
        at += sizeof(descriptor) + descriptor.nidl;
    };
    const auto set = [](const std::array<std::uint8_t, 16>& id) {
        return std::any_of(id.begin(), id.end(), [](std::uint8_t byte) { return byte != 0; });
    };
    if (set(ns->spec().nguid)) {
        put(wire::NamespaceIdType::nguid, ns->spec().nguid.data());
    }
    if (set(ns->spec().uuid)) {
        put(wire::NamespaceIdType::uuid, ns->spec().uuid.data());
    }
    const auto csi = static_cast<std::uint8_t>(wire::CommandSet::nvm);
    put(wire::NamespaceIdType::csi, &csi);
    return wire::status::success;
}

// --- lists ---

// All namespaces are attached to all controllers, so that allocated and active ones are the same.
wire::Status namespace_list(const Question& question, std::byte* out) {
    if (question.nsid() >= wire::nsid_broadcast - 1) {
        return wire::status::invalid_namespace_or_format;
    }
    auto& list = as<wire::NamespaceList>(out);
    std::size_t count = 0;
    const auto& namespaces = question.subsystem().namespaces();
    for (auto at = namespaces.upper_bound(question.nsid()); at != namespaces.end(); ++at) {
        if (count == std::size(list.nsid)) {
            break;
        }
        list.nsid[count++] = at->first;
    }
    return wire::status::success;
}

wire::Status controller_list(const Question& question, std::byte* out) {
    auto& list = as<wire::ControllerList>(out);
    const std::uint16_t from = wire::identify_cdw::cntid.get(question.sqe.cdw10) & 0xFFFF;
    std::vector<std::uint16_t> ids;
    for (const Controller* controller : question.subsystem().controllers()) {
        if (controller->cntlid() >= from && !controller->terminating()) {
            ids.push_back(controller->cntlid());
        }
    }
    std::sort(ids.begin(), ids.end());
    const std::size_t count = std::min(ids.size(), std::size(list.cntlid));
    list.count = static_cast<std::uint16_t>(count);
    std::copy_n(ids.begin(), count, list.cntlid);
    return wire::status::success;
}

wire::Status attached_controller_list(const Question& question, std::byte* out) {
    if (!valid_nsid(question)) {
        return wire::status::invalid_namespace_or_format;
    }
    if (question.controller.find_namespace(question.nsid()) == nullptr) {
        as<wire::ControllerList>(out);
        return wire::status::success;
    }
    return controller_list(question, out);
}

wire::Status command_set_combinations(const Question& question, std::byte* out) {
    const auto cntid = static_cast<std::uint16_t>(wire::identify_cdw::cntid.get(question.sqe.cdw10));
    if (cntid != 0xFFFF && question.subsystem().find_controller(cntid) == nullptr) {
        return wire::status::invalid_field;
    }
    as<wire::CommandSetCombinations>(out).vector[0] = wire::command_set_vector_nvm;
    return wire::status::success;
}

// --- the table ---

struct IdentifyRow {
    wire::Cns cns;
    std::uint8_t controllers;
    bool names_command_set;  // CSI must be that of the NVM command set
    wire::Status (*answer)(const Question& question, std::byte* out);
};

constexpr std::array rows{
    IdentifyRow{wire::Cns::identify_namespace, for_io, false, identify_namespace},
    IdentifyRow{wire::Cns::identify_controller, for_all, false, identify_controller},
    IdentifyRow{wire::Cns::active_namespace_list, for_io, false, namespace_list},
    IdentifyRow{wire::Cns::namespace_identification_descriptors, for_io, false, identify_descriptors},
    IdentifyRow{wire::Cns::command_set_namespace, for_io, true, identify_nvm_namespace},
    IdentifyRow{wire::Cns::command_set_controller, for_io, true, identify_nvm_controller},
    IdentifyRow{wire::Cns::command_set_active_namespace_list, for_io, true, namespace_list},
    IdentifyRow{wire::Cns::command_set_independent_namespace, for_io, false, identify_independent_namespace},
    IdentifyRow{wire::Cns::allocated_namespace_list, for_io, false, namespace_list},
    IdentifyRow{wire::Cns::allocated_namespace, for_io, false, identify_namespace},
    IdentifyRow{wire::Cns::namespace_attached_controller_list, for_io, false, attached_controller_list},
    IdentifyRow{wire::Cns::subsystem_controller_list, for_io, false, controller_list},
    IdentifyRow{wire::Cns::command_set_allocated_namespace_list, for_io, true, namespace_list},
    IdentifyRow{wire::Cns::command_set_allocated_namespace, for_io, true, identify_nvm_namespace},
    IdentifyRow{wire::Cns::io_command_set_combinations, for_all, false, command_set_combinations},
};

const IdentifyRow* find_row(const Controller& controller, const wire::Sqe& sqe) {
    const std::uint32_t cns = wire::identify_cdw::cns.get(sqe.cdw10);
    for (const IdentifyRow& row : rows) {
        if (static_cast<std::uint32_t>(row.cns) == cns && (row.controllers & kind_bit(controller)) != 0) {
            return &row;
        }
    }
    return nullptr;
}

}  // namespace

Admission admit_identify(Controller&, const wire::Sqe&) { return admit_to_host(wire::identify_bytes); }

void execute_identify(Controller& controller, QueuePair& queue, Command& command) {
    const wire::Sqe& sqe = command.sqe();
    const IdentifyRow* const row = find_row(controller, sqe);
    if (row == nullptr) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw10);
        return;
    }
    if (row->names_command_set &&
        wire::identify_cdw::csi.get(sqe.cdw11) != static_cast<std::uint32_t>(wire::CommandSet::nvm)) {
        complete_invalid(queue, command, wire::status::invalid_field, sqe_byte_cdw11 + 3);
        return;
    }
    if (!queue.allocate_data(command, wire::identify_bytes)) {
        return;
    }
    std::memset(command.data, 0, wire::identify_bytes);
    const wire::Status status = row->answer({controller, queue, sqe}, command.data);
    if (!status.ok()) {
        complete_invalid(queue, command, status,
                         status == wire::status::invalid_field ? sqe_byte_cdw10 : sqe_byte_nsid);
        return;
    }
    queue.complete_ok(command);
}

}  // namespace nvme
