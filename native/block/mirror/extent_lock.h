// Ranges of a mirror that are being changed. Every hold has its range alone, so that two writes to the same
// blocks reach all legs in the same order, and a copy from leg to leg sees no write. Who comes first is
// served first. Ranges in use lie in one array: with some hundred of them looking through it costs less than
// a tree.
#pragma once

#include <cstdint>
#include <vector>

namespace block::mirror {

struct ExtentHold {
    enum class State : std::uint8_t { idle, waiting, held };

    void (*granted)(ExtentHold& hold) = nullptr;
    std::uint64_t begin = 0;
    std::uint64_t end = 0;
    State state = State::idle;
    std::uint32_t index = 0;  // in the array, while held
    ExtentHold* next = nullptr;
    ExtentHold* previous = nullptr;
};

class ExtentLock {
  public:
    // True if the range is held when the call returns; otherwise `granted` is called later, from within
    // somebody's release().
    bool acquire(ExtentHold& hold, std::uint64_t offset, std::uint64_t length);
    // Gives the range, or the place in line, back. Nothing happens if the hold is idle.
    void release(ExtentHold& hold);
    bool idle() const { return held_.empty() && first_ == nullptr; }

  private:
    struct Extent {
        std::uint64_t begin;
        std::uint64_t end;
        ExtentHold* hold;
    };

    bool blocked(const ExtentHold& hold, const ExtentHold* until) const;
    void hold_now(ExtentHold& hold);
    void leave_line(ExtentHold& hold);
    void serve();

    std::vector<Extent> held_;
    ExtentHold* first_ = nullptr;  // in line, in order of arrival
    ExtentHold* last_ = nullptr;
    bool serving_ = false;
    bool again_ = false;
};

}  // namespace block::mirror
