#include "block/migration/copy_map.h"

#include <cstring>

#include "base/check.h"

namespace block::migration {

namespace {

constexpr std::uint64_t regions_max = 4u << 20;
constexpr std::uint64_t region_bytes_min = 256u << 10;

}  // namespace

std::uint64_t CopyMap::region_bytes_for(std::uint64_t size_bytes) {
    std::uint64_t bytes = region_bytes_min;
    while (size_bytes / bytes >= regions_max) {
        bytes *= 2;
    }
    return bytes;
}

std::uint64_t CopyMap::bytes_for(std::uint64_t size_bytes) {
    const std::uint64_t regions = size_bytes / region_bytes_for(size_bytes) + 1;
    const std::uint64_t bytes = sizeof(Header) + regions * sizeof(std::uint16_t);
    return (bytes + limits::page_bytes - 1) / limits::page_bytes * limits::page_bytes;
}

CopyMap::CopyMap(std::span<std::byte> memory, std::uint64_t size_bytes, bool fresh)
    : header_(reinterpret_cast<Header*>(memory.data())),
      marks_(reinterpret_cast<std::uint16_t*>(memory.data() + sizeof(Header))),
      region_bytes_(region_bytes_for(size_bytes)),
      regions_((size_bytes + region_bytes_ - 1) / region_bytes_) {
    EK_CHECK(memory.size() >= bytes_for(size_bytes), "the map has room for every region");
    const bool same = header_->magic == magic && header_->size_bytes == size_bytes &&
                      header_->region_bytes == region_bytes_;
    if (fresh || !same) {
        header_->magic = 0;  // whoever dies from here on leaves nothing to go on with
        std::memset(memory.data() + sizeof(Header), 0, regions_ * sizeof(std::uint16_t));
        header_->size_bytes = size_bytes;
        header_->region_bytes = region_bytes_;
        header_->failed = 0;
        header_->magic = magic;
    }
    for (std::uint64_t region = 0; region < regions_; ++region) {
        if (being_written(region)) {
            marks_[region] = 0;
        }
        copied_ += is_copied(region) ? 1 : 0;
    }
}

void CopyMap::set_failed() {
    if (header_ != nullptr) {
        header_->failed = 1;
    }
}

void CopyMap::begin_again() {
    clear_copied(0, regions_ - 1);
    header_->failed = 0;
}

bool CopyMap::any_copied(std::uint64_t first, std::uint64_t last) const {
    for (std::uint64_t region = first; region <= last; ++region) {
        if (is_copied(region)) {
            return true;
        }
    }
    return false;
}

void CopyMap::set_copied(std::uint64_t region) {
    if (!is_copied(region)) {
        marks_[region] = static_cast<std::uint16_t>(marks_[region] | copied_mark);
        ++copied_;
    }
}

void CopyMap::clear_copied(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t region = first; region <= last; ++region) {
        if (is_copied(region)) {
            marks_[region] = static_cast<std::uint16_t>(marks_[region] & writes_mask);
            --copied_;
        }
    }
}

bool CopyMap::begin_write(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t region = first; region <= last; ++region) {
        if ((marks_[region] & writes_mask) == writes_mask) {
            return false;
        }
    }
    for (std::uint64_t region = first; region <= last; ++region) {
        marks_[region] = static_cast<std::uint16_t>(marks_[region] + 1);
    }
    return true;
}

void CopyMap::end_write(std::uint64_t first, std::uint64_t last) {
    for (std::uint64_t region = first; region <= last; ++region) {
        EK_CHECK(being_written(region), "a write ends once");
        marks_[region] = static_cast<std::uint16_t>(marks_[region] - 1);
    }
}

std::uint64_t CopyMap::next_missing(std::uint64_t from) const {
    while (from < regions_ && is_copied(from)) {
        ++from;
    }
    return from;
}

}  // namespace block::migration
