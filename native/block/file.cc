// A device in a regular file. Deallocated ranges become holes and read as zeroes.
//
// The file is never made smaller than it is: with a size in the specification it is created or grown to it;
// if it is larger already, the device has the file's size.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>

#include "block/direct_file.h"

namespace block {

namespace {

class File final : public DirectFile {
  public:
    File(const Environment& environment, const DeviceSpec& spec, Medium medium)
        : DirectFile(environment, spec, std::move(medium)) {}

    // What is known before the lock is ours. E_INVALID if no size can be had.
    base::Result<void> examine() {
        struct stat status {};
        if (fstat(descriptor(), &status) != 0) {
            return system_error(spec_, "cannot examine " + spec_.path, errno);
        }
        const auto present = static_cast<std::uint64_t>(status.st_size);
        const std::uint64_t wanted = std::max(present, spec_.size_bytes);
        if (wanted < spec_.block_bytes) {
            return base::Error{"E_INVALID", describe_device(spec_) + spec_.path + " has " +
                                                std::to_string(present) +
                                                " bytes, less than one block; set a size"};
        }
        if (spec_.size_bytes != 0) {
            if (const auto size = check_size(spec_, spec_.size_bytes); !size.ok()) {
                return size.error();
            }
        }
        if (spec_.read_only && wanted > present) {
            return base::Error{"E_INVALID", describe_device(spec_) + spec_.path + " has " +
                                                std::to_string(present) + " bytes and cannot grow to " +
                                                std::to_string(wanted) + " while read_only is set"};
        }
        Description description = description_;
        description.size_bytes = wanted - wanted % spec_.block_bytes;
        description.physical_block_bytes = std::max(spec_.block_bytes, limits::page_bytes);
        description.rotational = queue_properties(status.st_dev).rotational;
        // Asked behind the end, where there is nothing to lose.
        description.can_deallocate =
            !spec_.read_only && fallocate(descriptor(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                                          static_cast<off_t>(wanted), limits::page_bytes) == 0;
        description.deallocated_reads_zero = description.can_deallocate;
        set_description(description);
        return {};
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        if (!lock_.held()) {
            return base::Error{"E_BUSY", describe_device(spec_) + "it waits for the lock on " + spec_.path +
                                             "; try again when it has it"};
        }
        if (bytes) {
            if (const auto size = check_size(spec_, *bytes); !size.ok()) {
                return size.error();
            }
            if (spec_.read_only) {
                return base::Error{"E_INVALID",
                                   describe_device(spec_) + "it is read-only and keeps its size"};
            }
            if (ftruncate(descriptor(), static_cast<off_t>(*bytes)) != 0) {
                return system_error(spec_, "cannot resize " + spec_.path + " to " + std::to_string(*bytes),
                                    errno);
            }
            spec_.size_bytes = 0;  // from now on the file's size is the wish
        }
        return adopt_size();
    }

  protected:
    base::Result<void> admitted() override {
        struct stat status {};
        if (fstat(descriptor(), &status) != 0) {
            return system_error(spec_, "cannot examine " + spec_.path, errno);
        }
        if (static_cast<std::uint64_t>(status.st_size) < spec_.size_bytes && !spec_.read_only &&
            ftruncate(descriptor(), static_cast<off_t>(spec_.size_bytes)) != 0) {
            return system_error(
                spec_, "cannot grow " + spec_.path + " to " + std::to_string(spec_.size_bytes), errno);
        }
        const auto size = adopt_size();
        return size.ok() ? base::Result<void>() : size.error();
    }

    void deallocate(Transfer& transfer) override {
        transfer.complete = on_deallocated;
        kernel().allocate(descriptor(), FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, transfer.request->offset,
                          transfer.request->length, transfer);
    }

    bool deallocation_is_a_hint() const override { return false; }  // it promises zeroes

    // The end of the file within the device: somebody cut it off, and the range has no content any more.
    Status judge_failure(const Request&, int error_number) override {
        return error_number == 0 ? Status::medium_error : status_of_errno(error_number);
    }

  private:
    base::Result<std::uint64_t> adopt_size() {
        struct stat status {};
        if (fstat(descriptor(), &status) != 0) {
            return system_error(spec_, "cannot examine " + spec_.path, errno);
        }
        const auto present = static_cast<std::uint64_t>(status.st_size);
        Description description = description_;
        description.size_bytes = present - present % spec_.block_bytes;
        set_description(description);
        return description.size_bytes;
    }
};

}  // namespace

MadeDevice make_file(Environment& environment, const DeviceSpec& spec) {
    auto medium = open_medium(spec, S_IFREG);
    if (!medium.ok()) {
        return medium.error();
    }
    const bool created = medium.value().created;
    auto device = std::make_unique<File>(environment, spec, medium.take());
    auto result = device->examine();
    if (result.ok()) {
        result = device->start();
    }
    if (!result.ok()) {
        if (created) {
            unlink(spec.path.c_str());
        }
        return result.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
