// What tests of block devices stand on: a reactor with io_uring, a buffer pool, memory for RAM disks that
// survives the device, a name table, and requests that count how often they complete.
#pragma once

#include <sys/mman.h>
#include <unistd.h>

#include <cstring>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/check.h"
#include "block/spec.h"
#include "reactor/buffer_pool.h"
#include "reactor/uring_kernel.h"

namespace testing {

// Page-aligned private memory.
class Pages {
  public:
    explicit Pages(std::size_t bytes)
        : memory_(static_cast<std::byte*>(
                      mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
                  bytes) {}
    Pages(Pages&& other) noexcept : memory_(std::exchange(other.memory_, {})) {}
    Pages& operator=(Pages&&) = delete;
    ~Pages() {
        if (!memory_.empty()) {
            munmap(memory_.data(), memory_.size());
        }
    }
    std::span<std::byte> span() { return memory_; }
    std::byte* data() { return memory_.data(); }
    std::size_t size() const { return memory_.size(); }

  private:
    std::span<std::byte> memory_;
};

// A request that knows how it ended.
struct TestRequest : block::Request {
    TestRequest() {
        done = [](block::Request& request, block::Status status_) {
            auto& self = static_cast<TestRequest&>(request);
            ++self.completed;
            self.status = status_;
        };
    }
    int completed = 0;
    block::Status status = block::Status::internal_error;
};

class BlockRig {
  public:
    static constexpr base::Nanoseconds patience = 20 * base::second;

    explicit BlockRig(reactor::Kernel* other_kernel = nullptr)
        : own_kernel_(other_kernel == nullptr ? reactor::UringKernel::make().take() : nullptr),
          kernel(other_kernel == nullptr ? *own_kernel_ : *other_kernel),
          reactor(kernel),
          buffers_memory_(std::size_t{16} << 20),
          buffers(buffers_memory_.span()),
          environment{reactor, {}, {}, {}, {}} {
        environment.find = [this](const std::string& name) {
            const auto found = devices_.find(name);
            return found == devices_.end() ? nullptr : found->second.get();
        };
        environment.memory = [this](const std::string& name, std::uint64_t bytes) {
            return memory(name, bytes);
        };
        environment.forget_memory = [this](const std::string& name) { forget(name); };
        environment.zeroes = {9, 0};
    }

    ~BlockRig() {
        while (!devices_.empty()) {
            close(std::prev(devices_.end())->first);
        }
        while (!memories_.empty()) {
            forget(memories_.begin()->first);
        }
    }

    base::Result<block::Device*> make(const block::DeviceSpec& spec) {
        auto device = block::make_device(environment, spec);
        if (!device.ok()) {
            return device.error();
        }
        block::Device* made = device.value().get();
        devices_[spec.name] = device.take();
        return made;
    }

    void close(const std::string& name) {
        bool closed = false;
        devices_.at(name)->close([&] { closed = true; });
        EK_CHECK(run_until([&] { return closed; }), "a device does not close");
        devices_.erase(name);
    }

    // Closes without waiting; the device is destroyed by what `forget_device` does.
    block::Device& device(const std::string& name) { return *devices_.at(name); }
    void forget_device(const std::string& name) { devices_.erase(name); }

    template <typename Condition>
    bool run_until(Condition condition) {
        const base::Nanoseconds deadline = kernel.now() + patience;
        while (!condition()) {
            if (kernel.now() > deadline) {
                return false;
            }
            reactor.run_once(deadline);
        }
        return true;
    }

    bool serves(const block::Device& device) {
        return run_until([&] { return device.health().state == "ok"; });
    }

    block::Status run(block::Device& device, TestRequest& request) {
        request.completed = 0;
        device.submit(request);
        EK_CHECK(run_until([&] { return request.completed > 0; }), "a request does not complete");
        EK_CHECK(request.completed == 1, "a request completes more than once");
        return request.status;
    }

    block::Status run(block::Device& device, block::Action action, std::uint64_t offset = 0,
                      std::uint64_t length = 0, std::byte* data = nullptr, bool force_unit_access = false) {
        TestRequest request;
        request.action = action;
        request.offset = offset;
        request.length = length;
        request.data = data;
        request.force_unit_access = force_unit_access;
        return run(device, request);
    }

  private:
    struct Memory {
        int descriptor = -1;
        std::span<std::byte> span;
    };

    base::Result<block::PersistentMemory> memory(const std::string& name, std::uint64_t bytes) {
        Memory& memory = memories_[name];
        if (memory.descriptor < 0) {
            memory.descriptor = memfd_create(name.c_str(), MFD_CLOEXEC);
        }
        if (!memory.span.empty()) {
            munmap(memory.span.data(), memory.span.size());
        }
        EK_CHECK(ftruncate(memory.descriptor, static_cast<off_t>(bytes)) == 0, "no memory for a test");
        memory.span = {static_cast<std::byte*>(
                           mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, memory.descriptor, 0)),
                       static_cast<std::size_t>(bytes)};
        return block::PersistentMemory{memory.descriptor, memory.span, 3};
    }

    void forget(const std::string& name) {
        const auto found = memories_.find(name);
        if (found != memories_.end()) {
            munmap(found->second.span.data(), found->second.span.size());
            ::close(found->second.descriptor);
            memories_.erase(found);
        }
    }

    std::unique_ptr<reactor::UringKernel> own_kernel_;

  public:
    reactor::Kernel& kernel;
    reactor::Reactor reactor;

  private:
    Pages buffers_memory_;

  public:
    reactor::BufferPool buffers;
    block::Environment environment;

  private:
    std::map<std::string, Memory> memories_;
    std::map<std::string, std::unique_ptr<block::Device>> devices_;
};

}  // namespace testing
