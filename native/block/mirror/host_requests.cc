// Requests of the host on their way in and out, those that wait until a leg is there, and the end of it all.

#include <new>

#include "base/check.h"
#include "block/mirror/mirror.h"

namespace block::mirror {

void Mirror::OpList::append(Op& op) {
    op.list = this;
    op.next = nullptr;
    op.previous = last;
    (last != nullptr ? last->next : first) = &op;
    last = &op;
}

void Mirror::OpList::remove(Op& op) {
    (op.previous != nullptr ? op.previous->next : first) = op.next;
    (op.next != nullptr ? op.next->previous : last) = op.previous;
    op.list = nullptr;
}

Mirror::Op& Mirror::take_op(Request& request) {
    if (free_ops_.empty()) {
        free_ops_.push_back(&ops_.emplace_back());
    }
    Op& op = *free_ops_.back();
    free_ops_.pop_back();
    op = {};
    op.above = &request;
    op.hold.op = &op;
    ::new (static_cast<void*>(request.scratch)) Op*(&op);
    return op;
}

void Mirror::submit_checked(Request& request) {
    ++host_in_flight_;
    begin(take_op(request));
}

void Mirror::begin(Op& op) {
    if (!serving_) {
        park_or_fail(op);
    } else if (op.above->action == Action::read) {
        begin_read(op);
    } else if (op.above->action == Action::flush) {
        begin_flush(op);
    } else {
        begin_change(op);
    }
}

void Mirror::end_op(Op& op, Status status) {
    Request& above = *op.above;
    EK_CHECK(op.list == nullptr && op.hold.state == ExtentHold::State::idle,
             "an ended request is in no line");
    free_ops_.push_back(&op);
    --host_in_flight_;
    host_seen_ = environment_.reactor.now();
    complete(above, status);
}

void Mirror::park(Op& op) { parked_.append(op); }

// No leg can be asked at present.
void Mirror::park_or_fail(Op& op) {
    const bool fails = stuck_ && spec_.mirror.when_lost == MirrorSpec::WhenLost::fail;
    if (closing() || fails) {
        end_op(op, Status::gone);
    } else {
        park(op);
    }
}

void Mirror::run_parked() {
    std::vector<Op*> all;
    for (Op* op = parked_.first; op != nullptr; op = op->next) {
        all.push_back(op);
    }
    for (Op* op : all) {
        if (op->list == &parked_) {
            parked_.remove(*op);
            begin(*op);
        }
    }
}

void Mirror::cancel_checked(Request& request) {
    Op& op = **std::launder(reinterpret_cast<Op**>(request.scratch));
    const bool untouched = request.action == Action::read || op.done_bytes == 0;
    if (op.list == &parked_ && untouched) {
        parked_.remove(op);
        end_op(op, Status::aborted);
    } else if (op.list == &waiting_extent_ && untouched) {
        waiting_extent_.remove(op);
        extents_.release(op.hold);
        end_op(op, Status::aborted);
    } else if (op.list == &waiting_pages_ && untouched) {
        waiting_pages_.remove(op);
        extents_.release(op.hold);
        end_op(op, Status::aborted);
    } else if (op.list == &waiting_examination_) {
        waiting_examination_.remove(op);
        end_op(op, Status::aborted);
    } else if (op.list == nullptr && op.reading == nullptr && request.action == Action::read) {
        op.cancelled = true;  // it is being examined
    } else if (op.reading != nullptr && !op.cancelled) {
        op.cancelled = true;
        op.reading->device->cancel(*op.reading);
    }
}

// --- Closing
// ---------------------------------------------------------------------------------------------------

void Mirror::closing_checked() {
    retry_timer_.stop();
    scrub_.stopping = true;
    abandon_growth("it is being closed");
    while (parked_.first != nullptr) {
        Op& op = *parked_.first;
        parked_.remove(op);
        end_op(op, Status::gone);
    }
}

// Nothing of the host's is under way: the intents are taken back, so that the next start has nothing to copy.
void Mirror::close_checked(std::function<void()> closed) {
    closed_ = std::move(closed);
    resync_timer_.stop();
    scrub_timer_.stop();
    sweep_timer_.stop();
    beat_timer_.stop();
    repairs_.clear();
    for (const auto& leg : legs_) {
        answer(*leg, base::Error{"E_BUSY", describe_device(spec_) + "it is being closed"});
    }
    closing_now_ = true;
    if (serving_ && !read_only() && (map_.intents() != 0 || sums_.any_dirty())) {
        sweep();
    }
    environment_.reactor.post([this] { finish_close(); });
}

void Mirror::finish_close() {
    const bool busy = ios_in_flight_ != 0 || batch_start_.scheduled() || batching_ || committing_ ||
                      sweeping_ || lanes_busy_ != 0 || repair_lane_.busy || scrub_.lane.busy ||
                      sums_start_.scheduled() || sums_writing_ || arrived_.scheduled() || !loads_.empty() ||
                      growth_.outstanding != 0;
    if (!closing_now_ || busy || !closed_) {
        return;
    }
    closing_now_ = false;
    serving_ = false;
    for (auto& [version, done] : settling_) {
        done(base::Error{"E_BUSY", describe_device(spec_) + "it is being closed"});
    }
    settling_.clear();
    for (const auto& leg : legs_) {
        leg->claim.release();
    }
    if (witness_memory_.used()) {
        witness_memory_.store(std::nullopt, 0);
        witness_memory_.use({}, {});
        environment_.forget_memory(spec_.name + witness_suffix);
    }
    environment_.reactor.post(std::move(closed_));
    closed_ = nullptr;
}

}  // namespace block::mirror
