#include "reactor/data_buffers.h"

#include <algorithm>

#include "base/check.h"

namespace reactor {

namespace {

constexpr std::uint64_t block = limits::data_block_bytes_max;

std::uint64_t common_bytes(std::uint64_t bytes, std::uint64_t reserve_bytes) {
    EK_CHECK(bytes >= block + reserve_bytes, "the data memory has room for a largest buffer and the reserve");
    return (bytes - reserve_bytes) / block * block;
}

// Half of the buffers: what one host leaves unsent and untaken never stops the others.
std::uint64_t half(const BufferPool& pool) { return std::max<std::uint64_t>(pool.bytes_total() / 2, block); }

}  // namespace

DataBuffers::DataBuffers(std::span<std::byte> memory)
    : DataBuffers(memory, std::max(memory.size() / 16, 2 * block)) {}

DataBuffers::DataBuffers(std::span<std::byte> memory, std::uint64_t reserve_bytes)
    : memory_(memory),
      common_(memory.first(common_bytes(memory.size(), reserve_bytes))),
      reserve_(memory.subspan(common_.bytes_total()), common_.bytes_total()) {}

void DataBuffers::serve_with(Deferred& service) {
    common_.serve_with(service);
    reserve_.serve_with(service);
}

void DataBuffers::serve_waiters() {
    reserve_.serve_waiters();
    common_.serve_waiters();
}

HostBuffers::HostBuffers(DataBuffers& buffers)
    : common_(buffers.common(), half(buffers.common())), reserve_begin_(buffers.common().bytes_total()) {
    reserve_.emplace(buffers.reserve(), half(buffers.reserve()));
}

std::optional<std::uint64_t> HostBuffers::allocate_for_stream(std::uint32_t bytes) {
    const std::optional<std::uint64_t> offset = common_.allocate(bytes);
    return offset || !reserve_ ? offset : reserve_->allocate(bytes);
}

}  // namespace reactor
