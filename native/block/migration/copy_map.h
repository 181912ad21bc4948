// Which regions of a volume the destination has, in memory that outlives the process. Each region has a mark
// "copied" and the number of writes to it that are under way.
//
// Invariant: a region is marked only if the destination has all that the source acknowledged there. A process
// that dies with writes to a region under way cannot know whether both sides have them: its successor takes
// the mark away.
#pragma once

#include <cstdint>
#include <string>

#include "block/spec.h"

namespace block::migration {

// The map is kept in memory of the volume's name with this at its end.
inline constexpr const char* map_suffix = "@map";

class CopyMap {
  public:
    // Bytes of memory for a volume of that size.
    static std::uint64_t bytes_for(std::uint64_t size_bytes);

    CopyMap() = default;
    // Goes on with what the memory says if it is about a volume of this size, and `fresh` is not asked for.
    CopyMap(std::span<std::byte> memory, std::uint64_t size_bytes, bool fresh);

    std::uint64_t regions() const { return regions_; }
    std::uint64_t region_bytes() const { return region_bytes_; }
    std::uint64_t copied() const { return copied_; }
    bool complete() const { return copied_ == regions_; }
    bool failed() const { return header_ != nullptr && header_->failed != 0; }
    void set_failed();   // durably: the destination misses writes from here on
    void begin_again();  // nothing is copied, nothing has failed

    bool is_copied(std::uint64_t region) const { return (marks_[region] & copied_mark) != 0; }
    bool any_copied(std::uint64_t first, std::uint64_t last) const;
    void set_copied(std::uint64_t region);
    void clear_copied(std::uint64_t first, std::uint64_t last);

    // False: too many at once in one of them; none was counted.
    bool begin_write(std::uint64_t first, std::uint64_t last);
    void end_write(std::uint64_t first, std::uint64_t last);
    bool being_written(std::uint64_t region) const { return (marks_[region] & writes_mask) != 0; }

    // The first region from `from` on that is not copied; `regions()` if there is none.
    std::uint64_t next_missing(std::uint64_t from) const;

  private:
    struct Header {
        std::uint64_t magic;
        std::uint64_t size_bytes;
        std::uint64_t region_bytes;
        std::uint32_t failed;
        std::uint32_t reserved;
    };
    static constexpr std::uint64_t magic = 0x3130504d4b4d4b45;  // "EKMKMP01"
    static constexpr std::uint16_t copied_mark = 0x8000;
    static constexpr std::uint16_t writes_mask = 0x7fff;
    static std::uint64_t region_bytes_for(std::uint64_t size_bytes);

    volatile Header* header_ = nullptr;
    volatile std::uint16_t* marks_ = nullptr;
    std::uint64_t region_bytes_ = 1;
    std::uint64_t regions_ = 0;
    std::uint64_t copied_ = 0;
};

}  // namespace block::migration
