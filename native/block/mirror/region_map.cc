#include "block/mirror/region_map.h"

#include <algorithm>
#include <array>
#include <bit>

namespace block::mirror {

void RegionMap::reset(const Geometry& geometry) {
    regions_.assign(geometry.regions(), {});
    dirty_.assign(geometry.map_pages(), 0);
    shift_ = std::countr_zero(geometry.region_bytes);
    dirty_pages_ = intents_ = unequal_ = 0;
    std::fill(std::begin(missing_), std::end(missing_), 0);
}

void RegionMap::resize(const Geometry& geometry) {
    for (std::uint32_t i = geometry.regions(); i < count(); ++i) {
        change(i, 0);
        clear_unequal(i);
    }
    for (std::uint32_t page = geometry.map_pages(); page < pages(); ++page) {
        mark_clean(page);
    }
    regions_.resize(geometry.regions());
    dirty_.resize(geometry.map_pages(), 0);
}

void RegionMap::change(std::uint32_t region, std::uint16_t entry) {
    Region& at = regions_[region];
    if (at.entry == entry) {
        return;
    }
    const std::uint32_t differs = static_cast<std::uint32_t>(at.entry) ^ entry;
    if ((differs & intent_bit) != 0) {
        intents_ = (entry & intent_bit) != 0 ? intents_ + 1 : intents_ - 1;
    }
    for (std::uint32_t slots = differs & missing_bits; slots != 0; slots &= slots - 1) {
        const auto slot = static_cast<std::size_t>(std::countr_zero(slots));
        missing_[slot] = (entry & (1u << slot)) != 0 ? missing_[slot] + 1 : missing_[slot] - 1;
    }
    at.entry = entry;
    mark_dirty(region / regions_per_page);
}

void RegionMap::set_intent(std::uint32_t region, std::uint32_t missing) {
    change(region,
           static_cast<std::uint16_t>(regions_[region].entry | intent_bit | (missing & missing_bits)));
}

void RegionMap::clear_intent(std::uint32_t region) {
    change(region, static_cast<std::uint16_t>(regions_[region].entry & ~intent_bit));
    regions_[region].clear(settled);
}

void RegionMap::set_missing(std::uint32_t region, std::uint32_t slots) {
    change(region, static_cast<std::uint16_t>(regions_[region].entry | (slots & missing_bits)));
}

void RegionMap::clear_missing(std::uint32_t region, std::uint32_t slots) {
    change(region, static_cast<std::uint16_t>(regions_[region].entry & ~(slots & missing_bits)));
}

void RegionMap::miss_intents(std::uint32_t slots) {
    for (std::uint32_t i = 0; i < count() && intents_ != 0; ++i) {
        if (regions_[i].intent()) {
            set_missing(i, slots);
        }
    }
}

void RegionMap::miss_everything(std::uint32_t slots) {
    for (std::uint32_t i = 0; i < count(); ++i) {
        set_missing(i, slots);
    }
}

void RegionMap::forget_missing(std::uint32_t slots) {
    for (std::uint32_t i = 0; i < count(); ++i) {
        clear_missing(i, slots);
    }
}

void RegionMap::mark_clean(std::uint32_t page) {
    dirty_pages_ -= dirty_[page];
    dirty_[page] = 0;
}

void RegionMap::mark_dirty(std::uint32_t page) {
    dirty_pages_ += dirty_[page] == 0 ? 1 : 0;
    dirty_[page] = 1;
}

void RegionMap::encode(std::uint32_t page, std::span<std::byte, map_page_bytes> out) const {
    std::array<std::uint16_t, regions_per_page> entries;
    const std::uint32_t first = page * regions_per_page;
    const std::uint32_t here = std::min(regions_per_page, count() - first);
    for (std::uint32_t i = 0; i < here; ++i) {
        entries[i] = regions_[first + i].entry;
    }
    encode_map_page(std::span(entries).first(here), out);
}

void RegionMap::merge(std::uint32_t page, std::span<const std::byte, map_page_bytes> in) {
    std::array<std::uint16_t, regions_per_page> entries{};
    const std::uint32_t first = page * regions_per_page;
    const std::uint32_t here = std::min(regions_per_page, count() - first);
    merge_map_page(in, std::span(entries).first(here));
    for (std::uint32_t i = 0; i < here; ++i) {
        change(first + i, static_cast<std::uint16_t>(regions_[first + i].entry | entries[i]));
    }
}

void RegionMap::set_unequal(std::uint32_t region) {
    unequal_ += regions_[region].has(unequal) ? 0 : 1;
    regions_[region].set(unequal);
}

void RegionMap::clear_unequal(std::uint32_t region) {
    unequal_ -= regions_[region].has(unequal) ? 1 : 0;
    regions_[region].clear(unequal);
}

}  // namespace block::mirror
