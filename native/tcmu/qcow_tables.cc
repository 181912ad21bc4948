#include "tcmu/qcow_tables.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>

namespace tcmu {

namespace {

constexpr std::uint64_t table_bytes_max = std::uint64_t{64} << 20;

std::uint64_t number_at(const std::byte* bytes, std::size_t offset, int count) {
    std::uint64_t value = 0;
    for (int i = 0; i < count; ++i) {
        value = value << 8 | std::to_integer<std::uint64_t>(bytes[offset + static_cast<std::size_t>(i)]);
    }
    return value;
}

}  // namespace

QcowTables::QcowTables(const std::string& path, bool for_writing)
    : file_(open(path.c_str(), (for_writing ? O_RDWR : O_RDONLY) | O_CLOEXEC)) {
    error_number_ = file_ < 0 ? errno : 0;
    const ssize_t bytes = file_ < 0 ? 0 : pread(file_, header_.data(), header_.size(), 0);
    header_bytes_ = bytes > 0 ? static_cast<std::size_t>(bytes) : 0;
}

QcowTables::~QcowTables() {
    if (file_ >= 0) {
        close(file_);
    }
}

std::uint64_t QcowTables::header(std::size_t offset, int bytes) const {
    return number_at(header_.data(), offset, bytes);
}

bool QcowTables::read(std::uint64_t offset, std::byte* data, std::size_t bytes) {
    const ssize_t got = pread(file_, data, bytes, static_cast<off_t>(offset));
    unreadable_ = unreadable_ || got != static_cast<ssize_t>(bytes);
    return got == static_cast<ssize_t>(bytes);
}

bool QcowTables::walk(const std::function<bool(Level, std::uint64_t)>& visit) {
    const std::uint64_t tables = header(36, 4);
    if (tables > table_bytes_max / 8) {
        unreadable_ = true;
        return false;
    }
    std::vector<std::byte> l1(tables * 8);
    std::vector<std::byte> l2(cluster_bytes());
    if (!read(header(40, 8), l1.data(), l1.size())) {
        return false;
    }
    for (std::size_t i = 0; i < l1.size(); i += 8) {
        const std::uint64_t entry = number_at(l1.data(), i, 8);
        if ((entry & offset_bits) == 0) {
            continue;
        }
        if (!visit(Level::l1, entry) || !read(entry & offset_bits, l2.data(), l2.size())) {
            return false;
        }
        for (std::size_t at = 0; at < l2.size(); at += 8) {
            const std::uint64_t cluster = number_at(l2.data(), at, 8);
            if (cluster != 0 && !visit(Level::l2, cluster)) {
                return false;
            }
        }
    }
    return true;
}

std::uint64_t QcowTables::place_of_count(std::uint64_t cluster_offset) {
    if (count_table_.empty()) {
        const std::uint64_t clusters = header(56, 4);
        if (clusters == 0 || clusters > table_bytes_max / cluster_bytes()) {
            unreadable_ = true;
            return 0;
        }
        count_table_.resize(clusters * cluster_bytes());
        if (!read(header(48, 8), count_table_.data(), count_table_.size())) {
            return 0;
        }
    }
    const std::uint64_t cluster = cluster_offset / cluster_bytes();
    const std::uint64_t counts_per_block = cluster_bytes() / 2;
    const std::uint64_t row = cluster / counts_per_block;
    if (row >= count_table_.size() / 8) {
        return 0;
    }
    const std::uint64_t block = number_at(count_table_.data(), row * 8, 8) & offset_bits;
    return block == 0 ? 0 : block + cluster % counts_per_block * 2;
}

QcowTables::Count QcowTables::count_of(std::uint64_t cluster_offset) {
    const std::uint64_t place = place_of_count(cluster_offset);
    if (place == 0) {
        return Count::unknown;
    }
    const std::uint64_t block = place - place % cluster_bytes();
    if (count_block_offset_ != block) {
        count_block_.resize(cluster_bytes());
        count_block_offset_ = 0;
        if (!read(block, count_block_.data(), count_block_.size())) {
            return Count::unknown;
        }
        count_block_offset_ = block;
    }
    return number_at(count_block_.data(), place - block, 2) == 0 ? Count::unused : Count::used;
}

bool QcowTables::count_once(std::uint64_t cluster_offset) {
    const std::uint64_t place = place_of_count(cluster_offset);
    const std::uint8_t one[2] = {0, 1};
    count_block_offset_ = 0;
    return place != 0 && pwrite(file_, one, sizeof one, static_cast<off_t>(place)) == sizeof one;
}

bool QcowTables::visit_count_blocks(const std::function<bool(std::uint64_t)>& visit) {
    place_of_count(0);  // reads the table
    for (std::size_t at = 0; at + 8 <= count_table_.size(); at += 8) {
        const std::uint64_t block = number_at(count_table_.data(), at, 8) & offset_bits;
        if (block != 0 && !visit(block)) {
            return false;
        }
    }
    return !unreadable_;
}

bool QcowTables::sync() { return fdatasync(file_) == 0; }

}  // namespace tcmu
