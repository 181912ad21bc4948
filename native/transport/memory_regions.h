// The memories that a response may be sent from without copying, by the number that records in the arena use
// for them. Region 0 is the data pool; the engine gives numbers to the zero page and to devices that live in
// memory, and the same numbers again after a restart.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/check.h"

namespace transport {

class MemoryRegions {
  public:
    static constexpr std::uint16_t data_pool = 0;

    void set(std::uint16_t region, std::span<std::byte> memory) {
        if (regions_.size() <= region) {
            regions_.resize(std::size_t{region} + 1);
        }
        regions_[region] = memory;
    }

    bool contains(std::uint16_t region, std::uint64_t offset, std::uint64_t length) const {
        return region < regions_.size() && length <= regions_[region].size() &&
               offset <= regions_[region].size() - length;
    }

    std::size_t bytes(std::uint16_t region) const {
        return region < regions_.size() ? regions_[region].size() : 0;
    }

    std::byte* at(std::uint16_t region, std::uint64_t offset) const {
        EK_CHECK(region < regions_.size() && offset <= regions_[region].size(),
                 "reference outside of its region");
        return regions_[region].data() + offset;
    }

  private:
    std::vector<std::span<std::byte>> regions_;
};

}  // namespace transport
