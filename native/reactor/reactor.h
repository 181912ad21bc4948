// A reactor is one thread with one Kernel. Everything that is not marked otherwise runs on that thread, so
// the objects that live on it need no locks. Other threads talk to it by `post`.
//
// One iteration: completions → posted tasks → timers that are due → deferred work → submit and wait. Deferred
// work is how a connection that produced many responses sends them with one system call.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "reactor/kernel.h"

namespace reactor {

class Reactor;

// A deadline with a callback; embedded in its owner, stopped by its destructor. Timers fire at or after their
// deadline, on the reactor's thread.
class Timer {
  public:
    using Callback = void (*)(Timer& timer);
    Timer(Reactor& reactor, Callback callback) : reactor_(reactor), callback_(callback) {}
    ~Timer() { stop(); }
    Timer(const Timer&) = delete;
    Timer& operator=(const Timer&) = delete;

    void start(base::Nanoseconds deadline);  // absolute; restarts a running timer
    void start_after(base::Nanoseconds delay);
    void stop();
    bool running() const { return heap_index_ != not_in_heap; }
    base::Nanoseconds deadline() const { return deadline_; }

  private:
    friend class Reactor;
    static constexpr std::uint32_t not_in_heap = ~0u;
    Reactor& reactor_;
    Callback callback_;
    base::Nanoseconds deadline_ = 0;
    std::uint64_t order_ = 0;  // equal deadlines fire in the order of starting
    std::uint32_t heap_index_ = not_in_heap;
};

// Work to be done once at the end of the present iteration, however often it was asked for. Intrusive.
class Deferred {
  public:
    using Callback = void (*)(Deferred& deferred);
    Deferred(Reactor& reactor, Callback callback) : reactor_(reactor), callback_(callback) {}
    ~Deferred() { cancel(); }
    Deferred(const Deferred&) = delete;
    Deferred& operator=(const Deferred&) = delete;

    void schedule();
    void cancel();
    bool scheduled() const { return scheduled_; }

  private:
    friend class Reactor;
    Reactor& reactor_;
    Callback callback_;
    bool scheduled_ = false;
    Deferred* next_ = nullptr;
    Deferred* previous_ = nullptr;
};

// A timer, or deferred work, that calls `member` of the object that it is embedded in:
//     reactor::MemberTimer<&Controller::poll> poll_timer_;
template <class Base, auto member>
class Calling;
template <class Base, class Owner, void (Owner::*member)()>
class Calling<Base, member> : public Base {
  public:
    Calling(Reactor& reactor, Owner& owner)
        : Base(reactor, [](Base& self) { (static_cast<Calling&>(self).owner_.*member)(); }), owner_(owner) {}

  private:
    Owner& owner_;
};
template <auto member>
using MemberTimer = Calling<Timer, member>;
template <auto member>
using MemberDeferred = Calling<Deferred, member>;

class Reactor {
  public:
    using Task = std::function<void()>;

    explicit Reactor(Kernel& kernel);
    ~Reactor();
    Reactor(const Reactor&) = delete;
    Reactor& operator=(const Reactor&) = delete;

    Kernel& kernel() { return kernel_; }
    // The time at which the present iteration first asked for it; cheap. Never from before the last wait.
    base::Nanoseconds now() const {
        if (now_ == unknown) {
            now_ = kernel_.now();
        }
        return now_;
    }

    // Runs `task` on the reactor's thread, in the order of posting. Any thread.
    void post(Task task);

    void run();  // until stop()
    void run_once(base::Nanoseconds deadline);
    void stop();  // any thread
    // The thread that ran the last iteration; before the first one, no thread is.
    bool on_reactor_thread() const {
        return thread_.load(std::memory_order_relaxed) == std::this_thread::get_id();
    }

    // Nanoseconds of CPU time and iterations so far, for the metrics. Any thread.
    std::uint64_t iterations() const { return iterations_.load(std::memory_order_relaxed); }

  private:
    friend class Timer;
    friend class Deferred;
    void run_tasks();
    void run_timers();
    void run_deferred();
    void heap_insert(Timer& timer);
    void heap_remove(Timer& timer);
    void heap_place(std::uint32_t index, Timer* timer);
    void heap_settle(std::uint32_t index, Timer* timer);

    static constexpr base::Nanoseconds unknown = 0;

    Kernel& kernel_;
    mutable base::Nanoseconds now_ = unknown;
    std::atomic<std::thread::id> thread_{};
    std::atomic<bool> stopping_{false};
    std::atomic<std::uint64_t> iterations_{0};
    std::mutex mailbox_mutex_;
    std::vector<Task> mailbox_;
    std::vector<Task> running_tasks_;
    std::atomic<bool> mail_waiting_{false};
    std::vector<Timer*> heap_;  // binary heap, earliest (deadline, order of starting) first
    std::uint64_t timers_started_ = 0;
    Deferred* deferred_first_ = nullptr;
    Deferred* deferred_last_ = nullptr;
    std::uint32_t deferred_count_ = 0;
};

}  // namespace reactor
