// What the handlers of I/O commands share: the checks of their fields, the way in (namespace, range, memory),
// block requests one after the other, and the one way out.
//
// A handler may be entered again at any time before it submits its first request (memory or a range has
// become available) and again after a restart; every acquiring function says true at once for what the
// command has already.
#pragma once

#include <cstdint>

#include "nvme/io_commands.h"
#include "nvme/namespace.h"
#include "nvme/queue_pair.h"

namespace nvme {

// Blocks that a command names.
struct BlockRange {
    std::uint64_t first = 0;
    std::uint32_t count = 0;
};

BlockRange range_of(const wire::Sqe& sqe);
bool contains(const Namespace& ns, std::uint64_t first, std::uint64_t count);

// Checks that several commands share; each is one row of facts about a command.
struct TransferRules {
    DataDirection direction = DataDirection::none;
    std::uint64_t bytes_max = 0;           // 0: as many as NLB can say
    bool writes = false;                   // changes the namespace
    bool directives = false;               // has a Directive Type, which must be 0
    wire::Fuse fuse = wire::Fuse::normal;  // the half of a pair that it may be
};
// Admission of a command with SLBA and NLB: `length` is the size of its range if it transfers data.
Admission admit_range(QueuePair& queue, const wire::Sqe& sqe, const TransferRules& rules);
// The namespace of a command that is no half of a pair, or why not.
wire::Status admit_namespace(QueuePair& queue, const wire::Sqe& sqe, Namespace*& ns);
inline Admission refused(wire::Status status) {
    Admission admission;
    admission.status = status;
    return admission;
}

// Holds the namespace for the command, unless there is none any more.
wire::Status try_enter(QueuePair& queue, Command& command);
// The same for a command with SLBA and NLB whose data, if any, lies ready: a namespace that was replaced
// since admission must not be given a range or a buffer of the wrong size.
wire::Status try_enter_range(QueuePair& queue, Command& command, BlockRange& range, bool transfers);
// The same for commands that are no half of a pair. Null: the command is finished.
Namespace* enter(QueuePair& queue, Command& command);
Namespace* enter_range(QueuePair& queue, Command& command, BlockRange& range, bool transfers);

// Blocks that the command changes, alone if `exclusive` or if the command is executed again: until it has
// ended, its blocks may be half of what they were and half of what they become. False: the command waits, and
// its row's `execute` is called again.
bool acquire_range(Command& command, std::uint64_t first, std::uint64_t count, bool exclusive);
// Blocks that the command looks at: nothing to wait for unless somebody has them alone.
bool acquire_to_read(Command& command, std::uint64_t first, std::uint64_t count);
bool acquire_scratch(Command& command);

// The one way out: counters, latency, all that the command held, then QueuePair::complete.
void finish(Command& command, wire::Status status, bool dnr = true);
void finish(Command& command, block::Status status, block::Action action);

// One block request, for commands that need no more; `done` ends in finish().
void submit(Command& command, block::Action action, std::uint64_t offset, std::uint64_t length,
            std::byte* data, void (*done)(block::Request& request, block::Status status));
inline Command& command_of(block::Request& request) { return *static_cast<CommandRequest&>(request).command; }

// Several requests: `advance` is called with ok first. Requests that complete inside submit() do not recurse.
// An aborted command sees Status::aborted instead of its next request.
void start_steps(Command& command, bool (*advance)(QueuePair& queue, Command& command, block::Status last));
// For `advance`: fills the command's request; always true.
bool prepare(Command& command, block::Action action, std::uint64_t offset, std::uint64_t length,
             std::byte* data);

// Makes a step of a command that is not idempotent last beyond the process: everything before it is in place
// first.
void store_progress(CommandRecord& record, std::uint32_t progress);

}  // namespace nvme
