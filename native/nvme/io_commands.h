// The NVM command set: what an I/O queue's commands mean [NVM Command Set 1.0 §3].
#pragma once

#include <cstdint>
#include <span>

#include "base/limits.h"
#include "nvme/command.h"
#include "nvme/queue_pair.h"

namespace nvme {

// Limits of single commands beyond MDTS, as Identify reports them [NVM Command Set 1.0 §4.1.5].
inline constexpr std::uint32_t write_zeroes_pages_exponent = 13;  // WZSL
inline constexpr std::uint32_t write_zeroes_bytes_max = limits::page_bytes
                                                        << write_zeroes_pages_exponent;  // 32 MiB
// Verify has no limit of its own (VSL 0), Dataset Management neither (DMRL limits::dsm_ranges_max, DMRSL,
// DMSL 0). Copy: the source ranges, and behind them all data that is copied, lie in one buffer.
inline constexpr std::uint32_t copy_list_bytes_max = limits::copy_ranges_max * 32;
inline constexpr std::uint32_t copy_buffer_bytes = limits::transfer_bytes_max / 2;
inline constexpr std::uint32_t copy_bytes_max = copy_buffer_bytes - copy_list_bytes_max;
// MSSRL and MCL, in blocks.
constexpr std::uint32_t copy_blocks_max(std::uint32_t block_shift) { return copy_bytes_max >> block_shift; }
static_assert(copy_list_bytes_max % limits::page_bytes == 0, "the data behind it is page-aligned");

// One row per I/O command that the controller implements; also the source of the effects log (CNS/log 05h)
// and ONCS.
struct IoCommandRow {
    wire::IoOpcode opcode;
    std::uint32_t effects;  // Commands Supported and Effects entry
    // Bytes that the command transfers, from its SQE; the direction follows from the opcode. A status if the
    // SQE is wrong in a way that shows before any data is there.
    Admission (*admit)(QueuePair& queue, const wire::Sqe& sqe);
    // Executes; ends in QueuePair::complete, now or later. May be called again after buffer_available() or a
    // restart. Of a fused pair only the first half's row is called, when both halves are ready: `partner` is
    // the second half (opcodes and ranges agree), and both end in complete(), the first half first. If a
    // restart finds the first half done and the second half not, the second half's own row is called with
    // `partner` null and Fuse::second in its SQE: its `progress` says how far the pair came.
    void (*execute)(QueuePair& queue, Command& command);
};

std::span<const IoCommandRow> io_commands();
const IoCommandRow* find_io_command(std::uint8_t opcode);

// Ends early what waits (for a range, for scratch memory) and asks the device to cancel what it has, because
// the host or the end of the connection wants the command aborted; `abort_requested` is set. The command
// still ends once, in QueuePair::complete with status abort_requested if it had no effect; perhaps from
// within this call. Waiting for a data buffer and waiting for the other half of a fused pair are the queue
// pair's own business.
void cancel_io_command(QueuePair& queue, Command& command);

// After a restart: an executing command whose effect a predecessor had begun and promised to finish alone (a
// compare-and-write that had compared) takes back its range. For each record that was adopted as `ready`,
// before any command of any connection is executed.
void reclaim_io_command(QueuePair& queue, Command& command);

// When a command that was in flight as the process died is executed again. A write to memory may have been
// cut short in the middle of a block, and nobody may see that: commands that change blocks come first, of all
// connections, then those that read and change, then the others.
enum class ReplayTurn : std::uint8_t { change, read_and_change, other };
ReplayTurn replay_turn(QueuePair& queue, const wire::Sqe& sqe);

// How a device's answer reads to a host.
wire::Status status_of(block::Status status, block::Action action);
// Whether the same command would fail again.
bool do_not_retry(block::Status status);

}  // namespace nvme
