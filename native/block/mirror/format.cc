#include "block/mirror/format.h"

#include <algorithm>
#include <bit>
#include <cstring>

#include "base/byte_order.h"
#include "base/crc32c.h"

namespace block::mirror {

namespace {

constexpr char magic[8] = {'K', 'E', 'E', 'L', 'M', 'I', 'R', '1'};
constexpr std::uint32_t version = 1;
constexpr std::uint32_t flag_checksums = 1;
constexpr std::uint32_t flag_moved = 2;  // the records lie where it says, not right before the superblocks
constexpr std::uint64_t alignment = 4096;
// A region is as small as this many of them allow.
constexpr std::uint32_t regions_wanted = 1u << 15;
constexpr std::uint32_t region_bytes_chosen_min = 256u << 10;

struct DiskSlot {
    std::uint8_t leg[16];
    std::uint8_t role;
    std::uint8_t reserved[7];
    base::le64 bytes;
    base::le64 agreed;
    base::le64 next;
};

struct DiskSuperblock {
    char magic[8];
    base::le32 version;
    base::le32 crc;  // of all 4096 bytes, with this field zero
    base::le64 sequence;
    base::le64 events;
    std::uint8_t volume[16];
    std::uint8_t leg[16];
    base::le64 leg_bytes;
    base::le64 data_bytes;
    base::le32 region_bytes;
    base::le32 block_bytes;
    base::le32 flags;
    base::le32 reserved0;
    base::le64 map_offset;
    base::le64 checksum_offset;
    base::le64 commit;
    base::le64 previous;
    std::uint8_t reserved1[128];
    DiskSlot slots[legs_max];
    std::uint8_t reserved2[3456];
};
static_assert(sizeof(DiskSlot) == 48 && sizeof(DiskSuperblock) == superblock_bytes);

bool is_zero(const Uuid& uuid) { return uuid == Uuid{}; }

std::uint32_t crc_of(const DiskSuperblock& disk) {
    DiskSuperblock copy = disk;
    copy.crc = 0;
    return base::crc32c(std::as_bytes(std::span(&copy, 1)));
}

constexpr std::uint64_t superblocks_bytes = std::uint64_t{superblocks} * superblock_bytes;

Layout records_ending_at(const Geometry& geometry, std::uint64_t end, std::uint64_t superblock_offset) {
    Layout layout;
    layout.superblock_offset = superblock_offset;
    layout.map_offset = end - std::uint64_t{geometry.map_pages()} * map_page_bytes;
    layout.checksum_offset = layout.map_offset - geometry.checksum_bytes();
    return layout;
}

// What a superblock says of the records: behind the data, before the superblocks.
bool is_possible(const Geometry& geometry, const Layout& layout) {
    const std::uint64_t begin = layout.checksum_offset;
    const std::uint64_t end = layout.superblock_offset;
    return begin % alignment == 0 && begin >= geometry.data_bytes && begin <= end &&
           geometry.records_bytes() <= end - begin && layout.map_offset == begin + geometry.checksum_bytes();
}

// Where the records begin that are placed for `grown`; nothing if they do not fit at all.
std::optional<std::uint64_t> begin_beside(const Geometry& grown, const Carrier& leg) {
    const std::uint64_t end = leg.leg_bytes / alignment * alignment;
    const std::uint64_t need = grown.records_bytes();
    if (end < superblocks_bytes) {
        return std::nullopt;
    }
    const std::uint64_t top = end - superblocks_bytes;
    std::uint64_t in_force = leg.layout.checksum_offset + leg.geometry.records_bytes();
    if (leg.layout.superblock_offset + superblocks_bytes <= top) {
        in_force = leg.layout.superblock_offset + superblocks_bytes;
    }
    if (in_force <= top && need <= top - in_force) {
        return top - need;
    }
    return need <= leg.layout.checksum_offset ? std::optional(leg.layout.checksum_offset - need)
                                              : std::nullopt;
}

std::uint32_t crc_of_sums(const Uuid& leg, std::uint64_t sector, std::span<const std::byte> sums) {
    const base::le64 number = sector;
    std::uint32_t state = base::crc32c_update(base::crc32c_seed, std::as_bytes(std::span(leg)));
    state = base::crc32c_update(state, std::as_bytes(std::span(&number, 1)));
    return base::crc32c_finish(base::crc32c_update(state, sums));
}

}  // namespace

std::uint64_t Geometry::checksum_pages() const {
    return checksums ? (data_bytes / block_bytes + sums_per_page - 1) / sums_per_page : 0;
}

std::uint64_t Geometry::metadata_bytes() const {
    return checksum_bytes() + std::uint64_t{map_pages()} * map_page_bytes + superblocks * superblock_bytes;
}

int Superblock::slot_of(const Uuid& uuid) const {
    for (std::size_t i = 0; i < slots.size(); ++i) {
        if (slots[i].role != Role::none && slots[i].leg == uuid) {
            return static_cast<int>(i);
        }
    }
    return -1;
}

bool is_possible(const Geometry& geometry) {
    return (geometry.block_bytes == 512 || geometry.block_bytes == 4096) &&
           std::has_single_bit(geometry.region_bytes) && geometry.region_bytes >= region_bytes_min &&
           geometry.region_bytes <= region_bytes_max && geometry.data_bytes != 0 &&
           geometry.data_bytes % alignment == 0 &&
           geometry.data_bytes <= std::uint64_t{regions_max} * geometry.region_bytes;
}

std::optional<Layout> place(const Geometry& geometry, std::uint64_t leg_bytes) {
    if (!is_possible(geometry)) {
        return std::nullopt;
    }
    const std::uint64_t end = leg_bytes / alignment * alignment;
    if (geometry.metadata_bytes() > end || geometry.data_bytes > end - geometry.metadata_bytes()) {
        return std::nullopt;
    }
    return records_ending_at(geometry, end - superblocks_bytes, end - superblocks_bytes);
}

std::optional<Layout> place_beside(const Geometry& grown, const Carrier& leg) {
    const auto begin = is_possible(grown) ? begin_beside(grown, leg) : std::nullopt;
    if (!begin || *begin < grown.data_bytes) {
        return std::nullopt;
    }
    const std::uint64_t end = leg.leg_bytes / alignment * alignment;
    return records_ending_at(grown, *begin + grown.records_bytes(), end - superblocks_bytes);
}

Geometry choose_growth(const Geometry& now, std::span<const Carrier> legs) {
    Geometry grown = now;
    grown.data_bytes = std::uint64_t{regions_max} * now.region_bytes;
    for (const Carrier& leg : legs) {
        grown.data_bytes = std::min(grown.data_bytes, leg.leg_bytes / alignment * alignment);
    }
    // The records of a smaller volume are smaller: a few rounds find the largest that fits.
    while (grown.data_bytes > now.data_bytes) {
        std::uint64_t over = 0;
        for (const Carrier& leg : legs) {
            const std::uint64_t begin = begin_beside(grown, leg).value_or(0);
            over = std::max(over, grown.data_bytes - std::min(grown.data_bytes, begin));
        }
        if (over == 0) {
            return grown;
        }
        const std::uint64_t less = std::max(over / 2, alignment) / alignment * alignment;
        grown.data_bytes -= std::min(grown.data_bytes, less);
    }
    return now;
}

std::optional<Layout> move_superblocks(const Carrier& leg, std::uint64_t new_bytes) {
    const std::uint64_t end = new_bytes / alignment * alignment;
    const std::uint64_t records_end = leg.layout.checksum_offset + leg.geometry.records_bytes();
    if (end < superblocks_bytes || end - superblocks_bytes < records_end) {
        return std::nullopt;
    }
    Layout moved = leg.layout;
    moved.superblock_offset = end - superblocks_bytes;
    const bool over_themselves = moved.superblock_offset > leg.layout.superblock_offset &&
                                 moved.superblock_offset < leg.layout.superblock_offset + superblocks_bytes;
    return over_themselves ? std::nullopt : std::optional(moved);
}

Geometry choose_geometry(std::uint64_t leg_bytes, std::uint32_t region_bytes, std::uint32_t block_bytes,
                         bool checksums) {
    Geometry geometry{leg_bytes / alignment * alignment, region_bytes, block_bytes, checksums};
    if (region_bytes == 0) {
        geometry.region_bytes = region_bytes_chosen_min;
        while (geometry.region_bytes < region_bytes_max &&
               geometry.data_bytes / geometry.region_bytes >= regions_wanted) {
            geometry.region_bytes *= 2;
        }
    }
    geometry.data_bytes = std::min(geometry.data_bytes, std::uint64_t{regions_max} * geometry.region_bytes);
    // The metadata of a smaller volume is smaller: a few rounds find the largest that fits.
    const std::uint64_t end = leg_bytes / alignment * alignment;
    while (is_possible(geometry) && !place(geometry, leg_bytes)) {
        const std::uint64_t over = geometry.data_bytes + geometry.metadata_bytes() - end;
        const std::uint64_t metadata_left = std::max(over / 2, alignment) / alignment * alignment;
        geometry.data_bytes -= std::min(geometry.data_bytes, metadata_left);
    }
    if (!is_possible(geometry)) {
        geometry.data_bytes = 0;
    }
    return geometry;
}

std::uint64_t leg_bytes_for(std::uint64_t data_bytes, std::uint32_t region_bytes, std::uint32_t block_bytes,
                            bool checksums) {
    Geometry geometry{data_bytes, region_bytes, block_bytes, checksums};
    if (region_bytes == 0) {
        geometry.region_bytes = choose_geometry(data_bytes, 0, block_bytes, checksums).region_bytes;
    }
    return data_bytes + geometry.metadata_bytes();
}

void encode(const Superblock& superblock, std::uint64_t leg_bytes,
            std::span<std::byte, superblock_bytes> out) {
    DiskSuperblock disk{};
    const Layout placed = place(superblock.geometry, leg_bytes).value_or(Layout{});
    const Layout& layout = superblock.layout.map_offset != 0 ? superblock.layout : placed;
    std::memcpy(disk.magic, magic, sizeof(magic));
    disk.version = version;
    disk.sequence = superblock.sequence;
    disk.events = superblock.events;
    std::memcpy(disk.volume, superblock.volume.data(), sizeof(disk.volume));
    std::memcpy(disk.leg, superblock.leg.data(), sizeof(disk.leg));
    disk.leg_bytes = leg_bytes / alignment * alignment;
    disk.data_bytes = superblock.geometry.data_bytes;
    disk.region_bytes = superblock.geometry.region_bytes;
    disk.block_bytes = superblock.geometry.block_bytes;
    disk.flags = (superblock.geometry.checksums ? flag_checksums : 0) | (layout == placed ? 0 : flag_moved);
    disk.commit = superblock.commit;
    disk.previous = superblock.previous;
    disk.map_offset = layout.map_offset;
    disk.checksum_offset = layout.checksum_offset;
    for (std::size_t i = 0; i < legs_max; ++i) {
        std::memcpy(disk.slots[i].leg, superblock.slots[i].leg.data(), sizeof(disk.slots[i].leg));
        disk.slots[i].role = static_cast<std::uint8_t>(superblock.slots[i].role);
        disk.slots[i].agreed = superblock.slots[i].agreed;
        disk.slots[i].next = superblock.slots[i].next;
        disk.slots[i].bytes = superblock.slots[i].bytes;
    }
    disk.crc = crc_of(disk);
    std::memcpy(out.data(), &disk, sizeof(disk));
}

bool resembles_superblock(std::span<const std::byte, superblock_bytes> in) {
    return std::memcmp(in.data(), magic, sizeof(magic)) == 0;
}

std::optional<Superblock> decode(std::span<const std::byte, superblock_bytes> in, std::uint64_t leg_bytes) {
    DiskSuperblock disk;
    std::memcpy(&disk, in.data(), sizeof(disk));
    if (!resembles_superblock(in) || disk.version.value() != version || disk.crc.value() != crc_of(disk) ||
        (disk.flags.value() & ~(flag_checksums | flag_moved)) != 0) {
        return std::nullopt;
    }
    Superblock superblock;
    superblock.sequence = disk.sequence;
    superblock.events = disk.events;
    superblock.commit = disk.commit;
    superblock.previous = disk.previous;
    std::memcpy(superblock.volume.data(), disk.volume, sizeof(disk.volume));
    std::memcpy(superblock.leg.data(), disk.leg, sizeof(disk.leg));
    superblock.geometry = {disk.data_bytes, disk.region_bytes, disk.block_bytes,
                           (disk.flags & flag_checksums) != 0};
    const std::optional<Layout> placed = place(superblock.geometry, leg_bytes);
    if (!placed || disk.leg_bytes.value() != leg_bytes / alignment * alignment) {
        return std::nullopt;
    }
    superblock.layout = {disk.checksum_offset, disk.map_offset, placed->superblock_offset};
    const bool moved = (disk.flags & flag_moved) != 0;
    if (moved ? !is_possible(superblock.geometry, superblock.layout) : superblock.layout != *placed) {
        return std::nullopt;
    }
    // Counters that only grow: one at its end was never written by us.
    constexpr std::uint64_t counter_max = std::uint64_t{1} << 62;
    if (superblock.sequence > counter_max || superblock.events > counter_max || is_zero(superblock.leg)) {
        return std::nullopt;
    }
    for (std::size_t i = 0; i < legs_max; ++i) {
        if (disk.slots[i].role > static_cast<std::uint8_t>(Role::detached)) {
            return std::nullopt;
        }
        Superblock::Slot& slot = superblock.slots[i];
        slot.role = static_cast<Role>(disk.slots[i].role);
        std::memcpy(slot.leg.data(), disk.slots[i].leg, slot.leg.size());
        slot.agreed = disk.slots[i].agreed;
        slot.next = disk.slots[i].next;
        slot.bytes = disk.slots[i].bytes;
        if (slot.role == Role::none) {
            slot = {};
            continue;
        }
        if (is_zero(slot.leg)) {
            return std::nullopt;
        }
        for (std::size_t other = 0; other < i; ++other) {
            if (superblock.slots[other].role != Role::none && superblock.slots[other].leg == slot.leg) {
                return std::nullopt;
            }
        }
    }
    return superblock.slot_of(superblock.leg) >= 0 ? std::optional(superblock) : std::nullopt;
}

void encode_map_page(std::span<const std::uint16_t> entries, std::span<std::byte, map_page_bytes> out) {
    std::memset(out.data(), 0, out.size());
    for (std::size_t first = 0; first < regions_per_page; first += regions_per_sector) {
        std::byte* const sector = out.data() + first / regions_per_sector * map_sector_bytes;
        for (std::size_t i = 0; i < regions_per_sector && first + i < entries.size(); ++i) {
            const base::le16 entry = entries[first + i];
            std::memcpy(sector + 4 + 2 * i, &entry, 2);
        }
        const base::le32 crc = base::crc32c({sector + 4, map_sector_bytes - 4});
        std::memcpy(sector, &crc, 4);
    }
}

void merge_map_page(std::span<const std::byte, map_page_bytes> in, std::span<std::uint16_t> entries) {
    for (std::size_t i = 0; i < entries.size(); ++i) {
        const std::byte* const sector = in.data() + i / regions_per_sector * map_sector_bytes;
        if (i % regions_per_sector == 0) {
            base::le32 crc;
            std::memcpy(&crc, sector, 4);
            if (crc.value() != base::crc32c({sector + 4, map_sector_bytes - 4})) {
                const std::size_t end = std::min<std::size_t>(i + regions_per_sector, entries.size());
                for (; i < end; ++i) {
                    entries[i] = intent_bit | missing_bits;
                }
                --i;
                continue;
            }
        }
        base::le16 entry;
        std::memcpy(&entry, sector + 4 + 2 * (i % regions_per_sector), 2);
        entries[i] = static_cast<std::uint16_t>(entries[i] | (entry & (intent_bit | missing_bits)));
    }
}

void encode_sums_page(const Uuid& leg, std::uint64_t page, std::span<const std::uint32_t> sums,
                      std::span<std::byte, map_page_bytes> out) {
    std::memset(out.data(), 0, out.size());
    for (std::size_t i = 0; i < sums.size(); ++i) {
        const base::le32 sum = sums[i];
        std::memcpy(out.data() + i / sums_per_sector * map_sector_bytes + 4 + i % sums_per_sector * 4, &sum,
                    4);
    }
    constexpr std::size_t sectors = map_page_bytes / map_sector_bytes;
    for (std::size_t i = 0; i < sectors; ++i) {
        std::byte* const sector = out.data() + i * map_sector_bytes;
        const base::le32 crc = crc_of_sums(leg, page * sectors + i, {sector + 4, map_sector_bytes - 4});
        std::memcpy(sector, &crc, 4);
    }
}

bool decode_sums_page(const Uuid& leg, std::uint64_t page, std::span<const std::byte, map_page_bytes> in,
                      std::span<std::uint32_t> sums) {
    constexpr std::size_t sectors = map_page_bytes / map_sector_bytes;
    bool whole = true;
    for (std::size_t first = 0; first < sums.size(); first += sums_per_sector) {
        const std::size_t number = first / sums_per_sector;
        const std::byte* const sector = in.data() + number * map_sector_bytes;
        base::le32 crc;
        std::memcpy(&crc, sector, 4);
        const bool ours =
            crc.value() == crc_of_sums(leg, page * sectors + number, {sector + 4, map_sector_bytes - 4});
        for (std::size_t i = 0; i < sums_per_sector && first + i < sums.size(); ++i) {
            base::le32 sum;
            std::memcpy(&sum, sector + 4 + i * 4, 4);
            sums[first + i] = ours ? sum.value() : 0;
        }
        whole = whole && ours;
    }
    return whole;
}

}  // namespace block::mirror
