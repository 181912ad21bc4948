#include "block/mirror/checksums.h"

#include <algorithm>
#include <array>

#include "base/crc32c.h"

namespace block::mirror {

std::uint32_t sum_of(std::span<const std::byte> block) {
    const std::uint32_t crc = base::crc32c(block);
    return crc == 0 ? 1 : crc;
}

void Checksums::reset(const Geometry& geometry) {
    pages_.clear();
    pages_.resize(geometry.checksum_pages());
    dirty_.clear();
    if (pages_.empty()) {
        return;
    }
    block_bytes_ = geometry.block_bytes;
    blocks_ = geometry.data_bytes / block_bytes_;
    constexpr std::array<std::byte, 4096> zeroes{};
    zero_sum_ = sum_of(std::span(zeroes).first(geometry.block_bytes));
}

void Checksums::grow(const Geometry& geometry) {
    if (!enabled()) {
        return;
    }
    const std::uint64_t before = blocks_;
    const std::uint64_t last_group = (pages_.size() - 1) / group_pages;
    const bool here = has_group(last_group);
    pages_.resize(geometry.checksum_pages());
    blocks_ = geometry.data_bytes / block_bytes_;
    if (!here) {
        return;
    }
    const std::uint64_t first = last_group * group_pages;
    for (std::uint64_t number = first; number < first + pages_of_group(last_group); ++number) {
        if (pages_[number] == nullptr) {
            pages_[number] = std::make_unique<Page>();
        }
        const std::uint64_t begin = std::max(before, number * sums_per_page);
        const std::uint64_t end = number * sums_per_page + blocks_of_page(number);
        if (begin < end) {
            forget(begin * block_bytes_, (end - begin) * block_bytes_);
        }
    }
}

std::uint64_t Checksums::pages_of_group(std::uint64_t group) const {
    return std::min<std::uint64_t>(group_pages, pages_.size() - group * group_pages);
}

std::uint64_t Checksums::blocks_of_page(std::uint64_t page) const {
    return std::min<std::uint64_t>(sums_per_page, blocks_ - page * sums_per_page);
}

Checksums::Range Checksums::groups_of(std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t group_bytes = block_bytes_ * sums_per_page * group_pages;
    return {offset / group_bytes, (offset + length - 1) / group_bytes};
}

bool Checksums::has(std::uint64_t offset, std::uint64_t length) const {
    const Range groups = groups_of(offset, length);
    for (std::uint64_t group = groups.first; group <= groups.last; ++group) {
        if (!has_group(group)) {
            return false;
        }
    }
    return true;
}

void Checksums::install(std::uint64_t group, std::span<const Copy> copies,
                        const std::function<bool(std::uint64_t offset)>& doubtful) {
    const std::uint64_t first = group * group_pages;
    for (std::uint64_t number = first; number < first + pages_of_group(group); ++number) {
        auto page = std::make_unique<Page>();
        auto records = std::make_unique<Records>();
        const std::uint64_t count = blocks_of_page(number);
        bool whole = true;
        for (const Copy& copy : copies) {
            if (copy.tables.empty()) {
                whole = false;
                continue;
            }
            const auto table = copy.tables.subspan((number - first) * map_page_bytes).first<map_page_bytes>();
            whole =
                decode_sums_page(copy.leg, number, table, std::span(records->sums[copy.slot]).first(count)) &&
                whole;
        }
        for (std::uint64_t i = 0; i < count; ++i) {
            std::uint32_t record = 0;
            bool doubt = doubtful((number * sums_per_page + i) * block_bytes_);
            for (const Copy& copy : copies) {
                const std::uint32_t sum = records->sums[copy.slot][i];
                doubt = doubt || (sum != 0 && record != 0 && sum != record);
                record = sum != 0 ? sum : record;
            }
            doubt = doubt || record == 0;
            records->doubt[i] = doubt;
            records->left += doubt ? 1 : 0;
            page->sums[i] = doubt ? 0 : record;
            whole = whole && (doubt || std::all_of(copies.begin(), copies.end(), [&](const Copy& copy) {
                                  return records->sums[copy.slot][i] == record;
                              }));
        }
        if (records->left != 0) {
            page->records = std::move(records);
        }
        pages_[number] = std::move(page);
        if (!whole) {
            mark_dirty(number);  // a table that is damaged or lacks something is written anew
        }
    }
}

bool Checksums::known(std::uint64_t block) const {
    const Page& page = page_of(block);
    return page.records == nullptr || !page.records->doubt[block % sums_per_page];
}

bool Checksums::all_known(std::uint64_t offset, std::uint64_t length) const {
    const std::uint64_t end = (offset + length) / block_bytes_;
    for (std::uint64_t block = offset / block_bytes_; block < end;) {
        if (page_of(block).records == nullptr) {
            block = (block / sums_per_page + 1) * sums_per_page;
        } else if (known(block)) {
            ++block;
        } else {
            return false;
        }
    }
    return true;
}

bool Checksums::fits_block(std::uint64_t block, std::uint32_t sum) const {
    return known(block) && page_of(block).sums[block % sums_per_page] == sum;
}

bool Checksums::fits(std::uint64_t offset, std::span<const std::byte> data) const {
    for (std::uint64_t at = 0; at < data.size(); at += block_bytes_) {
        if (!fits_block((offset + at) / block_bytes_, sum_of(data.subspan(at, block_bytes_)))) {
            return false;
        }
    }
    return true;
}

bool Checksums::recorded(std::uint64_t block, std::uint32_t sum) const {
    const Page& page = page_of(block);
    return page.records != nullptr &&
           std::any_of(std::begin(page.records->sums), std::end(page.records->sums),
                       [&](const auto& sums) { return sums[block % sums_per_page] == sum; });
}

void Checksums::set(std::uint64_t block, std::uint32_t sum) {
    Page& page = page_of(block);
    const std::uint64_t at = block % sums_per_page;
    const bool doubted = page.records != nullptr && page.records->doubt[at];
    if (!doubted && page.sums[at] == sum) {
        return;
    }
    page.sums[at] = sum;
    mark_dirty(block / sums_per_page);
    if (doubted) {
        page.records->doubt[at] = false;
        if (--page.records->left == 0) {
            page.records.reset();
        }
    }
}

void Checksums::set_data(std::uint64_t offset, std::span<const std::byte> data) {
    for (std::uint64_t at = 0; at < data.size(); at += block_bytes_) {
        set((offset + at) / block_bytes_, sum_of(data.subspan(at, block_bytes_)));
    }
}

void Checksums::set_zeroes(std::uint64_t offset, std::uint64_t length) {
    for (std::uint64_t at = 0; at < length; at += block_bytes_) {
        set((offset + at) / block_bytes_, zero_sum_);
    }
}

void Checksums::forget(std::uint64_t offset, std::uint64_t length) {
    for (std::uint64_t at = 0; at < length; at += block_bytes_) {
        const std::uint64_t block = (offset + at) / block_bytes_;
        Page& page = page_of(block);
        const std::uint64_t index = block % sums_per_page;
        if (page.records == nullptr) {
            page.records = std::make_unique<Records>();
        }
        page.records->left += page.records->doubt[index] ? 0 : 1;
        page.records->doubt[index] = true;
        page.sums[index] = 0;
        for (auto& sums : page.records->sums) {
            sums[index] = 0;
        }
        mark_dirty(block / sums_per_page);
    }
}

void Checksums::write_again(std::uint64_t offset, std::uint64_t length) {
    const std::uint64_t page_bytes = block_bytes_ * sums_per_page;
    for (std::uint64_t page = offset / page_bytes; page <= (offset + length - 1) / page_bytes; ++page) {
        mark_dirty(page);
    }
}

void Checksums::write_all_again() {
    for (std::uint64_t page = 0; page < pages_.size(); ++page) {
        if (pages_[page] != nullptr) {
            mark_dirty(page);
        }
    }
}

void Checksums::mark_dirty(std::uint64_t page) {
    if (!pages_[page]->dirty) {
        pages_[page]->dirty = true;
        dirty_.push_back(page);
    }
}

void Checksums::take_dirty(std::vector<std::uint64_t>& pages) {
    for (const std::uint64_t page : dirty_) {
        pages_[page]->dirty = false;
    }
    pages.insert(pages.end(), dirty_.begin(), dirty_.end());
    dirty_.clear();
}

void Checksums::encode(std::uint64_t number, std::uint32_t slot, const Uuid& leg,
                       std::span<std::byte, map_page_bytes> out) const {
    const Page& page = *pages_[number];
    const std::uint64_t count = blocks_of_page(number);
    if (page.records == nullptr) {
        encode_sums_page(leg, number, std::span(page.sums).first(count), out);
        return;
    }
    std::array<std::uint32_t, sums_per_page> sums;
    for (std::uint64_t i = 0; i < count; ++i) {
        sums[i] = page.records->doubt[i] ? page.records->sums[slot][i] : page.sums[i];
    }
    encode_sums_page(leg, number, std::span(sums).first(count), out);
}

}  // namespace block::mirror
