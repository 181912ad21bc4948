// The arena: one shared mapping that outlives the process. It is a header and a row of regions; a region is
// an array of slots with a fixed stride. Slots start as zeroes, and a zero slot is a free slot, so a new
// arena needs no formatting and untouched slots cost no memory (the file is sparse).
//
// The header carries a fingerprint of the layout: names, strides and counts of all regions and the version
// that each record's owner gives. A successor whose fingerprint differs must not read the slots (see
// Arena::open).
//
// The file descriptor is the keeper's; without a keeper it is private to the process and dies with it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

namespace durable {

struct RegionSpec {
    std::string_view name;     // at most 15 characters
    std::uint32_t stride = 0;  // bytes of a slot
    std::uint32_t count = 0;
    std::uint32_t version = 0;  // of the record's layout; part of the fingerprint
};

class Arena {
  public:
    enum class Content : std::uint8_t { fresh, carried, other_layout };

    // Maps the file that `descriptor` names (it is duplicated), growing it if it is empty. Without a
    // descriptor (-1) a memory file is made. `content()` tells whether a predecessor's state is there; with
    // other_layout, nothing of it is accessible but `carry_over()`, and `reset` must be called before use.
    // Errors: E_NO_MEMORY, E_IO (with errno).
    static base::Result<Arena> open(int descriptor, std::span<const RegionSpec> regions);

    Arena() = default;
    Arena(Arena&& other) noexcept;
    Arena& operator=(Arena&& other) noexcept;
    ~Arena();

    Content content() const { return content_; }
    // Forgets everything: all slots are zero again. For a fresh start in a used file.
    base::Result<void> reset();

    int descriptor() const { return descriptor_; }

    // Maps what the file holds now, so that a later first use of it costs nothing; cheap when nothing was
    // added since the last call. Reads nothing and changes nothing.
    void map_ahead();

    // All slots of a region, by its position in the specs.
    std::span<std::byte> region(std::size_t index) const;
    template <typename Record>
    Record& slot(std::size_t index, std::size_t number) const {
        return *reinterpret_cast<Record*>(region_base_[index] + number * strides_[index]);
    }

    // A few words that belong to the arena as a whole.
    struct Header {
        char magic[8];
        std::uint32_t header_version;
        std::uint32_t region_count;
        std::uint64_t fingerprint;
        std::uint64_t bytes;
        std::uint64_t boots;       // processes that have used it, this one included
        std::uint64_t server_pid;  // of the process that uses it
        std::uint64_t started_monotonic_ns;
        std::uint64_t last_seen_monotonic_ns;  // written by the reactor now and then: when it was last alive
        std::uint64_t orderly_stop;            // the predecessor stopped on request
        std::uint64_t restarts_total;
        std::uint64_t counters[24];  // named by the engine
    };
    // The header of a file that holds an arena of any layout; nothing if it holds none.
    static std::optional<Header> peek(int descriptor);
    Header& header() const { return *reinterpret_cast<Header*>(base_); }

  private:
    void unmap();

    int descriptor_ = -1;
    std::byte* base_ = nullptr;
    std::size_t bytes_ = 0;
    std::uint64_t fingerprint_ = 0;
    std::int64_t mapped_blocks_ = 0;  // how much the file held when it was mapped ahead
    Content content_ = Content::fresh;
    std::vector<std::byte*> region_base_;
    std::vector<std::size_t> region_bytes_;
    std::vector<std::size_t> strides_;
};

// Memory that outlives the process, without structure: the data pool, a RAM disk. Huge pages are asked for;
// whether they were granted depends on the file.
//
// The mapping never moves and never shrinks, because a send that is under way names its addresses: growth
// happens within `reserve_bytes` of address space, and what is cut off stays mapped, empty.
class MemoryFile {
  public:
    // `descriptor` −1: a new memory file. E_NO_MEMORY, E_IO.
    static base::Result<MemoryFile> open(int descriptor, std::string_view name, std::uint64_t bytes,
                                         std::uint64_t reserve_bytes);
    MemoryFile() = default;
    MemoryFile(MemoryFile&& other) noexcept;
    MemoryFile& operator=(MemoryFile&& other) noexcept;
    ~MemoryFile();

    int descriptor() const { return descriptor_; }
    std::span<std::byte> memory() const { return {base_, bytes_}; }
    // What may still be read although it was cut off; zeroes.
    std::span<std::byte> mapped() const { return {base_, file_bytes_}; }
    // The file had content when it was opened.
    bool carried() const { return carried_; }
    // E_LIMIT beyond the reserved address space, E_NO_MEMORY.
    base::Result<void> resize(std::uint64_t bytes);

  private:
    int descriptor_ = -1;
    std::byte* base_ = nullptr;
    std::uint64_t bytes_ = 0;
    std::uint64_t file_bytes_ = 0;
    std::uint64_t reserved_bytes_ = 0;
    bool carried_ = false;
};

}  // namespace durable
