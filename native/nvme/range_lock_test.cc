#include "nvme/range_lock.h"

#include <doctest/doctest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <vector>

#include "nvme/scratch_pool.h"

namespace {

using nvme::RangeHold;
using nvme::RangeLock;

struct Owner : RangeHold {
    std::vector<Owner*>* order = nullptr;
    bool release_at_once = false;
    RangeLock* lock = nullptr;
};

void note(RangeHold& hold) {
    auto& owner = static_cast<Owner&>(hold);
    owner.order->push_back(&owner);
    if (owner.release_at_once) {
        owner.lock->release(owner);
    }
}

struct Fixture {
    RangeLock lock;
    std::vector<Owner*> order;

    void prepare(Owner& owner) {
        owner.granted = note;
        owner.order = &order;
        owner.lock = &lock;
    }
    bool write(Owner& owner, std::uint64_t first, std::uint64_t count) {
        prepare(owner);
        return lock.acquire(owner, first, count, false);
    }
    bool pair(Owner& owner, std::uint64_t first, std::uint64_t count) {
        prepare(owner);
        return lock.acquire(owner, first, count, true);
    }
};

}  // namespace

TEST_CASE_FIXTURE(Fixture, "writers do not wait for each other") {
    Owner a, b;
    CHECK(write(a, 0, 8));
    CHECK(write(b, 4, 8));
    lock.release(a);
    lock.release(b);
    CHECK(order.empty());
}

TEST_CASE_FIXTURE(Fixture, "a pair waits for the writers in flight to its range, and only for those") {
    Owner before, beside, exclusive;
    CHECK(write(before, 0, 8));
    CHECK(write(beside, 100, 8));
    CHECK_FALSE(pair(exclusive, 7, 1));
    lock.release(before);
    CHECK(order == std::vector<Owner*>{&exclusive});
    lock.release(exclusive);
    lock.release(beside);
}

TEST_CASE_FIXTURE(Fixture, "a writer that comes after a waiting pair waits behind it, others pass") {
    Owner first, exclusive, later, elsewhere;
    CHECK(write(first, 0, 8));
    CHECK_FALSE(pair(exclusive, 0, 4));
    CHECK_FALSE(write(later, 3, 1));
    CHECK(write(elsewhere, 4, 4));
    lock.release(first);
    CHECK(order == std::vector<Owner*>{&exclusive});
    lock.release(exclusive);
    CHECK(order == std::vector<Owner*>{&exclusive, &later});
    lock.release(later);
    lock.release(elsewhere);
}

TEST_CASE_FIXTURE(Fixture, "giving up a place in line lets those behind it go") {
    Owner writer, exclusive, later;
    CHECK(write(writer, 0, 8));
    CHECK_FALSE(pair(exclusive, 0, 8));
    CHECK_FALSE(write(later, 2, 2));
    lock.release(exclusive);
    CHECK(order == std::vector<Owner*>{&later});
    lock.release(later);
    lock.release(writer);
}

TEST_CASE_FIXTURE(Fixture, "the last block of the address space can be locked") {
    Owner a, b;
    CHECK(pair(a, ~std::uint64_t{0}, 1));
    CHECK_FALSE(write(b, ~std::uint64_t{0} - 3, 4));
    lock.release(a);
    CHECK(order.size() == 1);
    lock.release(b);
}

TEST_CASE_FIXTURE(Fixture, "a thousand waiters that finish at once are served in order without recursion") {
    std::vector<Owner> waiters(1000);
    Owner exclusive;
    CHECK(pair(exclusive, 0, 1));
    for (Owner& waiter : waiters) {
        waiter.release_at_once = true;
        CHECK_FALSE(pair(waiter, 0, 1));
    }
    lock.release(exclusive);
    REQUIRE(order.size() == waiters.size());
    for (std::size_t i = 0; i < waiters.size(); ++i) {
        CHECK(order[i] == &waiters[i]);
    }
    CHECK_FALSE(lock.has_waiters());
}

TEST_CASE_FIXTURE(Fixture, "random holders: no pair ever shares a block, and nobody waits for ever") {
    const char* given = std::getenv("KEEL_TEST_SEED");
    const auto seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    INFO("KEEL_TEST_SEED=", seed);
    std::mt19937_64 random(seed);
    std::vector<Owner> owners(64);
    for (int round = 0; round < 20'000; ++round) {
        Owner& owner = owners[random() % owners.size()];
        if (owner.state == RangeHold::State::idle) {
            prepare(owner);
            (void)lock.acquire(owner, random() % 64, 1 + random() % 8, random() % 3 == 0);
        } else if (owner.state == RangeHold::State::held || random() % 8 == 0) {
            lock.release(owner);
        }
        for (const Owner& a : owners) {
            for (const Owner& b : owners) {
                if (&a != &b && a.state == RangeHold::State::held && b.state == RangeHold::State::held &&
                    (a.exclusive || b.exclusive)) {
                    REQUIRE_FALSE(a.overlaps(b));
                }
            }
        }
    }
    for (int round = 0; round < 64; ++round) {
        for (Owner& owner : owners) {
            if (owner.state == RangeHold::State::held) {
                lock.release(owner);
            }
        }
    }
    for (const Owner& owner : owners) {
        CHECK(owner.state == RangeHold::State::idle);
    }
}

TEST_CASE("scratch memory is handed on in the order of asking") {
    nvme::ScratchPool pool;
    std::vector<nvme::ScratchWaiter> users(nvme::ScratchPool::chunk_count + 3);
    for (nvme::ScratchWaiter& user : users) {
        user.granted = [](nvme::ScratchWaiter&) {};
    }
    for (std::uint32_t i = 0; i < users.size(); ++i) {
        CHECK(pool.acquire(users[i]) == (i < nvme::ScratchPool::chunk_count));
    }
    const std::uint32_t waiting = nvme::ScratchPool::chunk_count;
    pool.release(users[waiting + 1]);  // gives up
    pool.release(users[0]);
    CHECK(users[waiting].memory != nullptr);
    CHECK(users[waiting + 2].memory == nullptr);
    pool.release(users[1]);
    CHECK(users[waiting + 2].memory != nullptr);
    CHECK(users[waiting + 1].memory == nullptr);
    for (nvme::ScratchWaiter& user : users) {
        pool.release(user);
    }
}
