// Which regions of a mirror may differ between its legs: the image in memory of the map on the legs, and what
// only this process knows of each region. See format.h for what the bits mean.
//
// A region's intent is settled once the map that contains it is on all legs; until then no write may go out.
// It is taken back by the sweep, when nothing was written for a while and all legs have flushed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "block/mirror/format.h"

namespace block::mirror {

struct RegionRange {
    std::uint32_t first;
    std::uint32_t last;
};

class RegionMap {
  public:
    enum Flag : std::uint8_t {
        settled = 1,   // the intent is on the legs
        touched = 2,   // written since the last look of the sweep
        sweeping = 4,  // its writes are being flushed
        unequal = 8,   // legs that are up may differ: only the source may be read
        failed = 16,   // could not be copied in this pass
    };
    struct Region {
        std::uint16_t entry = 0;  // intent_bit, missing_bits
        std::uint8_t flags = 0;
        std::uint32_t writers = 0;  // writes under way

        bool has(Flag flag) const { return (flags & flag) != 0; }
        void set(Flag flag) { flags = static_cast<std::uint8_t>(flags | flag); }
        void clear(Flag flag) { flags = static_cast<std::uint8_t>(flags & ~flag); }
        bool intent() const { return (entry & intent_bit) != 0; }
        std::uint32_t missing() const { return entry & missing_bits; }
    };

    void reset(const Geometry& geometry);
    // Only the number of regions is another one; nothing is so in those that are new.
    void resize(const Geometry& geometry);
    std::uint32_t count() const { return static_cast<std::uint32_t>(regions_.size()); }
    Region& at(std::uint32_t region) { return regions_[region]; }
    const Region& at(std::uint32_t region) const { return regions_[region]; }
    RegionRange range_of(std::uint64_t offset, std::uint64_t length) const {
        return {static_cast<std::uint32_t>(offset >> shift_),
                static_cast<std::uint32_t>((offset + length - 1) >> shift_)};
    }

    // Changes of what is on the legs.
    void set_intent(std::uint32_t region, std::uint32_t missing);
    void clear_intent(std::uint32_t region);
    void set_missing(std::uint32_t region, std::uint32_t slots);
    void clear_missing(std::uint32_t region, std::uint32_t slots);
    // Legs of `slots` may lack whatever is under way.
    void miss_intents(std::uint32_t slots);
    void miss_everything(std::uint32_t slots);
    void forget_missing(std::uint32_t slots);

    // Pages that differ from what is on the legs.
    std::uint32_t pages() const { return static_cast<std::uint32_t>(dirty_.size()); }
    bool page_dirty(std::uint32_t page) const { return dirty_[page] != 0; }
    bool any_dirty() const { return dirty_pages_ != 0; }
    void mark_clean(std::uint32_t page);
    void mark_dirty(std::uint32_t page);
    void encode(std::uint32_t page, std::span<std::byte, map_page_bytes> out) const;
    void merge(std::uint32_t page, std::span<const std::byte, map_page_bytes> in);

    std::uint32_t intents() const { return intents_; }
    std::uint64_t missing_regions(std::uint32_t slot) const { return missing_[slot]; }
    std::uint32_t unequal_regions() const { return unequal_; }
    void set_unequal(std::uint32_t region);
    void clear_unequal(std::uint32_t region);

  private:
    void change(std::uint32_t region, std::uint16_t entry);

    std::vector<Region> regions_;
    std::vector<std::uint8_t> dirty_;
    std::uint32_t dirty_pages_ = 0;
    std::uint32_t intents_ = 0;
    std::uint32_t unequal_ = 0;
    std::uint32_t missing_[legs_max] = {};
    int shift_ = 0;
};

}  // namespace block::mirror
