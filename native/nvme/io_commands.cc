#include "nvme/io_commands.h"

#include <array>

#include "nvme/compare.h"
#include "nvme/copy.h"
#include "nvme/io_steps.h"
#include "nvme/io_transfers.h"
#include "wire/nvme_io.h"
#include "wire/nvme_log.h"

namespace nvme {

namespace {

// No command scope (CSP): Linux 6.1 warns of every bit but CSUPP and LBCC in the effects of an I/O command.
constexpr std::uint32_t supported = wire::command_effects::csupp;
constexpr std::uint32_t changes_blocks = supported | wire::command_effects::lbcc;

constexpr std::array rows{
    IoCommandRow{wire::IoOpcode::flush, supported, admit_flush, execute_flush},
    IoCommandRow{wire::IoOpcode::write, changes_blocks, admit_write, execute_write},
    IoCommandRow{wire::IoOpcode::read, supported, admit_read, execute_read},
    IoCommandRow{wire::IoOpcode::compare, supported, admit_compare, execute_compare},
    IoCommandRow{wire::IoOpcode::write_zeroes, changes_blocks, admit_write_zeroes, execute_write_zeroes},
    IoCommandRow{wire::IoOpcode::dataset_management, changes_blocks, admit_dataset_management,
                 execute_dataset_management},
    IoCommandRow{wire::IoOpcode::verify, supported, admit_verify, execute_verify},
    IoCommandRow{wire::IoOpcode::copy, changes_blocks, admit_copy, execute_copy},
};

constexpr std::uint8_t no_row = 0xFF;

// Row of each opcode, so that looking one up costs one load.
constexpr std::array<std::uint8_t, 256> row_of_opcode = [] {
    std::array<std::uint8_t, 256> index{};
    index.fill(no_row);
    for (std::size_t i = 0; i < rows.size(); ++i) {
        index[static_cast<std::uint8_t>(rows[i].opcode)] = static_cast<std::uint8_t>(i);
    }
    return index;
}();

// How each way in which a block request can end reads to a host. A retry is left to the host where the cause
// may go away by itself; running out of space may too, but hosts retry at once and would only delay the
// ENOSPC.
struct StatusRow {
    block::Status status;
    wire::Status of_read;
    wire::Status of_other;
    bool do_not_retry;
};

constexpr std::array status_rows{
    StatusRow{block::Status::ok, wire::status::success, wire::status::success, false},
    StatusRow{block::Status::out_of_range, wire::status::lba_out_of_range, wire::status::lba_out_of_range,
              true},
    StatusRow{block::Status::misaligned, wire::status::invalid_field, wire::status::invalid_field, true},
    StatusRow{block::Status::not_supported, wire::status::invalid_field, wire::status::invalid_field, true},
    StatusRow{block::Status::read_only, wire::status::namespace_write_protected,
              wire::status::namespace_write_protected, true},
    StatusRow{block::Status::no_space, wire::status::capacity_exceeded, wire::status::capacity_exceeded,
              true},
    StatusRow{block::Status::medium_error, wire::status::unrecovered_read_error, wire::status::write_fault,
              false},
    StatusRow{block::Status::gone, wire::status::namespace_not_ready, wire::status::namespace_not_ready,
              false},
    StatusRow{block::Status::aborted, wire::status::abort_requested, wire::status::abort_requested, false},
    StatusRow{block::Status::busy, wire::status::command_interrupted, wire::status::command_interrupted,
              false},
    StatusRow{block::Status::internal_error, wire::status::internal_error, wire::status::internal_error,
              false},
};

constexpr bool in_order_of_the_enum() {
    for (std::size_t i = 0; i < status_rows.size(); ++i) {
        if (static_cast<std::size_t>(status_rows[i].status) != i) {
            return false;
        }
    }
    return true;
}
static_assert(in_order_of_the_enum() &&
              status_rows.size() == static_cast<std::size_t>(block::Status::internal_error) + 1);

}  // namespace

std::span<const IoCommandRow> io_commands() { return rows; }

const IoCommandRow* find_io_command(std::uint8_t opcode) {
    const std::uint8_t row = row_of_opcode[opcode];
    return row != no_row ? &rows[row] : nullptr;
}

wire::Status status_of(block::Status status, block::Action action) {
    const StatusRow& row = status_rows[static_cast<std::size_t>(status)];
    return action == block::Action::read ? row.of_read : row.of_other;
}

bool do_not_retry(block::Status status) { return status_rows[static_cast<std::size_t>(status)].do_not_retry; }

ReplayTurn replay_turn(QueuePair& queue, const wire::Sqe& sqe) {
    if (queue.qid() == 0 || queue.controller() == nullptr) {
        return ReplayTurn::other;
    }
    if (sqe.fuse() != wire::Fuse::normal) {
        return ReplayTurn::read_and_change;
    }
    switch (static_cast<wire::IoOpcode>(sqe.opcode)) {
        case wire::IoOpcode::write:
        case wire::IoOpcode::write_zeroes:
        case wire::IoOpcode::dataset_management: return ReplayTurn::change;
        case wire::IoOpcode::copy: return ReplayTurn::read_and_change;
        default: return ReplayTurn::other;
    }
}

void cancel_io_command(QueuePair&, Command& command) {
    // The first half of a pair does the work of both.
    Command& working =
        command.sqe().fuse() == wire::Fuse::second && command.partner != nullptr ? *command.partner : command;
    command.abort_requested = working.abort_requested = true;
    if (working.range.state == RangeHold::State::waiting || working.scratch.waiting) {
        abandon(working);
    } else if (working.ns != nullptr && working.request.phase != block::Request::Phase::idle) {
        working.request.device->cancel(working.request);
    }
}

}  // namespace nvme
