#include "block/mirror/leg_io.h"

#include <sys/mman.h>

#include <cstdlib>

#include "base/check.h"

namespace block::mirror {

Buffers::Buffers() {
    void* const memory =
        mmap(nullptr, pool_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory != MAP_FAILED) {
        memory_ = {static_cast<std::byte*>(memory), pool_bytes};
        pool_ = std::make_unique<reactor::BufferPool>(memory_);
    }
}

Buffers::~Buffers() {
    pool_.reset();
    if (!memory_.empty()) {
        munmap(memory_.data(), memory_.size());
    }
}

Buffer& Buffers::record() {
    if (free_records_.empty()) {
        records_.emplace_back();
        free_records_.push_back(&records_.back());
    }
    Buffer& buffer = *free_records_.back();
    free_records_.pop_back();
    buffer = {};
    buffer.references = 1;
    return buffer;
}

Buffer* Buffers::try_take(std::uint64_t bytes) {
    if (pool_ == nullptr || bytes > limits::data_block_bytes_max) {
        return nullptr;
    }
    const auto offset = pool_->allocate(static_cast<std::uint32_t>(bytes));
    if (!offset) {
        return nullptr;
    }
    Buffer& buffer = record();
    buffer.data = pool_->at(*offset);
    buffer.bytes = static_cast<std::uint32_t>(bytes);
    buffer.offset = *offset;
    buffer.pooled = true;
    return &buffer;
}

Buffer* Buffers::take(std::uint64_t bytes) {
    if (Buffer* const pooled = try_take(bytes); pooled != nullptr) {
        return pooled;
    }
    Buffer& buffer = record();
    const std::size_t rounded = (bytes + limits::page_bytes - 1) / limits::page_bytes * limits::page_bytes;
    buffer.data = static_cast<std::byte*>(std::aligned_alloc(limits::page_bytes, rounded));
    EK_CHECK(buffer.data != nullptr, "no memory for the metadata of a mirror");
    buffer.bytes = static_cast<std::uint32_t>(bytes);
    return &buffer;
}

void Buffers::release(Buffer& buffer) {
    if (--buffer.references != 0) {
        return;
    }
    if (buffer.pooled) {
        pool_->release(buffer.offset, buffer.bytes);
    } else {
        std::free(buffer.data);
    }
    free_records_.push_back(&buffer);
}

}  // namespace block::mirror
