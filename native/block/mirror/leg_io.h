// Requests to the legs of a mirror, and the memory that they use.
//
// A leg that hangs may be left (abandoned): what was asked of it counts as failed at once, although the leg's
// device still has the request. So whatever a leg may keep lies in memory of the mirror's own, counted by
// reference. Only a read goes straight into the host's memory; leaving a leg asks its device to cancel those,
// and waits for it.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <vector>

#include "block/device.h"
#include "reactor/buffer_pool.h"

namespace block::mirror {

struct Leg;

struct Buffer {
    std::byte* data = nullptr;
    std::uint32_t bytes = 0;
    std::uint32_t references = 0;
    std::uint64_t offset = 0;  // in the pool
    bool pooled = false;
};

// Page-aligned memory for what goes to the legs. The pool is reserved, not used, until it is needed.
class Buffers {
  public:
    Buffers();
    ~Buffers();
    Buffers(const Buffers&) = delete;
    Buffers& operator=(const Buffers&) = delete;

    // For copies of the host's data: null when the pool is used up.
    Buffer* try_take(std::uint64_t bytes);
    // For metadata and copies between legs, which are few: from the system if need be.
    Buffer* take(std::uint64_t bytes);
    void hold(Buffer& buffer) { ++buffer.references; }
    void release(Buffer& buffer);

  private:
    static constexpr std::size_t pool_bytes = std::size_t{64} << 20;

    Buffer& record();

    std::span<std::byte> memory_;
    std::unique_ptr<reactor::BufferPool> pool_;
    std::deque<Buffer> records_;
    std::vector<Buffer*> free_records_;
};

// What is asked of a leg.
struct Wish {
    Action action = Action::read;
    std::uint64_t offset = 0;
    std::uint64_t length = 0;
    std::byte* data = nullptr;
    Buffer* buffer = nullptr;  // that `data` lies in; null: the host's memory
    bool force_unit_access = false;
    bool may_deallocate = false;
};

using Ended = std::function<void(Leg&, Status)>;  // small captures alone: they must not allocate

struct LegIo : Request {
    void* owner = nullptr;
    Leg* leg = nullptr;
    Ended ended;
    Buffer* buffer = nullptr;
    bool abandonable = false;
    bool abandoned = false;
    bool cancelled = false;
    LegIo* next = nullptr;
    LegIo* previous = nullptr;
};

}  // namespace block::mirror
