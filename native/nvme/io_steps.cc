#include "nvme/io_steps.h"

#include <atomic>

#include "base/check.h"
#include "nvme/controller.h"
#include "wire/nvme_io.h"

namespace nvme {

BlockRange range_of(const wire::Sqe& sqe) { return {wire::starting_lba(sqe), wire::logical_blocks(sqe)}; }

bool contains(const Namespace& ns, std::uint64_t first, std::uint64_t count) {
    return count <= ns.blocks() && first <= ns.blocks() - count;
}

// --- admission ---------------------------------------------------------------------------------------------

namespace {

wire::Status find_namespace(QueuePair& queue, const wire::Sqe& sqe, Namespace*& ns) {
    Controller* const controller = queue.controller();
    ns = controller != nullptr ? controller->find_namespace(sqe.nsid) : nullptr;
    return ns != nullptr && !ns->removing() ? wire::status::success
                                            : wire::status::invalid_namespace_or_format;
}

}  // namespace

wire::Status admit_namespace(QueuePair& queue, const wire::Sqe& sqe, Namespace*& ns) {
    if (sqe.fuse() != wire::Fuse::normal) {
        return wire::status::invalid_field;
    }
    return find_namespace(queue, sqe, ns);
}

Admission admit_range(QueuePair& queue, const wire::Sqe& sqe, const TransferRules& rules) {
    if (sqe.fuse() != wire::Fuse::normal && sqe.fuse() != rules.fuse) {
        return refused(wire::status::invalid_field);
    }
    Namespace* ns = nullptr;
    if (const wire::Status status = find_namespace(queue, sqe, ns); !status.ok()) {
        return refused(status);
    }
    // Namespaces are without metadata, so there is no protection information that a host could mean.
    if (wire::io_cdw12::prinfo.test(sqe.cdw12) || wire::io_cdw12::stc.test(sqe.cdw12)) {
        return refused(wire::status::invalid_protection_information);
    }
    if (rules.directives && wire::io_cdw12::dtype.test(sqe.cdw12)) {
        return refused(wire::status::invalid_field);
    }
    const BlockRange range = range_of(sqe);
    const std::uint64_t bytes = std::uint64_t{range.count} << ns->block_shift();
    if (rules.bytes_max != 0 && bytes > rules.bytes_max) {
        return refused(wire::status::invalid_field);
    }
    if (!contains(*ns, range.first, range.count)) {
        return refused(wire::status::lba_out_of_range);
    }
    if (rules.writes && ns->write_protected()) {
        return refused(wire::status::namespace_write_protected);
    }
    return {.direction = rules.direction,
            .length = rules.direction == DataDirection::none ? 0 : static_cast<std::uint32_t>(bytes)};
}

// --- the way in --------------------------------------------------------------------------------------------

namespace {

void execute_again(Command& command) {
    const IoCommandRow* const row = find_io_command(command.sqe().opcode);
    EK_CHECK(row != nullptr, "a command waits whose opcode is unknown");
    row->execute(*command.queue, command);
}

void range_granted(RangeHold& hold) { execute_again(*hold.command); }
void scratch_granted(ScratchWaiter& waiter) { execute_again(*waiter.command); }

}  // namespace

wire::Status try_enter(QueuePair& queue, Command& command) {
    if (command.ns != nullptr) {
        return wire::status::success;
    }
    Namespace* ns = nullptr;
    if (const wire::Status status = find_namespace(queue, command.sqe(), ns); !status.ok()) {
        return status;
    }
    ns->hold();
    command.ns = ns;
    command.step = 0;
    command.steps.cursor = 0;
    return wire::status::success;
}

wire::Status try_enter_range(QueuePair& queue, Command& command, BlockRange& range, bool transfers) {
    if (const wire::Status status = try_enter(queue, command); !status.ok()) {
        return status;
    }
    const Namespace& ns = *command.ns;
    range = range_of(command.sqe());
    if (!contains(ns, range.first, range.count)) {
        return wire::status::lba_out_of_range;
    }
    if (transfers && std::uint64_t{range.count} << ns.block_shift() != command.record->data_length) {
        return wire::status::invalid_namespace_or_format;
    }
    return wire::status::success;
}

Namespace* enter(QueuePair& queue, Command& command) {
    if (const wire::Status status = try_enter(queue, command); !status.ok()) {
        finish(command, status);
        return nullptr;
    }
    return command.ns;
}

Namespace* enter_range(QueuePair& queue, Command& command, BlockRange& range, bool transfers) {
    if (const wire::Status status = try_enter_range(queue, command, range, transfers); !status.ok()) {
        finish(command, status);
        return nullptr;
    }
    return command.ns;
}

namespace {

bool hold_range(Command& command, std::uint64_t first, std::uint64_t count, bool exclusive) {
    if (command.range.state == RangeHold::State::held) {
        return true;
    }
    if (command.range.state == RangeHold::State::waiting) {
        return false;
    }
    command.range.command = &command;
    command.range.granted = range_granted;
    return command.ns->ranges.acquire(command.range, first, count, exclusive);
}

}  // namespace

bool acquire_range(Command& command, std::uint64_t first, std::uint64_t count, bool exclusive) {
    return hold_range(command, first, count, exclusive || command.again);
}

bool acquire_to_read(Command& command, std::uint64_t first, std::uint64_t count) {
    return command.ns->ranges.is_open() || hold_range(command, first, count, false);
}

bool acquire_scratch(Command& command) {
    if (command.scratch.memory != nullptr) {
        return true;
    }
    command.scratch.command = &command;
    command.scratch.granted = scratch_granted;
    return command.ns->scratch.acquire(command.scratch);
}

// --- the way out -------------------------------------------------------------------------------------------

namespace {

// In the other commands this bit of CDW12 means nothing.
bool forces_unit_access(const wire::Sqe& sqe) {
    const auto opcode = static_cast<wire::IoOpcode>(sqe.opcode);
    return opcode != wire::IoOpcode::flush && opcode != wire::IoOpcode::dataset_management &&
           wire::io_cdw12::fua.test(sqe.cdw12);
}

void count(Command& command, Namespace& ns, bool ok) {
    const auto opcode = static_cast<wire::IoOpcode>(command.sqe().opcode);
    const std::uint64_t now = command.queue->reactor().now();
    const std::uint64_t latency = now > command.received_at ? now - command.received_at : 0;
    IoCounters& counters = ns.counters;
    counters.errors += ok ? 0 : 1;
    counters.fua_commands += forces_unit_access(command.sqe()) ? 1 : 0;
    const std::uint64_t bytes = ok ? command.record->data_length : 0;
    if (opcode == wire::IoOpcode::read || opcode == wire::IoOpcode::compare) {
        ++counters.read_commands;
        counters.read_bytes += bytes;
        ns.read_latency.add(latency);
    } else if (opcode == wire::IoOpcode::write) {
        ++counters.write_commands;
        counters.written_bytes += bytes;
        ns.write_latency.add(latency);
    } else {
        ++counters.other_commands;
    }
}

// A response that is sent from the device's own memory keeps the device: QueuePair::release lets go of it.
bool sends_from_device(const Command& command) {
    const CommandRecord& record = *command.record;
    return record.direction == DataDirection::to_host && record.buffer_bytes == 0 &&
           record.data_region != no_data_region;
}

// Only once `done` is stored: a command that lets others at its range before that could be executed again
// after a kill, over what they wrote.
void let_go(Command& command) {
    Namespace& ns = *command.ns;
    ns.scratch.release(command.scratch);
    ns.ranges.release(command.range);
    if (command.record->status != 0 || !sends_from_device(command)) {
        command.ns = nullptr;
        ns.release();
    }
}

}  // namespace

void finish(Command& command, wire::Status status, bool dnr) {
    if (command.ns != nullptr) {
        count(command, *command.ns, status.ok());
        command.after_done = let_go;
    }
    command.queue->complete(command, status, dnr && !status.ok());
}

void finish(Command& command, block::Status status, block::Action action) {
    finish(command, status_of(status, action), do_not_retry(status));
}

// --- block requests ----------------------------------------------------------------------------------------

bool prepare(Command& command, block::Action action, std::uint64_t offset, std::uint64_t length,
             std::byte* data) {
    block::Request& request = command.request;
    command.request.command = &command;
    request.action = action;
    request.force_unit_access = false;
    request.may_deallocate = false;
    request.offset = offset;
    request.length = length;
    request.data = data;
    return true;
}

void submit(Command& command, block::Action action, std::uint64_t offset, std::uint64_t length,
            std::byte* data, void (*done)(block::Request& request, block::Status status)) {
    prepare(command, action, offset, length, data);
    command.request.force_unit_access =
        action == block::Action::write && wire::io_cdw12::fua.test(command.sqe().cdw12);
    command.request.done = done;
    command.ns->device().submit(command.request);
}

namespace {

void step_done(block::Request& request, block::Status status);

void drive(Command& command, block::Status status) {
    QueuePair& queue = *command.queue;
    for (;;) {
        if (!command.steps.advance(queue, command, status)) {
            return;  // finished: the slot may be in use again
        }
        if (command.abort_requested) {
            status = block::Status::aborted;
            continue;
        }
        command.request.done = step_done;
        command.steps.submitting = true;
        command.ns->device().submit(command.request);
        if (command.steps.submitting) {
            command.steps.submitting = false;
            return;
        }
        status = command.steps.noted;
    }
}

void step_done(block::Request& request, block::Status status) {
    Command& command = command_of(request);
    if (command.steps.submitting) {
        command.steps.submitting = false;
        command.steps.noted = status;
        return;
    }
    drive(command, status);
}

}  // namespace

void start_steps(Command& command, bool (*advance)(QueuePair& queue, Command& command, block::Status last)) {
    command.steps.advance = advance;
    drive(command, block::Status::ok);
}

void store_progress(CommandRecord& record, std::uint32_t progress) {
    std::atomic_signal_fence(std::memory_order_seq_cst);
    __atomic_store_n(&record.progress, progress, __ATOMIC_RELAXED);
    std::atomic_signal_fence(std::memory_order_seq_cst);
}

}  // namespace nvme
