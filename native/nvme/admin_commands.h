// The admin command set as one table: admission, execution and effects of each command, and which kind of
// controller has it. Identify, log pages and features are tables of their own in their files.
//
// NVM Express Base 2.0 §3.1.3.4 (support requirements), §5 (admin commands).
#pragma once

#include <cstdint>
#include <span>

#include "nvme/command.h"
#include "nvme/controller_record.h"
#include "nvme/queue_pair.h"

namespace nvme {

class Controller;

// Kinds of controllers, as bits of a row.
inline constexpr std::uint8_t for_io = 1u << 0;
inline constexpr std::uint8_t for_discovery = 1u << 1;
inline constexpr std::uint8_t for_all = for_io | for_discovery;
std::uint8_t kind_bit(const Controller& controller);

struct AdminCommandRow {
    wire::AdminOpcode opcode;
    std::uint8_t controllers;
    std::uint32_t effects;  // Commands Supported and Effects entry
    Admission (*admit)(Controller& controller, const wire::Sqe& sqe);
    // Executes; ends in QueuePair::complete, now or later. May be called again after a wait or a restart.
    void (*execute)(Controller& controller, QueuePair& queue, Command& command);
};

std::span<const AdminCommandRow> admin_commands();
// Null: this controller does not have the command.
const AdminCommandRow* find_admin_command(const Controller& controller, std::uint8_t opcode);

inline Admission admit_to_host(std::uint32_t bytes) {
    Admission admission;
    admission.direction = DataDirection::to_host;
    admission.length = bytes;
    return admission;
}

inline Admission admit_from_host(std::uint32_t bytes) {
    Admission admission;
    admission.direction = DataDirection::to_controller;
    admission.length = bytes;
    return admission;
}

inline Admission admit_refused(wire::Status status) {
    Admission admission;
    admission.status = status;
    return admission;
}

// Fails with a location for the error log: a byte of the SQE.
void complete_invalid(QueuePair& queue, Command& command, wire::Status status, std::uint8_t sqe_byte);

inline constexpr std::uint8_t sqe_byte_nsid = 4;
inline constexpr std::uint8_t sqe_byte_cdw10 = 40;
inline constexpr std::uint8_t sqe_byte_cdw11 = 44;
inline constexpr std::uint8_t sqe_byte_cdw12 = 48;
inline constexpr std::uint8_t sqe_byte_cdw14 = 56;

// identify.cc
Admission admit_identify(Controller& controller, const wire::Sqe& sqe);
void execute_identify(Controller& controller, QueuePair& queue, Command& command);
// log_pages.cc
Admission admit_get_log_page(Controller& controller, const wire::Sqe& sqe);
void execute_get_log_page(Controller& controller, QueuePair& queue, Command& command);
// features.cc
Admission admit_set_features(Controller& controller, const wire::Sqe& sqe);
void execute_set_features(Controller& controller, QueuePair& queue, Command& command);
Admission admit_get_features(Controller& controller, const wire::Sqe& sqe);
void execute_get_features(Controller& controller, QueuePair& queue, Command& command);

}  // namespace nvme
