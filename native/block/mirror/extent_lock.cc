#include "block/mirror/extent_lock.h"

#include "base/check.h"

namespace block::mirror {

bool ExtentLock::acquire(ExtentHold& hold, std::uint64_t offset, std::uint64_t length) {
    EK_CHECK(hold.state == ExtentHold::State::idle, "a hold is acquired once");
    hold.begin = offset;
    hold.end = offset + length;
    if (!blocked(hold, nullptr)) {
        hold_now(hold);
        return true;
    }
    hold.state = ExtentHold::State::waiting;
    hold.next = nullptr;
    hold.previous = last_;
    (last_ != nullptr ? last_->next : first_) = &hold;
    last_ = &hold;
    return false;
}

void ExtentLock::release(ExtentHold& hold) {
    if (hold.state == ExtentHold::State::idle) {
        return;
    }
    if (hold.state == ExtentHold::State::waiting) {
        leave_line(hold);
    } else {
        held_[hold.index] = held_.back();
        held_[hold.index].hold->index = hold.index;
        held_.pop_back();
    }
    hold.state = ExtentHold::State::idle;
    if (first_ != nullptr) {
        serve();
    }
}

// Whether somebody has a part of the range, or stands in line for one before `until` (null: before the end).
bool ExtentLock::blocked(const ExtentHold& hold, const ExtentHold* until) const {
    for (const Extent& extent : held_) {
        if (extent.begin < hold.end && hold.begin < extent.end) {
            return true;
        }
    }
    for (const ExtentHold* other = first_; other != until; other = other->next) {
        if (other->begin < hold.end && hold.begin < other->end) {
            return true;
        }
    }
    return false;
}

void ExtentLock::hold_now(ExtentHold& hold) {
    hold.state = ExtentHold::State::held;
    hold.index = static_cast<std::uint32_t>(held_.size());
    held_.push_back({hold.begin, hold.end, &hold});
}

void ExtentLock::leave_line(ExtentHold& hold) {
    (hold.previous != nullptr ? hold.previous->next : first_) = hold.next;
    (hold.next != nullptr ? hold.next->previous : last_) = hold.previous;
    hold.next = hold.previous = nullptr;
}

// Who is granted may finish at once and release again: that comes back here as another round instead of as
// recursion.
void ExtentLock::serve() {
    again_ = true;
    if (serving_) {
        return;
    }
    serving_ = true;
    while (again_) {
        again_ = false;
        for (ExtentHold* hold = first_; hold != nullptr;) {
            if (blocked(*hold, hold)) {
                hold = hold->next;
                continue;
            }
            leave_line(*hold);
            hold_now(*hold);
            hold->granted(*hold);
            again_ = true;  // the line may have changed under us: begin anew
            break;
        }
    }
    serving_ = false;
}

}  // namespace block::mirror
