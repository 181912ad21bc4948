// Abort: really ends commands. A command that waits ends at once; one whose block requests are with a device
// is cancelled there, and the Abort's own answer follows when the command has ended, one way or the other,
// but does not wait for a device that takes its time.
//
// NVM Express Base 2.0 §5.1.

#include <algorithm>

#include "nvme/controller.h"
#include "nvme/target.h"
#include "wire/nvme_io.h"

namespace nvme {

namespace {

constexpr base::Nanoseconds patience = base::second;

}  // namespace

void Controller::abort(Command& abort_command) {
    QueuePair& admin = *abort_command.queue;
    const std::uint32_t cdw10 = abort_command.sqe().cdw10;
    QueuePair* const queue_named = queue(static_cast<std::uint16_t>(wire::abort_cdw10::sqid.get(cdw10)));
    const auto cid = static_cast<std::uint16_t>(wire::abort_cdw10::cid.get(cdw10));
    abort_command.record->result0 = wire::abort_not_aborted;
    auto* const pending = std::find_if(aborts_.begin(), aborts_.end(),
                                       [](const PendingAbort& entry) { return entry.command == nullptr; });
    if (pending == aborts_.end()) {
        admin.complete(abort_command, wire::status::abort_limit_exceeded, true);
        return;
    }
    Command* const target = queue_named != nullptr ? queue_named->find(cid) : nullptr;
    if (target == nullptr || target == &abort_command) {
        admin.complete_ok(abort_command);
        return;
    }
    // First the place in the list: the target may end within the call.
    pending->command = &abort_command;
    pending->target = target;
    pending->deadline = target_.reactor().now() + patience;
    if (!queue_named->abort(*target)) {
        finish_abort(*pending, false);
        return;
    }
    if (pending->command == &abort_command && !abort_timer_.running()) {
        abort_timer_.start(pending->deadline);
    }
}

void Controller::finish_abort(PendingAbort& pending, bool aborted) {
    Command& command = *pending.command;
    pending = PendingAbort{};
    command.record->result0 = aborted ? 0 : wire::abort_not_aborted;
    command.queue->complete_ok(command);
}

void Controller::abort_target_ended(Command& target) {
    const bool aborted = target.record->status == wire::status::abort_requested.value;
    for (PendingAbort& pending : aborts_) {
        if (pending.target == &target) {
            pending.target = nullptr;
            if (pending.command != nullptr) {
                // The target's response goes first: this runs before it is queued.
                pending.aborted = aborted;
                pending.target_ended = true;
                target_.post([this] { answer_aborts(); });
            }
        }
    }
}

void Controller::answer_aborts() {
    for (PendingAbort& pending : aborts_) {
        if (pending.command != nullptr && pending.target_ended) {
            finish_abort(pending, pending.aborted);
        }
    }
}

void Controller::aborts_due() {
    const base::Nanoseconds now = target_.reactor().now();
    base::Nanoseconds next = 0;
    for (PendingAbort& pending : aborts_) {
        if (pending.command == nullptr || pending.target_ended) {
            continue;
        }
        if (pending.deadline <= now) {
            finish_abort(pending, false);
        } else if (next == 0 || pending.deadline < next) {
            next = pending.deadline;
        }
    }
    if (next != 0) {
        abort_timer_.start(next);
    }
}

void Controller::abort_admin(Command& command) {
    for (std::uint32_t i = 0; i < parked_count_; ++i) {
        if (parked_[i] == &command) {
            std::copy(parked_.begin() + i + 1, parked_.end(), parked_.begin() + i);
            parked_[--parked_count_] = nullptr;
            break;
        }
    }
    for (PendingAbort& pending : aborts_) {
        if (pending.command == &command) {
            pending = PendingAbort{};
        }
    }
    command.queue->complete(command, wire::status::abort_requested);
}

}  // namespace nvme
