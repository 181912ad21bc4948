#include "reactor/reactor.h"

#include <doctest/doctest.h>

#include <random>
#include <string>
#include <thread>

#include "base/check.h"
#include "reactor/uring_kernel.h"

namespace {

using base::millisecond;
using reactor::Reactor;
using reactor::Timer;
using reactor::UringKernel;

constexpr base::Nanoseconds patience = 10 * base::second;

struct Fixture {
    std::unique_ptr<UringKernel> kernel = UringKernel::make().take();
    Reactor reactor{*kernel};

    template <typename Condition>
    bool run_until(Condition condition) {
        const base::Nanoseconds deadline = base::monotonic_now() + patience;
        while (!condition()) {
            if (base::monotonic_now() > deadline) {
                return false;
            }
            reactor.run_once(deadline);
        }
        return true;
    }
};

struct RecordingTimer : Timer {
    RecordingTimer(Reactor& reactor, std::vector<int>& log_, int number_)
        : Timer(reactor,
                [](Timer& timer) {
                    auto& self = static_cast<RecordingTimer&>(timer);
                    self.log.push_back(self.number);
                }),
          log(log_),
          number(number_) {}
    std::vector<int>& log;
    int number;
};

TEST_CASE_FIXTURE(Fixture,
                  "timers fire in the order of their deadlines, equal ones in the order of starting") {
    std::vector<int> log;
    RecordingTimer late(reactor, log, 3);
    RecordingTimer first(reactor, log, 1);
    RecordingTimer second(reactor, log, 2);
    RecordingTimer stopped(reactor, log, 9);
    const base::Nanoseconds start = base::monotonic_now();
    late.start(start + 6 * millisecond);
    first.start(start + 3 * millisecond);
    second.start(start + 3 * millisecond);
    stopped.start(start + 3 * millisecond);
    stopped.stop();
    CHECK(run_until([&] { return log.size() == 3; }));
    CHECK(log == std::vector<int>{1, 2, 3});
    CHECK(base::monotonic_now() >= start + 6 * millisecond);
    CHECK_FALSE(late.running());
}

TEST_CASE_FIXTURE(Fixture, "a heap of random timers that start, restart and stop gives them in order") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    std::vector<int> log;
    std::vector<std::unique_ptr<RecordingTimer>> timers;
    const base::Nanoseconds past = base::monotonic_now() - base::second;
    for (int i = 0; i < 500; ++i) {
        timers.push_back(std::make_unique<RecordingTimer>(reactor, log, i));
    }
    for (int i = 0; i < 5000; ++i) {
        RecordingTimer& timer = *timers[random() % timers.size()];
        if (random() % 3 == 0) {
            timer.stop();
        } else {
            timer.start(past + random() % 1000);
        }
    }
    std::size_t running = 0;
    for (const auto& timer : timers) {
        running += timer->running() ? 1 : 0;
    }
    reactor.run_once(0);
    REQUIRE(log.size() == running);
    for (std::size_t i = 1; i < log.size(); ++i) {
        CHECK(timers[static_cast<std::size_t>(log[i - 1])]->deadline() <=
              timers[static_cast<std::size_t>(log[i])]->deadline());
    }
}

TEST_CASE_FIXTURE(Fixture, "a timer that restarts itself in the past fires once per iteration") {
    struct Busy : Timer {
        explicit Busy(Reactor& reactor)
            : Timer(reactor, [](Timer& timer) {
                  ++static_cast<Busy&>(timer).fired;
                  timer.start(1);
              }) {}
        int fired = 0;
    } busy(reactor);
    busy.start(1);
    reactor.run_once(reactor::no_deadline);
    CHECK(busy.fired == 1);
    reactor.run_once(reactor::no_deadline);
    CHECK(busy.fired == 2);
}

TEST_CASE_FIXTURE(Fixture, "the cached time is never from before the wait") {
    std::vector<int> log;
    RecordingTimer timer(reactor, log, 1);
    const base::Nanoseconds before = reactor.now();
    timer.start(before + 5 * millisecond);
    CHECK(run_until([&] { return !log.empty(); }));
    CHECK(reactor.now() >= before + 5 * millisecond);
}

TEST_CASE_FIXTURE(Fixture, "tasks posted from other threads run in order and wake a sleeping reactor") {
    constexpr int per_thread = 10'000;
    int next[3] = {};
    bool ordered = true;
    std::vector<std::thread> threads;
    for (int& expected : next) {
        threads.emplace_back([this, &expected, &ordered] {
            for (int i = 0; i < per_thread; ++i) {
                reactor.post([&expected, &ordered, i] { ordered = ordered && expected++ == i; });
            }
        });
    }
    CHECK(run_until([&] { return next[0] + next[1] + next[2] == 3 * per_thread; }));
    for (std::thread& thread : threads) {
        thread.join();
    }
    CHECK(ordered);
}

TEST_CASE_FIXTURE(Fixture, "a task posted by a task runs in the next iteration, without a wake") {
    int ran = 0;
    reactor.post([&] { reactor.post([&] { ++ran; }); });
    reactor.run_once(reactor::no_deadline);
    CHECK(ran == 0);
    reactor.run_once(reactor::no_deadline);
    CHECK(ran == 1);
}

TEST_CASE_FIXTURE(Fixture, "stop ends run from another thread, and run can be called again") {
    for (int round = 0; round < 3; ++round) {
        std::thread stopper([&] { reactor.stop(); });
        reactor.run();
        stopper.join();
    }
    CHECK(reactor.on_reactor_thread());
}

TEST_CASE("an idle reactor does not iterate") {
    std::unique_ptr<UringKernel> kernel = UringKernel::make().take();
    Reactor idle(*kernel);
    std::thread thread([&] { idle.run(); });
    std::atomic<bool> there{false};
    idle.post([&] { there = true; });
    while (!there) {
        std::this_thread::yield();
    }
    const auto before = idle.iterations();
    const timespec pause{0, 50'000'000};
    nanosleep(&pause, nullptr);  // the absence of events has no condition to wait for
    CHECK(idle.iterations() <= before + 1);
    idle.stop();
    thread.join();
}

struct CountingDeferred : reactor::Deferred {
    explicit CountingDeferred(Reactor& reactor)
        : Deferred(reactor, [](Deferred& deferred) {
              auto& self = static_cast<CountingDeferred&>(deferred);
              ++self.ran;
              if (self.again != nullptr) {
                  self.again->schedule();
              }
          }) {}
    int ran = 0;
    Deferred* again = nullptr;
};

TEST_CASE_FIXTURE(Fixture, "deferred work runs once per iteration, what it schedules runs in the same one") {
    CountingDeferred second(reactor);
    CountingDeferred first(reactor);
    CountingDeferred cancelled(reactor);
    first.again = &second;
    first.schedule();
    first.schedule();
    cancelled.schedule();
    cancelled.cancel();
    reactor.run_once(reactor::no_deadline);
    CHECK(first.ran == 1);
    CHECK(second.ran == 1);
    CHECK(cancelled.ran == 0);
}

TEST_CASE_FIXTURE(Fixture, "deferred work that schedules itself for ever does not stop the reactor") {
    CountingDeferred endless(reactor);
    endless.again = &endless;
    endless.schedule();
    reactor.run_once(reactor::no_deadline);
    const int first = endless.ran;
    CHECK(first > 0);
    reactor.run_once(reactor::no_deadline);
    CHECK(endless.ran > first);
}

}  // namespace
