// The seam to the operating system: everything asynchronous that the engine asks of the kernel goes through
// this interface. UringKernel implements it with io_uring; the simulation implements it with seeded faults
// and a clock of its own.
//
// An Operation is embedded in the object that waits for it. It must stay in place until `complete` was
// called, which happens exactly once for each submission, on the reactor's thread, from within
// `Kernel::wait`, never from within the call that submits. Submissions are batched: they reach the kernel at
// the next `wait`.
#pragma once

#include <sys/socket.h>

#include <cstddef>
#include <cstdint>
#include <span>

#include "base/clock.h"

namespace reactor {

struct Operation {
    // `result` is what the system call returns: a count, or a negative errno.
    void (*complete)(Operation& operation, std::int32_t result) = nullptr;
};

class Kernel {
  public:
    virtual ~Kernel() = default;

    // Sockets. `message` and what it points to must stay valid until completion; at most one receive and one
    // send may be in flight on a socket, so that the position of every byte is known [a kill must not reorder
    // them].
    virtual void receive(int socket, msghdr& message, int flags, Operation& operation) = 0;
    virtual void send(int socket, const msghdr& message, int flags, Operation& operation) = 0;
    virtual void accept(int listener, Operation& operation) = 0;  // result: the new descriptor, close-on-exec
    virtual void connect(int socket, const sockaddr& address, socklen_t length, Operation& operation) = 0;

    // Files and block devices. Memory inside a registered span is used as a fixed buffer. `durable` writes
    // are on stable media when they complete (RWF_DSYNC).
    virtual void read(int file, std::span<std::byte> data, std::uint64_t offset, Operation& operation) = 0;
    virtual void write(int file, std::span<const std::byte> data, std::uint64_t offset, bool durable,
                       Operation& operation) = 0;
    virtual void sync(int file, Operation& operation) = 0;  // fdatasync
    // fallocate(2) with `mode`; on a block device PUNCH_HOLE discards and ZERO_RANGE writes zeroes.
    virtual void allocate(int file, int mode, std::uint64_t offset, std::uint64_t length,
                          Operation& operation) = 0;
    // Discards a range of a block device; like `allocate` with PUNCH_HOLE where the kernel has nothing
    // better.
    virtual void discard(int device, std::uint64_t offset, std::uint64_t length, Operation& operation) = 0;

    // One-shot readiness; result: the events.
    virtual void poll(int descriptor, std::uint32_t events, Operation& operation) = 0;

    // Asks that `target` complete soon (with -ECANCELED if it had not started). `target` still completes
    // once.
    virtual void cancel(Operation& target) = 0;

    // Registers memory for `read` and `write`. At most once, before the first submission. False if the kernel
    // refuses (RLIMIT_MEMLOCK): everything works without.
    virtual bool register_memory(std::span<std::byte> memory) = 0;

    // Hands all submissions to the kernel, waits until at least one completion is there or `deadline`
    // (absolute, monotonic) has passed, and calls `complete` of all that are there. A deadline in the past
    // only collects.
    virtual void wait(base::Nanoseconds deadline) = 0;

    // Makes a present or the next `wait` return. The only function that another thread may call.
    virtual void wake() = 0;

    virtual base::Nanoseconds now() = 0;
};

inline constexpr base::Nanoseconds no_deadline = ~base::Nanoseconds{0};

}  // namespace reactor
