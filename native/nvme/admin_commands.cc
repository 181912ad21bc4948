#include "nvme/admin_commands.h"

#include <array>

#include "nvme/controller.h"
#include "wire/nvme_log.h"

namespace nvme {

namespace {

constexpr std::uint32_t supported =
    wire::command_effects::csupp | wire::command_effects::csp.put(wire::scope::controller);
// Set Features can write-protect a namespace.
constexpr std::uint32_t changes_namespace = supported | wire::command_effects::ncc;

Admission admit_plain(Controller&, const wire::Sqe&) { return Admission{}; }

void execute_abort(Controller& controller, QueuePair&, Command& command) { controller.abort(command); }

void execute_async_event_request(Controller& controller, QueuePair&, Command& command) {
    controller.park(command);
}

// Every command restarts the timer already when it is admitted.
void execute_keep_alive(Controller&, QueuePair& queue, Command& command) { queue.complete_ok(command); }

constexpr std::array rows{
    AdminCommandRow{wire::AdminOpcode::get_log_page, for_all, supported, admit_get_log_page,
                    execute_get_log_page},
    AdminCommandRow{wire::AdminOpcode::identify, for_all, supported, admit_identify, execute_identify},
    AdminCommandRow{wire::AdminOpcode::abort, for_io, supported, admit_plain, execute_abort},
    AdminCommandRow{wire::AdminOpcode::set_features, for_all, changes_namespace, admit_set_features,
                    execute_set_features},
    AdminCommandRow{wire::AdminOpcode::get_features, for_all, supported, admit_get_features,
                    execute_get_features},
    AdminCommandRow{wire::AdminOpcode::async_event_request, for_all, supported, admit_plain,
                    execute_async_event_request},
    AdminCommandRow{wire::AdminOpcode::keep_alive, for_all, supported, admit_plain, execute_keep_alive},
};

}  // namespace

std::uint8_t kind_bit(const Controller& controller) {
    return controller.is_discovery() ? for_discovery : for_io;
}

std::span<const AdminCommandRow> admin_commands() { return rows; }

const AdminCommandRow* find_admin_command(const Controller& controller, std::uint8_t opcode) {
    for (const AdminCommandRow& row : rows) {
        if (static_cast<std::uint8_t>(row.opcode) == opcode &&
            (row.controllers & kind_bit(controller)) != 0) {
            return &row;
        }
    }
    return nullptr;
}

void complete_invalid(QueuePair& queue, Command& command, wire::Status status, std::uint8_t sqe_byte) {
    command.error_location = sqe_byte;
    queue.complete(command, status, true);
}

}  // namespace nvme
