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
    // Of a fused pair only the first half's row is called, when both halves are ready: `partner` is the second half
    // (opcodes and ranges agree), and both end in complete(), the first half first. If a restart finds the first half
    // done and the second half not, the second half's own row is called with `partner` null and Fuse::second in its
    // SQE: its `progress` says how far the pair came.
    void (*execute)(QueuePair& queue, Command& command);
};

std::span<const IoCommandRow> io_commands();
const IoCommandRow* find_io_command(std::uint8_t opcode);

// Ends early what waits (for a range, for scratch memory) and asks the device to cancel what it has, because the host
// or the end of the connection wants the command aborted; `abort_requested` is set. The command still ends once, in
// QueuePair::complete with status abort_requested if it had no effect; perhaps from within this call. Waiting for a
// data buffer and waiting for the other half of a fused pair are the queue pair's own business.
void cancel_io_command(QueuePair& queue, Command& command);

// How a device's answer reads to a host.
wire::Status status_of(block::Status status, block::Action action);

}  // namespace nvme
