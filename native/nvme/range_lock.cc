#include "nvme/range_lock.h"

#include "base/check.h"

namespace nvme {

RangeLock::~RangeLock() {
    EK_CHECK(held_.first == nullptr && waiting_.first == nullptr, "a range lock goes while commands use it");
}

void RangeLock::List::append(RangeHold& hold) {
    hold.next = nullptr;
    hold.previous = last;
    (last != nullptr ? last->next : first) = &hold;
    last = &hold;
}

void RangeLock::List::remove(RangeHold& hold) {
    (hold.previous != nullptr ? hold.previous->next : first) = hold.next;
    (hold.next != nullptr ? hold.next->previous : last) = hold.previous;
    hold.next = hold.previous = nullptr;
}

bool RangeLock::acquire(RangeHold& hold, std::uint64_t first, std::uint64_t count, bool exclusive) {
    EK_CHECK(hold.state == RangeHold::State::idle && count != 0, "a hold is acquired once");
    hold.first = first;
    hold.last = first + (count - 1);
    hold.exclusive = exclusive;
    exclusive_ += exclusive ? 1 : 0;
    if (exclusive_ != 0 && blocked(hold, nullptr)) {
        hold.state = RangeHold::State::waiting;
        waiting_.append(hold);
        return false;
    }
    hold.state = RangeHold::State::held;
    held_.append(hold);
    return true;
}

void RangeLock::release(RangeHold& hold) {
    if (hold.state == RangeHold::State::idle) {
        return;
    }
    (hold.state == RangeHold::State::held ? held_ : waiting_).remove(hold);
    hold.state = RangeHold::State::idle;
    exclusive_ -= hold.exclusive ? 1 : 0;
    if (waiting_.first != nullptr) {
        serve();
    }
}

// Whether `hold` must wait for somebody who has the range, or who stands in line before `until` (null: before
// the end).
bool RangeLock::blocked(const RangeHold& hold, const RangeHold* until) const {
    const auto conflicts = [&hold](const RangeHold& other) {
        return (hold.exclusive || other.exclusive) && hold.overlaps(other);
    };
    for (const RangeHold* other = held_.first; other != nullptr; other = other->next) {
        if (conflicts(*other)) {
            return true;
        }
    }
    for (const RangeHold* other = waiting_.first; other != until; other = other->next) {
        if (conflicts(*other)) {
            return true;
        }
    }
    return false;
}

// Grants what can be granted. A granted command may finish at once and release again: that comes back here as
// a request for another round instead of as recursion.
void RangeLock::serve() {
    again_ = true;
    if (serving_) {
        return;
    }
    serving_ = true;
    while (again_) {
        again_ = false;
        for (RangeHold* hold = waiting_.first; hold != nullptr; hold = hold->next) {
            if (blocked(*hold, hold)) {
                continue;
            }
            waiting_.remove(*hold);
            hold->state = RangeHold::State::held;
            held_.append(*hold);
            again_ = true;  // the list may be another one after the call
            hold->granted(*hold);
            break;
        }
    }
    serving_ = false;
}

}  // namespace nvme
