// The lock on a backing file or block device, awaited in the background.
//
// It is a barrier before it is a guard: I/O that a killed process had submitted goes on after its death, and
// the file it was submitted to stays open, and locked, until the last of it has ended. So the lock must be a
// flock(2) [a POSIX lock ends with the process], taken on the very descriptor that the I/O uses, and that
// descriptor is opened anew by each process, closed on exec, never duplicated, never registered with a ring.
#pragma once

#include <functional>
#include <string>

#include "base/result.h"
#include "reactor/reactor.h"

namespace block {

class FileLock {
  public:
    // `settled`: called once after `wait`, with 0 when the lock is ours or the errno that makes it
    // impossible.
    FileLock(reactor::Reactor& reactor, std::function<void(int error_number)> settled);

    // Takes the lock if it is free. 0, EWOULDBLOCK, or what flock(2) says.
    int try_now(int descriptor);
    // Tries again and again, first after 1 ms, then ever less often, at least every 50 ms.
    void wait(int descriptor);
    void stop() { timer_.stop(); }
    // Gives the lock back although the kernel may still hold the file for a moment: a worker of the ring lets
    // go of it only after its completion has been seen. For a caller whose I/O has all completed.
    void release(int descriptor);
    bool held() const { return held_; }

  private:
    void retry();

    std::function<void(int)> settled_;
    reactor::MemberTimer<&FileLock::retry> timer_;
    base::Nanoseconds pause_ = 0;
    int descriptor_ = -1;
    bool held_ = false;
};

// Who holds the lock on the file behind `descriptor`, as far as the system tells.
struct LockHolder {
    long process = 0;  // 0: unknown, for instance one that has ended while its I/O goes on
    std::string text;  // for people
};
LockHolder find_lock_holder(int descriptor);

}  // namespace block
