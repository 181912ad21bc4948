// What legs carry is read back as written, and nothing else is believed; which legs may be served from.

#include "block/mirror/format.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <functional>
#include <random>
#include <vector>

#include "base/byte_order.h"
#include "base/crc32c.h"
#include "block/mirror/checksums.h"
#include "block/mirror/extent_lock.h"
#include "block/mirror/verdict.h"

namespace {

using namespace block::mirror;

using Page = std::array<std::byte, superblock_bytes>;
constexpr std::uint64_t leg_bytes = 8 << 20;

Uuid uuid_of(std::uint8_t value) {
    Uuid uuid{};
    uuid.fill(value);
    return uuid;
}

Superblock example() {
    Superblock superblock;
    superblock.sequence = 5;
    superblock.events = 10;
    superblock.commit = 100;
    superblock.previous = 99;
    superblock.volume = uuid_of(9);
    superblock.leg = uuid_of(1);
    superblock.geometry = choose_geometry(leg_bytes, 65536, 4096, false);
    superblock.slots[0] = {uuid_of(1), Role::up, 0, 0};
    superblock.slots[1] = {uuid_of(2), Role::up, 0, 0};
    return superblock;
}

Page encoded(const Superblock& superblock) {
    Page page{};
    encode(superblock, leg_bytes, page);
    return page;
}

// As somebody who knows the checksum would forge it.
void seal(Page& page) {
    std::memset(page.data() + 12, 0, 4);
    const base::le32 crc = base::crc32c(page);
    std::memcpy(page.data() + 12, &crc, 4);
}

TEST_CASE("a superblock is read back as it was written") {
    Superblock superblock = example();
    superblock.slots[1] = {uuid_of(2), Role::detached, 7, 77};
    const auto read = decode(encoded(superblock), leg_bytes);
    REQUIRE(read.has_value());
    CHECK(read->sequence == 5);
    CHECK(read->events == 10);
    CHECK(read->commit == 100);
    CHECK(read->previous == 99);
    CHECK(read->volume == uuid_of(9));
    CHECK(read->geometry == superblock.geometry);
    CHECK(read->slots == superblock.slots);
    CHECK(read->slot_of(uuid_of(2)) == 1);
    CHECK(read->slot_of(uuid_of(3)) == -1);
}

TEST_CASE("a torn or changed superblock is none") {
    const Page page = encoded(example());
    for (std::size_t at = 0; at < page.size(); at += at < 256 ? 1 : 61) {
        Page changed = page;
        changed[at] ^= std::byte{0x10};
        CHECK_FALSE(decode(changed, leg_bytes).has_value());
    }
    CHECK_FALSE(decode(page, leg_bytes + 4096).has_value());  // the leg had another size
    CHECK(resembles_superblock(page));
    CHECK_FALSE(resembles_superblock(Page{}));
}

TEST_CASE("a forged superblock is refused or harmless") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const Page page = encoded(example());
    std::size_t accepted = 0;
    for (int round = 0; round < 20'000; ++round) {
        Page forged = page;
        for (std::uint64_t changes = 1 + random() % 4; changes != 0; --changes) {
            const std::size_t at = 16 + random() % 620;
            forged[at] = random() % 3 == 0 ? std::byte{0xFF} : static_cast<std::byte>(random());
        }
        seal(forged);
        const auto read = decode(forged, leg_bytes);
        if (!read) {
            continue;
        }
        ++accepted;
        // Whatever was accepted can be used: it fits the leg.
        const auto layout = place(read->geometry, leg_bytes);
        REQUIRE(layout.has_value());
        CHECK(read->geometry.data_bytes <= layout->checksum_offset);
        CHECK(layout->superblock_offset + superblocks * superblock_bytes <= leg_bytes);
        CHECK(read->geometry.regions() <= regions_max);
        const Superblock* const found[] = {&*read};
        CHECK(judge_legs(found, std::nullopt).newest == 0);
    }
    CHECK(accepted > 0);
}

TEST_CASE("a volume is as large as its legs allow, and fits") {
    for (const std::uint64_t bytes : {std::uint64_t{20480}, std::uint64_t{1} << 20, std::uint64_t{1} << 30,
                                      (std::uint64_t{7} << 40) + 12345}) {
        for (const bool checksums : {false, true}) {
            for (const std::uint32_t block : {512u, 4096u}) {
                CAPTURE(bytes);
                const Geometry geometry = choose_geometry(bytes, 0, block, checksums);
                REQUIRE(geometry.data_bytes != 0);
                REQUIRE(place(geometry, bytes).has_value());
                CHECK(geometry.regions() <= regions_max);
                CHECK(bytes - geometry.data_bytes <= geometry.metadata_bytes() + bytes / 1000 + 8192);
            }
        }
    }
    CHECK(choose_geometry(8192, 0, 4096, false).data_bytes == 0);
    CHECK(choose_geometry(leg_bytes_for(4 << 20, 65536, 512, false), 65536, 512, false).data_bytes ==
          4 << 20);
}

TEST_CASE("the records of a grown volume lie behind its data and beside those of before") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 2000; ++round) {
        const bool checksums = random() % 2 == 0;
        const std::uint64_t first = (1 + random() % 200) << 20;
        Geometry geometry = choose_geometry(first, 65536, 4096, checksums);
        Carrier leg{first + (random() % 2 == 0 ? 8192 : 64 << 20), geometry, {}};
        leg.layout = *place(geometry, leg.leg_bytes);
        for (int times = 0; times < 4; ++times) {
            const std::uint64_t bytes = leg.leg_bytes + random() % (256 << 20);
            const auto moved = move_superblocks(leg, bytes);
            if (moved) {
                CHECK(moved->superblock_offset + 8192 == bytes / 4096 * 4096);
                leg.leg_bytes = bytes;
                leg.layout = *moved;
            }
            const Geometry grown = choose_growth(geometry, std::span(&leg, 1));
            if (grown == geometry) {
                continue;
            }
            REQUIRE(geometry.grows_to(grown));
            const auto layout = place_beside(grown, leg);
            REQUIRE(layout);
            const std::uint64_t end = layout->checksum_offset + grown.records_bytes();
            CHECK(layout->checksum_offset >= grown.data_bytes);
            CHECK(end <= layout->superblock_offset);
            CHECK(layout->map_offset == layout->checksum_offset + grown.checksum_bytes());
            CHECK((layout->checksum_offset >= leg.layout.checksum_offset + geometry.records_bytes() ||
                   end <= leg.layout.checksum_offset));
            Superblock superblock = example();
            superblock.geometry = grown;
            superblock.layout = *layout;
            Page page;
            encode(superblock, leg.leg_bytes, page);
            const auto read = decode(page, leg.leg_bytes);
            REQUIRE(read);
            CHECK(read->layout == *layout);
            CHECK(read->geometry == grown);
            geometry = grown;
            leg.geometry = grown;
            leg.layout = *layout;
        }
    }
}

TEST_CASE("a damaged sector of the map counts as different everywhere, and leaves the others") {
    std::vector<std::uint16_t> entries(regions_per_page);
    entries[3] = intent_bit;
    entries[300] = 2;
    Page page{};
    encode_map_page(entries, page);
    std::vector<std::uint16_t> read(regions_per_page);
    merge_map_page(page, read);
    CHECK(read == entries);
    page[700] ^= std::byte{1};
    std::fill(read.begin(), read.end(), std::uint16_t{0});
    merge_map_page(page, read);
    CHECK(read[3] == intent_bit);
    CHECK(read[253] == 0);
    CHECK(read[254] == (intent_bit | missing_bits));
    CHECK(read[507] == (intent_bit | missing_bits));
    CHECK(read[508] == 0);
}

TEST_CASE("checksums of another leg, another place or a damaged sector are none") {
    std::vector<std::uint32_t> sums(sums_per_page);
    for (std::uint32_t i = 0; i < sums.size(); ++i) {
        sums[i] = 1000 + i;
    }
    Page page{};
    encode_sums_page(uuid_of(1), 7, sums, page);
    std::vector<std::uint32_t> read(sums_per_page, 5);
    CHECK(decode_sums_page(uuid_of(1), 7, page, read));
    CHECK(read == sums);
    CHECK_FALSE(decode_sums_page(uuid_of(2), 7, page, read));
    CHECK(read == std::vector<std::uint32_t>(sums_per_page));
    CHECK_FALSE(decode_sums_page(uuid_of(1), 8, page, read));
    page[600] ^= std::byte{1};
    CHECK_FALSE(decode_sums_page(uuid_of(1), 7, page, read));
    CHECK(read[126] == 1126);
    CHECK(read[127] == 0);
    CHECK(read[253] == 0);
    CHECK(read[254] == 1254);
    CHECK_FALSE(decode_sums_page(uuid_of(1), 0, Page{}, read));
}

TEST_CASE("a checksum is believed where no leg says otherwise, and nothing is in doubt there") {
    constexpr std::uint64_t bytes = 8 << 20;
    Geometry geometry = choose_geometry(bytes, 65536, 4096, true);
    Checksums sums;
    sums.reset(geometry);
    REQUIRE(sums.enabled());
    CHECK_FALSE(sums.has(0, 4096));
    std::vector<std::byte> tables[2];
    const std::uint64_t pages = sums.pages_of_group(0);
    for (std::uint8_t leg = 0; leg < 2; ++leg) {
        tables[leg].resize(pages * map_page_bytes);
        std::vector<std::uint32_t> of_page(sums_per_page, 77);
        of_page[1] = leg == 0 ? 5 : 6;  // they do not agree
        of_page[2] = leg == 0 ? 8 : 0;  // one has no record
        of_page[3] = 0;                 // nobody has
        for (std::uint64_t page = 0; page < pages; ++page) {
            encode_sums_page(uuid_of(leg), page, of_page,
                             std::span(tables[leg]).subspan(page * map_page_bytes).first<map_page_bytes>());
        }
    }
    const Checksums::Copy copies[] = {{0, uuid_of(0), tables[0]}, {1, uuid_of(1), tables[1]}};
    sums.install(0, copies, [](std::uint64_t offset) { return offset == 4 * 4096; });
    CHECK(sums.has(0, 4096));
    CHECK(sums.fits_block(0, 77));
    CHECK_FALSE(sums.fits_block(0, 78));
    CHECK_FALSE(sums.known(1));
    CHECK(sums.recorded(1, 5));
    CHECK(sums.recorded(1, 6));
    CHECK_FALSE(sums.recorded(1, 77));
    CHECK(sums.fits_block(2, 8));
    CHECK_FALSE(sums.known(3));
    CHECK_FALSE(sums.known(4));
    CHECK_FALSE(sums.all_known(0, 8 * 4096));
    CHECK(sums.all_known(5 * 4096, 65536));
    // What was in doubt keeps each leg's own record until it is decided.
    Page page{};
    std::vector<std::uint32_t> read(sums_per_page);
    sums.encode(0, 1, uuid_of(1), page);
    CHECK(decode_sums_page(uuid_of(1), 0, page, read));
    CHECK(read[1] == 6);
    CHECK(read[2] == 8);
    sums.set(1, 9);
    CHECK(sums.fits_block(1, 9));
    sums.forget(0, 4096);
    CHECK_FALSE(sums.known(0));
    std::vector<std::uint64_t> dirty;
    sums.take_dirty(dirty);
    CHECK_FALSE(dirty.empty());
    CHECK_FALSE(sums.any_dirty());
    sums.set_zeroes(0, 8 * 4096);
    CHECK(sums.all_known(0, 65536));
    CHECK(sums.fits(0, std::vector<std::byte>(8 * 4096)));
}

TEST_CASE("a table that is damaged, lacks a record or cannot be read is written anew, a whole one is not") {
    const Geometry geometry = choose_geometry(std::uint64_t{1} << 20, 65536, 4096, true);
    const auto dirty_after = [&](const std::function<void(std::vector<std::byte> & table)>& harm) {
        Checksums sums;
        sums.reset(geometry);
        REQUIRE(sums.pages() == 1);
        std::vector<std::byte> tables[2];
        for (std::uint8_t leg = 0; leg < 2; ++leg) {
            tables[leg].resize(map_page_bytes);
            const std::vector<std::uint32_t> of_page(geometry.data_bytes / geometry.block_bytes, 77);
            encode_sums_page(uuid_of(leg), 0, of_page, std::span(tables[leg]).first<map_page_bytes>());
        }
        harm(tables[1]);
        const Checksums::Copy copies[] = {{0, uuid_of(0), tables[0]}, {1, uuid_of(1), tables[1]}};
        sums.install(0, copies, [](std::uint64_t) { return false; });
        CHECK(sums.fits_block(3, 77));
        return sums.dirty_pages();
    };
    CHECK(dirty_after([](std::vector<std::byte>&) {}) == 0);
    CHECK(dirty_after([](std::vector<std::byte>& table) { table[20] ^= std::byte{1}; }) == 1);
    CHECK(dirty_after([](std::vector<std::byte>& table) { table.clear(); }) == 1);
    CHECK(dirty_after([&](std::vector<std::byte>& table) {
              std::vector<std::uint32_t> lacking(geometry.data_bytes / geometry.block_bytes, 77);
              lacking[3] = 0;
              encode_sums_page(uuid_of(1), 0, lacking, std::span(table).first<map_page_bytes>());
          }) == 1);
}

TEST_CASE("the newest superblock counts, and is believed when all that it calls up are here") {
    Superblock a = example();
    Superblock b = example();
    b.leg = uuid_of(2);
    {
        const Superblock* const both[] = {&a, &b};
        const Judgement judgement = judge_legs(both, std::nullopt);
        CHECK(judgement.proven);
        CHECK(judgement.verdicts[0] == Verdict::up);
        CHECK(judgement.verdicts[1] == Verdict::up);
        const Superblock* const alone[] = {&a, nullptr};
        CHECK_FALSE(judge_legs(alone, std::nullopt).proven);
        CHECK(judge_legs(alone, std::nullopt).missing_slot == 1);
        CHECK(judge_legs(alone, std::nullopt, 2).proven);  // somebody said to go on without it
        Witness witness{10, a.slots};
        CHECK(judge_legs(alone, witness).proven);
    }
    // b was recorded as stale: a needs nobody, b cannot be served from.
    a.events = 11;
    a.commit = 101;
    a.previous = 100;
    a.slots[1] = {uuid_of(2), Role::stale, 10, 0};
    const Superblock* const both[] = {&a, &b};
    const Judgement judgement = judge_legs(both, std::nullopt);
    CHECK(judgement.newest == 0);
    CHECK(judgement.proven);
    CHECK_FALSE(judgement.diverged);
    CHECK(judgement.verdicts[1] == Verdict::stale);
    // b went on without a.
    b.events = 11;
    b.commit = 500;
    b.slots[0] = {uuid_of(1), Role::stale, 10, 0};
    CHECK(judge_legs(both, std::nullopt).diverged);
    // An old image of a leg that is up.
    a = example();
    b = example();
    b.leg = uuid_of(2);
    b.events = 4;
    b.commit = 40;
    CHECK(judge_legs(both, std::nullopt).verdicts[1] == Verdict::old);
}

TEST_CASE("ranges are held alone, in the order of arrival") {
    ExtentLock lock;
    static std::vector<int> order;
    order.clear();
    struct Hold : ExtentHold {
        int number = 0;
    };
    Hold holds[4];
    for (int i = 0; i < 4; ++i) {
        holds[i].number = i;
        holds[i].granted = [](ExtentHold& hold) { order.push_back(static_cast<Hold&>(hold).number); };
    }
    CHECK(lock.acquire(holds[0], 0, 100));
    CHECK_FALSE(lock.acquire(holds[1], 50, 100));
    CHECK_FALSE(lock.acquire(holds[2], 120, 10));  // behind the one that waits
    CHECK(lock.acquire(holds[3], 200, 10));
    lock.release(holds[0]);
    CHECK(order == std::vector<int>{1});
    lock.release(holds[1]);
    CHECK(order == std::vector<int>{1, 2});
    lock.release(holds[2]);
    lock.release(holds[3]);
    CHECK(lock.idle());
}

}  // namespace
