// The remote device against a peer that changes between two connections, refuses for a while, is slow, or
// lets its hosts in only to drop them.

#include <doctest/doctest.h>

#include <algorithm>
#include <atomic>
#include <string>

#include "block/remote/remote.h"
#include "testing/block_rig.h"
#include "testing/scripted_target.h"

namespace {

using block::Action;
using block::Device;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::ScriptedTarget;
using testing::TestRequest;
using Facts = ScriptedTarget::Facts;
using Fate = ScriptedTarget::Fate;
using Io = ScriptedTarget::Io;

constexpr std::uint32_t page = ScriptedTarget::block_bytes;
constexpr std::uint8_t opcode_write = 1;

void let_pass(BlockRig& rig, base::Nanoseconds time) {
    const base::Nanoseconds end = rig.kernel.now() + time;
    while (rig.kernel.now() < end) {
        rig.reactor.run_once(end);
    }
}

void set(TestRequest& request, Action action, std::uint64_t offset, std::uint64_t length,
         std::byte* data = nullptr) {
    request.action = action;
    request.offset = offset;
    request.length = length;
    request.data = data;
}

// Write commands are not answered until `deaf` ends; how many came then.
struct Deafness {
    std::atomic<bool> deaf{true};
    std::atomic<std::uint32_t> unanswered{0};

    explicit Deafness(ScriptedTarget& target) {
        target.set_hook([this](Io& io) {
            if (io.admin || io.opcode != opcode_write || !deaf) {
                return Fate::serve;
            }
            ++unanswered;
            return Fate::done;
        });
    }
};

}  // namespace

TEST_CASE("a peer that comes back with smaller transfers gets what was in flight in smaller pieces") {
    ScriptedTarget target;
    std::atomic<std::uint32_t> largest{0};
    std::atomic<std::uint32_t> unanswered{0};
    std::atomic<bool> small{false};
    target.set_hook([&](Io& io) {
        if (io.admin || io.fabrics || io.opcode == 0) {
            return Fate::serve;
        }
        if (!small) {
            ++unanswered;
            return Fate::done;
        }
        largest = std::max(largest.load(), io.blocks);
        return Fate::serve;
    });
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    spec.remote.timeout_ms = 10'000;
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages out(512 << 10);
    Pages in(512 << 10);
    std::memset(out.data(), 0x5a, out.size());
    TestRequest write;
    set(write, Action::write, 0, out.size(), out.data());
    device.submit(write);
    REQUIRE(rig.run_until([&] { return unanswered == 1; }));
    Facts facts;
    facts.mdts = 1;
    target.set_facts(facts);
    small = true;
    target.cut();
    REQUIRE(rig.run_until([&] { return write.completed == 1; }));
    CHECK(write.status == Status::ok);
    CHECK(largest == 2);
    CHECK(rig.run(device, Action::read, 0, in.size(), in.data()) == Status::ok);
    CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
}

TEST_CASE("a write of which a part was sent is not held by the doubt about that part") {
    ScriptedTarget target;
    Deafness silence(target);
    Facts facts;
    facts.mdts = 3;  // 32 KiB
    target.set_facts(facts);
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    spec.remote.depth = 2;
    spec.remote.kato_ms = 10'000;
    spec.remote.timeout_ms = 10'000;
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages out(256 << 10);
    TestRequest write;
    set(write, Action::write, 0, out.size(), out.data());
    device.submit(write);
    REQUIRE(rig.run_until([&] { return silence.unanswered == 2; }));
    const base::Nanoseconds lost_at = rig.kernel.now();
    silence.deaf = false;
    target.cut();
    REQUIRE(rig.run_until([&] { return write.completed == 1; }));
    CHECK(write.status == Status::ok);
    CHECK(rig.kernel.now() - lost_at < 10 * base::second);  // the doubt lasts for twice that
}

TEST_CASE("of changes of the same blocks that are sent again the later one wins, and waits for the earlier") {
    ScriptedTarget target;
    Deafness silence(target);
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    spec.remote.io_queues = 2;
    spec.remote.timeout_ms = 10'000;
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages first(2 * page);
    Pages second(2 * page);
    std::memset(first.data(), 1, first.size());
    std::memset(second.data(), 2, second.size());
    TestRequest writes[2];
    set(writes[0], Action::write, 0, first.size(), first.data());
    set(writes[1], Action::write, page, second.size(), second.data());
    device.submit(writes[0]);
    device.submit(writes[1]);
    REQUIRE(rig.run_until([&] { return silence.unanswered == 2; }));
    const base::Nanoseconds lost_at = rig.kernel.now();
    silence.deaf = false;
    target.cut();
    Pages in(page);
    CHECK(rig.run(device, Action::write, 8 * page, page, first.data()) == Status::ok);  // others go on
    REQUIRE(rig.run_until([&] { return writes[0].completed + writes[1].completed == 1; }));
    CHECK(writes[0].completed == 1);
    REQUIRE(rig.run_until([&] { return writes[1].completed == 1; }));
    CHECK(writes[0].status == Status::ok);
    CHECK(writes[1].status == Status::ok);
    CHECK(rig.kernel.now() - lost_at >= 800 * base::millisecond);  // twice the keep alive
    CHECK(target.content(0) == 1);
    CHECK(target.content(page) == 2);
    CHECK(target.content(2 * page) == 2);
}

TEST_CASE("a peer that lets its hosts in and drops them is not tried all the time") {
    ScriptedTarget target;
    target.set_hook([&](Io& io) { return io.admin || io.fabrics ? Fate::serve : Fate::over; });
    BlockRig rig;
    Device& device = *rig.make(target.device("far")).value();
    TestRequest flush;
    set(flush, Action::flush, 0, 0);
    REQUIRE(rig.serves(device));
    device.submit(flush);
    let_pass(rig, 2 * base::second);
    CHECK(flush.completed == 0);
    CHECK(target.associations() >= 2);
    CHECK(target.associations() <= 8);
    target.set_hook(nullptr);
    CHECK(rig.run_until([&] { return flush.completed == 1; }));
    CHECK(flush.status == Status::ok);
}

TEST_CASE("a namespace that is not there is waited for until the deadline, or for ever") {
    for (const bool freeze : {false, true}) {
        CAPTURE(freeze);
        ScriptedTarget target;
        std::atomic<bool> removed{true};
        target.set_hook([&](Io& io) {
            return !removed || io.admin || io.fabrics ? Fate::serve
                                                      : (io.respond(0x400B) ? Fate::done : Fate::over);
        });
        BlockRig rig;
        block::DeviceSpec spec = target.device("far");
        spec.remote.deadline_ms = freeze ? 100 : 5000;
        if (freeze) {
            spec.remote.when_lost = block::RemoteSpec::WhenLost::freeze;
        }
        Device& device = *rig.make(spec).value();
        REQUIRE(rig.serves(device));
        Pages out(page);
        TestRequest write;
        set(write, Action::write, 0, page, out.data());
        device.submit(write);
        let_pass(rig, 500 * base::millisecond);
        CHECK(write.completed == 0);
        CHECK(target.associations() >= 2);  // who it is was asked again
        removed = false;
        REQUIRE(rig.run_until([&] { return write.completed == 1; }));
        CHECK(write.status == Status::ok);
        if (!freeze) {
            removed = true;
            CHECK(rig.run(device, Action::write, 0, page, out.data()) == Status::gone);
        }
    }
}

TEST_CASE("what has no data is cut so that one command can end in time") {
    struct Row {
        const char* name;
        Action action;
        std::uint8_t wzsl;
        std::uint32_t dmrsl;
        std::uint32_t most;       // blocks that the peer does in time
        std::uint16_t otherwise;  // what it answers to more; 0: nothing
        std::uint32_t largest;    // blocks of a command that it does; 0: nearly the most
    };
    for (const Row& row : {Row{"zeroes", Action::write_zeroes, 0, 0, ~0u, 0, 256},
                           Row{"zeroes, a limit", Action::write_zeroes, 6, 0, ~0u, 0, 64},
                           Row{"zeroes, a far limit", Action::write_zeroes, 19, 0, ~0u, 0, 8192},
                           Row{"zeroes, slow", Action::write_zeroes, 19, 0, 4096, 0, 0},
                           Row{"deallocation", Action::deallocate, 0, 0, ~0u, 0, 262'144},
                           Row{"deallocation, a limit", Action::deallocate, 0, 1000, ~0u, 0, 1000},
                           Row{"deallocation, slow", Action::deallocate, 0, 0, 131'072, 0, 0},
                           Row{"deallocation, refused", Action::deallocate, 0, 0, 4096, 0x4183, 0}}) {
        const std::string name = row.name;
        CAPTURE(name);
        ScriptedTarget target;
        Facts facts;
        facts.blocks = 1u << 22;  // 16 GiB
        facts.wzsl = row.wzsl;
        facts.dmrsl = row.dmrsl;
        target.set_facts(facts);
        std::atomic<std::uint32_t> largest{0};
        std::atomic<std::uint64_t> done{0};
        target.set_hook([&](Io& io) {
            if (io.admin || io.fabrics) {
                return Fate::serve;
            }
            if (io.blocks > row.most) {
                return row.otherwise == 0 || io.respond(row.otherwise) ? Fate::done : Fate::over;
            }
            largest = std::max(largest.load(), io.blocks);
            done += io.blocks;
            return io.respond() ? Fate::done : Fate::over;
        });
        BlockRig rig;
        block::DeviceSpec spec = target.device("far");
        spec.remote.timeout_ms = 500;
        Device& device = *rig.make(spec).value();
        REQUIRE(rig.serves(device));
        const std::uint64_t blocks =
            row.action == Action::deallocate && row.most == ~0u && row.dmrsl == 0 ? facts.blocks : 300'000;
        CHECK(rig.run(device, row.action, 0, blocks * page) == Status::ok);
        if (row.largest != 0) {
            CHECK(largest == row.largest);
        } else {
            CHECK(largest >= row.most / 4);
        }
        CHECK(done >= blocks);
    }
}

TEST_CASE("an identity is compared with one of its kind, and asked for again if it was not told") {
    ScriptedTarget target;
    Facts facts;
    facts.descriptors = true;
    target.set_facts(facts);
    std::atomic<std::uint16_t> answer{0x0006};
    target.set_hook([&](Io& io) {
        const bool descriptors = io.admin && io.opcode == 6 && (io.cdw10 & 0xFF) == 3;
        return !descriptors || answer == 0 ? Fate::serve : (io.respond(answer) ? Fate::done : Fate::over);
    });
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.run_until([&] { return target.associations() >= 2; }));
    CHECK(device.identity().empty());
    answer = 0;
    REQUIRE(rig.serves(device));
    CHECK(device.identity() == "nguid.01000000000000000000000000000000");

    answer = 0x4002;  // from now on it tells less
    target.cut();
    REQUIRE(rig.run_until([&] { return device.health().reason.find("does not say") != std::string::npos; }));
    CHECK(device.health().state == "lost");
    answer = 0;
    REQUIRE(rig.serves(device));
    CHECK(device.identity() == "nguid.01000000000000000000000000000000");
    rig.close("far");

    // One that was known by its serial number is the same when it tells more.
    spec.known = {ScriptedTarget::blocks_default * page, page, "serial." + std::string(20, '1') + ".1"};
    Device& known = *rig.make(spec).value();
    REQUIRE(rig.serves(known));
    CHECK(known.identity() == "nguid.01000000000000000000000000000000");
    rig.close("far");
    spec.known.identity = "serial.2.1";
    Device& foreign = *rig.make(spec).value();
    CHECK(rig.run_until([&] { return foreign.health().state == "foreign"; }));
}

TEST_CASE("without a keep alive a newer change waits all the same") {
    ScriptedTarget target;
    Deafness silence(target);
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    spec.remote.kato_ms = 0;
    spec.remote.timeout_ms = 10'000;
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages out(page);
    TestRequest older;
    set(older, Action::write, 0, page, out.data());
    device.submit(older);
    REQUIRE(rig.run_until([&] { return silence.unanswered == 1; }));
    silence.deaf = false;
    target.cut();
    REQUIRE(rig.run_until([&] { return older.completed == 1; }));
    TestRequest newer;
    set(newer, Action::write, 0, page, out.data());
    device.submit(newer);
    CHECK(rig.run(device, Action::write, page, page, out.data()) == Status::ok);
    let_pass(rig, base::second);
    CHECK(newer.completed == 0);
    rig.close("far");
    CHECK(newer.completed == 1);
}

TEST_CASE("what a peer can do is not promised before it was asked") {
    for (const std::uint16_t oncs : {std::uint16_t{0}, std::uint16_t{0x0C}}) {
        CAPTURE(oncs);
        ScriptedTarget target;
        Facts facts;
        facts.oncs = oncs;
        target.set_facts(facts);
        BlockRig rig;
        block::DeviceSpec spec = target.device("far");
        spec.known = {ScriptedTarget::blocks_default * page, page, ""};
        Device& device = *rig.make(spec).value();
        CHECK_FALSE(device.describe().can_write_zeroes);
        CHECK_FALSE(device.describe().can_deallocate);
        CHECK(device.describe().volatile_cache);
        REQUIRE(rig.serves(device));
        CHECK(device.describe().can_write_zeroes == (oncs != 0));
        CHECK(device.describe().can_deallocate == (oncs != 0));
    }
}

TEST_CASE("an address that is none, or a name, is refused by name") {
    BlockRig rig;
    for (const char* const address : {"host.example:4420", "localhost:4420", "127.0.0.1", "127.0.0.1:0",
                                      "127.0.0.1:70000", "[::1:4420", ":4420", "[]:4420", ""}) {
        const std::string text = address;
        CAPTURE(text);
        block::DeviceSpec spec;
        {
            ScriptedTarget target;
            spec = target.device("far");
        }
        spec.remote.addresses = {"127.0.0.1:4420", text};
        const auto made = rig.make(spec);
        REQUIRE_FALSE(made.ok());
        CHECK(made.error().code == "E_INVALID");
        CHECK(made.error().message.find("\"" + text + "\"") != std::string::npos);
    }
}

TEST_CASE("who hears that a closing device ends a request may cancel others") {
    BlockRig rig;
    block::DeviceSpec spec;
    {
        ScriptedTarget target;
        spec = target.device("far");
    }
    spec.known = {ScriptedTarget::blocks_default * page, page, ""};
    Device& device = *rig.make(spec).value();
    struct Chained : TestRequest {
        Device* of = nullptr;
        Chained* other = nullptr;
    };
    Pages memory(page);
    Chained requests[3];
    for (std::size_t i = 0; i < 3; ++i) {
        set(requests[i], Action::read, i * page, page, memory.data());
        requests[i].of = &device;
        requests[i].other = i + 1 < 3 ? &requests[i + 1] : nullptr;
        requests[i].done = [](block::Request& request, Status status) {
            auto& self = static_cast<Chained&>(request);
            ++self.completed;
            self.status = status;
            std::memset(request.scratch, 0xA5, sizeof request.scratch);  // its memory is its owner's again
            if (self.other != nullptr && self.other->completed == 0) {
                self.of->cancel(*self.other);
            }
        };
        device.submit(requests[i]);
    }
    rig.close("far");
    for (const Chained& request : requests) {
        CHECK(request.completed == 1);
    }
}
