// What all commands have in common: SGLs, command identifiers, fused pairs, memory that has run out.

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::ScriptedHost;
using testing::TargetRig;

namespace {

constexpr std::uint32_t page = 4096;

Entry compare_entry(std::uint64_t slba, std::uint16_t blocks) {
    return Entry(0x05).nsid(1).put64(40, slba).dword(12, blocks - 1u).length(blocks * page).put8(1, 0x41);
}

Entry second_entry(std::uint64_t slba, std::uint16_t blocks) {
    return ScriptedHost::write_entry(1, slba, blocks, blocks * page).put8(1, 0x42);
}

std::uint16_t status_of(transport::LoopConnection& queue, std::uint16_t cid) {
    const auto completion = queue.take(cid);
    return completion ? completion->status().value : std::uint16_t{0xFFFF};
}

}  // namespace

TEST_CASE("queue pair: data lies in the capsule or comes later, within its bounds") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto data = testing::filled(8192, 7);
    const auto write = [&](const Entry& entry, std::span<const std::byte> bytes) {
        return host.send(queue, entry, bytes)->status().value;
    };
    const Entry entry = ScriptedHost::write_entry(1, 4, 1, page);
    CHECK(write(Entry(entry).in_capsule(page), std::span(data).first(page)) == 0);
    CHECK(write(Entry(entry).in_capsule(page, 4096), data) == 0);
    CHECK(write(Entry(entry).in_capsule(page, 8193), data) == 0x016);
    CHECK(write(Entry(entry).in_capsule(page, 4097), data) == 0x00F);
    CHECK(write(Entry(entry).in_capsule(page - 1), data) == 0x00F);
    CHECK(write(Entry(entry).in_capsule(page), std::span(data).first(100)) == 0x00F);
    CHECK(write(Entry(entry).in_capsule(page, ~0ull), data) == 0x016);
    CHECK(write(Entry(entry).put8(39, 0x00), data) == 0x011);
    CHECK(write(Entry(entry).put8(39, 0x40), data) == 0x011);
    CHECK(write(Entry(entry).length(page - 1), data) == 0x00F);
    CHECK(write(Entry(entry).length(page * 2), data) == 0);
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, page).in_capsule(page))->status().value ==
          0x011);
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, page).put8(1, 0x00))->status().value == 0x002);
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, page).put8(1, 0xC0))->status().value == 0x002);
    CHECK(host.send(queue, Entry(0x7C))->status().value == 0x001);
}

TEST_CASE("queue pair: a command identifier that is in use is a conflict, afterwards it is free") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    rig.disk(1).holding = true;
    const wire::Sqe sqe = ScriptedHost::read_entry(1, 0, 1, page).cid(77).sqe();
    REQUIRE(queue.submit(sqe));
    REQUIRE(queue.submit(sqe));
    rig.run();
    CHECK(status_of(queue, 77) == 0x003);
    rig.disk(1).finish_held();
    rig.run();
    CHECK(status_of(queue, 77) == 0);
    rig.disk(1).holding = false;
    REQUIRE(queue.submit(sqe));
    rig.run();
    CHECK(status_of(queue, 77) == 0);
}

TEST_CASE("queue pair: a pair compares and writes as one, in whatever order its data comes") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto zeroes = testing::filled(page, 0);
    const auto ones = testing::filled(page, 1);
    REQUIRE(queue.submit(compare_entry(2, 1).cid(1).sqe(), {}, true));
    REQUIRE(queue.submit(second_entry(2, 1).cid(2).sqe(), {}, true));
    REQUIRE(queue.submit(ScriptedHost::read_entry(1, 9, 1, page).cid(3).sqe()));
    rig.run();
    CHECK(status_of(queue, 3) == 0);
    REQUIRE(queue.supply(2, ones));
    rig.run();
    CHECK(queue.completions() == 0);
    REQUIRE(queue.supply(1, zeroes));
    rig.run();
    CHECK(status_of(queue, 1) == 0);
    CHECK(status_of(queue, 2) == 0);
    CHECK(rig.disk(1).content()[2 * page] == std::byte{1});
    // The same again does not compare any more.
    REQUIRE(queue.submit(compare_entry(2, 1).cid(1).sqe(), zeroes));
    REQUIRE(queue.submit(second_entry(2, 1).cid(2).sqe(), zeroes));
    rig.run();
    CHECK(status_of(queue, 1) == 0x285);
    CHECK(status_of(queue, 2) == 0x009);
    CHECK(rig.disk(1).content()[2 * page] == std::byte{1});
}

TEST_CASE("queue pair: halves that do not belong together end as the standard says") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto zeroes = testing::filled(2 * page, 0);
    const auto send = [&](Entry entry, std::uint16_t cid) {
        REQUIRE(queue.submit(entry.cid(cid).sqe(), zeroes));
        rig.run();
    };
    // A second half alone.
    send(second_entry(2, 1), 1);
    CHECK(status_of(queue, 1) == 0x00A);
    // A first half, then something else.
    send(compare_entry(2, 1), 1);
    CHECK(queue.completions() == 0);
    send(ScriptedHost::read_entry(1, 0, 1, page), 2);
    CHECK(status_of(queue, 1) == 0x00A);
    CHECK(status_of(queue, 2) == 0);
    // Two first halves, then a second one: it belongs to the later.
    send(compare_entry(2, 1), 1);
    send(compare_entry(3, 1), 2);
    send(second_entry(3, 1), 3);
    CHECK(status_of(queue, 1) == 0x00A);
    CHECK(status_of(queue, 2) == 0);
    CHECK(status_of(queue, 3) == 0);
    // Different ranges.
    send(compare_entry(2, 1), 1);
    send(second_entry(3, 1), 2);
    CHECK(status_of(queue, 1) == 0x002);
    CHECK(status_of(queue, 2) == 0x002);
    // A first half that is wrong in itself.
    send(compare_entry(255, 2), 1);
    CHECK(status_of(queue, 1) == 0x080);
    send(second_entry(255, 2), 2);
    CHECK(status_of(queue, 2) == 0x080);
    send(compare_entry(1000, 1), 1);
    send(second_entry(3, 1), 2);
    CHECK(status_of(queue, 1) == 0x080);
    CHECK(status_of(queue, 2) == 0x009);
    // A second half that is wrong in itself.
    send(compare_entry(2, 1), 1);
    send(second_entry(2, 1).put8(39, 0x00), 2);
    CHECK(status_of(queue, 1) == 0x009);
    CHECK(status_of(queue, 2) == 0x011);
    // Not the two commands that may be fused; the reserved value.
    send(ScriptedHost::read_entry(1, 0, 1, page).put8(1, 0x41), 1);
    CHECK(status_of(queue, 1) == 0x002);
    send(ScriptedHost::read_entry(1, 0, 1, page).put8(1, 0x43), 1);
    CHECK(status_of(queue, 1) == 0x002);
    send(ScriptedHost::read_entry(1, 0, 1, page), 1);
    CHECK(status_of(queue, 1) == 0);
}

TEST_CASE("queue pair: a half whose data failed takes the other with it") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto zeroes = testing::filled(page, 0);
    REQUIRE(queue.submit(compare_entry(2, 1).cid(1).sqe(), {}, true));
    REQUIRE(queue.submit(second_entry(2, 1).cid(2).sqe(), zeroes));
    REQUIRE(queue.supply(1, std::span(zeroes).first(10)));
    rig.run();
    CHECK(status_of(queue, 1) == 0x004);
    CHECK(status_of(queue, 2) == 0x009);
    // An Abort of a half that waits for the other.
    REQUIRE(queue.submit(compare_entry(2, 1).cid(1).sqe(), zeroes));
    REQUIRE(queue.submit(second_entry(2, 1).cid(2).sqe(), {}, true));
    CHECK(host.command(Entry(0x08).dword(10, 1 | (1u << 16))).cqe.dw0.value() == 0);
    CHECK(status_of(queue, 1) == 0x007);
    REQUIRE(queue.supply(2, zeroes));
    rig.run();
    CHECK(status_of(queue, 2) == 0x009);
    CHECK(rig.buffers->bytes_in_use() == 0);
}

TEST_CASE("queue pair: commands that wait for memory are answered when it comes, or aborted") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    std::vector<std::uint64_t> taken;
    while (const auto offset = rig.buffers->allocate(1u << 20)) {
        taken.push_back(*offset);
    }
    const auto read = host.start(queue, ScriptedHost::read_entry(1, 0, 1, page));
    const auto other = host.start(queue, ScriptedHost::read_entry(1, 1, 1, page));
    const auto identify = host.start(*host.admin, Entry(0x06).dword(10, 1).length(4096));
    CHECK(queue.completions() == 0);
    CHECK(host.admin->completions() == 0);
    CHECK(host.command(Entry(0x18)).status().ok());  // Keep Alive needs none
    CHECK(host.command(Entry(0x08).dword(10, 1 | (std::uint32_t{other} << 16))).cqe.dw0.value() == 0);
    CHECK(status_of(queue, other) == 0x007);
    for (const std::uint64_t offset : taken) {
        rig.buffers->release(offset, 1u << 20);
    }
    rig.run();
    CHECK(status_of(queue, read) == 0);
    CHECK(host.admin->take(identify)->status().ok());
    CHECK(rig.buffers->bytes_in_use() == 0);
}

TEST_CASE("queue pair: a connection that ends gives everything back, whatever its commands wait for") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto zeroes = testing::filled(page, 0);
    REQUIRE(queue.submit(compare_entry(2, 1).cid(1).sqe(), zeroes));   // for its partner
    REQUIRE(queue.submit(second_entry(2, 1).cid(2).sqe(), {}, true));  // for its data
    rig.disk(1).holding = true;
    REQUIRE(queue.submit(ScriptedHost::read_entry(1, 0, 1, page).cid(3).sqe()));  // for the device
    host.park();
    std::vector<std::uint64_t> taken;
    while (const auto offset = rig.buffers->allocate(4096)) {
        taken.push_back(*offset);
    }
    REQUIRE(queue.submit(ScriptedHost::read_entry(1, 0, 1, page).cid(4).sqe()));  // for memory
    rig.run();
    host.admin->close();
    rig.run();
    CHECK(queue.idle());
    CHECK(host.admin->idle());
    CHECK(rig.target->controller_status().empty());
    for (const std::uint64_t offset : taken) {
        rig.buffers->release(offset, 4096);
    }
    CHECK(rig.buffers->bytes_in_use() == 0);
    CHECK(!rig.buffers->has_waiters());
    bool removed = false;
    CHECK(rig.target->remove_namespace(testing::test_subsystem, 1, [&] { removed = true; }).ok());
    rig.run();
    CHECK(removed);
}

TEST_CASE("queue pair: a host has slots for twice its queue, not more, however small the queue is") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    rig.disk(1).holding = true;
    std::uint16_t qid = 1;
    for (const std::uint16_t entries : {std::uint16_t{2}, std::uint16_t{32}, std::uint16_t{100}}) {
        transport::LoopConnection& queue = rig.open();
        const auto sqsize = static_cast<std::uint16_t>(entries - 1);
        REQUIRE(host.connect_io(queue, qid++, sqsize)->status().ok());
        std::uint32_t accepted = 0;
        std::uint16_t cid = 0;
        while (accepted < 1000 && queue.submit(ScriptedHost::read_entry(1, 0, 1, page).cid(cid++).sqe())) {
            ++accepted;
        }
        CHECK(accepted == entries * 2u);
    }
    rig.disk(1).finish_held();
    rig.run();
}

TEST_CASE("queue pair: flow control off means that no head is reported") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = rig.open();
    const auto connected =
        host.send(queue, ScriptedHost::connect_entry(1, 3).put8(46, 0x04), host.connect_data(host.cntlid));
    CHECK(connected->status().ok());
    CHECK(host.send(queue, ScriptedHost::read_entry(1, 0, 1, page))->cqe.sqhd.value() == 0);
    transport::LoopConnection& other = rig.open();
    CHECK(host.send(other, ScriptedHost::connect_entry(2, 3), host.connect_data(host.cntlid))
              ->cqe.sqhd.value() == 1);
    for (const int head : {2, 3, 0, 1, 2}) {
        CHECK(host.send(other, ScriptedHost::read_entry(1, 0, 1, page))->cqe.sqhd.value() == head);
    }
}
