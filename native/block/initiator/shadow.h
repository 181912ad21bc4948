// What a verifying load knows of the blocks that it writes: for each unit (the blocks of one I/O) the
// generations that were issued, acknowledged and made durable.
//
// At most one write of a unit is in flight, so its generations are issued in order. A read may see any
// generation from the one acknowledged when it was issued to the last one issued when it completed, and
// nothing else. After a power cut it is from the last durable one.
//
// The map may live in a file; a later process then goes on where this one ended, however it ended.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"

namespace block::initiator {

struct ShadowUnit {
    std::uint32_t issued = 0;  // generation of the last write that was begun; 0: none yet
    std::uint32_t acknowledged = 0;
    std::uint32_t durable = 0;
    std::uint32_t reserved = 0;
};

struct ShadowShape {
    std::uint64_t seed = 0;
    std::uint64_t first_block = 0;
    std::uint64_t units = 0;
    std::uint32_t blocks_per_unit = 0;
    std::uint32_t block_bytes = 0;
};

class Shadow {
  public:
    // `path` empty: private memory. A file that is there must have the same shape, except that its seed is
    // taken over. With `after_power_cut` what was acknowledged but not durable counts as uncertain. E_IO,
    // E_INVALID.
    static base::Result<Shadow> open(const std::string& path, ShadowShape shape, bool after_power_cut);
    Shadow() = default;
    Shadow(Shadow&& other) noexcept;
    Shadow& operator=(Shadow&& other) noexcept;
    ~Shadow();

    const ShadowShape& shape() const { return shape_; }
    ShadowUnit& unit(std::uint64_t index) { return units_[index]; }

    // Writing. begin() is the generation to write.
    bool writing(std::uint64_t index) const { return writing_[index]; }
    std::uint32_t begin_write(std::uint64_t index);
    void end_write(std::uint64_t index, bool acknowledged, bool durable);

    // Flushing: what was acknowledged before `begin_flush` is durable after `end_flush` with its mark.
    std::uint64_t begin_flush() const { return log_end_; }
    void end_flush(std::uint64_t mark);
    // Acknowledgements that wait for a flush; when few places are left, a flush is due.
    bool flush_due() const { return log_end_ - log_begin_ >= log_.size() / 2 && !log_.empty(); }

  private:
    struct Entry {
        std::uint64_t unit;
        std::uint32_t generation;
    };

    ShadowShape shape_;
    void* memory_ = nullptr;
    std::size_t memory_bytes_ = 0;
    ShadowUnit* units_ = nullptr;
    std::vector<bool> writing_;
    std::vector<Entry> log_;  // ring
    std::uint64_t log_begin_ = 0;
    std::uint64_t log_end_ = 0;
};

}  // namespace block::initiator
