// A device that forgets what is written and reads as zeroes. It measures everything but a medium.

#include <cstring>

#include "block/kinds.h"

namespace block {

namespace {

class Null final : public Device {
  public:
    Null(const Environment& environment, const DeviceSpec& spec)
        : Device(spec.name, spec.kind), environment_(environment), spec_(spec) {
        description_.size_bytes = spec.size_bytes;
        description_.block_bytes = spec.block_bytes;
        description_.physical_block_bytes = spec.block_bytes;
        description_.read_only = spec.read_only;
        description_.can_deallocate = true;
        description_.deallocated_reads_zero = true;
        description_.can_write_zeroes = true;
        description_.writes_inline = true;
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        if (bytes && *bytes != description_.size_bytes) {
            if (const auto size = check_size(spec_, *bytes); !size.ok()) {
                return size.error();
            }
            Description description = description_;
            description.size_bytes = *bytes;
            set_description(description);
        }
        return description_.size_bytes;
    }

  protected:
    std::optional<MemoryReference> direct_read_checked(std::uint64_t offset, std::uint64_t length) override {
        if (length > limits::transfer_bytes_max || offset > description_.size_bytes ||
            length > description_.size_bytes - offset) {
            return std::nullopt;
        }
        return environment_.zeroes;
    }

    void submit_checked(Request& request) override {
        if (request.action == Action::read) {
            std::memset(request.data, 0, request.length);
        }
        complete(request, Status::ok);
    }

    void close_checked(std::function<void()> closed) override {
        environment_.reactor.post(std::move(closed));
    }

  private:
    Environment environment_;
    DeviceSpec spec_;
};

}  // namespace

MadeDevice make_null(Environment& environment, const DeviceSpec& spec) {
    if (const auto size = check_size(spec, spec.size_bytes); !size.ok()) {
        return size.error();
    }
    return std::unique_ptr<Device>(new Null(environment, spec));
}

}  // namespace block
