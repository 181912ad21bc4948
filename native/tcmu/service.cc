#include "tcmu/service.h"

#include <pthread.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "tcmu/log.h"

namespace tcmu {

using block::tcmu::Operation;
using block::tcmu::RequestEntry;
using block::tcmu::Stage;

namespace {

constexpr int threads_max = 64;

void raise(int descriptor) {
    const std::uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(descriptor, &one, sizeof one);
}

}  // namespace

Service::Service(block::tcmu::Area& area, tcmur_handler& handler, tcmu_device& device)
    : area_(area), handler_(handler), device_(device) {
    for (Command& command : commands_) {
        command.service = this;
    }
}

void Service::set_stage(Stage stage) {
    area_.stage.store(stage, std::memory_order_release);
    notify();
}

void Service::notify() { raise(block::tcmu::completions_descriptor); }

void Service::stop() {
    stopping_.store(true);
    raise(block::tcmu::requests_descriptor);
}

void Service::run() {
    for (int i = 0; i < std::min(handler_.nr_threads, threads_max); ++i) {
        workers_.emplace_back([this] { work(); });
    }
    while (!stopping()) {
        std::uint64_t count = 0;
        if (read(block::tcmu::requests_descriptor, &count, sizeof count) < 0 && errno != EINTR) {
            break;
        }
        take_requests();
    }
    {
        const std::lock_guard lock(queue_mutex_);
        queue_.clear();
    }
    queued_.notify_all();
    for (std::thread& worker : workers_) {
        worker.join();
    }
    std::unique_lock lock(completions_mutex_);
    completed_.wait(lock, [&] { return in_flight_ == 0; });
    lock.unlock();
    flush_at_end();
}

void Service::take_requests() {
    const std::uint32_t tail = area_.requests_tail.load(std::memory_order_acquire);
    for (; requests_head_ != tail && !stopping(); ++requests_head_) {
        const RequestEntry entry = area_.requests[requests_head_ % block::tcmu::ring_entries];
        Command& command = commands_[entry.slot % block::tcmu::slots_max];
        {
            // Its last use has ended by way of the server: for who looks at this process alone, by this lock.
            const std::lock_guard lock(completions_mutex_);
            command.entry = entry;
            prepare(command);
        }
        if (handler_.nr_threads > 0) {
            const std::lock_guard lock(queue_mutex_);
            queue_.push_back(&command);
            queued_.notify_one();
        } else {
            begin(command);
        }
    }
}

void Service::prepare(Command& command) {
    command.vector = {area_.data + command.entry.data_offset, command.entry.data_length};
    command.of_library = {};
    command.of_library.cmd_id = static_cast<std::uint16_t>(command.entry.slot);
    command.of_library.cdb = command.cdb;
    command.of_library.iovec = &command.vector;
    command.of_library.iov_cnt = 1;
    command.of_handler = {};
    command.of_handler.lib_cmd = &command.of_library;
    command.of_handler.iovec = &command.vector;
    command.of_handler.iov_cnt = 1;
    command.of_handler.iov_base_copy = command.vector.iov_base;
    command.of_handler.requested = command.entry.data_length;
    command.of_handler.done = [](tcmu_device*, tcmur_cmd* cmd, int status) {
        auto& self = *reinterpret_cast<Command*>(cmd);
        if (self.service->handler_.nr_threads > 0) {
            // It still uses the command, whose slot must not be given to another request yet.
            log_line(Level::error, "the handler completed a request itself: only what it returns counts");
            return;
        }
        self.service->complete(self, status);
    };
    command.busy.store(true);
}

int Service::call(Command& command) {
    const RequestEntry& entry = command.entry;
    tcmur_cmd* cmd = &command.of_handler;
    switch (entry.operation) {
        case Operation::read:
            return handler_.read(&device_, cmd, &command.vector, 1, entry.length,
                                 static_cast<off_t>(entry.offset));
        case Operation::write:
            return handler_.write == nullptr ? TCMU_STS_NOT_HANDLED
                                             : handler_.write(&device_, cmd, &command.vector, 1, entry.length,
                                                              static_cast<off_t>(entry.offset));
        case Operation::flush:
            return handler_.flush == nullptr ? TCMU_STS_NOT_HANDLED : handler_.flush(&device_, cmd);
        case Operation::unmap:
            return handler_.unmap == nullptr ? TCMU_STS_NOT_HANDLED
                                             : handler_.unmap(&device_, cmd, entry.offset, entry.length);
        case Operation::write_same:
            return handler_.writesame == nullptr
                       ? TCMU_STS_NOT_HANDLED
                       : handler_.writesame(&device_, cmd, entry.offset, entry.length, &command.vector, 1);
    }
    return TCMU_STS_NOT_HANDLED;
}

void Service::begin(Command& command) {
    {
        const std::lock_guard lock(completions_mutex_);
        ++in_flight_;
    }
    const int status = call(command);
    // Without threads, ok means that the handler completes it itself, or has done so already.
    if (handler_.nr_threads > 0 || status != TCMU_STS_OK) {
        complete(command, status);
    }
}

void Service::complete(Command& command, int status) {
    if (!command.busy.exchange(false)) {
        log_line(Level::error, "the handler completed a request twice");
        return;
    }
    {
        const std::lock_guard lock(completions_mutex_);
        if (&command != &commands_[own_slot]) {
            area_.completions[completions_tail_ % block::tcmu::ring_entries] = {
                command.entry.slot, command.entry.generation, status, 0};
            area_.completions_tail.store(++completions_tail_, std::memory_order_release);
        } else if (status != TCMU_STS_OK) {
            log_line(Level::error, "the last flush failed (%d)", status);
        }
        --in_flight_;
    }
    completed_.notify_all();
    notify();
}

void Service::work() {
    pthread_setname_np(pthread_self(), "keel-tcmu-io");
    for (;;) {
        std::unique_lock lock(queue_mutex_);
        queued_.wait(lock, [&] { return stopping() || !queue_.empty(); });
        if (stopping()) {
            return;
        }
        Command& command = *queue_.front();
        queue_.pop_front();
        lock.unlock();
        begin(command);
    }
}

void Service::flush_at_end() {
    if (handler_.flush == nullptr) {
        return;
    }
    Command& command = commands_[own_slot];
    command.entry = {};
    command.entry.operation = Operation::flush;
    prepare(command);
    begin(command);
    std::unique_lock lock(completions_mutex_);
    completed_.wait(lock, [&] { return in_flight_ == 0; });
}

}  // namespace tcmu
