// Ranges of a namespace that commands are changing, so that a compare-and-write is atomic for all hosts.
//
// Commands that only write share a range: the standard lets overlapping writes land in any order. A
// compare-and-write has its range alone: it waits for the writers in flight there, and later ones wait for
// it. Who comes first is served first, so neither kind starves. While no pair is there, a writer costs a list
// insertion.
//
// NVM Command Set 1.0 §2.1.4 (atomic operations), NVM Express Base 2.0 §3.4.2 (fused operations).
#pragma once

#include <cstdint>

namespace nvme {

struct Command;

// A claim on blocks first … last; embedded in the command that makes it.
struct RangeHold {
    enum class State : std::uint8_t {
        idle,     // not known to any lock
        waiting,  // in line; `granted` will be called
        held,     // the range is the command's until release()
    };

    Command* command = nullptr;
    void (*granted)(RangeHold& hold) = nullptr;
    std::uint64_t first = 0;
    std::uint64_t last = 0;
    bool exclusive = false;
    State state = State::idle;
    RangeHold* next = nullptr;
    RangeHold* previous = nullptr;

    bool overlaps(const RangeHold& other) const { return first <= other.last && other.first <= last; }
};

class RangeLock {
  public:
    RangeLock() = default;
    ~RangeLock();
    RangeLock(const RangeLock&) = delete;
    RangeLock& operator=(const RangeLock&) = delete;

    // `count` blocks (at least 1, no overflow: the caller has checked both) from `first`. True if the range
    // is held when the call returns; otherwise `hold.granted` is called later, from within somebody's
    // release().
    bool acquire(RangeHold& hold, std::uint64_t first, std::uint64_t count, bool exclusive);
    // Gives the range back, or the place in line. Nothing happens if the hold is idle.
    void release(RangeHold& hold);

    // Writers pass without waiting, and nobody waits for them.
    bool is_open() const { return exclusive_ == 0 && waiting_.first == nullptr; }
    bool has_waiters() const { return waiting_.first != nullptr; }

  private:
    struct List {
        RangeHold* first = nullptr;
        RangeHold* last = nullptr;
        void append(RangeHold& hold);
        void remove(RangeHold& hold);
    };

    bool blocked(const RangeHold& hold, const RangeHold* until) const;
    void serve();

    List held_;
    List waiting_;                 // in order of arrival
    std::uint32_t exclusive_ = 0;  // holds of that kind, held or waiting
    bool serving_ = false;
    bool again_ = false;
};

}  // namespace nvme
