#include "testing/sim_kernel.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <cstring>

#include "base/check.h"

namespace testing {

namespace {

// Short reads and writes of a real disk end at its blocks; this suits every size of them.
constexpr std::uint64_t file_unit = 4096;

}  // namespace

SimKernel::SimKernel(Options options)
    : options_(std::move(options)), random_(options_.seed), now_(options_.start) {}

SimKernel::~SimKernel() {
    for (const auto& [identity, descriptor] : descriptors_) {
        close(descriptor);
    }
}

// --- Submissions
// -----------------------------------------------------------------------------------------------

SimKernel::Pending& SimKernel::add(Step step, int descriptor, reactor::Operation& operation) {
    auto pending = std::make_unique<Pending>();
    pending->step = step;
    pending->descriptor = descriptor;
    pending->operation = &operation;
    pending->due = now_ + (options_.latency_max == 0 ? 0 : random_() % options_.latency_max);
    pending->tie = random_();
    pending_.push_back(std::move(pending));
    return *pending_.back();
}

void SimKernel::receive(int socket, msghdr& message, int flags, reactor::Operation& operation) {
    Pending& pending = add(Step::receive, socket, operation);
    pending.message = &message;
    pending.flags = flags;
}

void SimKernel::send(int socket, const msghdr& message, int flags, reactor::Operation& operation) {
    Pending& pending = add(Step::send, socket, operation);
    pending.message = const_cast<msghdr*>(&message);
    pending.flags = flags;
}

void SimKernel::accept(int listener, reactor::Operation& operation) {
    add(Step::accept, listener, operation);
}

void SimKernel::connect(int socket, const sockaddr& address, socklen_t length,
                        reactor::Operation& operation) {
    Pending& pending = add(Step::connect, socket, operation);
    pending.address_length = std::min<socklen_t>(length, sizeof(pending.address));
    std::memcpy(&pending.address, &address, pending.address_length);
}

void SimKernel::read(int file, std::span<std::byte> data, std::uint64_t offset,
                     reactor::Operation& operation) {
    Pending& pending = add(Step::read, file, operation);
    pending.data = data;
    pending.offset = offset;
    pending.length = data.size();
}

void SimKernel::write(int file, std::span<const std::byte> data, std::uint64_t offset, bool durable,
                      reactor::Operation& operation) {
    Pending& pending = add(durable ? Step::durable_write : Step::write, file, operation);
    pending.data = {const_cast<std::byte*>(data.data()), data.size()};
    pending.offset = offset;
    pending.length = data.size();
    if (options_.delay) {
        pending.due += options_.delay({pending.step, file, offset, pending.length});
    }
}

void SimKernel::sync(int file, reactor::Operation& operation) { add(Step::sync, file, operation); }

void SimKernel::allocate(int file, int mode, std::uint64_t offset, std::uint64_t length,
                         reactor::Operation& operation) {
    Pending& pending = add(Step::allocate, file, operation);
    pending.flags = mode;
    pending.offset = offset;
    pending.length = length;
}

void SimKernel::discard(int device, std::uint64_t offset, std::uint64_t length,
                        reactor::Operation& operation) {
    Pending& pending = add(Step::discard, device, operation);
    pending.offset = offset;
    pending.length = length;
}

void SimKernel::poll(int descriptor, std::uint32_t events, reactor::Operation& operation) {
    add(Step::poll, descriptor, operation).flags = static_cast<int>(events);
}

void SimKernel::cancel(reactor::Operation& target) {
    for (const auto& pending : pending_) {
        if (pending->operation == &target) {
            const bool may_have_started = pending->step >= Step::read && pending->step <= Step::discard;
            if (!may_have_started || chance(50)) {
                pending->cancelled = true;
                pending->due = now_;
            }
        }
    }
}

// --- Time
// ------------------------------------------------------------------------------------------------------

void SimKernel::wait(base::Nanoseconds deadline) {
    while (!run_due() && !woken_.exchange(false, std::memory_order_acq_rel) && now_ < deadline) {
        base::Nanoseconds next = deadline;
        for (const auto& pending : pending_) {
            if (pending->due > now_) {
                next = std::min(next, pending->due);
            }
        }
        if (next == reactor::no_deadline) {
            now_ += base::millisecond;
            return;
        }
        now_ = next;
    }
}

// Does what is due, in an order drawn from the seed. True if anything completed.
bool SimKernel::run_due() {
    struct Completion {
        reactor::Operation* operation;
        std::int32_t result;
    };
    std::vector<Pending*> due;
    for (const auto& pending : pending_) {
        if (pending->due <= now_ || !powered_ || !process_) {
            due.push_back(pending.get());
        }
    }
    std::sort(due.begin(), due.end(), [](const Pending* a, const Pending* b) { return a->tie < b->tie; });
    std::vector<Completion> completions;
    for (Pending* pending : due) {
        const std::int32_t result = attempt(*pending);
        if (result != not_yet) {
            completions.push_back({pending->operation, result});
            pending->operation = nullptr;
        }
    }
    std::erase_if(pending_, [](const auto& pending) { return pending->operation == nullptr; });
    for (const Completion& completion : completions) {
        ++steps_done_;
        completion.operation->complete(*completion.operation, completion.result);
    }
    return !completions.empty();
}

std::int32_t SimKernel::attempt(Pending& pending) {
    if (!powered_ || !process_) {
        return -EIO;
    }
    if (pending.cancelled) {
        return -ECANCELED;
    }
    if (options_.fault) {
        const int error_number =
            options_.fault({pending.step, pending.descriptor, pending.offset, pending.length});
        if (error_number != 0) {
            return -error_number;
        }
    }
    switch (pending.step) {
        case Step::receive:
        case Step::send: return transfer_message(pending);
        case Step::accept: {
            pollfd ready{pending.descriptor, POLLIN, 0};
            if (::poll(&ready, 1, 0) == 0) {
                return not_yet;
            }
            const int accepted = accept4(pending.descriptor, nullptr, nullptr, SOCK_CLOEXEC);
            return accepted >= 0 ? accepted : -errno;
        }
        case Step::connect: {
            const auto* address = reinterpret_cast<const sockaddr*>(&pending.address);
            return ::connect(pending.descriptor, address, pending.address_length) == 0 ? 0 : -errno;
        }
        case Step::read: return read_file(pending);
        case Step::write: return write_file(pending, false);
        case Step::durable_write: return write_file(pending, !options_.ignores_durable);
        case Step::sync: return options_.ignores_sync ? 0 : sync_file(pending.descriptor);
        case Step::allocate:
        case Step::discard: return zero_file(pending);
        case Step::poll: {
            pollfd ready{pending.descriptor, static_cast<short>(pending.flags), 0};
            const int count = ::poll(&ready, 1, 0);
            return count == 0 ? not_yet : count < 0 ? -errno : ready.revents;
        }
    }
    return -EINVAL;
}

std::uint64_t SimKernel::shortened(std::uint64_t length, std::uint64_t unit) {
    const std::uint64_t units = length / unit;
    return units > 1 && chance(options_.short_transfers_percent) ? (1 + random_() % (units - 1)) * unit
                                                                 : length;
}

// --- Sockets
// ---------------------------------------------------------------------------------------------------

std::int32_t SimKernel::transfer_message(Pending& pending) {
    msghdr message = *pending.message;
    std::vector<iovec> buffers(message.msg_iov, message.msg_iov + message.msg_iovlen);
    std::uint64_t length = 0;
    for (const iovec& buffer : buffers) {
        length += buffer.iov_len;
    }
    // MSG_WAITALL is kept by looking first: real sockets may not be waited for here.
    const bool whole = (pending.flags & MSG_WAITALL) != 0;
    std::uint64_t left = whole ? length : shortened(length, 1);
    for (iovec& buffer : buffers) {
        buffer.iov_len = std::min<std::size_t>(buffer.iov_len, left);
        left -= buffer.iov_len;
    }
    message.msg_iov = buffers.data();
    const int flags = (pending.flags & ~MSG_WAITALL) | MSG_DONTWAIT | MSG_NOSIGNAL;
    ssize_t result = 0;
    if (pending.step == Step::receive) {
        if (whole) {
            result = recvmsg(pending.descriptor, &message, flags | MSG_PEEK);
            pollfd hung_up{pending.descriptor, POLLRDHUP, 0};
            const bool ended = ::poll(&hung_up, 1, 0) > 0;
            if (result >= 0 && static_cast<std::uint64_t>(result) < length && !ended) {
                return not_yet;
            }
        }
        result = recvmsg(pending.descriptor, &message, flags);
        pending.message->msg_flags = message.msg_flags;
    } else {
        result = sendmsg(pending.descriptor, &message, flags);
    }
    if (result < 0) {
        return errno == EAGAIN || errno == EINTR ? not_yet : -errno;
    }
    return static_cast<std::int32_t>(result);
}

// --- Files
// -----------------------------------------------------------------------------------------------------

SimKernel::Cache& SimKernel::cache_of(int descriptor) {
    struct stat status {};
    EK_CHECK(fstat(descriptor, &status) == 0, "the simulation examines an open file");
    const Identity identity{status.st_dev, status.st_ino};
    if (!descriptors_.contains(identity)) {
        // Opened anew: a duplicate would hold the file's lock.
        char path[64];
        std::snprintf(path, sizeof(path), "/proc/self/fd/%d", descriptor);
        const bool writable = (fcntl(descriptor, F_GETFL) & O_ACCMODE) != O_RDONLY;
        descriptors_[identity] = open(path, (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC);
    }
    return caches_[identity];
}

SimKernel::Sector SimKernel::load_sector(int descriptor, const Cache& cache, std::uint64_t sector) const {
    const auto cached = cache.find(sector);
    if (cached != cache.end()) {
        return cached->second.back();
    }
    Sector content{};  // behind the end: zeroes
    (void)!pread(descriptor, content.data(), sector_bytes, static_cast<off_t>(sector * sector_bytes));
    return content;
}

bool SimKernel::at_rest(int descriptor, std::uint64_t offset, std::uint64_t length) {
    const Cache& cache = cache_of(descriptor);
    const auto found = cache.lower_bound(offset / sector_bytes);
    return found == cache.end() || found->first * sector_bytes >= offset + length;
}

void SimKernel::store_sector(int descriptor, std::uint64_t sector, const Sector& content) {
    // Never beyond the end that the file has meanwhile.
    struct stat status {};
    fstat(descriptor, &status);
    const auto size = static_cast<std::uint64_t>(status.st_size);
    const std::uint64_t offset = sector * sector_bytes;
    if (offset < size) {
        const std::size_t bytes =
            static_cast<std::size_t>(std::min<std::uint64_t>(sector_bytes, size - offset));
        (void)!pwrite(descriptor, content.data(), bytes, static_cast<off_t>(offset));
    }
}

std::int32_t SimKernel::read_file(Pending& pending) {
    struct stat status {};
    if (fstat(pending.descriptor, &status) != 0) {
        return -errno;
    }
    const Cache& cache = cache_of(pending.descriptor);
    const int descriptor = descriptors_[{status.st_dev, status.st_ino}];
    const auto size = static_cast<std::uint64_t>(status.st_size);
    std::uint64_t length = pending.offset < size ? std::min(pending.length, size - pending.offset) : 0;
    length = shortened(length, file_unit);
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t at = pending.offset + done;
        const std::uint64_t inside = at % sector_bytes;
        const std::uint64_t bytes = std::min(sector_bytes - inside, length - done);
        const Sector content = load_sector(descriptor, cache, at / sector_bytes);
        std::memcpy(pending.data.data() + done, content.data() + inside, bytes);
        done += bytes;
    }
    return static_cast<std::int32_t>(length);
}

// Puts `data` (null: zeroes) into the cache, or onto the medium.
void SimKernel::change(int descriptor, std::uint64_t offset, std::uint64_t length, const std::byte* data,
                       bool durable) {
    Cache& cache = cache_of(descriptor);
    struct stat status {};
    fstat(descriptor, &status);
    const int medium = descriptors_[{status.st_dev, status.st_ino}];
    for (std::uint64_t done = 0; done < length;) {
        const std::uint64_t at = offset + done;
        const std::uint64_t inside = at % sector_bytes;
        const std::uint64_t bytes = std::min(sector_bytes - inside, length - done);
        Sector content = load_sector(medium, cache, at / sector_bytes);
        if (data != nullptr) {
            std::memcpy(content.data() + inside, data + done, bytes);
        } else {
            std::memset(content.data() + inside, 0, bytes);
        }
        if (durable) {
            cache.erase(at / sector_bytes);
            store_sector(medium, at / sector_bytes, content);
        } else {
            cache[at / sector_bytes].push_back(content);
        }
        done += bytes;
    }
}

std::int32_t SimKernel::write_file(Pending& pending, bool durable) {
    if ((fcntl(pending.descriptor, F_GETFL) & O_ACCMODE) == O_RDONLY) {
        return -EBADF;
    }
    const std::uint64_t length = shortened(pending.length, file_unit);
    struct stat status {};
    if (fstat(pending.descriptor, &status) != 0) {
        return -errno;
    }
    if (pending.offset + length > static_cast<std::uint64_t>(status.st_size) && S_ISREG(status.st_mode) &&
        ftruncate(pending.descriptor, static_cast<off_t>(pending.offset + length)) != 0) {
        return -errno;
    }
    change(pending.descriptor, pending.offset, length, pending.data.data(), durable);
    return static_cast<std::int32_t>(length);
}

std::int32_t SimKernel::zero_file(Pending& pending) {
    const bool zeroes =
        pending.step == Step::discard || (pending.flags & (FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE)) != 0;
    if (!zeroes) {
        const int result = fallocate(pending.descriptor, pending.flags, static_cast<off_t>(pending.offset),
                                     static_cast<off_t>(pending.length));
        return result == 0 ? 0 : -errno;
    }
    struct stat status {};
    if (fstat(pending.descriptor, &status) != 0) {
        return -errno;
    }
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (pending.offset < size) {
        change(pending.descriptor, pending.offset, std::min(pending.length, size - pending.offset), nullptr,
               false);
    }
    return 0;
}

std::int32_t SimKernel::sync_file(int descriptor) {
    struct stat status {};
    if (fstat(descriptor, &status) != 0) {
        return -errno;
    }
    Cache& cache = cache_of(descriptor);
    const int medium = descriptors_[{status.st_dev, status.st_ino}];
    for (const auto& [sector, versions] : cache) {
        store_sector(medium, sector, versions.back());
    }
    cache.clear();
    return 0;
}

void SimKernel::end_process() {
    std::vector<Pending*> order;
    for (const auto& pending : pending_) {
        order.push_back(pending.get());
    }
    std::sort(order.begin(), order.end(), [](const Pending* a, const Pending* b) { return a->tie < b->tie; });
    for (Pending* pending : order) {
        if (chance(50)) {
            attempt(*pending);
        }
    }
    process_ = false;
}

void SimKernel::cut_power() {
    // Writes in flight may have reached the medium in any part; then they are like those in the cache.
    for (const auto& pending : pending_) {
        const bool writes = pending->step == Step::write || pending->step == Step::durable_write;
        struct stat status {};
        if (!writes || fstat(pending->descriptor, &status) != 0 || pending->length % sector_bytes != 0) {
            continue;
        }
        const std::uint64_t end =
            std::min(pending->offset + pending->length, static_cast<std::uint64_t>(status.st_size));
        for (std::uint64_t at = pending->offset; at < end; at += sector_bytes) {
            if (chance(50)) {
                change(pending->descriptor, at, sector_bytes, pending->data.data() + (at - pending->offset),
                       false);
            }
        }
    }
    for (auto& [identity, cache] : caches_) {
        for (const auto& [sector, versions] : cache) {
            const std::uint64_t choice = random_() % (versions.size() + 1);
            if (choice > 0) {
                store_sector(descriptors_[identity], sector, versions[choice - 1]);
            }
        }
        cache.clear();
    }
    powered_ = false;
}

}  // namespace testing
