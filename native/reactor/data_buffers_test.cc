// The two pools of data memory: what lies in a stream already never waits for what comes behind it.

#include "reactor/data_buffers.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstddef>
#include <deque>
#include <memory>
#include <optional>
#include <random>
#include <utility>
#include <vector>

namespace {

using reactor::DataBuffers;
using reactor::HostBuffers;

constexpr std::uint32_t page = limits::page_bytes;
constexpr std::uint32_t largest = limits::data_block_bytes_max;

// Memory that nobody touches.
std::span<std::byte> addresses(std::uint64_t bytes) {
    return {reinterpret_cast<std::byte*>(std::uintptr_t{1} << 32), static_cast<std::size_t>(bytes)};
}

using Held = std::vector<std::pair<HostBuffers*, std::uint64_t>>;

// Takes all of the common pool, half for each host.
Held exhaust_common(HostBuffers& one, HostBuffers& other) {
    Held held;
    for (HostBuffers* const host : {&one, &other}) {
        while (const auto offset = host->allocate(largest / 2)) {
            held.emplace_back(host, *offset);
        }
    }
    return held;
}

void give_back(const Held& held) {
    for (const auto& [host, offset] : held) {
        host->release(offset, largest / 2);
    }
}

}  // namespace

TEST_CASE("data buffers: a sixteenth is the reserve, and offsets go through both pools") {
    DataBuffers large(addresses(64ull << 20));
    CHECK(large.common().bytes_total() == 60ull << 20);
    CHECK(large.reserve().bytes_total() == 4ull << 20);
    DataBuffers small(addresses((4ull << 20) + 3 * page));  // the smallest that can be configured
    CHECK(small.common().bytes_total() == 2ull << 20);
    CHECK(small.reserve().bytes_total() == (2ull << 20) + 3 * page);
    CHECK(small.bytes_total() == small.memory().size());

    const auto offset = small.reserve().allocate(largest);
    CHECK(offset == std::optional<std::uint64_t>(2ull << 20));
    CHECK(&small.pool_of(*offset) == &small.reserve());
    CHECK(&small.pool_of(*offset - page) == &small.common());
    CHECK(small.reserve().at(*offset) == small.at(*offset));
    CHECK(!small.reserve().reserve(*offset, page));
    CHECK(!small.reserve().reserve(*offset - page, page));
    CHECK(!small.common().reserve(*offset, page));
    CHECK(small.reserve().reserve(*offset + 2 * largest, page));
    CHECK(!small.reserve().reserve(*offset + 2 * largest + 3 * page, page));
    small.reserve().release(*offset + 2 * largest, page);
    small.reserve().release(*offset, largest);
    CHECK(small.bytes_in_use() == 0);
}

TEST_CASE("data buffers: what lies in the stream is served while the common pool is exhausted") {
    DataBuffers memory(addresses(4ull << 20));
    HostBuffers one(memory), other(memory);
    const Held held = exhaust_common(one, other);
    CHECK(memory.common().bytes_in_use() == memory.common().bytes_total());
    CHECK(!one.allocate(page));
    const auto offset = one.allocate_for_stream(65536);
    REQUIRE(offset);
    CHECK(&memory.pool_of(*offset) == &memory.reserve());
    CHECK(one.bytes_held() == memory.common().bytes_total() / 2 + 65536);
    one.release(*offset, 65536);
    give_back(held);
    CHECK(one.allocate_for_stream(page) < memory.common().bytes_total());  // the common pool comes first
    one.release(0, page);
    CHECK(memory.bytes_in_use() == 0);
}

namespace {

// A connection that stopped reading.
struct Stalled {
    explicit Stalled(HostBuffers& buffers) : host(buffers) {}
    ~Stalled() { host.stop_waiting_for_stream(common, reserve); }
    Stalled(const Stalled&) = delete;
    Stalled& operator=(const Stalled&) = delete;

    void ask() {
        offset = host.allocate_for_stream(page);
        if (!offset) {
            host.wait_for_stream(common, reserve);
        } else {
            host.stop_waiting_for_stream(common, reserve);
        }
    }

    struct Waiter final : reactor::BufferWaiter {
        explicit Waiter(Stalled& of) : stalled(of) {}
        void buffer_available() override { stalled.ask(); }
        Stalled& stalled;
    };
    HostBuffers& host;
    Waiter common{*this}, reserve{*this};
    std::optional<std::uint64_t> offset;
};

void stall(HostBuffers& host, int count, std::deque<Stalled>& connections) {
    for (; count != 0; --count) {
        connections.emplace_back(host).ask();
        CHECK(!connections.back().offset);
    }
}

}  // namespace

TEST_CASE("data buffers: one host leaves a part of the smallest reserve to the others") {
    DataBuffers memory(addresses(4ull << 20));
    HostBuffers one(memory), other(memory);
    std::vector<std::uint64_t> held;
    while (const auto offset = one.allocate_for_stream(65536)) {
        held.push_back(*offset);
    }
    while (other.allocate(65536)) {
    }
    const auto offset = other.allocate_for_stream(65536);
    REQUIRE(offset);
    CHECK(&memory.pool_of(*offset) == &memory.reserve());
    CHECK(held.size() == 2 * largest / 65536);
}

TEST_CASE("data buffers: a connection gets what either pool has, whoever holds the other one") {
    for (const bool common_first : {true, false}) {
        DataBuffers memory(addresses(4ull << 20));
        HostBuffers one(memory), other(memory);
        Held held = exhaust_common(one, other);
        const auto of_reserve = one.allocate_for_stream(largest);
        REQUIRE(of_reserve);
        std::deque<Stalled> connections;
        stall(one, 3, connections);
        if (common_first) {
            one.release(held.front().second, largest / 2);
        } else {
            one.release(*of_reserve, largest);
        }
        for (int round = 0; round < 8; ++round) {
            memory.serve_waiters();
        }
        for (const Stalled& connection : connections) {
            REQUIRE(connection.offset);
            CHECK((&memory.pool_of(*connection.offset) == &memory.common()) == common_first);
            connection.host.release(*connection.offset, page);
        }
        if (common_first) {
            held.erase(held.begin());
            one.release(*of_reserve, largest);
        }
        give_back(held);
        CHECK(memory.bytes_in_use() == 0);
    }
}

TEST_CASE("data buffers: connections that wait at their host's bound of the reserve all get their turn") {
    DataBuffers memory(addresses(4ull << 20));
    HostBuffers one(memory), other(memory);
    const Held held = exhaust_common(one, other);
    const auto of_reserve = one.allocate_for_stream(largest);
    REQUIRE(of_reserve);
    std::deque<Stalled> connections;
    stall(one, 5, connections);
    // They get theirs from the common pool, so nothing will ever come back to the reserve again.
    give_back(held);
    one.release(*of_reserve, largest);
    for (std::size_t round = 0; round < connections.size(); ++round) {
        memory.serve_waiters();
    }
    for (const Stalled& connection : connections) {
        REQUIRE(connection.offset);
        one.release(*connection.offset, page);
    }
    CHECK(memory.bytes_in_use() == 0);
}

namespace {

// A connection as far as its memory is concerned: a stream of commands, of which one kind brings its data
// along and the other is asked for it, which then follows behind everything that is in the stream.
struct Host;

struct Transfer final : reactor::BufferWaiter {
    Host* host = nullptr;
    std::uint32_t bytes = 0;
    bool in_stream = false;
    std::optional<std::uint64_t> offset;
    bool data_sent = false;
    int busy = 0;  // steps that the device still needs
    void buffer_available() override;
};

struct Host final : reactor::BufferWaiter {
    explicit Host(DataBuffers& memory) : buffers(memory) {}

    void buffer_available() override {
        stalled = false;
        read();
        if (!stalled) {
            buffers.stop_waiting_for_stream(common, *this);
        }
    }

    // Takes what the stream holds, up to the first command that cannot be taken.
    void read() {
        while (!stalled && !stream.empty()) {
            Transfer& next = *stream.front();
            if (next.data_sent) {  // data that was asked for
                next.busy = 1 + static_cast<int>(next.bytes / page % 5);
            } else if (next.in_stream) {
                next.offset = buffers.allocate_for_stream(next.bytes);
                if (!next.offset) {
                    stalled = true;
                    buffers.wait_for_stream(common, *this);
                    return;
                }
                next.busy = 1 + static_cast<int>(next.bytes / page % 5);
            } else {
                next.buffer_available();
            }
            stream.pop_front();
        }
    }

    struct CommonWaiter final : reactor::BufferWaiter {
        explicit CommonWaiter(Host& of) : host(of) {}
        void buffer_available() override { host.buffer_available(); }
        Host& host;
    };
    HostBuffers buffers;
    CommonWaiter common{*this};
    std::deque<Transfer*> stream;
    bool stalled = false;
};

void Transfer::buffer_available() {
    offset = host->buffers.allocate(bytes);
    if (!offset) {
        host->buffers.wait(*this);
        return;
    }
    data_sent = true;
    host->stream.push_back(this);  // the host answers at once, and behind what it has sent
}

}  // namespace

TEST_CASE("data buffers: streams of both kinds of writes never stand still") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    for (int round = 0; round < 20; ++round) {
        DataBuffers memory(addresses(4ull << 20));
        std::vector<std::unique_ptr<Host>> hosts;
        std::vector<std::unique_ptr<Transfer>> transfers;
        for (std::uint64_t count = 1 + random() % 5; count != 0; --count) {
            hosts.push_back(std::make_unique<Host>(memory));
        }
        std::size_t open = 0;
        for (int number = 0; number < 600; ++number) {
            Transfer& one = *transfers.emplace_back(std::make_unique<Transfer>());
            one.host = hosts[random() % hosts.size()].get();
            one.in_stream = random() % 2 == 0;
            one.bytes = one.in_stream ? static_cast<std::uint32_t>(1 + random() % 65536)
                                      : static_cast<std::uint32_t>(1 + random() % largest);
            one.host->stream.push_back(&one);
            ++open;
        }
        for (int step = 0; open != 0; ++step) {
            REQUIRE(step < 20'000);
            for (const auto& host : hosts) {
                host->read();
            }
            for (const auto& one : transfers) {
                if (one->busy != 0 && --one->busy == 0) {
                    one->host->buffers.release(*one->offset, one->bytes);
                    --open;
                }
            }
            memory.serve_waiters();
            memory.serve_waiters();
        }
        CHECK(memory.bytes_in_use() == 0);
    }
}
