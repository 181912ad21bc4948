#include "nvme/copy.h"

#include <algorithm>

#include "nvme/io_steps.h"
#include "wire/nvme_io.h"

namespace nvme {

namespace {

constexpr std::uint32_t progress_staged = 1;  // the buffer holds all that is to be written

std::uint32_t range_count(const wire::Sqe& sqe) { return wire::copy_cdw12::nr.get(sqe.cdw12) + 1; }

const wire::CopyRange& source(const Command& command, std::uint64_t index) {
    return reinterpret_cast<const wire::CopyRange*>(command.data)[index];
}

std::byte* staged(const Command& command) { return command.data + copy_list_bytes_max; }

}  // namespace

Admission admit_copy(QueuePair& queue, const wire::Sqe& sqe) {
    Namespace* ns = nullptr;
    if (const wire::Status status = admit_namespace(queue, sqe, ns); !status.ok()) {
        return refused(status);
    }
    const std::uint32_t cdw12 = sqe.cdw12;
    if (wire::copy_cdw12::desfmt.test(cdw12) || wire::copy_cdw12::dtype.test(cdw12)) {
        return refused(wire::status::invalid_field);
    }
    if (wire::copy_cdw12::prinfor.test(cdw12) || wire::copy_cdw12::prinfow.test(cdw12) ||
        wire::copy_cdw12::stcr.test(cdw12) || wire::copy_cdw12::stcw.test(cdw12)) {
        return refused(wire::status::invalid_protection_information);
    }
    if (range_count(sqe) > limits::copy_ranges_max) {
        return refused(wire::status::command_size_limit_exceeded);
    }
    const std::uint32_t bytes = sqe.dptr.length;
    if (bytes < range_count(sqe) * sizeof(wire::CopyRange) || bytes > copy_list_bytes_max) {
        return refused(wire::status::data_sgl_length_invalid);
    }
    if (ns->write_protected()) {
        return refused(wire::status::namespace_write_protected);
    }
    Admission admission;
    admission.direction = DataDirection::to_controller;
    admission.length = bytes;
    admission.buffer_bytes = copy_buffer_bytes;
    return admission;
}

namespace {

// Dword 0 of a copy that failed is the first source range that was not copied.
void finish_at(Command& command, std::uint64_t range, wire::Status status, bool dnr) {
    command.record->result0 = static_cast<std::uint32_t>(range);
    finish(command, status, dnr);
}

// Checks the list; the blocks in all are `total`. False: the command is finished.
bool check_sources(Command& command, const Namespace& ns, std::uint64_t& total) {
    const std::uint32_t blocks_max = copy_blocks_max(ns.block_shift());
    total = 0;
    for (std::uint32_t i = 0; i < range_count(command.sqe()); ++i) {
        const std::uint32_t blocks = std::uint32_t{source(command, i).nlb} + 1;
        total += blocks;
        if (blocks > blocks_max || total > blocks_max) {
            finish_at(command, i, wire::status::command_size_limit_exceeded, true);
            return false;
        }
        if (!contains(ns, source(command, i).slba, blocks)) {
            finish_at(command, i, wire::status::lba_out_of_range, true);
            return false;
        }
    }
    if (!contains(ns, wire::starting_lba(command.sqe()), total)) {
        finish_at(command, 0, wire::status::lba_out_of_range, true);
        return false;
    }
    return true;
}

bool prepare_write(Command& command, std::uint64_t bytes) {
    prepare(command, block::Action::write, wire::starting_lba(command.sqe()) << command.ns->block_shift(),
            bytes, staged(command));
    command.request.force_unit_access = wire::copy_cdw12::fua.test(command.sqe().cdw12);
    return true;
}

enum Step : std::uint32_t { step_reading = 0, step_writing = 1 };

// `step` is step_reading or step_writing, `cursor` the bytes that are staged, `children` the next source
// range.
bool advance_copy(QueuePair&, Command& command, block::Status last) {
    CommandRecord& record = *command.record;
    if (command.step == step_writing) {
        finish_at(command, 0, status_of(last, block::Action::write), do_not_retry(last));
        return false;
    }
    if (last != block::Status::ok) {
        finish_at(command, command.children - 1, status_of(last, block::Action::read), do_not_retry(last));
        return false;
    }
    if (command.children < range_count(record.sqe)) {
        const wire::CopyRange& range = source(command, command.children++);
        const std::uint32_t shift = command.ns->block_shift();
        const std::uint64_t bytes = (std::uint64_t{range.nlb} + 1) << shift;
        std::byte* const data = staged(command) + command.steps.cursor;
        command.steps.cursor += bytes;
        return prepare(command, block::Action::read, range.slba.value() << shift, bytes, data);
    }
    store_progress(record, progress_staged);
    command.step = step_writing;
    return prepare_write(command, command.steps.cursor);
}

bool advance_copy_again(QueuePair& queue, Command& command, block::Status last) {
    if (command.step == step_writing) {
        return advance_copy(queue, command, last);
    }
    command.step = step_writing;
    return prepare_write(command, command.steps.cursor);
}

}  // namespace

void execute_copy(QueuePair& queue, Command& command) {
    Namespace* const ns = enter(queue, command);
    if (ns == nullptr) {
        return;
    }
    if (command.record->buffer_bytes < copy_buffer_bytes) {
        finish(command, wire::status::internal_error);
        return;
    }
    std::uint64_t total = 0;
    if (!check_sources(command, *ns, total)) {
        return;
    }
    std::uint64_t first = wire::starting_lba(command.sqe());
    std::uint64_t end = first + total;
    // One hold is all that a command has: what it reads, what it writes, and what lies between.
    for (std::uint32_t i = 0; !ns->ranges.is_open() && i < range_count(command.sqe()); ++i) {
        const std::uint64_t from = source(command, i).slba;
        first = std::min(first, from);
        end = std::max(end, from + source(command, i).nlb + 1);
    }
    if (!acquire_range(command, first, end - first, false)) {
        return;
    }
    command.children = 0;
    if (command.record->progress == progress_staged) {
        command.steps.cursor = total << ns->block_shift();
        start_steps(command, advance_copy_again);
        return;
    }
    start_steps(command, advance_copy);
}

}  // namespace nvme
