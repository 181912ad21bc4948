#include "block/initiator/shadow.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

namespace block::initiator {

namespace {

constexpr std::uint64_t file_magic = 0x31776f646168536b;
constexpr std::size_t log_entries = 1u << 16;

struct FileHead {
    std::uint64_t magic;
    ShadowShape shape;
};
constexpr std::size_t head_bytes = 4096;
static_assert(sizeof(FileHead) <= head_bytes);

base::Error io_error(const std::string& path) { return {"E_IO", path + ": " + std::strerror(errno), errno}; }

}  // namespace

base::Result<Shadow> Shadow::open(const std::string& path, ShadowShape shape, bool after_power_cut) {
    const std::size_t bytes = head_bytes + shape.units * sizeof(ShadowUnit);
    int file = -1;
    bool present = false;
    if (!path.empty()) {
        file = ::open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0) {
            return io_error(path);
        }
        struct stat status {};
        present = fstat(file, &status) == 0 && status.st_size != 0;
        if (present && static_cast<std::uint64_t>(status.st_size) != bytes) {
            ::close(file);
            return base::Error{"E_INVALID", path + " is the map of another range", 0};
        }
        if (ftruncate(file, static_cast<off_t>(bytes)) != 0) {
            const base::Error error = io_error(path);
            ::close(file);
            return error;
        }
    }
    void* const memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                              file < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED, file, 0);
    if (file >= 0) {
        ::close(file);
    }
    if (memory == MAP_FAILED) {
        return io_error(path.empty() ? "memory" : path);
    }
    Shadow shadow;
    shadow.memory_ = memory;
    shadow.memory_bytes_ = bytes;
    shadow.units_ = reinterpret_cast<ShadowUnit*>(static_cast<std::byte*>(memory) + head_bytes);
    auto& head = *static_cast<FileHead*>(memory);
    if (present) {
        if (head.magic != file_magic || head.shape.first_block != shape.first_block ||
            head.shape.units != shape.units || head.shape.blocks_per_unit != shape.blocks_per_unit ||
            head.shape.block_bytes != shape.block_bytes) {
            return base::Error{"E_INVALID", path + " is the map of another range", 0};
        }
        shape.seed = head.shape.seed;
        for (std::uint64_t i = 0; after_power_cut && i < shape.units; ++i) {
            shadow.units_[i].acknowledged = shadow.units_[i].durable;
        }
    } else {
        head = {file_magic, shape};
    }
    shadow.shape_ = shape;
    shadow.writing_.resize(shape.units);
    shadow.log_.resize(log_entries);
    return shadow;
}

Shadow::Shadow(Shadow&& other) noexcept { *this = std::move(other); }

Shadow& Shadow::operator=(Shadow&& other) noexcept {
    std::swap(shape_, other.shape_);
    std::swap(memory_, other.memory_);
    std::swap(memory_bytes_, other.memory_bytes_);
    std::swap(units_, other.units_);
    std::swap(writing_, other.writing_);
    std::swap(log_, other.log_);
    std::swap(log_begin_, other.log_begin_);
    std::swap(log_end_, other.log_end_);
    return *this;
}

Shadow::~Shadow() {
    if (memory_ != nullptr) {
        munmap(memory_, memory_bytes_);
    }
}

std::uint32_t Shadow::begin_write(std::uint64_t index) {
    writing_[index] = true;
    return ++units_[index].issued;
}

void Shadow::end_write(std::uint64_t index, bool acknowledged, bool durable) {
    writing_[index] = false;
    if (!acknowledged) {
        return;  // the old and the new content are both possible from now on
    }
    ShadowUnit& changed = units_[index];
    changed.acknowledged = changed.issued;
    if (durable) {
        changed.durable = changed.issued;
        return;
    }
    if (log_end_ - log_begin_ == log_.size()) {
        ++log_begin_;  // forgets that it will be durable, which is only ever too careful
    }
    log_[log_end_++ % log_.size()] = {index, changed.issued};
}

void Shadow::end_flush(std::uint64_t mark) {
    while (log_begin_ < mark) {
        const Entry& entry = log_[log_begin_++ % log_.size()];
        units_[entry.unit].durable = std::max(units_[entry.unit].durable, entry.generation);
    }
}

}  // namespace block::initiator
