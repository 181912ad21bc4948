#include "reactor/reactor.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace reactor {

namespace {

constexpr std::size_t timers_expected = 4096;

// How often deferred work that schedules further deferred work is followed within one iteration. What is left
// waits for the next one, so that work that schedules itself for ever cannot starve the kernel.
constexpr int deferred_rounds_max = 4;

}  // namespace

// --- Timer
// -----------------------------------------------------------------------------------------------------

void Timer::start(base::Nanoseconds deadline) {
    stop();
    deadline_ = deadline;
    order_ = reactor_.timers_started_++;
    reactor_.heap_insert(*this);
}

void Timer::start_after(base::Nanoseconds delay) {
    const base::Nanoseconds now = reactor_.now();
    start(delay > no_deadline - now ? no_deadline : now + delay);
}

void Timer::stop() {
    if (running()) {
        reactor_.heap_remove(*this);
    }
}

// --- Deferred
// --------------------------------------------------------------------------------------------------

void Deferred::schedule() {
    if (scheduled_) {
        return;
    }
    scheduled_ = true;
    next_ = nullptr;
    previous_ = reactor_.deferred_last_;
    (previous_ != nullptr ? previous_->next_ : reactor_.deferred_first_) = this;
    reactor_.deferred_last_ = this;
    ++reactor_.deferred_count_;
}

void Deferred::cancel() {
    if (!scheduled_) {
        return;
    }
    scheduled_ = false;
    (previous_ != nullptr ? previous_->next_ : reactor_.deferred_first_) = next_;
    (next_ != nullptr ? next_->previous_ : reactor_.deferred_last_) = previous_;
    --reactor_.deferred_count_;
}

// --- Reactor
// ---------------------------------------------------------------------------------------------------

Reactor::Reactor(Kernel& kernel) : kernel_(kernel) { heap_.reserve(timers_expected); }

Reactor::~Reactor() {
    EK_CHECK(heap_.empty(), "a timer outlives its reactor");
    EK_CHECK(deferred_first_ == nullptr, "deferred work outlives its reactor");
}

void Reactor::post(Task task) {
    {
        const std::lock_guard<std::mutex> lock(mailbox_mutex_);
        mailbox_.push_back(std::move(task));
    }
    // One wake for any number of letters; the reactor's own thread looks into the mailbox before it sleeps.
    if (!mail_waiting_.exchange(true, std::memory_order_acq_rel) && !on_reactor_thread()) {
        kernel_.wake();
    }
}

void Reactor::run() {
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    while (!stopping_.load(std::memory_order_acquire)) {
        run_once(no_deadline);
    }
    stopping_.store(false, std::memory_order_relaxed);
}

void Reactor::run_once(base::Nanoseconds deadline) {
    thread_.store(std::this_thread::get_id(), std::memory_order_relaxed);
    if (!heap_.empty()) {
        deadline = std::min(deadline, heap_.front()->deadline_);
    }
    if (deferred_first_ != nullptr || mail_waiting_.load(std::memory_order_acquire)) {
        deadline = 0;
    }
    now_ = unknown;  // completions must not see the time from before the wait
    kernel_.wait(deadline);
    iterations_.store(iterations_.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
    run_tasks();
    run_timers();
    run_deferred();
}

void Reactor::stop() {
    stopping_.store(true, std::memory_order_release);
    kernel_.wake();
}

void Reactor::run_tasks() {
    if (!mail_waiting_.load(std::memory_order_acquire)) {
        return;
    }
    {
        const std::lock_guard<std::mutex> lock(mailbox_mutex_);
        running_tasks_.swap(mailbox_);
        mail_waiting_.store(false, std::memory_order_release);
    }
    for (Task& task : running_tasks_) {
        task();
        task = nullptr;  // what it holds ends here, before the next task runs
    }
    running_tasks_.clear();
}

void Reactor::run_timers() {
    if (heap_.empty()) {
        return;
    }
    // Bounded by what is there now: a timer that restarts itself in the past fires once per iteration.
    const std::uint64_t started_before = timers_started_;
    while (!heap_.empty() && heap_.front()->deadline_ <= now() && heap_.front()->order_ < started_before) {
        Timer& timer = *heap_.front();
        heap_remove(timer);
        timer.callback_(timer);
    }
}

void Reactor::run_deferred() {
    for (int round = 0; round < deferred_rounds_max && deferred_first_ != nullptr; ++round) {
        for (std::uint32_t left = deferred_count_; left > 0 && deferred_first_ != nullptr; --left) {
            Deferred& deferred = *deferred_first_;
            deferred.cancel();
            deferred.callback_(deferred);
        }
    }
}

// --- The heap
// --------------------------------------------------------------------------------------------------

void Reactor::heap_place(std::uint32_t index, Timer* timer) {
    heap_[index] = timer;
    timer->heap_index_ = index;
}

// Puts `timer` at `index` or wherever from there the order of the heap wants it.
void Reactor::heap_settle(std::uint32_t index, Timer* timer) {
    const auto earlier = [](const Timer* a, const Timer* b) {
        return a->deadline_ != b->deadline_ ? a->deadline_ < b->deadline_ : a->order_ < b->order_;
    };
    while (index > 0 && earlier(timer, heap_[(index - 1) / 2])) {
        heap_place(index, heap_[(index - 1) / 2]);
        index = (index - 1) / 2;
    }
    const auto size = static_cast<std::uint32_t>(heap_.size());
    for (std::uint32_t child = 2 * index + 1; child < size; child = 2 * index + 1) {
        if (child + 1 < size && earlier(heap_[child + 1], heap_[child])) {
            ++child;
        }
        if (!earlier(heap_[child], timer)) {
            break;
        }
        heap_place(index, heap_[child]);
        index = child;
    }
    heap_place(index, timer);
}

void Reactor::heap_insert(Timer& timer) {
    heap_.push_back(&timer);
    heap_settle(static_cast<std::uint32_t>(heap_.size() - 1), &timer);
}

void Reactor::heap_remove(Timer& timer) {
    const std::uint32_t index = timer.heap_index_;
    Timer* last = heap_.back();
    heap_.pop_back();
    timer.heap_index_ = Timer::not_in_heap;
    if (last != &timer) {
        heap_settle(index, last);
    }
}

}  // namespace reactor
