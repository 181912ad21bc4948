// Serves the requests that the server puts into the shared area with the callbacks of one handler.
//
// A handler with threads is called on as many worker threads, and its return value ends the request. Others
// are called on the thread that reads the ring; the request ends when they say so, on whatever thread.
// Completions go back in the order in which they come.
//
// The end (`stop`) is orderly: what the handler has begun is waited for, what it has not is dropped, then the
// medium is flushed. Nobody sees the answers: who stops us has no more requests, or is dead.
#pragma once

#include <array>
#include <atomic>
#include <condition_variable>
#include <deque>
#include <mutex>
#include <thread>
#include <vector>

#include "block/tcmu/area.h"
#include "tcmu/handler_abi.h"

namespace tcmu {

class Service {
  public:
    Service(block::tcmu::Area& area, tcmur_handler& handler, tcmu_device& device);

    // Returns after `stop`.
    void run();
    // From a signal handler, too.
    void stop();
    bool stopping() const { return stopping_.load(std::memory_order_relaxed); }

    void set_stage(block::tcmu::Stage stage);

  private:
    // The handler's command must be the first member: the handler gives a pointer to it back.
    struct Command {
        tcmur_cmd of_handler{};
        tcmulib_cmd of_library{};
        iovec vector{};
        std::uint8_t cdb[16]{};
        block::tcmu::RequestEntry entry{};
        Service* service = nullptr;
        std::atomic<bool> busy{false};
    };
    // One more than the server has slots: the last flush is our own.
    static constexpr std::uint32_t own_slot = block::tcmu::slots_max;

    void take_requests();
    void prepare(Command& command);
    int call(Command& command);
    void begin(Command& command);
    void complete(Command& command, int status);
    void work();
    void flush_at_end();
    void notify();

    block::tcmu::Area& area_;
    tcmur_handler& handler_;
    tcmu_device& device_;
    std::array<Command, block::tcmu::slots_max + 1> commands_;
    std::uint32_t requests_head_ = 0;
    std::atomic<bool> stopping_{false};

    std::mutex completions_mutex_;
    std::condition_variable completed_;
    std::uint32_t completions_tail_ = 0;
    std::uint32_t in_flight_ = 0;  // begun by the handler

    std::mutex queue_mutex_;
    std::condition_variable queued_;
    std::deque<Command*> queue_;
    std::vector<std::thread> workers_;
};

}  // namespace tcmu
