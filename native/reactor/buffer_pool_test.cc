#include "reactor/buffer_pool.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <deque>
#include <map>
#include <memory>
#include <random>

#include "base/check.h"

namespace {

using reactor::BufferPool;
using reactor::BufferWaiter;

constexpr std::uint64_t page = limits::page_bytes;

// The pool never touches the memory it hands out, so a span of addresses is enough.
std::span<std::byte> addresses(std::uint64_t pages) {
    return {reinterpret_cast<std::byte*>(std::uintptr_t{1} << 40), static_cast<std::size_t>(pages * page)};
}

std::uint64_t rounded(std::uint32_t bytes) { return std::max<std::uint64_t>(page, std::bit_ceil(bytes)); }

// What the pool should be: a map of the buffers that are out.
struct Model {
    std::uint64_t total;
    std::map<std::uint64_t, std::uint32_t> used;  // offset → bytes asked for

    bool free(std::uint64_t offset, std::uint64_t size) const {
        if (offset > total || size > total - offset) {
            return false;
        }
        return std::none_of(used.begin(), used.end(), [&](const auto& entry) {
            return entry.first < offset + size && offset < entry.first + rounded(entry.second);
        });
    }
    bool fits(std::uint64_t size) const {
        for (std::uint64_t offset = 0; offset + size <= total; offset += size) {
            if (free(offset, size)) {
                return true;
            }
        }
        return false;
    }
    std::uint64_t bytes_in_use() const {
        std::uint64_t sum = 0;
        for (const auto& entry : used) {
            sum += rounded(entry.second);
        }
        return sum;
    }
};

TEST_CASE("random allocations agree with a model, refuse only what cannot fit, and never overlap") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (const std::uint64_t pages : {1ull, 7ull, 256ull, 777ull, 2048ull}) {
        BufferPool pool(addresses(pages));
        Model model{pages * page, {}};
        for (int step = 0; step < 4000; ++step) {
            const auto bytes = static_cast<std::uint32_t>(1 + random() % (page << (random() % 9)));
            switch (random() % 4) {
                case 0:
                case 1: {
                    const auto offset = pool.allocate(bytes);
                    REQUIRE(offset.has_value() == model.fits(rounded(bytes)));
                    if (offset) {
                        REQUIRE(*offset % rounded(bytes) == 0);
                        REQUIRE(model.free(*offset, rounded(bytes)));
                        model.used[*offset] = bytes;
                    }
                    break;
                }
                case 2: {
                    const std::uint64_t offset =
                        random() % (pages + 2) * page + (random() % 16 == 0 ? 512 : 0);
                    const bool possible = offset % rounded(bytes) == 0 && model.free(offset, rounded(bytes));
                    if (random() % 4 == 0) {
                        REQUIRE(pool.reserve(offset, bytes) == possible);
                        if (possible) {
                            model.used[offset] = bytes;
                        }
                    }
                    break;
                }
                default:
                    if (!model.used.empty()) {
                        auto entry = model.used.begin();
                        std::advance(entry, static_cast<long>(random() % model.used.size()));
                        pool.release(entry->first, entry->second);
                        model.used.erase(entry);
                    }
            }
            REQUIRE(pool.bytes_in_use() == model.bytes_in_use());
        }
        for (const auto& entry : model.used) {
            pool.release(entry.first, entry.second);
        }
        CHECK(pool.bytes_in_use() == 0);
        // All of it can be had again in the largest pieces.
        const std::uint64_t largest = limits::data_block_bytes_max;
        for (std::uint64_t i = 0; i < pages * page / largest; ++i) {
            CHECK(pool.allocate(limits::data_block_bytes_max).has_value());
        }
    }
}

TEST_CASE("what was released last is given out first") {
    BufferPool pool(addresses(1024));
    const auto a = pool.allocate(4096);
    const auto b = pool.allocate(4096);
    REQUIRE(a.has_value());
    REQUIRE(b.has_value());
    CHECK(*a == 0);
    CHECK(*b == page);
    pool.release(*a, 4096);
    pool.release(*b, 4096);
    CHECK(pool.allocate(4096) == b);
    CHECK(pool.allocate(4096) == a);
}

TEST_CASE("reserve refuses what is no buffer or already taken") {
    BufferPool pool(addresses(512));
    CHECK_FALSE(pool.reserve(0, 0));
    CHECK_FALSE(pool.reserve(0, limits::data_block_bytes_max + 1));
    CHECK_FALSE(pool.reserve(512, 512));
    CHECK_FALSE(pool.reserve(page, 8192));
    CHECK_FALSE(pool.reserve(512 * page, 4096));
    CHECK_FALSE(pool.reserve(~std::uint64_t{0} - 4095, 4096));
    CHECK(pool.reserve(8 * page, 5 * 4096));
    CHECK_FALSE(pool.reserve(8 * page, 4096));
    CHECK_FALSE(pool.reserve(15 * page, 4096));
    CHECK_FALSE(pool.reserve(0, 16 * 4096));
    CHECK(pool.reserve(16 * page, 4096));
    pool.release(8 * page, 5 * 4096);
    CHECK(pool.reserve(12 * page, 4 * 4096));
}

struct Waiter final : BufferWaiter {
    Waiter(BufferPool& pool_, std::uint32_t bytes_, std::vector<Waiter*>& served_)
        : pool(pool_), bytes(bytes_), served(served_) {}
    void buffer_available() override {
        ++asked;
        offset = pool.allocate(bytes);
        if (offset) {
            served.push_back(this);
        } else if (patient) {
            pool.wait(*this);
        }
    }
    BufferPool& pool;
    std::uint32_t bytes;
    std::vector<Waiter*>& served;
    std::optional<std::uint64_t> offset;
    bool patient = true;
    int asked = 0;
};

TEST_CASE("who waits for memory is served in order and overtaken by nobody") {
    BufferPool pool(addresses(4));
    std::vector<std::uint64_t> held;
    for (int i = 0; i < 4; ++i) {
        held.push_back(pool.allocate(4096).value());
    }
    std::vector<Waiter*> served;
    Waiter big(pool, 8192, served);
    Waiter small(pool, 4096, served);
    pool.wait(big);
    pool.wait(small);
    CHECK(pool.has_waiters());
    pool.release(held[0], 4096);
    CHECK_FALSE(pool.allocate(4096).has_value());
    pool.serve_waiters();
    CHECK(served.empty());
    CHECK(big.asked == 1);
    pool.serve_waiters();
    CHECK(big.asked == 1);  // nothing came back since
    pool.release(held[1], 4096);
    pool.release(held[2], 4096);
    pool.serve_waiters();
    CHECK(served == std::vector<Waiter*>{&big, &small});
    CHECK_FALSE(pool.has_waiters());
}

TEST_CASE("a waiter that leaves, or gives up when asked, lets the next one have its turn") {
    BufferPool pool(addresses(4));
    std::vector<std::uint64_t> held;
    for (int i = 0; i < 4; ++i) {
        held.push_back(pool.allocate(4096).value());
    }
    std::vector<Waiter*> served;
    Waiter leaves(pool, 16384, served);
    Waiter gives_up(pool, 16384, served);
    Waiter small(pool, 4096, served);
    gives_up.patient = false;
    pool.wait(leaves);
    pool.wait(gives_up);
    pool.wait(small);
    pool.release(held[0], 4096);
    pool.serve_waiters();
    CHECK(leaves.asked == 1);
    CHECK(gives_up.asked == 0);
    pool.stop_waiting(leaves);
    pool.serve_waiters();
    CHECK(gives_up.asked == 1);
    CHECK(served == std::vector<Waiter*>{&small});
}

TEST_CASE("random waiters, releases and departures: all who stay are served in the order of coming") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    BufferPool pool(addresses(512));
    std::vector<Waiter*> served;
    std::deque<std::unique_ptr<Waiter>> waiters;
    std::vector<Waiter*> line;
    std::vector<Waiter*> holders;
    for (int step = 0; step < 20'000; ++step) {
        const auto choice = random() % 8;
        if (choice < 4) {
            const auto bytes = static_cast<std::uint32_t>(1 + random() % (page << (random() % 9)));
            waiters.push_back(std::make_unique<Waiter>(pool, bytes, served));
            Waiter& waiter = *waiters.back();
            waiter.offset = pool.allocate(bytes);
            if (waiter.offset) {
                REQUIRE(line.empty());
                holders.push_back(&waiter);
            } else {
                pool.wait(waiter);
                line.push_back(&waiter);
            }
        } else if (choice == 4 && !line.empty()) {
            const auto at = static_cast<long>(random() % line.size());
            pool.stop_waiting(*line[static_cast<std::size_t>(at)]);
            line.erase(line.begin() + at);
        } else if (!holders.empty()) {
            const auto at = static_cast<long>(random() % holders.size());
            Waiter& holder = *holders[static_cast<std::size_t>(at)];
            pool.release(*holder.offset, holder.bytes);
            holders.erase(holders.begin() + at);
        }
        served.clear();
        pool.serve_waiters();
        REQUIRE(served.size() <= line.size());
        for (std::size_t i = 0; i < served.size(); ++i) {
            REQUIRE(served[i] == line[i]);
        }
        holders.insert(holders.end(), served.begin(), served.end());
        line.erase(line.begin(), line.begin() + static_cast<long>(served.size()));
        REQUIRE(pool.has_waiters() == !line.empty());
    }
    for (Waiter* waiter : line) {
        pool.stop_waiting(*waiter);
    }
}

}  // namespace
