// The NVM command set: what an I/O queue's commands mean [NVM Command Set 1.0 §3].
#pragma once

#include <cstdint>
#include <span>

#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

// One row per I/O command that the controller implements; also the source of the effects log (CNS/log 05h) and ONCS.
struct IoCommandRow {
    wire::IoOpcode opcode;
    std::uint32_t effects;   // Commands Supported and Effects entry
    // Bytes that the command transfers, from its SQE; the direction follows from the opcode. A status if the SQE is
    // wrong in a way that shows before any data is there.
    Admission (*admit)(QueuePair& queue, const wire::Sqe& sqe);
    // Executes; ends in QueuePair::complete, now or later. May be called again after buffer_available() or a restart.
    void (*execute)(QueuePair& queue, Command& command);
};

std::span<const IoCommandRow> io_commands();
const IoCommandRow* find_io_command(std::uint8_t opcode);

// How a device's answer reads to a host.
wire::Status status_of(block::Status status, block::Action action);

}  // namespace nvme
