// Read, Write and Flush: the commands that nearly all of a host's time goes into.

#include "nvme/compare.h"
#include "nvme/controller.h"
#include "nvme/io_steps.h"
#include "nvme/io_transfers.h"
#include "wire/nvme_io.h"

namespace nvme {

// --- Read --------------------------------------------------------------------------------------------------

Admission admit_read(QueuePair& queue, const wire::Sqe& sqe) {
    return admit_range(queue, sqe,
                       {.direction = DataDirection::to_host, .bytes_max = limits::transfer_bytes_max});
}

namespace {

void read_done(block::Request& request, block::Status status) {
    finish(command_of(request), status, block::Action::read);
}

// Force Unit Access: what is read must be on the medium, so what the device still has in its cache goes there
// first.
bool advance_read_of_medium(QueuePair&, Command& command, block::Status last) {
    const BlockRange range = range_of(command.sqe());
    const std::uint32_t shift = command.ns->block_shift();
    if (last != block::Status::ok || command.step == 2) {
        finish(command, last, block::Action::read);
        return false;
    }
    return command.step++ == 0 ? prepare(command, block::Action::flush, 0, 0, nullptr)
                               : prepare(command, block::Action::read, range.first << shift,
                                         std::uint64_t{range.count} << shift, command.data);
}

}  // namespace

void execute_read(QueuePair& queue, Command& command) {
    BlockRange range;
    Namespace* const ns = enter_range(queue, command, range, true);
    if (ns == nullptr || !acquire_to_read(command, range.first, range.count)) {
        return;
    }
    const std::uint64_t offset = range.first << ns->block_shift();
    CommandRecord& record = *command.record;
    const bool of_medium =
        wire::io_cdw12::fua.test(record.sqe.cdw12) && ns->device().describe().volatile_cache;
    if (!of_medium && record.buffer_bytes == 0 && !queue.connection().needs_stable_data()) {
        if (const auto place = ns->device().direct_read(offset, record.data_length)) {
            record.data_region = place->region;
            record.data_offset = place->offset;
            finish(command, wire::status::success);
            return;
        }
    }
    if (!queue.allocate_data(command, record.data_length)) {
        return;
    }
    if (of_medium) {
        start_steps(command, advance_read_of_medium);
        return;
    }
    submit(command, block::Action::read, offset, record.data_length, command.data, read_done);
}

// --- Write -------------------------------------------------------------------------------------------------

Admission admit_write(QueuePair& queue, const wire::Sqe& sqe) {
    return admit_range(queue, sqe,
                       {.direction = DataDirection::to_controller,
                        .bytes_max = limits::transfer_bytes_max,
                        .writes = true,
                        .directives = true,
                        .fuse = wire::Fuse::second});
}

namespace {

void write_done(block::Request& request, block::Status status) {
    finish(command_of(request), status, block::Action::write);
}

}  // namespace

void execute_write(QueuePair& queue, Command& command) {
    if (command.sqe().fuse() == wire::Fuse::second) {
        finish_orphaned_second(command);
        return;
    }
    BlockRange range;
    Namespace* const ns = enter_range(queue, command, range, true);
    if (ns == nullptr || !acquire_range(command, range.first, range.count, false)) {
        return;
    }
    submit(command, block::Action::write, range.first << ns->block_shift(), command.record->data_length,
           command.data, write_done);
}

// --- Flush -------------------------------------------------------------------------------------------------

Admission admit_flush(QueuePair& queue, const wire::Sqe& sqe) {
    if (sqe.nsid == wire::nsid_broadcast) {
        return sqe.fuse() == wire::Fuse::normal ? Admission{} : refused(wire::status::invalid_field);
    }
    Namespace* ns = nullptr;
    const wire::Status status = admit_namespace(queue, sqe, ns);
    return status.ok() ? Admission{} : refused(status);
}

namespace {

void flush_done(block::Request& request, block::Status status) {
    finish(command_of(request), status, block::Action::flush);
}

// All namespaces of the subsystem in the order of their NSIDs (`cursor` is the last one), each held while its
// device works: the command has one at a time. The first error is what the host hears, after all were
// flushed.
bool advance_flush_of_all(QueuePair& queue, Command& command, block::Status last) {
    if (last != block::Status::ok && command.step == 0) {
        command.step = static_cast<std::uint32_t>(last);
    }
    if (command.ns != nullptr) {
        ++command.ns->counters.other_commands;
        command.ns->release();
        command.ns = nullptr;
    }
    Controller* const controller = queue.controller();
    if (controller != nullptr && !command.abort_requested) {
        const auto& namespaces = controller->subsystem().namespaces();
        for (auto at = namespaces.upper_bound(static_cast<std::uint32_t>(command.steps.cursor));
             at != namespaces.end(); ++at) {
            Namespace& ns = *at->second;
            if (ns.removing() || ns.device().describe().read_only) {
                continue;
            }
            command.steps.cursor = ns.nsid();
            ns.hold();
            command.ns = &ns;
            return prepare(command, block::Action::flush, 0, 0, nullptr);
        }
    } else if (command.step == 0) {
        command.step = static_cast<std::uint32_t>(block::Status::aborted);
    }
    finish(command, static_cast<block::Status>(command.step), block::Action::flush);
    return false;
}

}  // namespace

void execute_flush(QueuePair& queue, Command& command) {
    if (command.sqe().nsid == wire::nsid_broadcast) {
        command.step = 0;
        command.steps.cursor = 0;
        start_steps(command, advance_flush_of_all);
        return;
    }
    Namespace* const ns = enter(queue, command);
    if (ns == nullptr) {
        return;
    }
    if (ns->device().describe().read_only) {
        finish(command, wire::status::success);
        return;
    }
    submit(command, block::Action::flush, 0, 0, nullptr, flush_done);
}

}  // namespace nvme
