// The base of the kinds that keep their blocks in a file or block device of the system: requests become
// io_uring operations on one descriptor, after the lock on it was granted. Until then they wait in line.
//
// A request's state lies in its scratch space; each step of it is one kernel operation whose completion
// function is the next step. What is short goes on where it ended; what fails gets the status that the
// system's answer means. Once the medium is gone it stays gone: what comes back under its name might be
// another one.
#pragma once

#include <string>

#include "block/file_lock.h"
#include "block/kinds.h"
#include "block/medium.h"

namespace block {

class DirectFile : public Device {
  public:
    ~DirectFile() override;

    Health health() const override;

    // Takes the lock and calls `admitted`, or begins to wait for it. E_BUSY if it is held and the
    // specification does not want to wait, or if it is held by another device of this very process.
    base::Result<void> start();

  protected:
    DirectFile(const Environment& environment, const DeviceSpec& spec, Medium medium);

    struct Transfer : reactor::Operation {
        Transfer(DirectFile& device_, Request& request_) : device(&device_), request(&request_) {}
        DirectFile* device;
        Request* request;
        Transfer* next = nullptr;  // while it waits for the lock
        Transfer* previous = nullptr;
        std::uint64_t done_bytes = 0;
        std::uint8_t retries = 0;
        bool waiting = false;
        bool cancelled = false;
    };

    // The lock is ours: what can only be looked at or changed now. An error makes the device gone.
    virtual base::Result<void> admitted() = 0;
    // Begins to deallocate the request's range; its completion is `on_deallocated`.
    virtual void deallocate(Transfer& transfer) = 0;
    // Whether `on_deallocated` may answer ok when the system cannot deallocate: the range then stays as it
    // is.
    virtual bool deallocation_is_a_hint() const = 0;
    // The status of a request that failed with `error_number`, or met the end of the medium (0).
    virtual Status judge_failure(const Request& request, int error_number) = 0;

    static void on_deallocated(reactor::Operation& operation, std::int32_t result);

    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void closing_checked() override;
    void close_checked(std::function<void()> closed) override;

    void set_gone(std::string reason);
    int descriptor() const { return medium_.descriptor.number(); }
    reactor::Kernel& kernel() { return environment_.reactor.kernel(); }

    Environment environment_;
    DeviceSpec spec_;
    Medium medium_;
    FileLock lock_;

  private:
    void lock_settled(int error_number);

    void serve_line();
    void leave_line(Transfer& transfer);
    void begin(Transfer& transfer);
    void transfer_piece(Transfer& transfer);
    void zero_range(Transfer& transfer);
    void sync(Transfer& transfer);
    bool retry(Transfer& transfer, std::int32_t result);
    void fail(Transfer& transfer, int error_number);
    void finish(Transfer& transfer, Status status);
    std::span<const std::byte> zeroes();

    static void on_piece(reactor::Operation& operation, std::int32_t result);
    static void on_punched(reactor::Operation& operation, std::int32_t result);
    static void on_zeroed(reactor::Operation& operation, std::int32_t result);
    static void on_synced(reactor::Operation& operation, std::int32_t result);
    void after_zeroing(Transfer& transfer, std::int32_t result, bool& works);

    Transfer* first_ = nullptr;  // the line of those who wait for the lock
    Transfer* last_ = nullptr;
    bool gone_ = false;
    std::string gone_reason_;
    bool punch_works_ = true;  // until the system says that it does not
    bool zero_range_works_ = true;
    std::span<std::byte> zeroes_;
};

}  // namespace block
