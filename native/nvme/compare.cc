#include "nvme/compare.h"

#include <algorithm>
#include <cstring>

#include "nvme/io_steps.h"
#include "wire/bit_field.h"
#include "wire/nvme_io.h"

namespace nvme {

Admission admit_compare(QueuePair& queue, const wire::Sqe& sqe) {
    return admit_range(queue, sqe,
                       {.direction = DataDirection::to_controller,
                        .bytes_max = limits::transfer_bytes_max,
                        .fuse = wire::Fuse::first});
}

namespace {

// Progress of the second half of a pair.
constexpr std::uint32_t progress_compared = 1;
namespace decided {
constexpr wire::Bit<std::uint32_t, 31> flag;
constexpr wire::BitField<std::uint32_t, 0, 11> second;
constexpr wire::Bit<std::uint32_t, 11> second_dnr;
constexpr wire::BitField<std::uint32_t, 12, 11> first;
constexpr wire::Bit<std::uint32_t, 23> first_dnr;
}  // namespace decided

struct Outcome {
    wire::Status status;
    bool dnr = false;
};

bool is_pair(const Command& command) {
    return command.sqe().fuse() == wire::Fuse::first && command.partner != nullptr;
}

std::uint32_t progress_of(Outcome first, Outcome second) {
    return decided::flag.put(1) | decided::second.put(second.status.value) |
           decided::second_dnr.put(second.dnr) | decided::first.put(first.status.value) |
           decided::first_dnr.put(first.dnr);
}

void finish_second(Command& second, std::uint32_t progress) {
    finish(second, wire::Status{static_cast<std::uint16_t>(decided::second.get(progress))},
           decided::second_dnr.test(progress));
}

// Both halves end as `progress` says, the first half first.
void finish_decided(Command& first, std::uint32_t progress) {
    Command& second = *first.partner;
    finish(first, wire::Status{static_cast<std::uint16_t>(decided::first.get(progress))},
           decided::first_dnr.test(progress));
    finish_second(second, progress);
}

void decide(Command& first, Outcome of_first, Outcome of_second) {
    const std::uint32_t progress = progress_of(of_first, of_second);
    store_progress(*first.partner->record, progress);
    finish_decided(first, progress);
}

// The first half failed, or the command is no pair at all.
void finish_comparison(Command& command, wire::Status status, bool dnr) {
    if (is_pair(command)) {
        decide(command, {status, dnr}, {wire::status::aborted_failed_fused, false});
    } else {
        finish(command, status, dnr);
    }
}

bool prepare_comparison(Command& command) {
    const std::uint64_t offset = range_of(command.sqe()).first << command.ns->block_shift();
    const std::uint64_t left = command.record->data_length - command.steps.cursor;
    return prepare(command, block::Action::read, offset + command.steps.cursor,
                   std::min<std::uint64_t>(left, ScratchPool::chunk_bytes), command.scratch.memory);
}

bool prepare_second(Command& first) {
    const Command& second = *first.partner;
    prepare(first, block::Action::write, range_of(second.sqe()).first << first.ns->block_shift(),
            second.record->data_length, second.data);
    first.request.force_unit_access = wire::io_cdw12::fua.test(second.sqe().cdw12);
    return true;
}

enum Step : std::uint32_t {
    step_start,      // nothing submitted yet
    step_flushing,   // Force Unit Access: the comparison is with the medium
    step_comparing,  // `cursor` bytes are equal
    step_writing,    // the second half of a pair
};

bool advance_comparison(QueuePair&, Command& command, block::Status last) {
    if (command.step == step_writing) {
        decide(command, {wire::status::success, false},
               {status_of(last, block::Action::write), do_not_retry(last)});
        return false;
    }
    if (last != block::Status::ok) {
        finish_comparison(command, status_of(last, block::Action::read), do_not_retry(last));
        return false;
    }
    if (command.step == step_start && wire::io_cdw12::fua.test(command.sqe().cdw12) &&
        command.ns->device().describe().volatile_cache) {
        command.step = step_flushing;
        return prepare(command, block::Action::flush, 0, 0, nullptr);
    }
    if (command.step == step_comparing) {
        const std::uint64_t length = command.request.length;
        if (std::memcmp(command.data + command.steps.cursor, command.scratch.memory, length) != 0) {
            finish_comparison(command, wire::status::compare_failure, true);
            return false;
        }
        command.steps.cursor += length;
    }
    command.step = step_comparing;
    if (command.steps.cursor < command.record->data_length) {
        return prepare_comparison(command);
    }
    if (!is_pair(command)) {
        finish(command, wire::status::success);
        return false;
    }
    if (command.abort_requested) {
        finish_comparison(command, wire::status::abort_requested, false);
        return false;
    }
    store_progress(*command.partner->record, progress_compared);
    command.step = step_writing;
    return prepare_second(command);
}

bool advance_promised_write(QueuePair& queue, Command& command, block::Status last) {
    if (command.step == step_writing) {
        return advance_comparison(queue, command, last);
    }
    command.step = step_writing;
    return prepare_second(command);
}

// Both halves hold the namespace, so that both are counted.
wire::Status try_enter_both(QueuePair& queue, Command& command, BlockRange& range) {
    if (const wire::Status status = try_enter_range(queue, command, range, true); !status.ok()) {
        return status;
    }
    if (is_pair(command) && command.partner->ns == nullptr) {
        Command& second = *command.partner;
        if (second.record->data_length != command.record->data_length) {
            return wire::status::invalid_field;
        }
        command.ns->hold();
        second.ns = command.ns;
    }
    return wire::status::success;
}

}  // namespace

void execute_compare(QueuePair& queue, Command& command) {
    const bool pair = is_pair(command);
    const std::uint32_t progress = pair ? command.partner->record->progress : 0;
    if (decided::flag.test(progress)) {
        finish_decided(command, progress);
        return;
    }
    BlockRange range;
    if (const wire::Status status = try_enter_both(queue, command, range); !status.ok()) {
        finish_comparison(command, status, true);
        return;
    }
    if (progress == progress_compared) {
        if (acquire_range(command, range.first, range.count, true)) {
            start_steps(command, advance_promised_write);
        }
        return;
    }
    // Memory first: who has the range keeps others waiting.
    if (acquire_scratch(command) && (pair ? acquire_range(command, range.first, range.count, true)
                                          : acquire_to_read(command, range.first, range.count))) {
        start_steps(command, advance_comparison);
    }
}

void finish_orphaned_second(Command& command) {
    const std::uint32_t progress = command.record->progress;
    if (decided::flag.test(progress)) {
        finish_second(command, progress);
        return;
    }
    finish(command, wire::status::aborted_missing_fused, false);
}

void abandon(Command& command) { finish_comparison(command, wire::status::abort_requested, false); }

void reclaim_io_command(QueuePair& queue, Command& command) {
    BlockRange range;
    if (is_pair(command) && command.partner->record->progress == progress_compared &&
        try_enter_both(queue, command, range).ok()) {
        acquire_range(command, range.first, range.count, true);
    }
}

}  // namespace nvme
