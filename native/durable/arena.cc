#include "durable/arena.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"

#ifndef MADV_POPULATE_READ
#define MADV_POPULATE_READ 22
#endif

namespace durable {

namespace {

constexpr char arena_magic[8] = {'k', 'e', 'e', 'l', 'a', 'r', 'n', '1'};
constexpr std::uint32_t header_version = 1;
constexpr std::size_t page = 4096;
constexpr std::size_t huge_page = 2u << 20;

constexpr std::size_t round_up(std::size_t value, std::size_t unit) {
    return (value + unit - 1) / unit * unit;
}

void mix(std::uint64_t& hash, const void* data, std::size_t length) {  // FNV-1a
    const auto* bytes = static_cast<const unsigned char*>(data);
    for (std::size_t i = 0; i < length; ++i) {
        hash = (hash ^ bytes[i]) * 0x100000001B3ull;
    }
}

std::uint64_t fingerprint_of(std::span<const RegionSpec> regions) {
    std::uint64_t hash = 0xCBF29CE484222325ull;
    mix(hash, &header_version, sizeof header_version);
    for (const RegionSpec& region : regions) {
        mix(hash, region.name.data(), region.name.size());
        mix(hash, &region.stride, sizeof region.stride);
        mix(hash, &region.count, sizeof region.count);
        mix(hash, &region.version, sizeof region.version);
    }
    return hash;
}

base::Error system_error(const char* code, const std::string& what) {
    const int number = errno;
    return base::Error{code, what + ": " + std::strerror(number), number};
}

// Address space for a file at a place where huge pages fit: they are mapped only where address and offset in
// the file are aligned alike.
std::byte* map_aligned(int descriptor, std::uint64_t bytes) {
    const std::uint64_t room = bytes + huge_page;
    void* space = mmap(nullptr, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (space == MAP_FAILED) {
        return nullptr;
    }
    auto* const begin = static_cast<std::byte*>(space);
    const std::uint64_t before =
        (huge_page - reinterpret_cast<std::uintptr_t>(begin) % huge_page) % huge_page;
    void* const base = mmap(begin + before, bytes, PROT_READ | PROT_WRITE,
                            MAP_SHARED | MAP_NORESERVE | MAP_FIXED, descriptor, 0);
    if (base == MAP_FAILED) {
        const int number = errno;
        munmap(space, room);
        errno = number;
        return nullptr;
    }
    if (before != 0) {
        munmap(begin, before);
    }
    const std::uint64_t end = before + round_up(bytes, page);
    if (end < room) {
        munmap(begin + end, room - end);
    }
    return static_cast<std::byte*>(base);
}

// A descriptor of our own for the given one, or a new memory file.
int own_descriptor(int descriptor, const char* name) {
    if (descriptor >= 0) {
        return fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
    }
    return memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING);
}

}  // namespace

base::Result<Arena> Arena::open(int descriptor, std::span<const RegionSpec> regions) {
    Arena arena;
    arena.descriptor_ = own_descriptor(descriptor, "keel-arena");
    if (arena.descriptor_ < 0) {
        return system_error("E_NO_MEMORY", "cannot make the arena's memory file");
    }
    std::size_t bytes = page;
    std::vector<std::size_t> offsets;
    for (const RegionSpec& region : regions) {
        offsets.push_back(bytes);
        const std::size_t size = round_up(std::size_t{region.stride} * region.count, page);
        arena.region_bytes_.push_back(size);
        arena.strides_.push_back(region.stride);
        bytes += size;
    }
    arena.fingerprint_ = fingerprint_of(regions);

    struct stat info {};
    if (fstat(arena.descriptor_, &info) != 0) {
        return system_error("E_IO", "cannot look at the arena's memory file");
    }
    const bool empty = info.st_size == 0;
    if (static_cast<std::size_t>(info.st_size) < bytes &&
        ftruncate(arena.descriptor_, static_cast<off_t>(bytes)) != 0) {
        return system_error("E_NO_MEMORY", "cannot size the arena to " + std::to_string(bytes) + " bytes");
    }
    void* base =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, arena.descriptor_, 0);
    if (base == MAP_FAILED) {
        return system_error("E_NO_MEMORY", "cannot map the arena of " + std::to_string(bytes) + " bytes");
    }
    arena.base_ = static_cast<std::byte*>(base);
    arena.bytes_ = bytes;
    for (const std::size_t offset : offsets) {
        arena.region_base_.push_back(arena.base_ + offset);
    }

    Header& header = arena.header();
    if (empty || std::memcmp(header.magic, arena_magic, sizeof arena_magic) != 0) {
        // Never completed a first start: the magic is written last.
        if (auto done = arena.reset(); !done) {
            return done.error();
        }
        arena.content_ = Content::fresh;
    } else if (header.header_version != header_version || header.fingerprint != arena.fingerprint_ ||
               header.bytes != bytes) {
        arena.content_ = Content::other_layout;
    } else {
        arena.content_ = Content::carried;
    }
    return arena;
}

std::optional<Arena::Header> Arena::peek(int descriptor) {
    Header header;
    if (descriptor < 0 || pread(descriptor, &header, sizeof header, 0) != sizeof header ||
        std::memcmp(header.magic, arena_magic, sizeof arena_magic) != 0 ||
        header.header_version != header_version) {
        return std::nullopt;
    }
    return header;
}

base::Result<void> Arena::reset() {
    // Punching the pages away is what zeroes them, whoever had used the file before, at any size.
    struct stat info {};
    if (fstat(descriptor_, &info) != 0 ||
        fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0,
                  info.st_size > 0 ? info.st_size : static_cast<off_t>(bytes_)) != 0) {
        return system_error("E_IO", "cannot clear the arena");
    }
    Header& header = this->header();
    header.header_version = header_version;
    header.region_count = static_cast<std::uint32_t>(region_base_.size());
    header.fingerprint = fingerprint_;
    header.bytes = bytes_;
    std::atomic_signal_fence(std::memory_order_seq_cst);
    std::memcpy(header.magic, arena_magic, sizeof arena_magic);
    content_ = Content::fresh;
    return {};
}

void Arena::map_ahead() {
    struct stat info {};
    if (base_ == nullptr || fstat(descriptor_, &info) != 0 || info.st_blocks == mapped_blocks_) {
        return;
    }
    mapped_blocks_ = info.st_blocks;
    const auto end = static_cast<off_t>(bytes_);
    off_t hole = 0;
    while (hole < end) {
        const off_t data = lseek(descriptor_, hole, SEEK_DATA);
        if (data < 0 || data >= end) {
            return;
        }
        hole = std::min(lseek(descriptor_, data, SEEK_HOLE), end);
        if (hole <= data) {
            return;
        }
        // For writing too: the pages are there, and nobody is told of writes to shared memory.
        madvise(base_ + data, static_cast<std::size_t>(hole - data), MADV_POPULATE_READ);
    }
}

std::span<std::byte> Arena::region(std::size_t index) const {
    EK_CHECK(index < region_base_.size(), "unknown arena region");
    EK_CHECK(content_ != Content::other_layout, "an arena of another layout must be reset first");
    return {region_base_[index], region_bytes_[index]};
}

void Arena::unmap() {
    if (base_ != nullptr) {
        munmap(base_, bytes_);
    }
    if (descriptor_ >= 0) {
        close(descriptor_);
    }
    base_ = nullptr;
    descriptor_ = -1;
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
    if (this != &other) {
        unmap();
        descriptor_ = std::exchange(other.descriptor_, -1);
        base_ = std::exchange(other.base_, nullptr);
        bytes_ = other.bytes_;
        fingerprint_ = other.fingerprint_;
        mapped_blocks_ = other.mapped_blocks_;
        content_ = other.content_;
        region_base_ = std::move(other.region_base_);
        region_bytes_ = std::move(other.region_bytes_);
        strides_ = std::move(other.strides_);
    }
    return *this;
}

Arena::~Arena() { unmap(); }

base::Result<MemoryFile> MemoryFile::open(int descriptor, std::string_view name, std::uint64_t bytes,
                                          std::uint64_t reserve_bytes) {
    MemoryFile file;
    file.descriptor_ = own_descriptor(descriptor, std::string(name).c_str());
    if (file.descriptor_ < 0) {
        return system_error("E_NO_MEMORY", "cannot make a memory file for " + std::string(name));
    }
    struct stat info {};
    if (fstat(file.descriptor_, &info) != 0) {
        return system_error("E_IO", "cannot look at the memory file of " + std::string(name));
    }
    file.file_bytes_ = static_cast<std::uint64_t>(info.st_size);
    file.carried_ = file.file_bytes_ != 0;
    file.reserved_bytes_ = std::max({reserve_bytes, bytes, file.file_bytes_});
    file.base_ = map_aligned(file.descriptor_, file.reserved_bytes_);
    if (file.base_ == nullptr) {
        return system_error("E_NO_MEMORY",
                            "cannot map " + std::to_string(bytes) + " bytes for " + std::string(name));
    }
    madvise(file.base_, file.reserved_bytes_, MADV_HUGEPAGE);  // granted or not: smaps tells
    if (file.file_bytes_ >= bytes) {
        file.bytes_ = bytes;
    } else if (auto grown = file.resize(bytes); !grown) {
        return grown.error();
    }
    return file;
}

base::Result<void> MemoryFile::resize(std::uint64_t bytes) {
    if (bytes > reserved_bytes_) {
        return base::Error{"E_LIMIT", "memory of " + std::to_string(bytes) +
                                          " bytes would have to move; it can grow to " +
                                          std::to_string(reserved_bytes_) + " before the next restart"};
    }
    if (bytes < bytes_) {
        const std::uint64_t first = round_up(bytes, page);
        if (first < file_bytes_ &&
            fallocate(descriptor_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, static_cast<off_t>(first),
                      static_cast<off_t>(file_bytes_ - first)) != 0) {
            return system_error("E_IO", "cannot shrink a memory file");
        }
        std::memset(base_ + bytes, 0, std::min(first, file_bytes_) - bytes);
    } else if (bytes > file_bytes_) {
        if (ftruncate(descriptor_, static_cast<off_t>(bytes)) != 0) {
            return system_error("E_NO_MEMORY",
                                "cannot grow a memory file to " + std::to_string(bytes) + " bytes");
        }
        file_bytes_ = bytes;
    }
    bytes_ = bytes;
    return {};
}

MemoryFile::MemoryFile(MemoryFile&& other) noexcept { *this = std::move(other); }

MemoryFile& MemoryFile::operator=(MemoryFile&& other) noexcept {
    if (this != &other) {
        std::swap(descriptor_, other.descriptor_);
        std::swap(base_, other.base_);
        std::swap(bytes_, other.bytes_);
        std::swap(file_bytes_, other.file_bytes_);
        std::swap(reserved_bytes_, other.reserved_bytes_);
        std::swap(carried_, other.carried_);
    }
    return *this;
}

MemoryFile::~MemoryFile() {
    if (base_ != nullptr) {
        munmap(base_, reserved_bytes_);
    }
    if (descriptor_ >= 0) {
        close(descriptor_);
    }
}

}  // namespace durable
