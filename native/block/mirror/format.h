// What a mirror keeps at the end of each of its legs, and how it is laid out there.
//
//   0 … data_bytes          the volume's data
//   …                       unused
//   checksum_offset         the checksums (only with them): pages of 4096 bytes
//   map_offset              the region map: pages of 4096 bytes
//   superblock_offset       two superblocks of 4096 bytes, written in turn; the valid one with the higher
//                           sequence counts
//   leg_bytes               the end of the leg, rounded down to 4096
//
// Everything is placed from the end, so that the data begin at 0 and a leg can be read without the mirror.
// Nothing that was read is used in arithmetic before `decode` has compared it.
//
// The checksums and the map follow each other; together they are the records. On a volume that was never
// grown they end where the superblocks begin. When a leg's device grows, superblocks at its new end point to
// where the records lie; when the volume grows, its new records lie apart from those that were in force, so
// that one write of a superblock switches from one to the other. Such superblocks carry `flag_moved`, and
// versions that know no growing refuse them. Old superblocks inside the data mean nothing: only what lies
// behind the data is looked at.
//
// The map has 16 bits for each region: what a leg (a slot of the table) misses, one bit each, and `intent`:
// writes may be under way, so that the legs may differ. A sector of it has a checksum of its own; one that is
// not as it was written counts as "everything differs".
//
// The checksums are CRC32C of each block, 127 of them in a sector of 512 bytes behind a CRC32C of the sector,
// which is made with the leg's identity and the sector's number: what another medium or another volume left
// there is none of ours. 0 says that there is no record; a block whose CRC is 0 has 1. What they are worth is
// said in checksums.h.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace block::mirror {

inline constexpr std::uint32_t legs_max = 8;
inline constexpr std::uint32_t superblock_bytes = 4096;
inline constexpr std::uint32_t superblocks = 2;
inline constexpr std::uint32_t map_page_bytes = 4096;
inline constexpr std::uint32_t map_sector_bytes = 512;
inline constexpr std::uint32_t regions_per_sector = (map_sector_bytes - 4) / 2;
inline constexpr std::uint32_t regions_per_page = map_page_bytes / map_sector_bytes * regions_per_sector;
inline constexpr std::uint32_t sums_per_sector = map_sector_bytes / 4 - 1;
inline constexpr std::uint32_t sums_per_page = map_page_bytes / map_sector_bytes * sums_per_sector;
inline constexpr std::uint32_t regions_max = 1u << 20;
inline constexpr std::uint32_t region_bytes_min = 4096;
inline constexpr std::uint32_t region_bytes_max = 1u << 30;
inline constexpr std::uint16_t intent_bit = 1u << 8;
inline constexpr std::uint16_t missing_bits = 0xFF;

using Uuid = std::array<std::uint8_t, 16>;

// What the table says of a leg.
enum class Role : std::uint8_t {
    none,      // the slot is free
    up,        // has everything
    stale,     // misses what the map says
    detached,  // the same, and is not taken back before somebody asks for it
};

struct Geometry {
    std::uint64_t data_bytes = 0;
    std::uint32_t region_bytes = 0;
    std::uint32_t block_bytes = 0;
    bool checksums = false;

    bool operator==(const Geometry&) const = default;
    std::uint32_t regions() const {
        return static_cast<std::uint32_t>((data_bytes + region_bytes - 1) / region_bytes);
    }
    std::uint32_t map_pages() const { return (regions() + regions_per_page - 1) / regions_per_page; }
    std::uint64_t checksum_pages() const;
    std::uint64_t checksum_bytes() const { return checksum_pages() * map_page_bytes; }
    // What a leg needs beyond the data.
    std::uint64_t metadata_bytes() const;
    std::uint64_t records_bytes() const { return metadata_bytes() - superblocks * superblock_bytes; }
    // Whether the volume has become the other one by growing.
    bool grows_to(const Geometry& other) const {
        return region_bytes == other.region_bytes && block_bytes == other.block_bytes &&
               checksums == other.checksums && data_bytes < other.data_bytes;
    }
};

struct Layout {
    std::uint64_t checksum_offset = 0;
    std::uint64_t map_offset = 0;
    std::uint64_t superblock_offset = 0;
    bool operator==(const Layout&) const = default;
};

struct Superblock {
    struct Slot {
        Uuid leg{};
        Role role = Role::none;
        // Of a leg that is not up: the last commit that it is known to have recorded, and the identity of the
        // next one if it may have that, too (0: it was not sent one). A leg that has recorded anything else
        // as one that is up went on by itself.
        std::uint64_t agreed = 0;
        std::uint64_t next = 0;
        // Where its superblocks end, as of the last commit that it recorded; 0: not known. If it comes back
        // larger that is where they are.
        std::uint64_t bytes = 0;
        bool operator==(const Slot&) const = default;
    };
    std::uint64_t sequence = 0;  // of the copies on this leg
    std::uint64_t events = 0;    // of the volume: grows by one with each commit of the table
    std::uint64_t commit = 0;    // identity of the commit, drawn at random
    std::uint64_t previous = 0;  // and of the one before it
    Uuid volume{};
    Uuid leg{};
    Geometry geometry;
    Layout layout;  // of this leg; with a map_offset of 0: where `place` puts it
    std::array<Slot, legs_max> slots{};

    int slot_of(const Uuid& uuid) const;  // -1: not in the table
};

// Whether a volume can have this shape at all.
bool is_possible(const Geometry& geometry);
// The largest volume that legs of this size can carry; data_bytes is 0 if there is none. `region_bytes` 0
// chooses.
Geometry choose_geometry(std::uint64_t leg_bytes, std::uint32_t region_bytes, std::uint32_t block_bytes,
                         bool checksums);
// Where things lie on a leg of this size; nothing if the volume does not fit.
std::optional<Layout> place(const Geometry& geometry, std::uint64_t leg_bytes);
// A leg that carries a volume, and where.
struct Carrier {
    std::uint64_t leg_bytes = 0;
    Geometry geometry;
    Layout layout;
};
// Where the records of a volume that grows can lie so that those in force stay whole; nothing if there is no
// room.
std::optional<Layout> place_beside(const Geometry& grown, const Carrier& leg);
// The largest volume that all of these legs, of one volume, can grow to; `now` if it is no larger.
Geometry choose_growth(const Geometry& now, std::span<const Carrier> legs);
// The records stay, the superblocks lie at the end of the device, which is another one; nothing if they would
// lie over the records, or over themselves.
std::optional<Layout> move_superblocks(const Carrier& leg, std::uint64_t new_bytes);
// The smallest leg that carries `data_bytes`.
std::uint64_t leg_bytes_for(std::uint64_t data_bytes, std::uint32_t region_bytes, std::uint32_t block_bytes,
                            bool checksums);

void encode(const Superblock& superblock, std::uint64_t leg_bytes,
            std::span<std::byte, superblock_bytes> out);
// Nothing unless every field is as this version can have written it on a leg of this size.
std::optional<Superblock> decode(std::span<const std::byte, superblock_bytes> in, std::uint64_t leg_bytes);
// Whether it begins like a superblock of any version, valid or not.
bool resembles_superblock(std::span<const std::byte, superblock_bytes> in);

// `entries`: the regions of the page, at most regions_per_page.
void encode_map_page(std::span<const std::uint16_t> entries, std::span<std::byte, map_page_bytes> out);
// Adds (or) what the page says to `entries`; a damaged sector sets every bit.
void merge_map_page(std::span<const std::byte, map_page_bytes> in, std::span<std::uint16_t> entries);

// Page `page` of the checksums as the leg `leg` carries it; `sums`: at most sums_per_page.
void encode_sums_page(const Uuid& leg, std::uint64_t page, std::span<const std::uint32_t> sums,
                      std::span<std::byte, map_page_bytes> out);
// False if a sector is not as it was written: its blocks then have no record.
bool decode_sums_page(const Uuid& leg, std::uint64_t page, std::span<const std::byte, map_page_bytes> in,
                      std::span<std::uint32_t> sums);

}  // namespace block::mirror
