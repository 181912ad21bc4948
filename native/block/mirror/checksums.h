// The checksums of a mirror's blocks in memory, and which of those on the legs may be believed.
//
// One checksum is enough for all legs: those that are up have the same data. It is set before a write goes
// out, with the range locked, and is written to the legs later: before a flush or a write with forced unit
// access is acknowledged, and before the intent of its region is taken back. So on a leg
//
//   a block in a region without intent has the checksum of its data, or none;
//   a block in a region with intent has an old one or a new one, as its data are old or new.
//
// Data and checksum need no order between them: after a crash regions with intent are in doubt, and nothing
// in them is called corrupt. A block in doubt is as the leg has it whose data fit any record of any leg, the
// source before all others; if none fits, as the source has it. Whoever chooses another leg than the source
// chooses what was written before, as a whole: nothing that a flush was acknowledged for is lost, since then
// the record was on the legs as well. So what was at rest is found and mended even if it lies beside a write
// that a crash cut short; what was written and not flushed in the last second before a crash is not verified.
//
// A block is `known` (its checksum is believed: what does not fit is corrupt) or in doubt (each leg's record
// is kept until it was examined). Pages are read from the legs when something in their group is first used,
// and are kept: 4 bytes for each block, 1 MiB for each GiB of 4 KiB blocks.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "block/mirror/format.h"

namespace block::mirror {

// The checksum as it is kept: never 0.
std::uint32_t sum_of(std::span<const std::byte> block);

class Checksums {
  public:
    static constexpr std::uint64_t group_pages = 16;
    struct Range {
        std::uint64_t first;
        std::uint64_t last;
    };
    // What a leg has of a group; `tables` is empty if it cannot be read.
    struct Copy {
        std::uint32_t slot = 0;
        Uuid leg{};
        std::span<const std::byte> tables;
    };

    // Forgets everything; without checksums in the geometry nothing is kept.
    void reset(const Geometry& geometry);
    // The volume has grown: of the new blocks nothing is recorded.
    void grow(const Geometry& geometry);
    bool enabled() const { return !pages_.empty(); }

    std::uint64_t pages() const { return pages_.size(); }
    std::uint64_t pages_of_group(std::uint64_t group) const;
    Range groups_of(std::uint64_t offset, std::uint64_t length) const;
    bool has_group(std::uint64_t group) const { return pages_[group * group_pages] != nullptr; }
    bool has(std::uint64_t offset, std::uint64_t length) const;
    // `doubtful`: whether the byte at this offset lies where the records need not be those of the data.
    void install(std::uint64_t group, std::span<const Copy> copies,
                 const std::function<bool(std::uint64_t offset)>& doubtful);

    // The rest is for ranges whose groups are here.
    bool known(std::uint64_t block) const;
    bool all_known(std::uint64_t offset, std::uint64_t length) const;
    // Whether all blocks are known and these are their data.
    bool fits(std::uint64_t offset, std::span<const std::byte> data) const;
    bool fits_block(std::uint64_t block, std::uint32_t sum) const;
    // Whether any leg has this record of a block in doubt.
    bool recorded(std::uint64_t block, std::uint32_t sum) const;
    void set(std::uint64_t block, std::uint32_t sum);
    void set_data(std::uint64_t offset, std::span<const std::byte> data);
    void set_zeroes(std::uint64_t offset, std::uint64_t length);
    // Nobody knows what the legs have there now.
    void forget(std::uint64_t offset, std::uint64_t length);
    // A leg may lack them.
    void write_again(std::uint64_t offset, std::uint64_t length);
    void write_all_again();  // that are here

    // Pages that differ from what is on the legs.
    bool any_dirty() const { return !dirty_.empty(); }
    std::uint64_t dirty_pages() const { return dirty_.size(); }
    // Adds them to `pages`; they are clean then.
    void take_dirty(std::vector<std::uint64_t>& pages);
    void encode(std::uint64_t page, std::uint32_t slot, const Uuid& leg,
                std::span<std::byte, map_page_bytes> out) const;

  private:
    // Sums of a page as the legs had them, one table for each slot.
    struct Records {
        std::uint32_t sums[legs_max][sums_per_page] = {};
        bool doubt[sums_per_page] = {};
        std::uint32_t left = 0;
    };
    struct Page {
        std::uint32_t sums[sums_per_page] = {};
        bool dirty = false;
        std::unique_ptr<Records> records;  // only while something in it is in doubt
    };

    std::uint64_t blocks_of_page(std::uint64_t page) const;
    Page& page_of(std::uint64_t block) { return *pages_[block / sums_per_page]; }
    const Page& page_of(std::uint64_t block) const { return *pages_[block / sums_per_page]; }
    void mark_dirty(std::uint64_t page);

    std::vector<std::unique_ptr<Page>> pages_;
    std::uint64_t blocks_ = 0;
    std::uint64_t block_bytes_ = 0;
    std::vector<std::uint64_t> dirty_;
    std::uint32_t zero_sum_ = 0;
};

}  // namespace block::mirror
