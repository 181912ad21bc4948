// Shares of the data buffers: a bound for each, waiting in order, and no share ever holds up another.

#include "reactor/buffer_share.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <random>
#include <vector>

namespace {

constexpr std::uint32_t page = limits::page_bytes;
constexpr std::uint32_t whole = limits::data_block_bytes_max;

// Memory that nobody touches.
std::span<std::byte> addresses(std::uint64_t bytes) {
    return {reinterpret_cast<std::byte*>(std::uintptr_t{1} << 32), static_cast<std::size_t>(bytes)};
}

// Wants one buffer, as a stalled connection does.
struct Wanting final : reactor::BufferWaiter {
    Wanting(reactor::BufferShare& s, std::uint32_t b) : share(s), bytes(b) {}
    ~Wanting() { share.stop_waiting(*this); }
    bool ask() {
        offset = share.allocate(bytes);
        if (!offset) {
            share.wait(*this);
        }
        return offset.has_value();
    }
    void buffer_available() override {
        if (ask() && served) {
            served(*this);
        }
    }
    void give_back() {
        share.release(*offset, bytes);
        offset.reset();
    }
    reactor::BufferShare& share;
    std::uint32_t bytes;
    std::optional<std::uint64_t> offset;
    std::function<void(Wanting&)> served;
};

void serve(reactor::BufferPool& pool) {
    for (int round = 0; round < 64; ++round) {
        pool.serve_waiters();
    }
}

}  // namespace

TEST_CASE("a share at its bound waits, and leaves the rest of the pool to others") {
    reactor::BufferPool pool(addresses(4 * whole));
    reactor::BufferShare greedy(pool, 2 * whole);
    reactor::BufferShare modest(pool, 2 * whole);
    Wanting first(greedy, whole);
    Wanting second(greedy, whole);
    Wanting third(greedy, whole);
    Wanting fourth(greedy, page);
    CHECK(first.ask());
    CHECK(second.ask());
    CHECK(!third.ask());
    CHECK(!fourth.ask());  // behind the third
    serve(pool);
    CHECK(!third.offset);
    CHECK(greedy.bytes_held() == 2 * whole);

    Wanting other(modest, whole);
    CHECK(other.ask());  // not held up by those who wait in the other share
    other.give_back();

    first.give_back();
    serve(pool);
    CHECK(third.offset.has_value());
    CHECK(!fourth.offset);
    second.give_back();
    serve(pool);
    CHECK(fourth.offset.has_value());
    CHECK(greedy.bytes_held() == whole + page);
    third.give_back();
    fourth.give_back();
    CHECK(greedy.bytes_held() == 0);
    CHECK(pool.bytes_in_use() == 0);
}

TEST_CASE("what comes back at once serves as many of a share as it has room for") {
    reactor::BufferPool pool(addresses(4 * whole));
    reactor::BufferShare share(pool, whole);
    Wanting large(share, whole);
    CHECK(large.ask());
    std::deque<Wanting> small;
    for (std::uint32_t i = 0; i < whole / page + 5; ++i) {
        CHECK(!small.emplace_back(share, page).ask());
    }
    large.give_back();
    for (int round = 0; round < 600; ++round) {
        pool.serve_waiters();
    }
    CHECK(share.bytes_held() == whole);
    for (std::uint32_t i = 0; i < small.size(); ++i) {
        CHECK(small[i].offset.has_value() == (i < whole / page));
    }
    for (Wanting& one : small) {
        if (one.offset) {
            one.give_back();
        }
        serve(pool);
    }
    CHECK(share.bytes_held() == 0);
}

TEST_CASE("one of a share that is asked and takes nothing passes its turn on") {
    reactor::BufferPool pool(addresses(4 * whole));
    reactor::BufferShare share(pool, whole);
    Wanting holder(share, whole);
    CHECK(holder.ask());
    struct Leaving final : reactor::BufferWaiter {
        void buffer_available() override { ++asked; }
        int asked = 0;
    };
    Leaving leaving[3];
    for (Leaving& one : leaving) {
        CHECK(!share.allocate(page));
        share.wait(one);
    }
    Wanting last(share, whole);
    CHECK(!last.ask());
    holder.give_back();  // the only one who will give anything back
    serve(pool);
    for (const Leaving& one : leaving) {
        CHECK(one.asked == 1);
    }
    CHECK(last.offset.has_value());
    last.give_back();
}

TEST_CASE("one of a share that leaves lets a smaller one behind it have what there is") {
    reactor::BufferPool pool(addresses(4 * whole));
    reactor::BufferShare share(pool, whole);
    Wanting holder(share, page);
    CHECK(holder.ask());
    Wanting small(share, page);
    {
        Wanting large(share, whole);
        CHECK(!large.ask());
        CHECK(!small.ask());  // behind the large one
    }
    serve(pool);
    CHECK(small.offset.has_value());
    small.give_back();
    holder.give_back();
}

TEST_CASE("random shares, sizes, releases and departures: nobody is forgotten, no bound is passed") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    reactor::BufferPool pool(addresses(4 * whole));
    std::vector<std::unique_ptr<reactor::BufferShare>> shares;
    for (int i = 0; i < 3; ++i) {
        shares.push_back(std::make_unique<reactor::BufferShare>(pool, 2 * whole));
    }
    std::vector<std::unique_ptr<Wanting>> all;
    const auto holds = [](const std::unique_ptr<Wanting>& one) { return one->offset.has_value(); };
    for (int step = 0; step < 20'000; ++step) {
        if (random() % 2 == 0 && all.size() < 200) {
            const auto bytes = static_cast<std::uint32_t>(page << (random() % 9));
            all.push_back(std::make_unique<Wanting>(*shares[random() % shares.size()], bytes));
            all.back()->ask();
        } else if (!all.empty()) {
            const std::size_t index = random() % all.size();
            if (holds(all[index])) {
                all[index]->give_back();
                all.erase(all.begin() + static_cast<std::ptrdiff_t>(index));
            } else if (random() % 4 == 0) {
                all.erase(all.begin() + static_cast<std::ptrdiff_t>(index));  // it stops waiting
            }
        }
        if (random() % 3 == 0) {
            pool.serve_waiters();
        }
        for (const auto& share : shares) {
            REQUIRE(share->bytes_held() <= 2 * whole);
        }
    }
    // All get their turn once those before them have given back.
    for (int round = 0; !all.empty(); ++round) {
        REQUIRE(round < 10'000);
        serve(pool);
        const auto one = std::find_if(all.begin(), all.end(), holds);
        REQUIRE(one != all.end());
        (*one)->give_back();
        all.erase(one);
    }
    CHECK(pool.bytes_in_use() == 0);
}
