// A Kernel without a kernel: a clock that a test moves, and nothing asynchronous. For tests of what stands on
// timers and posted tasks alone.
#pragma once

#include <algorithm>

#include "base/check.h"
#include "reactor/kernel.h"

namespace testing {

class FakeKernel final : public reactor::Kernel {
  public:
    // Time passes only here and in advance(): `wait` goes to its deadline, but not beyond `horizon`.
    base::Nanoseconds time = 1'000 * base::second;
    base::Nanoseconds horizon = 0;

    void wait(base::Nanoseconds deadline) override {
        if (!woken_ && deadline != reactor::no_deadline && deadline > time) {
            time = std::max(time, std::min(deadline, horizon));
        }
        woken_ = false;
    }
    void wake() override { woken_ = true; }
    base::Nanoseconds now() override { return time; }

    void receive(int, msghdr&, int, reactor::Operation&) override { absent(); }
    void send(int, const msghdr&, int, reactor::Operation&) override { absent(); }
    void accept(int, reactor::Operation&) override { absent(); }
    void connect(int, const sockaddr&, socklen_t, reactor::Operation&) override { absent(); }
    void read(int, std::span<std::byte>, std::uint64_t, reactor::Operation&) override { absent(); }
    void write(int, std::span<const std::byte>, std::uint64_t, bool, reactor::Operation&) override {
        absent();
    }
    void sync(int, reactor::Operation&) override { absent(); }
    void allocate(int, int, std::uint64_t, std::uint64_t, reactor::Operation&) override { absent(); }
    void discard(int, std::uint64_t, std::uint64_t, reactor::Operation&) override { absent(); }
    void poll(int, std::uint32_t, reactor::Operation&) override { absent(); }
    void cancel(reactor::Operation&) override { absent(); }
    bool register_memory(std::span<std::byte>) override { return true; }

  private:
    static void absent() { EK_CHECK(false, "this test's kernel has no such operation"); }
    bool woken_ = false;
};

}  // namespace testing
