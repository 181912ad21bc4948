// One request to a block device, and how it can end. The request belongs to whoever submits it and stays in
// place until `done` was called, exactly once, on the reactor's thread; `done` may be called from within
// `submit`.
#pragma once

#include <cstddef>
#include <cstdint>

namespace block {

class Device;

enum class Action : std::uint8_t {
    read,
    write,
    flush,  // everything acknowledged before is on stable media when it completes
    write_zeroes,
    deallocate,  // the content of the range becomes zeroes or stays: see Description::deallocated_reads_zero
};

enum class Status : std::uint8_t {
    ok,
    out_of_range,   // beyond the end
    misaligned,     // not a multiple of the block size
    not_supported,  // the device cannot do this at all
    read_only,
    no_space,      // ENOSPC, EDQUOT: thin provisioning has run out; a later retry may succeed
    medium_error,  // EIO and its relatives: this range cannot be read or written
    gone,          // the device was removed, or is being closed
    aborted,       // cancelled on request before it had any effect that the caller may rely on
    busy,          // momentarily impossible, retry
    internal_error,
};

const char* name_of(Action action);
const char* name_of(Status status);
Status status_of_errno(int error_number);  // positive errno

struct Request {
    Action action = Action::read;
    bool force_unit_access = false;  // write, write_zeroes: on stable media before completion
    bool may_deallocate = false;     // write_zeroes: the range may be deallocated if it then reads as zeroes
    std::uint64_t offset = 0;        // bytes
    std::uint64_t length = 0;        // bytes; 0 for flush
    std::byte* data =
        nullptr;  // read, write: `length` bytes, contiguous; page-aligned unless described otherwise
    void (*done)(Request& request, Status status) = nullptr;

    // Owned by the guard and the device that has the request.
    enum class Phase : std::uint8_t { idle, submitted, completing } phase = Phase::idle;
    bool waiting = false;    // in the guard of a suspended device; phase is `submitted`
    bool cancelled = false;  // its owner wants it to end
    Device* device = nullptr;
    alignas(
        16) std::byte scratch[160];  // the device's own state of this request: its kernel operation, timers …
};

}  // namespace block
