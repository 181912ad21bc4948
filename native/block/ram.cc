// A RAM disk. Its memory belongs to the engine and outlives the process, so its content survives a restart,
// though not the machine. Requests complete inline; only the release of large ranges goes through the kernel,
// because it takes as long as there are pages to free.

#include <fcntl.h>

#include <algorithm>
#include <cstring>
#include <new>

#include "base/crash_point.h"
#include "block/kinds.h"

namespace block {

namespace {

constexpr std::uint64_t page = limits::page_bytes;

// Up to here zeroes are written; beyond, whole pages are given back to the system, which reads them as
// zeroes.
constexpr std::uint64_t zero_by_writing_max = 64u << 10;
// Up to here the release happens inline.
constexpr std::uint64_t release_inline_max = 1u << 20;

class Ram final : public Device {
  public:
    Ram(const Environment& environment, const DeviceSpec& spec, const PersistentMemory& memory)
        : Device(spec.name, spec.kind), environment_(environment), spec_(spec), memory_(memory) {
        description_.size_bytes = spec.size_bytes;
        description_.block_bytes = spec.block_bytes;
        description_.physical_block_bytes = limits::page_bytes;
        description_.read_only = spec.read_only;
        description_.can_deallocate = true;
        description_.deallocated_reads_zero = true;
        description_.can_write_zeroes = true;
        description_.writes_inline = true;
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        if (!bytes || *bytes == description_.size_bytes) {
            return description_.size_bytes;
        }
        if (const auto size = check_size(spec_, *bytes); !size.ok()) {
            return size.error();
        }
        if (*bytes < description_.size_bytes) {
            release(*bytes, description_.size_bytes - *bytes);  // zeroes, should the device grow again
        }
        auto memory = environment_.memory(memory_name(spec_), *bytes);
        if (!memory.ok()) {
            return memory.error();
        }
        memory_ = memory.value();
        Description description = description_;
        description.size_bytes = *bytes;
        set_description(description);
        return *bytes;
    }

  protected:
    std::optional<MemoryReference> direct_read_checked(std::uint64_t offset, std::uint64_t length) override {
        if (offset > description_.size_bytes || length > description_.size_bytes - offset) {
            return std::nullopt;
        }
        return MemoryReference{memory_.region, offset};
    }

    void submit_checked(Request& request) override {
        std::byte* const place = memory_.memory.data() + request.offset;
        switch (request.action) {
            case Action::read: std::memcpy(request.data, place, request.length); break;
            case Action::write: store(place, request.data, request.length); break;
            case Action::flush: break;
            case Action::write_zeroes:
            case Action::deallocate: zero(request); return;
        }
        complete(request, Status::ok);
    }

    void close_checked(std::function<void()> closed) override {
        environment_.reactor.post(std::move(closed));
    }

  private:
    struct Releasing : reactor::Operation {
        Ram* device;
        Request* request;
        std::uint64_t offset;
        std::uint64_t length;
    };
    static_assert(sizeof(Releasing) <= sizeof(Request::scratch));

    // A process that is killed in here leaves a block of which half is new, until the write is executed
    // again.
    static void store(std::byte* place, const std::byte* data, std::uint64_t length) {
        std::uint64_t done = 0;
        if (__builtin_expect(base::crash_points_armed, 0)) {
            done = length / 2 + 64;
            std::memcpy(place, data, done);
            EK_CRASH_POINT("ram.write.half");
        }
        std::memcpy(place + done, data + done, length - done);
    }

    void zero(Request& request) {
        const std::uint64_t first = (request.offset + page - 1) / page * page;
        const std::uint64_t last = (request.offset + request.length) / page * page;
        if (request.length <= zero_by_writing_max || last <= first || memory_.descriptor < 0) {
            write_zeroes(request.offset, request.length);
            complete(request, Status::ok);
            return;
        }
        write_zeroes(request.offset, first - request.offset);
        write_zeroes(last, request.offset + request.length - last);
        if (last - first <= release_inline_max) {
            release(first, last - first);
            complete(request, Status::ok);
            return;
        }
        auto* releasing = new (request.scratch) Releasing;
        releasing->device = this;
        releasing->request = &request;
        releasing->offset = first;
        releasing->length = last - first;
        releasing->complete = [](reactor::Operation& operation, std::int32_t result) {
            auto& self = static_cast<Releasing&>(operation);
            const std::uint64_t size = self.device->memory_.memory.size();  // may have shrunk meanwhile
            if (result != 0 && self.offset < size) {
                self.device->write_zeroes(self.offset, std::min(self.length, size - self.offset));
            }
            self.device->complete(*self.request, Status::ok);
        };
        environment_.reactor.kernel().allocate(memory_.descriptor, punch_hole, first, last - first,
                                               *releasing);
    }

    void write_zeroes(std::uint64_t offset, std::uint64_t length) {
        std::memset(memory_.memory.data() + offset, 0, length);
    }

    void release(std::uint64_t offset, std::uint64_t length) {
        if (memory_.descriptor < 0 || fallocate(memory_.descriptor, punch_hole, static_cast<off_t>(offset),
                                                static_cast<off_t>(length)) != 0) {
            write_zeroes(offset, length);
        }
    }

    static constexpr int punch_hole = FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE;

    Environment environment_;
    DeviceSpec spec_;
    PersistentMemory memory_;
};

}  // namespace

MadeDevice make_ram(Environment& environment, const DeviceSpec& spec) {
    if (const auto size = check_size(spec, spec.size_bytes); !size.ok()) {
        return size.error();
    }
    auto memory = environment.memory(memory_name(spec), spec.size_bytes);
    if (!memory.ok()) {
        return memory.error();
    }
    return std::unique_ptr<Device>(new Ram(environment, spec, memory.value()));
}

}  // namespace block
