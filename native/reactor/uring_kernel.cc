#include "reactor/uring_kernel.h"

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <limits>
#include <string>

#include "base/check.h"

// Linux 6.12; absent in the headers of Debian 12.
#ifndef BLOCK_URING_CMD_DISCARD
#define BLOCK_URING_CMD_DISCARD _IO(0x12, 0)
#endif

namespace reactor {

namespace {

constexpr std::size_t registered_chunk_bytes = std::size_t{1}
                                               << 30;  // the kernel's limit of one fixed buffer
constexpr unsigned reap_batch = 64;

// What user_data says: 0 nobody waits, lowest bit set an index of discards_, else the address of an
// Operation.
constexpr std::uint64_t nobody = 0;
constexpr std::uint64_t discard_tag = 1;

struct ModeFlags {
    UringKernel::Mode mode;
    unsigned flags;
};

constexpr ModeFlags modes[] = {
    {UringKernel::Mode::defer_taskrun, IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN},
    {UringKernel::Mode::cooperative, IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG},
    {UringKernel::Mode::plain, 0},
};

std::uint64_t id_of(const Operation& operation) { return reinterpret_cast<std::uint64_t>(&operation); }

base::Error setup_error(int error_number) {
    const char* remedy = "is io_uring built into this kernel?";
    if (error_number == EPERM) {
        remedy =
            "it is forbidden here: sysctl kernel.io_uring_disabled=0, or allow io_uring in the seccomp "
            "profile";
    } else if (error_number == ENOMEM) {
        remedy = "the limit of locked memory is too low: raise RLIMIT_MEMLOCK (ulimit -l, LimitMEMLOCK=)";
    } else if (error_number == EMFILE || error_number == ENFILE) {
        remedy = "too many open files: raise RLIMIT_NOFILE (ulimit -n, LimitNOFILE=)";
    }
    return {"E_IO", std::string("cannot make an io_uring: ") + std::strerror(error_number) + "; " + remedy,
            error_number};
}

}  // namespace

base::Result<std::unique_ptr<UringKernel>> UringKernel::make(const Options& options) {
    std::unique_ptr<UringKernel> kernel(new UringKernel);
    kernel->wake_descriptor_ = eventfd(0, EFD_CLOEXEC);
    if (kernel->wake_descriptor_ < 0) {
        return setup_error(errno);
    }
    int result = -EINVAL;
    for (const ModeFlags& candidate : modes) {
        if (options.mode != Mode::best && options.mode != candidate.mode) {
            continue;
        }
        io_uring_params parameters{};
        parameters.flags = candidate.flags | IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP |
                           IORING_SETUP_SUBMIT_ALL | IORING_SETUP_R_DISABLED;
        parameters.cq_entries = options.completion_entries;
        result = io_uring_queue_init_params(options.submission_entries, &kernel->ring_, &parameters);
        if (result == 0) {
            constexpr unsigned needed = IORING_FEAT_NODROP | IORING_FEAT_EXT_ARG | IORING_FEAT_SUBMIT_STABLE;
            kernel->ring_made_ = true;
            if ((parameters.features & needed) != needed) {
                return base::Error{"E_UNSUPPORTED",
                                   "this kernel's io_uring is too old: Linux 5.19 or newer is needed"};
            }
            kernel->mode_ = candidate.mode;
            kernel->completion_entries_ = parameters.cq_entries;
            kernel->wake_operation_.complete = [](Operation&, std::int32_t) {};
            return kernel;
        }
        if (result != -EINVAL) {
            break;
        }
    }
    return setup_error(-result);
}

UringKernel::~UringKernel() {
    if (ring_made_) {
        io_uring_queue_exit(&ring_);
    }
    if (wake_descriptor_ >= 0) {
        close(wake_descriptor_);
    }
}

// --- Submissions
// -----------------------------------------------------------------------------------------------

io_uring_sqe* UringKernel::next_entry() {
    if (backlog_.empty()) {
        io_uring_sqe* entry = io_uring_get_sqe(&ring_);
        if (entry == nullptr && active_) {
            io_uring_submit(&ring_);  // whatever it says, `wait` tries again
            entry = io_uring_get_sqe(&ring_);
        }
        if (entry != nullptr) {
            return entry;
        }
    }
    return &backlog_
                .emplace_back();  // keeps the order: as long as anything waits here, all goes through here
}

void UringKernel::move_backlog() {
    while (!backlog_.empty()) {
        io_uring_sqe* entry = io_uring_get_sqe(&ring_);
        if (entry == nullptr) {
            io_uring_submit(&ring_);
            entry = io_uring_get_sqe(&ring_);
            if (entry == nullptr) {
                return;
            }
        }
        std::memcpy(entry, &backlog_.front(), sizeof(io_uring_sqe));
        backlog_.pop_front();
    }
}

void UringKernel::receive(int socket, msghdr& message, int flags, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    // With one buffer and nothing else the kernel need not copy and check a message header.
    if (message.msg_iovlen == 1 && message.msg_control == nullptr && message.msg_name == nullptr) {
        io_uring_prep_recv(entry, socket, message.msg_iov[0].iov_base, message.msg_iov[0].iov_len, flags);
    } else {
        io_uring_prep_recvmsg(entry, socket, &message, static_cast<unsigned>(flags));
    }
    entry->user_data = id_of(operation);
}

void UringKernel::send(int socket, const msghdr& message, int flags, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    flags |= MSG_NOSIGNAL;
    if (message.msg_iovlen == 1 && message.msg_control == nullptr && message.msg_name == nullptr) {
        io_uring_prep_send(entry, socket, message.msg_iov[0].iov_base, message.msg_iov[0].iov_len, flags);
    } else {
        io_uring_prep_sendmsg(entry, socket, &message, static_cast<unsigned>(flags));
    }
    entry->user_data = id_of(operation);
}

void UringKernel::accept(int listener, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_accept(entry, listener, nullptr, nullptr, SOCK_CLOEXEC);
    entry->user_data = id_of(operation);
}

void UringKernel::connect(int socket, const sockaddr& address, socklen_t length, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_connect(entry, socket, &address, length);
    entry->user_data = id_of(operation);
}

// Which fixed buffer holds all of the data, or -1.
int UringKernel::buffer_index(const std::byte* data, std::size_t size) const {
    const auto begin = reinterpret_cast<std::uintptr_t>(registered_.data());
    const auto address = reinterpret_cast<std::uintptr_t>(data);
    if (address < begin || address - begin >= registered_.size() ||
        size > registered_.size() - (address - begin)) {
        return -1;
    }
    const std::size_t chunk = (address - begin) / registered_chunk_bytes;
    return size <= (chunk + 1) * registered_chunk_bytes - (address - begin) ? static_cast<int>(chunk) : -1;
}

void UringKernel::read(int file, std::span<std::byte> data, std::uint64_t offset, Operation& operation) {
    EK_CHECK(data.size() <= std::numeric_limits<std::int32_t>::max(),
             "a transfer's count must fit its result");
    io_uring_sqe* entry = next_entry();
    const int index = buffer_index(data.data(), data.size());
    const auto size = static_cast<unsigned>(data.size());
    if (index >= 0) {
        io_uring_prep_read_fixed(entry, file, data.data(), size, offset, index);
    } else {
        io_uring_prep_read(entry, file, data.data(), size, offset);
    }
    entry->user_data = id_of(operation);
}

void UringKernel::write(int file, std::span<const std::byte> data, std::uint64_t offset, bool durable,
                        Operation& operation) {
    EK_CHECK(data.size() <= std::numeric_limits<std::int32_t>::max(),
             "a transfer's count must fit its result");
    io_uring_sqe* entry = next_entry();
    const int index = buffer_index(data.data(), data.size());
    const auto size = static_cast<unsigned>(data.size());
    if (index >= 0) {
        io_uring_prep_write_fixed(entry, file, data.data(), size, offset, index);
    } else {
        io_uring_prep_write(entry, file, data.data(), size, offset);
    }
    entry->rw_flags = durable ? RWF_DSYNC : 0;
    entry->user_data = id_of(operation);
}

void UringKernel::sync(int file, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_fsync(entry, file, IORING_FSYNC_DATASYNC);
    entry->user_data = id_of(operation);
}

void UringKernel::allocate(int file, int mode, std::uint64_t offset, std::uint64_t length,
                           Operation& operation) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_fallocate(entry, file, mode, static_cast<off_t>(offset), static_cast<off_t>(length));
    entry->user_data = id_of(operation);
}

void UringKernel::discard(int device, std::uint64_t offset, std::uint64_t length, Operation& operation) {
    if (discard_command_ == DiscardCommand::absent) {
        allocate(device, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, operation);
        return;
    }
    std::uint32_t index = 0;
    if (free_discards_.empty()) {
        index = static_cast<std::uint32_t>(discards_.size());
        discards_.emplace_back();
    } else {
        index = free_discards_.back();
        free_discards_.pop_back();
    }
    discards_[index] = Discard{&operation, device, offset, length};
    io_uring_sqe* entry = next_entry();
    io_uring_prep_rw(IORING_OP_URING_CMD, entry, device, nullptr, 0, 0);
    entry->cmd_op = BLOCK_URING_CMD_DISCARD;
    entry->addr = offset;
    entry->addr3 = length;
    entry->user_data = (std::uint64_t{index} << 1) | discard_tag;
}

void UringKernel::finish_discard(std::uint32_t index, std::int32_t result) {
    const Discard discard = discards_[index];
    free_discards_.push_back(index);
    if (result == -EINVAL || result == -EOPNOTSUPP) {
        // A kernel before 6.12, or a device that does not discard: the older way gives the final answer.
        if (discard_command_ == DiscardCommand::untried) {
            discard_command_ = DiscardCommand::absent;
        }
        allocate(discard.device, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, discard.offset, discard.length,
                 *discard.operation);
        return;
    }
    if (result >= 0) {
        discard_command_ = DiscardCommand::present;
    }
    discard.operation->complete(*discard.operation, result);
}

void UringKernel::poll(int descriptor, std::uint32_t events, Operation& operation) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_poll_add(entry, descriptor, events);
    entry->user_data = id_of(operation);
}

void UringKernel::cancel(Operation& target) {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_cancel64(entry, id_of(target), 0);
    entry->user_data = nobody;
}

bool UringKernel::register_memory(std::span<std::byte> memory) {
    EK_CHECK(registered_.empty(), "memory is registered at most once");
    if (memory.empty()) {
        return false;
    }
    std::vector<iovec> chunks;
    for (std::size_t offset = 0; offset < memory.size(); offset += registered_chunk_bytes) {
        chunks.push_back({memory.data() + offset, std::min(registered_chunk_bytes, memory.size() - offset)});
    }
    if (io_uring_register_buffers(&ring_, chunks.data(), static_cast<unsigned>(chunks.size())) != 0) {
        return false;
    }
    registered_ = memory;
    return true;
}

// --- Waiting
// ---------------------------------------------------------------------------------------------------

void UringKernel::arm_wake() {
    io_uring_sqe* entry = next_entry();
    io_uring_prep_read(entry, wake_descriptor_, &wake_count_, sizeof(wake_count_), 0);
    entry->user_data = id_of(wake_operation_);
}

// From here on the ring belongs to this thread.
void UringKernel::activate() {
    // liburing 2.3 declares io_uring_enable_rings but does not export it.
    const long result =
        syscall(__NR_io_uring_register, ring_.ring_fd, IORING_REGISTER_ENABLE_RINGS, nullptr, 0);
    EK_CHECK(result == 0, "the ring cannot be enabled");
    io_uring_register_ring_fd(&ring_);  // saves a descriptor lookup per call; works without
    active_ = true;
    arm_wake();
}

void UringKernel::wait(base::Nanoseconds deadline) {
    if (!active_) {
        activate();
    }
    move_backlog();
    enter(backlog_.empty() ? deadline : 0);
    reap();
}

void UringKernel::enter(base::Nanoseconds deadline) {
    int result = 0;
    if (deadline == no_deadline) {
        result = io_uring_submit_and_wait(&ring_, 1);
    } else if (const base::Nanoseconds present = deadline == 0 ? 0 : now(); deadline <= present) {
        result = io_uring_submit_and_get_events(&ring_);
    } else {
        const base::Nanoseconds left = deadline - present;
        __kernel_timespec timeout{};
        timeout.tv_sec = static_cast<std::int64_t>(left / base::second);
        timeout.tv_nsec = static_cast<long long>(left % base::second);
        io_uring_cqe* first = nullptr;
        result = io_uring_submit_and_wait_timeout(&ring_, &first, 1, &timeout, nullptr);
    }
    // EBUSY: completions must be collected first. EAGAIN: no memory for a request now. Both: what was not
    // taken stays in the queue and the next call tries again.
    EK_CHECK(result >= 0 || result == -ETIME || result == -EINTR || result == -EBUSY || result == -EAGAIN,
             "io_uring_enter failed (EEXIST: a ring has one thread)");
}

void UringKernel::reap() {
    struct Completion {
        std::uint64_t id;
        std::int32_t result;
    };
    // Bounded, so that operations which complete while they are submitted cannot keep the timers waiting.
    for (std::uint32_t budget = completion_entries_; budget > 0;) {
        io_uring_cqe* entries[reap_batch];
        Completion batch[reap_batch];
        const unsigned count = io_uring_peek_batch_cqe(&ring_, entries, std::min(budget, reap_batch));
        if (count == 0) {
            return;
        }
        for (unsigned i = 0; i < count; ++i) {
            batch[i] = {entries[i]->user_data, entries[i]->res};
        }
        io_uring_cq_advance(&ring_, count);  // before the callbacks: they may submit and need room
        for (unsigned i = 0; i < count; ++i) {
            dispatch(batch[i].id, batch[i].result);
        }
        budget -= count;
    }
}

void UringKernel::dispatch(std::uint64_t id, std::int32_t result) {
    if (id == nobody) {
        return;
    }
    if ((id & discard_tag) != 0) {
        finish_discard(static_cast<std::uint32_t>(id >> 1), result);
        return;
    }
    auto& operation =
        *reinterpret_cast<Operation*>(id);  // NOLINT(performance-no-int-to-ptr): as id_of made it
    if (&operation == &wake_operation_) {
        arm_wake();
        return;
    }
    operation.complete(operation, result);
}

void UringKernel::wake() {
    const std::uint64_t one = 1;
    // Fails only when the counter is about to overflow, and then the reader is awake anyway.
    (void)!::write(wake_descriptor_, &one, sizeof(one));
}

}  // namespace reactor
