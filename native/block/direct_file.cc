#include "block/direct_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <new>

#include "base/check.h"

namespace block {

namespace {

// One kernel operation moves at most this; its result must fit 32 bits.
constexpr std::uint64_t piece_bytes_max = std::uint64_t{1} << 30;
// Where the system cannot zero a range, zeroes are written from this much memory.
constexpr std::size_t zeroes_bytes = std::size_t{1} << 20;
// EINTR and EAGAIN are tried again so often before the initiator is told to retry itself.
constexpr std::uint8_t retries_max = 16;

}  // namespace

DirectFile::DirectFile(const Environment& environment, const DeviceSpec& spec, Medium medium)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      medium_(std::move(medium)),
      lock_(environment.reactor, [this](int error_number) { lock_settled(error_number); }) {
    description_.block_bytes = spec.block_bytes;
    description_.read_only = spec.read_only;
    description_.volatile_cache = true;
    description_.can_write_zeroes = true;  // by whatever means
    description_.data_alignment = medium_.memory_alignment;
}

DirectFile::~DirectFile() {
    if (!zeroes_.empty()) {
        munmap(zeroes_.data(), zeroes_.size());
    }
}

Device::Health DirectFile::health() const {
    if (gone_) {
        return {"gone", gone_reason_};
    }
    if (!lock_.held() && !closing()) {
        return {"waiting for lock", spec_.path + " is locked by " + find_lock_holder(descriptor()).text};
    }
    return {"ok", medium_.note};
}

// --- The lock
// --------------------------------------------------------------------------------------------------

base::Result<void> DirectFile::start() {
    const int result = lock_.try_now(descriptor());
    if (result == 0) {
        return admitted();
    }
    if (result != EWOULDBLOCK) {
        return system_error(spec_, "cannot lock " + spec_.path, result);
    }
    const LockHolder holder = find_lock_holder(descriptor());
    if (holder.process == getpid()) {
        return base::Error{"E_BUSY", describe_device(spec_) + spec_.path +
                                         " is used by another device of this server; remove that one first"};
    }
    if (!spec_.wait_for_lock) {
        return base::Error{"E_BUSY", describe_device(spec_) + spec_.path + " is locked by " + holder.text +
                                         "; stop it, or set wait_for_lock"};
    }
    lock_.wait(descriptor());
    return {};
}

void DirectFile::lock_settled(int error_number) {
    if (error_number != 0) {
        set_gone("the lock on " + spec_.path + " cannot be had: " + std::strerror(error_number));
    } else if (const auto result = admitted(); !result.ok()) {
        set_gone(result.error().message);
    }
    serve_line();
}

void DirectFile::serve_line() {
    while (first_ != nullptr) {
        Transfer& transfer = *first_;
        leave_line(transfer);
        if (gone_ || closing()) {
            finish(transfer, Status::gone);
        } else {
            begin(transfer);
        }
    }
}

void DirectFile::leave_line(Transfer& transfer) {
    transfer.waiting = false;
    (transfer.previous != nullptr ? transfer.previous->next : first_) = transfer.next;
    (transfer.next != nullptr ? transfer.next->previous : last_) = transfer.previous;
}

void DirectFile::set_gone(std::string reason) {
    if (!gone_) {
        gone_ = true;
        gone_reason_ = std::move(reason);
    }
}

void DirectFile::closing_checked() {
    lock_.stop();
    serve_line();
}

void DirectFile::close_checked(std::function<void()> closed) {
    lock_.release(descriptor());
    medium_.descriptor.reset();
    environment_.reactor.post(std::move(closed));
}

// --- Requests
// --------------------------------------------------------------------------------------------------

void DirectFile::submit_checked(Request& request) {
    static_assert(sizeof(Transfer) <= sizeof(Request::scratch));
    static_assert(std::is_trivially_destructible_v<Transfer>);
    if (gone_) {
        complete(request, Status::gone);
        return;
    }
    auto* transfer = ::new (static_cast<void*>(request.scratch)) Transfer(*this, request);
    if (lock_.held()) {
        begin(*transfer);
        return;
    }
    transfer->waiting = true;
    transfer->previous = last_;
    (last_ != nullptr ? last_->next : first_) = transfer;
    last_ = transfer;
}

void DirectFile::begin(Transfer& transfer) {
    static constexpr void (DirectFile::*first_steps[])(Transfer&) = {
        &DirectFile::transfer_piece,  // read
        &DirectFile::transfer_piece,  // write
        &DirectFile::sync,            // flush
        &DirectFile::zero_range,      // write_zeroes
        &DirectFile::deallocate,      // deallocate
    };
    const auto first_step = first_steps[static_cast<std::size_t>(transfer.request->action)];
    (this->*first_step)(transfer);
}

void DirectFile::cancel_checked(Request& request) {
    if (gone_) {
        return;  // it is completing
    }
    auto& transfer = *std::launder(reinterpret_cast<Transfer*>(request.scratch));
    if (transfer.waiting) {
        leave_line(transfer);
        finish(transfer, Status::aborted);
    } else if (request.action == Action::read && !transfer.cancelled) {
        transfer.cancelled = true;  // a change under way is seen through: what it did could not be told
        kernel().cancel(transfer);
    }
}

// Reads, writes, and zeroes that must be written.
void DirectFile::transfer_piece(Transfer& transfer) {
    const Request& request = *transfer.request;
    const std::uint64_t offset = request.offset + transfer.done_bytes;
    const std::uint64_t left = request.length - transfer.done_bytes;
    transfer.complete = on_piece;
    if (request.action == Action::read) {
        const auto bytes = static_cast<std::size_t>(std::min(left, piece_bytes_max));
        kernel().read(descriptor(), {request.data + transfer.done_bytes, bytes}, offset, transfer);
        return;
    }
    std::span<const std::byte> data;
    if (request.action == Action::write) {
        data = {request.data + transfer.done_bytes,
                static_cast<std::size_t>(std::min(left, piece_bytes_max))};
    } else {
        data = zeroes().first(static_cast<std::size_t>(std::min(left, std::uint64_t{zeroes().size()})));
        if (data.empty()) {
            fail(transfer, ENOMEM);
            return;
        }
    }
    kernel().write(descriptor(), data, offset, request.force_unit_access, transfer);
}

void DirectFile::on_piece(reactor::Operation& operation, std::int32_t result) {
    auto& transfer = static_cast<Transfer&>(operation);
    DirectFile& device = *transfer.device;
    const Request& request = *transfer.request;
    if (result < 0) {
        if (device.retry(transfer, result)) {
            device.transfer_piece(transfer);
        } else {
            device.fail(transfer, -result);
        }
        return;
    }
    // A piece that ends inside a block met the end of a file that was cut off; direct I/O cannot go on from
    // there.
    const auto moved = static_cast<std::uint64_t>(result);
    const std::uint64_t whole = moved - moved % device.describe().block_bytes;
    if (whole == 0) {
        device.fail(transfer, 0);
        return;
    }
    transfer.done_bytes += whole;
    if (transfer.done_bytes >= request.length) {
        device.finish(transfer, Status::ok);
    } else if (transfer.cancelled) {
        device.finish(transfer, Status::aborted);
    } else {
        device.transfer_piece(transfer);
    }
}

// Zeroes by the first of: a hole, if the request allows it; the system's own way; writing them.
void DirectFile::zero_range(Transfer& transfer) {
    const Request& request = *transfer.request;
    if (request.may_deallocate && punch_works_) {
        transfer.complete = on_punched;
        kernel().allocate(descriptor(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, request.offset,
                          request.length, transfer);
    } else if (zero_range_works_) {
        transfer.complete = on_zeroed;
        kernel().allocate(descriptor(), FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, request.offset,
                          request.length, transfer);
    } else {
        transfer_piece(transfer);
    }
}

void DirectFile::on_punched(reactor::Operation& operation, std::int32_t result) {
    auto& transfer = static_cast<Transfer&>(operation);
    transfer.device->after_zeroing(transfer, result, transfer.device->punch_works_);
}

void DirectFile::on_zeroed(reactor::Operation& operation, std::int32_t result) {
    auto& transfer = static_cast<Transfer&>(operation);
    transfer.device->after_zeroing(transfer, result, transfer.device->zero_range_works_);
}

void DirectFile::after_zeroing(Transfer& transfer, std::int32_t result, bool& works) {
    if (result == -EOPNOTSUPP) {
        works = false;
        zero_range(transfer);
    } else if (result < 0) {
        if (retry(transfer, result)) {
            zero_range(transfer);
        } else {
            fail(transfer, -result);
        }
    } else if (transfer.request->force_unit_access) {
        sync(transfer);
    } else {
        finish(transfer, Status::ok);
    }
}

void DirectFile::on_deallocated(reactor::Operation& operation, std::int32_t result) {
    auto& transfer = static_cast<Transfer&>(operation);
    DirectFile& device = *transfer.device;
    if (result == 0 || (result == -EOPNOTSUPP && device.deallocation_is_a_hint())) {
        device.finish(transfer, Status::ok);
    } else if (device.retry(transfer, result)) {
        device.deallocate(transfer);
    } else {
        device.fail(transfer, -result);
    }
}

void DirectFile::sync(Transfer& transfer) {
    transfer.complete = on_synced;
    kernel().sync(descriptor(), transfer);
}

// A failed fdatasync is never repeated: the system may have dropped what it could not write and would then
// succeed.
void DirectFile::on_synced(reactor::Operation& operation, std::int32_t result) {
    auto& transfer = static_cast<Transfer&>(operation);
    if (result == -EINTR && transfer.device->retry(transfer, result)) {
        transfer.device->sync(transfer);
    } else if (result < 0) {
        transfer.device->fail(transfer, -result);
    } else {
        transfer.device->finish(transfer, Status::ok);
    }
}

bool DirectFile::retry(Transfer& transfer, std::int32_t result) {
    const bool momentary = result == -EINTR || result == -EAGAIN;
    return momentary && !transfer.cancelled && transfer.retries++ < retries_max;
}

void DirectFile::fail(Transfer& transfer, int error_number) {
    if (transfer.cancelled &&
        (error_number == ECANCELED || error_number == EINTR || error_number == EAGAIN)) {
        finish(transfer, Status::aborted);
        return;
    }
    const Status status = judge_failure(*transfer.request, error_number);
    if (status == Status::gone) {
        set_gone(spec_.path + ": " +
                 (error_number != 0 ? std::strerror(error_number) : "the medium has vanished"));
    }
    finish(transfer, status);
}

void DirectFile::finish(Transfer& transfer, Status status) { complete(*transfer.request, status); }

// Memory that is never written takes no memory: every page is the system's page of zeroes. Empty if even its
// addresses cannot be had.
std::span<const std::byte> DirectFile::zeroes() {
    if (zeroes_.empty()) {
        void* memory = mmap(nullptr, zeroes_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (memory != MAP_FAILED) {
            zeroes_ = {static_cast<std::byte*>(memory), zeroes_bytes};
        }
    }
    return zeroes_;
}

}  // namespace block
