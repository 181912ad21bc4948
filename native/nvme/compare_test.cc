// Compare, and the pair that VMFS locks with.

#include "nvme/compare.h"

#include <doctest/doctest.h>

#include <array>
#include <cstdlib>
#include <random>

#include "testing/io_host.h"

namespace {

using testing::Answer;
using testing::bytes_of;
using testing::fused;
using testing::io;
using testing::IoHost;
using testing::IoQueue;
using wire::Fuse;
using wire::IoOpcode;
namespace status = wire::status;

std::vector<std::byte> content(IoHost& host, IoQueue& queue, std::uint64_t lba, std::uint32_t blocks) {
    queue.stable_data = true;
    const Answer answer = host.run(queue, io(IoOpcode::read, 1, lba, blocks));
    CHECK(answer.status == status::success);
    return answer.data;
}

wire::Status put(IoHost& host, IoQueue& queue, std::uint64_t lba, const std::vector<std::byte>& data) {
    return host.run(queue, io(IoOpcode::write, 1, lba, static_cast<std::uint32_t>(data.size() / 512)), data)
        .status;
}

struct Pair {
    std::uint16_t first = 0;
    std::uint16_t second = 0;
};

Pair send_pair(IoQueue& queue, std::uint64_t lba, const std::vector<std::byte>& expected,
               const std::vector<std::byte>& wanted, bool later = false) {
    const auto blocks = static_cast<std::uint32_t>(expected.size() / 512);
    Pair pair;
    pair.first = queue.send(fused(io(IoOpcode::compare, 1, lba, blocks), Fuse::first), expected, later);
    pair.second = queue.send(fused(io(IoOpcode::write, 1, lba, blocks), Fuse::second), wanted, later);
    return pair;
}

struct Outcome {
    wire::Status first;
    wire::Status second;
    friend bool operator==(const Outcome&, const Outcome&) = default;
};

Outcome wait(IoHost& host, IoQueue& queue, Pair pair) {
    const Answer first = host.wait(queue, pair.first);
    const Answer second = host.wait(queue, pair.second);
    return {first.status, second.status};
}

constexpr Outcome both_succeed{status::success, status::success};
constexpr Outcome compare_fails{status::compare_failure, status::aborted_failed_fused};

block::DeviceSpec slow(std::uint64_t read_us, std::uint64_t write_us) {
    block::DeviceSpec spec;
    spec.kind = "delay";
    spec.read_delay_us = read_us;
    spec.write_delay_us = write_us;
    return spec;
}

}  // namespace

TEST_CASE("compare tells equal from different, down to the last byte of a large range") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    auto data = bytes_of(1 << 20, 1);  // eight chunks
    CHECK(put(host, queue, 5, data) == status::success);
    CHECK(host.run(queue, io(IoOpcode::compare, 1, 5, 2048), data).status == status::success);
    data.back() ^= std::byte{1};
    const Answer answer = host.run(queue, io(IoOpcode::compare, 1, 5, 2048), data);
    CHECK(answer.status == status::compare_failure);
    CHECK(answer.dnr);
    CHECK(host.run(queue, io(IoOpcode::compare, 1, 5, 2049), bytes_of(2049 * 512, 1)).status ==
          status::invalid_field);
}

TEST_CASE("a compare that cannot read says so") {
    IoHost host;
    block::DeviceSpec spec;
    spec.kind = "error";
    spec.error_actions = {"read"};
    host.add_above(1, spec);
    IoQueue& queue = host.connect();
    CHECK(host.run(queue, io(IoOpcode::compare, 1), bytes_of(512, 1)).status ==
          status::unrecovered_read_error);
    CHECK(wait(host, queue, send_pair(queue, 0, bytes_of(512, 1), bytes_of(512, 2))) ==
          Outcome{status::unrecovered_read_error, status::aborted_failed_fused});
}

TEST_CASE("a pair writes only where the comparison holds, and the first half is answered first") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const auto old_data = bytes_of(512, 1);
    const auto new_data = bytes_of(512, 2);
    CHECK(put(host, queue, 7, old_data) == status::success);
    CHECK(wait(host, queue, send_pair(queue, 7, new_data, new_data)) == compare_fails);
    CHECK(content(host, queue, 7, 1) == old_data);
    queue.order.clear();
    const Pair pair = send_pair(queue, 7, old_data, new_data);
    CHECK(wait(host, queue, pair) == both_succeed);
    CHECK(queue.order == std::vector<std::uint16_t>{pair.first, pair.second});
    CHECK(content(host, queue, 7, 1) == new_data);
}

TEST_CASE("a write that fails after the comparison fails the second half alone") {
    IoHost host;
    block::DeviceSpec spec;
    spec.kind = "error";
    spec.error_actions = {"write"};
    host.add_above(1, spec);
    IoQueue& queue = host.connect();
    CHECK(wait(host, queue, send_pair(queue, 0, std::vector<std::byte>(512), bytes_of(512, 2))) ==
          Outcome{status::success, status::write_fault});
}

TEST_CASE("halves without their other half are told so, and do nothing") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const std::vector<std::byte> zeroes(512);
    SUBCASE("a second half alone") {
        const auto alone = host.run(queue, fused(io(IoOpcode::write, 1), Fuse::second), bytes_of(512, 1));
        CHECK(alone.status == status::aborted_missing_fused);
    }
    SUBCASE("a first half followed by another command, which is executed") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1), Fuse::first), zeroes);
        host.settle();
        CHECK_FALSE(queue.answered(first));
        const auto other = queue.send(io(IoOpcode::read, 1));
        CHECK(host.wait(queue, first).status == status::aborted_missing_fused);
        CHECK(host.wait(queue, other).status == status::success);
        const auto second = host.run(queue, fused(io(IoOpcode::write, 1), Fuse::second), bytes_of(512, 1));
        CHECK(second.status == status::aborted_missing_fused);
    }
    SUBCASE("a first half that was refused") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1, 1u << 30), Fuse::first), zeroes);
        CHECK(host.wait(queue, first).status == status::lba_out_of_range);
        const auto second =
            host.run(queue, fused(io(IoOpcode::write, 1, 1u << 30), Fuse::second), bytes_of(512, 1));
        CHECK(!second.status.ok());
    }
    SUBCASE("a second half that is refused") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1), Fuse::first), zeroes);
        wire::Sqe directed = io(IoOpcode::write, 1);
        directed.cdw12 = wire::io_cdw12::dtype.put(1);
        const auto second = queue.send(fused(directed, Fuse::second), bytes_of(512, 1));
        CHECK(host.wait(queue, second).status == status::invalid_field);
        CHECK(host.wait(queue, first).status == status::aborted_failed_fused);
    }
    SUBCASE("halves of different ranges") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1, 0), Fuse::first), zeroes);
        const auto second = queue.send(fused(io(IoOpcode::write, 1, 1), Fuse::second), bytes_of(512, 1));
        CHECK(host.wait(queue, first).status == status::invalid_field);
        CHECK(host.wait(queue, second).status == status::invalid_field);
    }
    SUBCASE("commands that cannot be fused") {
        CHECK(host.run(queue, fused(io(IoOpcode::write, 1), Fuse::first), bytes_of(512, 1)).status ==
              status::invalid_field);
        CHECK(host.run(queue, fused(io(IoOpcode::read, 1), Fuse::first)).status == status::invalid_field);
        CHECK(host.run(queue, fused(io(IoOpcode::flush, 1), Fuse::first)).status == status::invalid_field);
        CHECK(host.run(queue, fused(io(IoOpcode::read, 1), Fuse::reserved)).status == status::invalid_field);
    }
    CHECK(content(host, queue, 0, 2) == std::vector<std::byte>(1024));
}

TEST_CASE("the data of both halves may come late and in any order, while others are served") {
    for (const bool second_first : {false, true}) {
        IoHost host;
        host.add_ram(1);
        IoQueue& queue = host.connect();
        const std::vector<std::byte> zeroes(256 * 512);
        const auto wanted = bytes_of(256 * 512, 4);
        const Pair pair = send_pair(queue, 0, zeroes, wanted, true);
        CHECK(put(host, queue, 4096, bytes_of(512, 1)) == status::success);
        queue.deliver(second_first ? pair.second : pair.first);
        CHECK(host.run(queue, io(IoOpcode::read, 1)).status == status::success);
        CHECK_FALSE(queue.answered(pair.first));
        queue.deliver(second_first ? pair.first : pair.second);
        CHECK(wait(host, queue, pair) == both_succeed);
        CHECK(content(host, queue, 0, 256) == wanted);
    }
}

TEST_CASE("a pair waits for writes in flight to its range, and later writes wait for it") {
    IoHost host;
    host.add_above(1, slow(3000, 3000));
    IoQueue& ours = host.connect();
    IoQueue& theirs = host.join();
    const auto first_write = bytes_of(512, 1);
    const auto pair_write = bytes_of(512, 2);
    const auto last_write = bytes_of(512, 3);
    const auto before = theirs.send(io(IoOpcode::write, 1, 9), first_write);
    const Pair pair = send_pair(ours, 9, first_write, pair_write);
    const auto after = theirs.send(io(IoOpcode::write, 1, 9), last_write);
    const auto elsewhere = theirs.send(io(IoOpcode::write, 1, 100), last_write);
    // The comparison sees the write that came before, although it had not ended when the pair came.
    CHECK(wait(host, ours, pair) == both_succeed);
    CHECK(theirs.answered(before));
    CHECK(theirs.answered(elsewhere));
    CHECK_FALSE(theirs.answered(after));
    CHECK(host.wait(theirs, after).status == status::success);
    CHECK(content(host, ours, 9, 1) == last_write);
}

TEST_CASE("hosts that count with pairs never lose a step") {
    const char* given = std::getenv("KEEL_TEST_SEED");
    const auto seed = given != nullptr ? std::strtoull(given, nullptr, 10) : std::random_device{}();
    INFO("KEEL_TEST_SEED=", seed);
    std::mt19937_64 random(seed);
    IoHost host;
    host.add_above(1, slow(50, 80));
    std::array<IoQueue*, 6> queues{};
    queues[0] = &host.connect();
    for (std::size_t i = 1; i < queues.size(); ++i) {
        queues[i] = &host.join();
    }
    const auto block_of = [](std::uint64_t value) {
        std::vector<std::byte> bytes(512);
        std::memcpy(bytes.data(), &value, sizeof value);
        return bytes;
    };
    // Each queue believes to know the counter and tries to increment it; whoever wins has its step counted.
    std::uint64_t truth = 0;
    std::array<std::uint64_t, 6> belief{};
    std::array<Pair, 6> running{};
    for (std::size_t i = 0; i < queues.size(); ++i) {
        running[i] = send_pair(*queues[i], 3, block_of(belief[i]), block_of(belief[i] + 1));
    }
    std::uint64_t tries = 0;
    while (tries < 600) {
        for (std::size_t i = 0; i < queues.size(); ++i) {
            IoQueue& queue = *queues[i];
            if (!queue.answered(running[i].second)) {
                continue;
            }
            ++tries;
            const Outcome outcome{queue.take(running[i].first).status, queue.take(running[i].second).status};
            if (outcome == both_succeed) {
                ++truth;
                ++belief[i];
            } else {
                REQUIRE(outcome == compare_fails);
                // Some beliefs are wrong on purpose.
                belief[i] = random() % 4 == 0 ? truth + 1 : truth;
            }
            running[i] = send_pair(queue, 3, block_of(belief[i]), block_of(belief[i] + 1));
        }
        host.rig.reactor.run_once(host.rig.kernel.now() + base::millisecond);
    }
    for (std::size_t i = 0; i < queues.size(); ++i) {
        truth += wait(host, *queues[i], running[i]) == both_succeed ? 1 : 0;
    }
    CHECK(truth > 50);
    std::uint64_t value = 0;
    std::memcpy(&value, content(host, *queues[0], 3, 1).data(), sizeof value);
    CHECK(value == truth);
}

TEST_CASE("a pair is aborted as a whole, wherever it waits") {
    IoHost host;
    host.add_above(1, slow(0, 10'000'000));
    IoQueue& queue = host.connect();
    IoQueue& other = host.join();
    const std::vector<std::byte> zeroes(512);
    const auto blocker = other.send(io(IoOpcode::write, 1, 0), bytes_of(512, 1));
    SUBCASE("for its range, by its first half") {
        const Pair pair = send_pair(queue, 0, zeroes, zeroes);
        host.settle();
        CHECK(queue.queue->abort(*queue.queue->find(pair.first)));
        CHECK(wait(host, queue, pair) == Outcome{status::abort_requested, status::aborted_failed_fused});
    }
    SUBCASE("for its range, by its second half") {
        const Pair pair = send_pair(queue, 0, zeroes, zeroes);
        host.settle();
        CHECK(queue.queue->abort(*queue.queue->find(pair.second)));
        CHECK(wait(host, queue, pair) == Outcome{status::abort_requested, status::aborted_failed_fused});
    }
    SUBCASE("in the device") {
        const Pair pair = send_pair(queue, 50, zeroes, zeroes);
        host.settle();
        CHECK(queue.queue->abort(*queue.queue->find(pair.first)));
        CHECK(wait(host, queue, pair) == Outcome{status::success, status::abort_requested});
    }
    SUBCASE("for data that never comes") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1), Fuse::first), zeroes);
        CHECK(queue.queue->abort(*queue.queue->find(first)));
        CHECK(host.wait(queue, first).status == status::abort_requested);
        const auto second = host.run(queue, fused(io(IoOpcode::write, 1), Fuse::second), bytes_of(512, 1));
        CHECK(second.status == status::aborted_failed_fused);
    }
    SUBCASE("for the second half's data") {
        const auto first = queue.send(fused(io(IoOpcode::compare, 1), Fuse::first), zeroes);
        const auto second = queue.send(fused(io(IoOpcode::write, 1), Fuse::second), bytes_of(512, 1), true);
        CHECK(queue.queue->abort(*queue.queue->find(first)));
        CHECK(host.wait(queue, first).status == status::abort_requested);
        queue.deliver(second);
        CHECK(host.wait(queue, second).status == status::aborted_failed_fused);
    }
    CHECK(other.queue->abort(*other.queue->find(blocker)));
    CHECK(host.wait(other, blocker).status == status::abort_requested);
}

TEST_CASE("connections may end while their pairs wait") {
    IoHost host;
    host.add_above(1, slow(1000, 5000));
    IoQueue& queue = host.connect();
    IoQueue& other = host.join();
    const std::vector<std::byte> zeroes(512);
    (void)other.send(io(IoOpcode::write, 1, 0), bytes_of(512, 1));
    for (int i = 0; i < 20; ++i) {
        (void)send_pair(queue, 0, zeroes, zeroes);
        (void)send_pair(other, 0, zeroes, zeroes);
    }
    (void)queue.send(fused(io(IoOpcode::compare, 1), Fuse::first), zeroes);
    host.settle();
    // The host's destructor ends all connections and checks that nothing is left.
}

TEST_CASE("while the write of a pair is under way its record says that the comparison was true") {
    IoHost host;
    host.add_above(1, slow(20'000, 50'000));
    IoQueue& queue = host.connect();
    const Pair pair = send_pair(queue, 0, std::vector<std::byte>(512), bytes_of(512, 1));
    const nvme::Command& second = *queue.queue->find(pair.second);
    CHECK(second.record->progress == 0);
    REQUIRE(host.rig.run_until([&] { return second.record->progress != 0; }));
    CHECK(second.record->progress == 1);
    CHECK_FALSE(queue.answered(pair.first));
    CHECK(wait(host, queue, pair) == both_succeed);
}

// --- after a restart ---------------------------------------------------------------------------------------

namespace {

// A queue with the records of a pair as a predecessor left them.
struct Inherited {
    explicit Inherited(IoHost& h) : host(h), queue(h.inherit()) {}

    nvme::CommandRecord& put(std::uint16_t slot, wire::Sqe sqe, const std::vector<std::byte>& data,
                             nvme::CommandState state) {
        nvme::CommandRecord& record = queue.records[slot];
        sqe.cid = static_cast<std::uint16_t>(1000 + slot);
        record.sqe = sqe;
        record.stream_offset = slot;
        record.direction = nvme::DataDirection::to_controller;
        record.data_length = static_cast<std::uint32_t>(data.size());
        record.buffer_bytes = static_cast<std::uint32_t>(std::max<std::size_t>(data.size(), 4096));
        const auto place = host.rig.buffers.allocate(record.buffer_bytes);
        REQUIRE(place.has_value());
        record.data_region = 0;
        record.data_offset = *place;
        std::memcpy(host.rig.buffers.at(*place), data.data(), data.size());
        record.state = state;
        return record;
    }

    void adopt(std::vector<std::uint16_t> live) {
        for (const std::uint16_t slot : live) {
            host.rig.buffers.release(queue.records[slot].data_offset, queue.records[slot].buffer_bytes);
        }
        REQUIRE(queue.queue->adopt(live));
        for (const std::uint16_t slot : live) {
            if (queue.records[slot].state == nvme::CommandState::ready) {
                queue.queue->execute(queue.queue->commands()[slot]);
            }
        }
    }
    Outcome outcome() { return {host.wait(queue, 1000).status, host.wait(queue, 1001).status}; }

    IoHost& host;
    IoQueue& queue;
};

constexpr std::uint32_t compared = 1;

}  // namespace

TEST_CASE("after a restart a pair happens once") {
    IoHost host;
    host.add_ram(1);
    IoQueue& live = host.connect();
    const auto old_data = bytes_of(512, 1);
    const auto new_data = bytes_of(512, 2);
    const wire::Sqe first = fused(io(IoOpcode::compare, 1, 4), Fuse::first);
    const wire::Sqe second = fused(io(IoOpcode::write, 1, 4), Fuse::second);
    Inherited before(host);
    before.put(0, first, old_data, nvme::CommandState::ready);
    nvme::CommandRecord& write = before.put(1, second, new_data, nvme::CommandState::ready);
    SUBCASE("that had not begun: all of it") {
        CHECK(put(host, live, 4, old_data) == status::success);
        before.adopt({0, 1});
        CHECK(before.outcome() == both_succeed);
        CHECK(content(host, live, 4, 1) == new_data);
    }
    SUBCASE("that had compared: the write alone, although the content has changed already") {
        CHECK(put(host, live, 4, new_data) == status::success);
        write.progress = compared;
        before.adopt({0, 1});
        CHECK(before.outcome() == both_succeed);
        CHECK(content(host, live, 4, 1) == new_data);
    }
    SUBCASE("that had failed: the answers, and no write") {
        CHECK(put(host, live, 4, old_data) == status::success);
        write.progress = 0x80000000u | status::aborted_failed_fused.value |
                         (std::uint32_t{status::compare_failure.value} << 12);
        before.adopt({0, 1});
        CHECK(before.outcome() == compare_fails);
        CHECK(content(host, live, 4, 1) == old_data);
    }
    SUBCASE("whose first half was answered: the second half's answer, and no write") {
        CHECK(put(host, live, 4, old_data) == status::success);
        write.progress = 0x80000000u;
        before.queue.records[0].state = nvme::CommandState::free;
        host.rig.buffers.release(before.queue.records[0].data_offset, before.queue.records[0].buffer_bytes);
        before.adopt({1});
        CHECK(host.wait(before.queue, 1001).status == status::success);
        CHECK(content(host, live, 4, 1) == old_data);
    }
}

TEST_CASE("after a restart a promised write has its range before anybody else is executed") {
    IoHost host;
    host.add_above(1, slow(500, 2000));
    IoQueue& live = host.connect();
    const auto pair_data = bytes_of(512, 2);
    const auto other_data = bytes_of(512, 3);
    Inherited before(host);
    before.put(0, fused(io(IoOpcode::compare, 1, 4), Fuse::first), bytes_of(512, 1),
               nvme::CommandState::ready);
    before.put(1, fused(io(IoOpcode::write, 1, 4), Fuse::second), pair_data, nvme::CommandState::ready)
        .progress = compared;
    for (const std::uint16_t slot : std::array<std::uint16_t, 2>{0, 1}) {
        host.rig.buffers.release(before.queue.records[slot].data_offset,
                                 before.queue.records[slot].buffer_bytes);
    }
    const std::vector<std::uint16_t> slots{0, 1};
    REQUIRE(before.queue.queue->adopt(slots));
    const auto other =
        live.send(io(IoOpcode::write, 1, 4), other_data);  // another connection is executed first
    host.settle();
    before.queue.queue->execute(before.queue.queue->commands()[0]);
    before.queue.queue->execute(before.queue.queue->commands()[1]);
    CHECK(before.outcome() == both_succeed);
    CHECK(host.wait(live, other).status == status::success);
    CHECK(content(host, live, 4, 1) == other_data);
}
