// The Kernel interface on Linux io_uring, by liburing 2.3 and newer, on kernels from 5.19.
//
// One ring belongs to the thread that first calls `wait`; until then the ring is disabled, so that it can be
// made and its memory registered by the thread that builds the engine. Newer modes (DEFER_TASKRUN, 6.1) are
// used where the kernel has them. Submissions are collected and handed over by the one io_uring_enter of
// `wait`; when the submission queue is full they are handed over earlier, and what even then finds no room
// waits in a backlog: none is lost.
//
// Files are used by plain descriptors, never registered: a registered file keeps its lock for 16 ms and more
// after the process died, and the successor waits for that lock.
#pragma once

#include <liburing.h>

#include <deque>
#include <memory>
#include <span>
#include <vector>

#include "base/result.h"
#include "reactor/kernel.h"

namespace reactor {

class UringKernel final : public Kernel {
  public:
    // From the newest to the oldest; `best` takes the first that the kernel has.
    enum class Mode : std::uint8_t { best, defer_taskrun, cooperative, plain };

    struct Options {
        std::uint32_t submission_entries = 1024;
        std::uint32_t completion_entries = 8192;
        Mode mode = Mode::best;
    };

    // E_IO with the remedy if the system offers no usable io_uring.
    static base::Result<std::unique_ptr<UringKernel>> make(const Options& options);
    static base::Result<std::unique_ptr<UringKernel>> make() { return make(Options{}); }

    // All operations must have completed, or their memory and files must outlive what the system still does.
    ~UringKernel() override;

    Mode mode() const { return mode_; }

    void receive(int socket, msghdr& message, int flags, Operation& operation) override;
    void send(int socket, const msghdr& message, int flags, Operation& operation) override;
    void accept(int listener, Operation& operation) override;
    void connect(int socket, const sockaddr& address, socklen_t length, Operation& operation) override;
    void read(int file, std::span<std::byte> data, std::uint64_t offset, Operation& operation) override;
    void write(int file, std::span<const std::byte> data, std::uint64_t offset, bool durable,
               Operation& operation) override;
    void sync(int file, Operation& operation) override;
    void allocate(int file, int mode, std::uint64_t offset, std::uint64_t length,
                  Operation& operation) override;
    void discard(int device, std::uint64_t offset, std::uint64_t length, Operation& operation) override;
    void poll(int descriptor, std::uint32_t events, Operation& operation) override;
    void cancel(Operation& target) override;
    bool register_memory(std::span<std::byte> memory) override;
    void wait(base::Nanoseconds deadline) override;
    void wake() override;
    base::Nanoseconds now() override { return base::monotonic_now(); }

  private:
    // A discard by IORING_OP_URING_CMD that may have to be repeated by fallocate.
    struct Discard {
        Operation* operation;
        int device;
        std::uint64_t offset;
        std::uint64_t length;
    };

    UringKernel() = default;
    io_uring_sqe* next_entry();
    void activate();
    void move_backlog();
    void enter(base::Nanoseconds deadline);
    void reap();
    void dispatch(std::uint64_t id, std::int32_t result);
    void finish_discard(std::uint32_t index, std::int32_t result);
    void arm_wake();
    int buffer_index(const std::byte* data, std::size_t size) const;

    io_uring ring_{};
    bool ring_made_ = false;
    bool active_ = false;
    Mode mode_ = Mode::plain;
    std::uint32_t completion_entries_ = 0;
    std::deque<io_uring_sqe> backlog_;

    int wake_descriptor_ = -1;
    std::uint64_t wake_count_ = 0;
    Operation wake_operation_;

    std::span<std::byte> registered_;

    enum class DiscardCommand : std::uint8_t {
        untried,
        present,
        absent
    } discard_command_ = DiscardCommand::untried;
    std::deque<Discard> discards_;
    std::vector<std::uint32_t> free_discards_;
};

}  // namespace reactor
