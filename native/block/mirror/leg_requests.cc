// What a mirror asks of its legs, and how it lets go of a leg that does not answer. See leg_io.h.

#include <algorithm>
#include <utility>

#include "block/mirror/mirror.h"

namespace block::mirror {

namespace {

// A leg that could not be read is tried again so often while nothing can be served.
constexpr base::Nanoseconds retry_interval = base::second;
// One that failed is tried again after this, then after twice as long each time; once it went well for so
// long, its failures are forgotten.
constexpr base::Nanoseconds retry_after_min = 5 * base::second;
constexpr base::Nanoseconds retry_after_max = 300 * base::second;
constexpr base::Nanoseconds retry_forgotten_after = 900 * base::second;

}  // namespace

void Mirror::ask(Leg& leg, const Wish& wish, Ended ended) { ask_io(leg, wish, std::move(ended), nullptr); }

void Mirror::ask_io(Leg& leg, const Wish& wish, Ended ended, LegIo** place) {
    if (free_ios_.empty()) {
        ios_.emplace_back();
        free_ios_.push_back(&ios_.back());
    }
    LegIo& io = *free_ios_.back();
    free_ios_.pop_back();
    io.owner = this;
    io.leg = &leg;
    io.ended = std::move(ended);
    io.buffer = wish.buffer;
    io.abandonable = wish.buffer != nullptr || wish.data == nullptr;
    io.abandoned = io.cancelled = false;
    if (io.buffer != nullptr) {
        buffers_.hold(*io.buffer);
    }
    io.action = wish.action;
    io.offset = wish.offset;
    io.length = wish.length;
    io.data = wish.data;
    io.force_unit_access = wish.force_unit_access;
    io.may_deallocate = wish.may_deallocate;
    io.done = io_done;
    io.next = nullptr;
    io.previous = leg.last_io;
    (leg.last_io != nullptr ? leg.last_io->next : leg.first_io) = &io;
    leg.last_io = &io;
    ++leg.in_flight;
    ++ios_in_flight_;
    if (place != nullptr) {
        *place = &io;
    }
    leg.claim.device()->submit(io);
}

void Mirror::io_done(Request& request, Status status) {
    auto& io = static_cast<LegIo&>(request);
    Mirror& self = *static_cast<Mirror*>(io.owner);
    Leg& leg = *io.leg;
    (io.previous != nullptr ? io.previous->next : leg.first_io) = io.next;
    (io.next != nullptr ? io.next->previous : leg.last_io) = io.previous;
    --leg.in_flight;
    Buffer* const buffer = io.buffer;
    const Ended ended = std::move(io.ended);
    io.ended = nullptr;
    const bool abandoned = io.abandoned;
    self.free_ios_.push_back(&io);
    if (!abandoned) {
        ended(leg, status);
    }
    if (buffer != nullptr) {
        self.buffers_.release(*buffer);
    }
    // Only now: who is told may ask again, and the mirror must be there until then.
    --self.ios_in_flight_;
    if (leg.in_flight == 0) {
        self.leg_ran_dry(leg);
    }
    self.finish_close();
}

// What was asked of the leg has failed, whatever its device still does with it. What lies in the host's
// memory is cancelled and awaited.
void Mirror::abandon(Leg& leg) {
    std::vector<Ended> ended;
    for (LegIo* io = leg.first_io; io != nullptr; io = io->next) {
        if (io->abandonable && !io->abandoned) {
            io->abandoned = true;
            ended.push_back(std::move(io->ended));
        }
    }
    for (bool again = true; again;) {
        again = false;
        for (LegIo* io = leg.first_io; io != nullptr && !again; io = io->next) {
            if (!io->cancelled && io->phase == Request::Phase::submitted) {
                io->cancelled = again = true;
                io->device->cancel(*io);
            }
        }
    }
    for (const Ended& one : ended) {
        one(leg, Status::gone);
    }
}

void Mirror::leg_ran_dry(Leg& leg) {
    if (leg.state == LegState::leaving) {
        // Whoever asked may still look at it.
        environment_.reactor.post([this, gone = &leg] {
            std::erase_if(legs_, [gone](const auto& one) { return one.get() == gone; });
        });
    } else if (leg.join_later) {
        leg.join_later = false;
        begin_reading(leg);
    }
}

// Its device has another size, or can be reached again.
void Mirror::leg_changed(Leg& leg) {
    if (closing()) {
        return;
    }
    // What it acknowledged and has not flushed lies in regions with intents. The last leg is what there is.
    const std::uint64_t losses = leg.claim.device()->losses();
    const bool lost = std::exchange(leg.losses, losses) != losses;
    if (lost && serving_ && leg.keeps_metadata() && !(leg.state == LegState::up && up_count() == 1)) {
        fail_leg(leg, "its cache may be lost");
    }
    move_superblocks_of(leg);
    const bool away =
        leg.state == LegState::absent || leg.state == LegState::stale || leg.state == LegState::refused;
    if (away && !leg.detached && leg.claim.device()->describe().size_bytes != 0) {
        begin_reading(leg);
    }
}

void Mirror::answer(Leg& leg, base::Result<void> result) {
    if (leg.waiter) {
        CommandDone done = std::move(leg.waiter);
        leg.waiter = nullptr;
        done(std::move(result));
    }
}

// A leg that failed may be well again, and nobody would say so: its device answers all the time. The more
// often it fails, the longer it waits.
void Mirror::retry_later(Leg& leg) {
    const base::Nanoseconds now = environment_.reactor.now();
    const bool again = leg.retry_after != 0 && now < leg.failed_at + retry_forgotten_after;
    leg.retry_after = again ? std::min(2 * leg.retry_after, retry_after_max) : retry_after_min;
    leg.failed_at = now;
    leg.retry_at = now + leg.retry_after;
    retry_soon();
}

void Mirror::retry_soon() {
    const bool wanted = std::any_of(legs_.begin(), legs_.end(), [](const auto& leg) {
        return leg->state == LegState::absent ||
               (leg->state == LegState::stale && !leg->detached && leg->retry_at != 0);
    });
    if ((wanted || !serving_) && !closing()) {
        retry_timer_.start_after(retry_interval);
    }
}

void Mirror::retry_legs() {
    const base::Nanoseconds now = environment_.reactor.now();
    for (const auto& leg : legs_) {
        const bool well_again = leg->state == LegState::stale && !leg->detached && serving_ && !read_only() &&
                                leg->retry_at != 0 && now >= leg->retry_at;
        if (leg->state == LegState::absent || well_again) {
            leg->retry_at = 0;
            begin_reading(*leg);
        }
    }
    try_start();
    retry_soon();
}

}  // namespace block::mirror
