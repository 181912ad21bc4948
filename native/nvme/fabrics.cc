// Fabrics commands. A Connect may wait for the admission hook; it can be executed again after a restart at
// any point, because the queue is bound before the command is done and a queue that is bound already is
// simply answered.

#include "nvme/fabrics.h"

#include <array>
#include <cstring>
#include <optional>
#include <string_view>

#include "nvme/admin_commands.h"
#include "nvme/controller.h"
#include "nvme/target.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_properties.h"

namespace nvme {

namespace {

// --- Connect ---

struct Refusal {
    wire::Status status{};
    bool dnr = true;
    std::uint32_t dw0 = 0;
    const char* text = "";
};

Refusal invalid_in_command(std::size_t offset, const char* text, bool dnr = true) {
    return {wire::status::connect_invalid_parameters, dnr,
            wire::connect_invalid_dw0(static_cast<std::uint16_t>(offset), wire::InvalidAttribute::command),
            text};
}

Refusal invalid_in_data(std::size_t offset, const char* text, bool dnr = true) {
    return {wire::status::connect_invalid_parameters, dnr,
            wire::connect_invalid_dw0(static_cast<std::uint16_t>(offset), wire::InvalidAttribute::data),
            text};
}

Refusal invalid_host(const char* text, bool dnr) {
    return {wire::status::connect_invalid_host, dnr,
            wire::connect_invalid_dw0(offsetof(wire::ConnectData, hostnqn), wire::InvalidAttribute::data),
            text};
}

Refusal busy(const char* text) { return {wire::status::connect_controller_busy, false, 0, text}; }

// The name in a field: terminated within it, not empty, not too long, and printable, because it ends up in
// logs.
std::optional<std::string_view> name_in(const char (&field)[wire::nqn_field_bytes]) {
    const std::size_t length = strnlen(field, sizeof(field));
    if (length == 0 || length > limits::nqn_bytes_max) {
        return std::nullopt;
    }
    for (std::size_t i = 0; i < length; ++i) {
        if (static_cast<unsigned char>(field[i]) <= 0x20 || field[i] == 0x7F) {
            return std::nullopt;
        }
    }
    return std::string_view(field, length);
}

struct ConnectNames {
    std::string_view subsystem;
    std::string_view host;
};

const wire::ConnectData& data_of(const Command& command) {
    return *reinterpret_cast<const wire::ConnectData*>(command.data);
}

void refuse(QueuePair& queue, Command& command, const Refusal& refusal) {
    command.record->result0 = refusal.dw0;
    TargetEvent event;
    event.kind = TargetEventKind::connect_rejected;
    event.qid = wire::view_as<wire::ConnectCommand>(command.sqe()).qid;
    if (command.data != nullptr) {
        event.subsystem_nqn = name_in(data_of(command).subnqn).value_or("");
        event.host_nqn = name_in(data_of(command).hostnqn).value_or("");
    }
    event.text = refusal.text;
    queue.target().emit(event);
    queue.complete(command, refusal.status, refusal.dnr);
}

void accept(QueuePair& queue, Command& command) {
    command.record->result0 = wire::connect_result::cntlid.put(queue.controller()->cntlid());
    // Once `done` is stored the response will go out, also after a restart (QueuePair::adopt).
    command.after_done = [](Command& done) { done.queue->record().connect_done = 1; };
    queue.complete_ok(command);
}

// What Connect commands of admin and I/O queues have in common. The subsystem is set if there is no refusal.
std::optional<Refusal> check_common(QueuePair& queue, const Command& command, ConnectNames& names,
                                    Subsystem*& subsystem) {
    Target& target = queue.target();
    const auto& connect = wire::view_as<wire::ConnectCommand>(command.sqe());
    const wire::ConnectData& data = data_of(command);
    if (connect.recfmt != wire::connect_record_format) {
        return Refusal{wire::status::connect_incompatible_format, true, 0, "unknown record format"};
    }
    if (connect.sqsize == 0 || connect.sqsize >= target.limits().queue_entries) {
        return invalid_in_command(offsetof(wire::ConnectCommand, sqsize), "queue size out of range");
    }
    const auto subsystem_nqn = name_in(data.subnqn);
    if (!subsystem_nqn) {
        return invalid_in_data(offsetof(wire::ConnectData, subnqn), "not a subsystem NQN");
    }
    const auto host_nqn = name_in(data.hostnqn);
    if (!host_nqn) {
        return invalid_in_data(offsetof(wire::ConnectData, hostnqn), "not a host NQN");
    }
    names = {*subsystem_nqn, *host_nqn};
    subsystem = target.find(names.subsystem);
    if (subsystem == nullptr) {
        return invalid_in_data(offsetof(wire::ConnectData, subnqn), "no such subsystem", !target.loading());
    }
    if (queue.connection().endpoint().discovery_only && !subsystem->is_discovery()) {
        return invalid_in_data(offsetof(wire::ConnectData, subnqn), "only discovery is served here");
    }
    if (subsystem->removing()) {
        return busy("the subsystem is being removed");
    }
    if (!subsystem->allows(std::string(names.host))) {
        return invalid_host("the host is not allowed", !target.loading());
    }
    return std::nullopt;
}

void connect_admin(QueuePair& queue, Command& command, const ConnectNames& names, Subsystem& subsystem) {
    const auto& connect = wire::view_as<wire::ConnectCommand>(command.sqe());
    const wire::ConnectData& data = data_of(command);
    if (queue.connected()) {  // by another Connect that waited at the same time
        queue.complete(command, wire::status::command_sequence_error, true);
        return;
    }
    wire::Status refused{};
    Controller* const controller = queue.target().create_controller(
        subsystem, names.host, std::span<const std::uint8_t, 16>(data.hostid), connect.kato, queue, refused);
    if (controller == nullptr) {
        refuse(queue, command, {refused, false, 0, "no room for another controller"});
        return;
    }
    queue.bind(*controller, 0, static_cast<std::uint16_t>(connect.sqsize + 1),
               wire::connect_attribute::disable_sq_flow_control.test(connect.cattr));
    controller->announce();
    accept(queue, command);
}

void admission_decided(QueuePair& queue, Command& command, const Target::Decision& decision) {
    if (decision.timed_out) {
        refuse(queue, command, busy("admission was not decided in time"));
        return;
    }
    if (!decision.allow) {
        Refusal refusal = invalid_host("", true);
        const std::string text = "admission refused: " + decision.reason;
        refusal.text = text.c_str();
        refuse(queue, command, refusal);
        return;
    }
    // The world may have changed while the decision was made.
    ConnectNames names;
    Subsystem* subsystem = nullptr;
    if (const auto refusal = check_common(queue, command, names, subsystem)) {
        refuse(queue, command, *refusal);
        return;
    }
    connect_admin(queue, command, names, *subsystem);
}

std::optional<Refusal> check_admin(QueuePair& queue, const Command& command, const ConnectNames& names) {
    Target& target = queue.target();
    const TargetLimits& bounds = target.limits();
    if (data_of(command).cntlid != wire::cntlid_dynamic) {
        return invalid_in_data(offsetof(wire::ConnectData, cntlid), "controllers are created dynamically");
    }
    if (target.connection_count() > bounds.connections) {
        return busy("too many connections");
    }
    if (target.controllers_of(names.host) >= bounds.controllers_per_host) {
        return busy("the host has too many controllers");
    }
    if (target.connections_of(names.host) >= bounds.connections_per_host) {
        return busy("the host has too many connections");
    }
    if (!target.has_room_for(queue.connection().endpoint().peer_address)) {
        return busy("the address has half of all controllers");
    }
    return std::nullopt;
}

std::optional<Refusal> check_io(QueuePair& queue, const Command& command, const ConnectNames& names,
                                Subsystem& subsystem, Controller*& found) {
    const auto& connect = wire::view_as<wire::ConnectCommand>(command.sqe());
    const wire::ConnectData& data = data_of(command);
    Controller* const controller = subsystem.find_controller(data.cntlid);
    // Not for good: the controller may have ended a moment ago, and the host will make a new one.
    if (controller == nullptr || controller->terminating()) {
        return invalid_in_data(offsetof(wire::ConnectData, cntlid), "no such controller", false);
    }
    if (controller->host_nqn() != names.host) {
        return invalid_in_data(offsetof(wire::ConnectData, hostnqn), "the controller is another host's");
    }
    if (std::memcmp(controller->record().host_id, data.hostid, sizeof(data.hostid)) != 0) {
        return invalid_in_data(offsetof(wire::ConnectData, hostid), "the host identifier is another one");
    }
    if (controller->is_discovery() || connect.qid > controller->io_queues_allowed()) {
        return invalid_in_command(offsetof(wire::ConnectCommand, qid), "the queue identifier is too high");
    }
    if (!controller->enabled() || !controller->ready() || !controller->accepts_io()) {
        return invalid_in_command(offsetof(wire::ConnectCommand, qid), "the controller is not enabled",
                                  false);
    }
    // The old connection may be half dead without our knowing; the host tries again, or its keep alive ends
    // it all.
    if (controller->queue(connect.qid) != nullptr) {
        return Refusal{wire::status::invalid_queue_identifier, false, 0, "the queue exists already"};
    }
    if (queue.target().connections_of(names.host) >= queue.target().limits().connections_per_host) {
        return busy("the host has too many connections");
    }
    found = controller;
    return std::nullopt;
}

void execute_connect(QueuePair& queue, Command& command) {
    if (queue.connected()) {
        if (queue.record().connect_done == 0) {
            accept(queue, command);  // a predecessor bound the queue and died before it said so
        } else {
            queue.complete(command, wire::status::command_sequence_error, true);
        }
        return;
    }
    ConnectNames names;
    Subsystem* subsystem = nullptr;
    std::optional<Refusal> refusal = check_common(queue, command, names, subsystem);
    const auto& connect = wire::view_as<wire::ConnectCommand>(command.sqe());
    if (connect.qid != 0) {
        Controller* controller = nullptr;
        if (!refusal) {
            refusal = check_io(queue, command, names, *subsystem, controller);
        }
        if (refusal) {
            refuse(queue, command, *refusal);
            return;
        }
        controller->contact();
        queue.bind(*controller, connect.qid, static_cast<std::uint16_t>(connect.sqsize + 1),
                   wire::connect_attribute::disable_sq_flow_control.test(connect.cattr));
        accept(queue, command);
        return;
    }
    if (!refusal) {
        refusal = check_admin(queue, command, names);
    }
    if (refusal) {
        refuse(queue, command, *refusal);
        return;
    }
    ConnectRequest request;
    request.subsystem_nqn = names.subsystem;
    request.host_nqn = names.host;
    std::memcpy(request.host_id.data(), data_of(command).hostid, request.host_id.size());
    request.discovery = subsystem->is_discovery();
    request.endpoint = queue.connection().endpoint();
    if (!queue.target().ask_admission(request, queue, command, admission_decided)) {
        connect_admin(queue, command, names, *subsystem);
    }
}

Admission admit_connect(QueuePair& queue, const wire::Sqe&) {
    // A second Connect while the first one waits for its admission is as wrong as one afterwards.
    if (queue.record().connect_done != 0 || queue.executing_count() != 0) {
        return admit_refused(wire::status::command_sequence_error);
    }
    return admit_from_host(sizeof(wire::ConnectData));
}

// --- properties ---

// Properties belong to the admin queue of a controller that exists.
wire::Status check_admin_queue(const QueuePair& queue, bool connect_done) {
    if (!connect_done) {
        return wire::status::command_sequence_error;
    }
    return queue.qid() != 0 ? wire::status::invalid_queue_type : wire::status::success;
}

Admission admit_property(QueuePair& queue, const wire::Sqe&) {
    Admission admission;
    admission.status = check_admin_queue(queue, queue.connected() && queue.record().connect_done != 0);
    return admission;
}

bool size_of(std::uint8_t attrib, bool& eight_bytes) {
    const std::uint8_t size = wire::property_attrib_size.get(attrib);
    eight_bytes = size == static_cast<std::uint8_t>(wire::PropertySize::eight_bytes);
    return eight_bytes || size == static_cast<std::uint8_t>(wire::PropertySize::four_bytes);
}

void execute_property_get(QueuePair& queue, Command& command) {
    const auto& get = wire::view_as<wire::PropertyGetCommand>(command.sqe());
    bool eight_bytes = false;
    std::uint64_t value = 0;
    if (queue.controller() == nullptr) {
        queue.complete(command, wire::status::command_sequence_error, true);
        return;
    }
    if (!size_of(get.attrib, eight_bytes)) {
        complete_invalid(queue, command, wire::status::invalid_field,
                         offsetof(wire::PropertyGetCommand, attrib));
        return;
    }
    if (!queue.controller()->property_get(get.ofst, eight_bytes, value)) {
        complete_invalid(queue, command, wire::status::invalid_field,
                         offsetof(wire::PropertyGetCommand, ofst));
        return;
    }
    command.record->result0 = static_cast<std::uint32_t>(value);
    command.record->result1 = static_cast<std::uint32_t>(value >> 32);
    queue.complete_ok(command);
}

void execute_property_set(QueuePair& queue, Command& command) {
    const auto& set = wire::view_as<wire::PropertySetCommand>(command.sqe());
    bool eight_bytes = false;
    if (queue.controller() == nullptr) {
        queue.complete(command, wire::status::command_sequence_error, true);
        return;
    }
    if (!size_of(set.attrib, eight_bytes)) {
        complete_invalid(queue, command, wire::status::invalid_field,
                         offsetof(wire::PropertySetCommand, attrib));
        return;
    }
    const wire::Status status = queue.controller()->property_set(set.ofst, eight_bytes, set.value, &command);
    if (!status.ok()) {
        complete_invalid(queue, command, status, offsetof(wire::PropertySetCommand, ofst));
        return;
    }
    queue.complete_ok(command);
}

// --- Disconnect ---

Admission admit_disconnect(QueuePair& queue, const wire::Sqe& sqe) {
    const auto& disconnect = wire::view_as<wire::DisconnectCommand>(sqe);
    if (queue.record().connect_done == 0) {
        return admit_refused(wire::status::command_sequence_error);
    }
    if (queue.qid() == 0) {
        return admit_refused(wire::status::invalid_queue_type);
    }
    if (disconnect.recfmt != 0) {
        return admit_refused(wire::status::connect_incompatible_format);
    }
    return Admission{};
}

// Deletes an I/O queue: what is outstanding ends, then the answer, then the connection.
void execute_disconnect(QueuePair& queue, Command& command) {
    queue.abort_all(&command);
    queue.complete_ok(command);
    queue.connection().disconnect(true, "the host sent Disconnect");
}

// --- the table ---

struct FabricsRow {
    wire::FabricsType type;
    Admission (*admit)(QueuePair& queue, const wire::Sqe& sqe);
    void (*execute)(QueuePair& queue, Command& command);
};

constexpr std::array rows{
    FabricsRow{wire::FabricsType::property_set, admit_property, execute_property_set},
    FabricsRow{wire::FabricsType::connect, admit_connect, execute_connect},
    FabricsRow{wire::FabricsType::property_get, admit_property, execute_property_get},
    FabricsRow{wire::FabricsType::disconnect, admit_disconnect, execute_disconnect},
};

const FabricsRow* find_fabrics(std::uint8_t type) {
    for (const FabricsRow& row : rows) {
        if (static_cast<std::uint8_t>(row.type) == type) {
            return &row;
        }
    }
    return nullptr;
}

}  // namespace

Admission admit_fabrics(QueuePair& queue, const wire::Sqe& sqe) {
    const FabricsRow* const row = find_fabrics(sqe.fctype());
    if (row == nullptr) {
        return admit_refused(queue.record().connect_done == 0 ? wire::status::command_sequence_error
                                                              : wire::status::invalid_opcode);
    }
    return row->admit(queue, sqe);
}

void execute_fabrics(QueuePair& queue, Command& command) {
    const FabricsRow* const row = find_fabrics(command.sqe().fctype());
    if (row == nullptr) {
        queue.complete(command, wire::status::invalid_opcode, true);
        return;
    }
    row->execute(queue, command);
}

}  // namespace nvme
