// Write Zeroes, Dataset Management and Verify: commands about blocks whose content does not cross the
// connection.

#include <algorithm>
#include <cstring>

#include "nvme/io_steps.h"
#include "nvme/io_transfers.h"
#include "wire/nvme_io.h"

namespace nvme {

namespace {

// The part of a command's range that the next request covers, at most one chunk of scratch memory.
struct Chunk {
    std::uint64_t offset = 0;
    std::uint64_t length = 0;  // 0: the range is finished
};

Chunk next_chunk(const Command& command) {
    const BlockRange range = range_of(command.sqe());
    const std::uint32_t shift = command.ns->block_shift();
    const std::uint64_t total = std::uint64_t{range.count} << shift;
    const std::uint64_t left = total - std::min(total, command.steps.cursor);
    return {(range.first << shift) + command.steps.cursor,
            std::min<std::uint64_t>(left, ScratchPool::chunk_bytes)};
}

}  // namespace

// --- Write Zeroes ------------------------------------------------------------------------------------------

Admission admit_write_zeroes(QueuePair& queue, const wire::Sqe& sqe) {
    return admit_range(queue, sqe, {.bytes_max = write_zeroes_bytes_max, .writes = true});
}

namespace {

bool prepare_natively(Command& command) {
    const BlockRange range = range_of(command.sqe());
    const std::uint32_t shift = command.ns->block_shift();
    prepare(command, block::Action::write_zeroes, range.first << shift, std::uint64_t{range.count} << shift,
            nullptr);
    command.request.force_unit_access = wire::io_cdw12::fua.test(command.sqe().cdw12);
    command.request.may_deallocate = wire::io_cdw12::deac.test(command.sqe().cdw12);
    return true;
}

// For a device that cannot do it: zeroes from scratch memory, chunk by chunk.
bool advance_writing_zeroes(QueuePair&, Command& command, block::Status last) {
    if (last != block::Status::ok) {
        finish(command, last, block::Action::write);
        return false;
    }
    const Chunk chunk = next_chunk(command);
    if (chunk.length == 0) {
        finish(command, wire::status::success);
        return false;
    }
    command.steps.cursor += chunk.length;
    prepare(command, block::Action::write, chunk.offset, chunk.length, command.scratch.memory);
    command.request.force_unit_access = wire::io_cdw12::fua.test(command.sqe().cdw12);
    return true;
}

void write_zeroes_from_memory(Command& command) {
    if (!acquire_scratch(command)) {
        return;
    }
    std::memset(command.scratch.memory, 0, ScratchPool::chunk_bytes);
    start_steps(command, advance_writing_zeroes);
}

constexpr std::uint32_t step_native_failed = 1;

void write_zeroes_done(block::Request& request, block::Status status) {
    Command& command = command_of(request);
    if (status == block::Status::not_supported && !command.abort_requested) {
        // What a file system or disk can do shows only when it is asked.
        command.step = step_native_failed;
        write_zeroes_from_memory(command);
        return;
    }
    finish(command, status, block::Action::write_zeroes);
}

}  // namespace

void execute_write_zeroes(QueuePair& queue, Command& command) {
    BlockRange range;
    Namespace* const ns = enter_range(queue, command, range, false);
    if (ns == nullptr || !acquire_range(command, range.first, range.count, false)) {
        return;
    }
    if (command.step == step_native_failed || !ns->device().describe().can_write_zeroes) {
        write_zeroes_from_memory(command);
        return;
    }
    prepare_natively(command);
    command.request.done = write_zeroes_done;
    ns->device().submit(command.request);
}

// --- Dataset Management ------------------------------------------------------------------------------------

namespace {

std::uint32_t range_count(const wire::Sqe& sqe) { return wire::dsm_cdw::nr.get(sqe.cdw10) + 1; }
bool deallocates(const wire::Sqe& sqe) { return wire::dsm_cdw::ad.test(sqe.cdw11); }

}  // namespace

// A host may describe a larger buffer than its ranges fill (Linux always describes the largest), so the
// length of the transfer is what the SGL says.
Admission admit_dataset_management(QueuePair& queue, const wire::Sqe& sqe) {
    Namespace* ns = nullptr;
    if (const wire::Status status = admit_namespace(queue, sqe, ns); !status.ok()) {
        return refused(status);
    }
    const std::uint32_t bytes = sqe.dptr.length;
    if (bytes < range_count(sqe) * sizeof(wire::DsmRange) ||
        bytes > limits::dsm_ranges_max * sizeof(wire::DsmRange)) {
        return refused(wire::status::data_sgl_length_invalid);
    }
    if (deallocates(sqe) && ns->write_protected()) {
        return refused(wire::status::namespace_write_protected);
    }
    Admission admission;
    admission.direction = DataDirection::to_controller;
    admission.length = bytes;
    return admission;
}

namespace {

const wire::DsmRange* ranges_of(const Command& command) {
    return reinterpret_cast<const wire::DsmRange*>(command.data);
}

// Deallocates range after range; `cursor` is the number of the next one.
bool advance_deallocation(QueuePair&, Command& command, block::Status last) {
    if (last != block::Status::ok && last != block::Status::not_supported) {
        finish(command, last, block::Action::deallocate);
        return false;
    }
    const std::uint32_t shift = command.ns->block_shift();
    const std::uint32_t count = range_count(command.sqe());
    while (last == block::Status::ok && command.steps.cursor < count) {
        const wire::DsmRange& range = ranges_of(command)[command.steps.cursor++];
        if (range.nlb != 0) {
            return prepare(command, block::Action::deallocate, range.slba.value() << shift,
                           std::uint64_t{range.nlb.value()} << shift, nullptr);
        }
    }
    finish(command, wire::status::success);  // a device that cannot do it keeps the content, which is allowed
    return false;
}

}  // namespace

void execute_dataset_management(QueuePair& queue, Command& command) {
    Namespace* const ns = enter(queue, command);
    if (ns == nullptr) {
        return;
    }
    const std::uint32_t count = range_count(command.sqe());
    std::uint64_t first = ~std::uint64_t{0};
    std::uint64_t end = 0;
    for (std::uint32_t i = 0; i < count; ++i) {
        const wire::DsmRange& range = ranges_of(command)[i];
        if (!contains(*ns, range.slba, range.nlb)) {
            finish(command, wire::status::lba_out_of_range);
            return;
        }
        if (range.nlb != 0) {
            first = std::min(first, range.slba.value());
            end = std::max(end, range.slba.value() + range.nlb.value());
        }
    }
    if (!deallocates(command.sqe()) || end == 0 || !ns->device().describe().can_deallocate) {
        finish(command, wire::status::success);
        return;
    }
    if (!acquire_range(command, first, end - first, false)) {
        return;
    }
    start_steps(command, advance_deallocation);
}

// --- Verify ------------------------------------------------------------------------------------------------

Admission admit_verify(QueuePair& queue, const wire::Sqe& sqe) { return admit_range(queue, sqe, {}); }

namespace {

bool advance_verify(QueuePair&, Command& command, block::Status last) {
    if (last != block::Status::ok) {
        finish(command, last, block::Action::read);
        return false;
    }
    const Chunk chunk = next_chunk(command);
    if (chunk.length == 0) {
        finish(command, wire::status::success);
        return false;
    }
    command.steps.cursor += chunk.length;
    return prepare(command, block::Action::read, chunk.offset, chunk.length, command.scratch.memory);
}

}  // namespace

void execute_verify(QueuePair& queue, Command& command) {
    BlockRange range;
    Namespace* const ns = enter_range(queue, command, range, false);
    if (ns == nullptr) {
        return;
    }
    const std::uint32_t shift = ns->block_shift();
    if (ns->device().direct_read(range.first << shift, std::uint64_t{range.count} << shift)) {
        finish(command, wire::status::success);
        return;
    }
    if (acquire_scratch(command)) {
        start_steps(command, advance_verify);
    }
}

}  // namespace nvme
