// Memory that devices live in, by name. Each has a region number, so that a response which is being sent from
// it can be found again after a restart; the numbers lie in the arena.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

#include "base/result.h"
#include "block/spec.h"
#include "durable/arena.h"
#include "transport/memory_regions.h"

namespace engine {

struct MemoryRecord {
    std::uint32_t state;  // 0: free, 1: in use
    std::uint32_t reserved;
    std::uint64_t bytes;
    char name[112];
};
static_assert(sizeof(MemoryRecord) == 128);

inline constexpr std::uint16_t zeroes_region = 1;
inline constexpr std::uint16_t first_device_region = 2;

class Memories {
  public:
    Memories(std::span<MemoryRecord> records, transport::MemoryRegions& regions);

    // A descriptor that a keeper holds for this name; duplicated when the memory is asked for.
    void offer(const std::string& name, int descriptor);
    // It is not held any more.
    void withdraw(const std::string& name);
    // Told of each new memory file, so that a keeper may hold it.
    std::function<void(const std::string& name, int descriptor)> created;
    std::function<void(const std::string& name)> forgotten;

    base::Result<block::PersistentMemory> get(const std::string& name, std::uint64_t bytes);
    // 0 if there is no such memory.
    std::uint16_t region_of(const std::string& name) const;
    // -1 if there is no such memory. Stays this object's.
    int descriptor_of(const std::string& name) const;
    // Nothing may refer to the region any more.
    void forget(const std::string& name);
    // Those that a keeper holds and that nobody has asked for.
    void forget_unused(const std::function<bool(const std::string& name)>& which);

  private:
    struct Memory {
        durable::MemoryFile file;
        std::uint32_t slot;
    };
    base::Result<std::uint32_t> slot_for(const std::string& name);

    std::span<MemoryRecord> records_;
    transport::MemoryRegions& regions_;
    std::map<std::string, Memory> memories_;
    std::map<std::string, int> offers_;
};

}  // namespace engine
