// A block device of the system as a device of ours.
//
// Besides the lock, a second descriptor opened with O_EXCL keeps file systems and volume managers off while
// we use the device, and refuses devices that they use. No I/O goes through it, so it closes with the
// process.

#include <fcntl.h>
#include <linux/fs.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cerrno>

#include "block/direct_file.h"

namespace block {

namespace {

class BlockDevice final : public DirectFile {
  public:
    BlockDevice(const Environment& environment, const DeviceSpec& spec, Medium medium)
        : DirectFile(environment, spec, std::move(medium)) {}

    base::Result<void> examine() {
        int logical = 0;
        unsigned physical = 0;
        unsigned optimal = 0;
        int is_read_only = 0;
        struct stat status {};
        if (ioctl(descriptor(), BLKSSZGET, &logical) != 0 ||
            ioctl(descriptor(), BLKPBSZGET, &physical) != 0 ||
            ioctl(descriptor(), BLKROGET, &is_read_only) != 0 || fstat(descriptor(), &status) != 0) {
            return system_error(spec_, "cannot examine " + spec_.path, errno);
        }
        if (ioctl(descriptor(), BLKIOOPT, &optimal) != 0) {
            optimal = 0;
        }
        if (is_read_only != 0 && !spec_.read_only) {
            return base::Error{"E_INVALID",
                               describe_device(spec_) + spec_.path +
                                   " is read-only; set read_only, or make it writable (blockdev --setrw)"};
        }
        if (logical < 1 || static_cast<std::uint32_t>(logical) > spec_.block_bytes) {
            return base::Error{"E_INVALID", describe_device(spec_) + spec_.path + " has blocks of " +
                                                std::to_string(logical) + " bytes; set block_bytes to " +
                                                std::to_string(logical)};
        }
        const QueueProperties queue = queue_properties(status.st_rdev);
        Description description = description_;
        description.size_bytes = measure();
        description.physical_block_bytes = std::max(physical, spec_.block_bytes);
        description.optimal_io_bytes = optimal;
        description.rotational = queue.rotational;
        description.volatile_cache = queue.volatile_cache;
        description.can_deallocate = queue.can_discard && !spec_.read_only;
        description.deallocated_reads_zero = false;  // a discard promises nothing
        if (description.size_bytes == 0) {
            return base::Error{"E_IO",
                               describe_device(spec_) + spec_.path + " has no medium (its size is 0)"};
        }
        set_description(description);
        return {};
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        const std::uint64_t present = measure();
        if (present == 0) {
            return base::Error{"E_IO", describe_device(spec_) + spec_.path + " has vanished"};
        }
        if (bytes && *bytes != present) {
            return base::Error{"E_UNSUPPORTED",
                               describe_device(spec_) + spec_.path + " has " + std::to_string(present) +
                                   " bytes; resize the volume itself, then ask without a size"};
        }
        Description description = description_;
        description.size_bytes = present;
        set_description(description);
        return present;
    }

  protected:
    base::Result<void> admitted() override {
        exclusive_ = Descriptor(open(spec_.path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC));
        if (!exclusive_.open()) {
            return system_error(spec_, "cannot use " + spec_.path, errno,
                                errno == EBUSY ? "it is mounted, or part of a volume: free it first" : "");
        }
        struct stat ours {};
        struct stat theirs {};
        if (fstat(descriptor(), &ours) != 0 || fstat(exclusive_.number(), &theirs) != 0 ||
            ours.st_rdev != theirs.st_rdev) {
            return base::Error{"E_IO", describe_device(spec_) + spec_.path + " is another device now"};
        }
        const auto size = resize(std::nullopt);
        return size.ok() ? base::Result<void>() : size.error();
    }

    void deallocate(Transfer& transfer) override {
        transfer.complete = on_deallocated;
        kernel().discard(descriptor(), transfer.request->offset, transfer.request->length, transfer);
    }

    bool deallocation_is_a_hint() const override { return true; }

    // A device that vanished answers in many ways: EIO, the end at 0, no space behind its new end.
    Status judge_failure(const Request& request, int error_number) override {
        const std::uint64_t present = measure();
        if (present == 0) {
            return Status::gone;
        }
        const bool cut_off = request.action != Action::flush && request.offset + request.length > present;
        if (error_number == 0 || (cut_off && error_number == ENOSPC)) {
            return Status::medium_error;
        }
        return status_of_errno(error_number);
    }

    void close_checked(std::function<void()> closed) override {
        exclusive_.reset();
        DirectFile::close_checked(std::move(closed));
    }

  private:
    // Whole blocks on the medium; 0 if it is not there any more.
    std::uint64_t measure() const {
        std::uint64_t bytes = 0;
        return ioctl(descriptor(), BLKGETSIZE64, &bytes) == 0 ? bytes - bytes % spec_.block_bytes : 0;
    }

    Descriptor exclusive_;
};

}  // namespace

MadeDevice make_blockdev(Environment& environment, const DeviceSpec& spec) {
    auto medium = open_medium(spec, S_IFBLK);
    if (!medium.ok()) {
        return medium.error();
    }
    auto device = std::make_unique<BlockDevice>(environment, spec, medium.take());
    auto result = device->examine();
    if (result.ok()) {
        result = device->start();
    }
    if (!result.ok()) {
        return result.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
