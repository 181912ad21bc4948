// When to start a server again: at once, unless several in a row served only for moments; then later and
// later, but always. A server that is killed every few seconds but serves in between is never delayed.
#pragma once

#include <algorithm>
#include <cstdint>

#include "base/clock.h"

namespace keeper {

class RestartPolicy {
  public:
    static constexpr std::uint32_t short_lives_free = 3;
    static constexpr base::Nanoseconds delay_min = 100 * base::millisecond;
    static constexpr base::Nanoseconds delay_max = 5 * base::second;

    // `short_life`: who has served for less is one of those; 0: nobody is, so that there is never a delay.
    explicit RestartPolicy(base::Nanoseconds short_life) : short_life_(short_life) {}

    // How long to wait with the next start after the death of one that has served for `served` (0: it never
    // became ready).
    base::Nanoseconds died(base::Nanoseconds served) {
        if (served >= short_life_) {
            short_lives_ = 0;
            delay_ = 0;
        } else if (++short_lives_ > short_lives_free) {
            delay_ = delay_ == 0 ? delay_min : std::min(delay_ * 2, delay_max);
        }
        return delay_;
    }

  private:
    base::Nanoseconds short_life_;
    base::Nanoseconds delay_ = 0;
    std::uint64_t short_lives_ = 0;
};

}  // namespace keeper
