// The remote device against a peer that breaks the protocol, says strange things about itself or goes away at
// any point: it never believes it, and serves as soon as there is a peer that behaves.

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
using Bytes = ScriptedTarget::Bytes;
using Facts = ScriptedTarget::Facts;
using Fate = ScriptedTarget::Fate;
using Io = ScriptedTarget::Io;

constexpr std::uint32_t page = ScriptedTarget::block_bytes;
constexpr std::uint8_t last = 4;
constexpr std::uint8_t success = 8;
constexpr std::uint8_t opcode_write = 1;
constexpr std::uint8_t opcode_read = 2;

// Something went wrong since it was made.
bool complains(const Device& device) {
    block::Details details;
    device.tell(details);
    return std::any_of(details.begin(), details.end(),
                       [](const auto& detail) { return detail.first == "last_error"; });
}

void fill(Pages& pages, unsigned seed) {
    for (std::size_t i = 0; i < pages.size(); ++i) {
        pages.data()[i] = static_cast<std::byte>((i * 7 + i / page + seed) & 0xFF);
    }
}

std::uint16_t other(std::uint16_t cid) { return static_cast<std::uint16_t>(cid ^ 1u); }
Bytes zeroes(std::size_t size) { return Bytes(size, 0); }

// What a peer does with the first command of a kind. Whatever it is, what the host is told in the end is
// true.
struct Lie {
    const char* name;
    std::uint8_t opcode;
    Fate (*tell)(Io& io);
};

Fate over_after(bool sent) { return sent ? Fate::done : Fate::over; }

const Lie lies[] = {
    {"another CID", opcode_read,
     [](Io& io) {
         return over_after(io.data(other(io.cid), 0, zeroes(2 * page), last) && io.respond(other(io.cid), 0));
     }},
    {"a CID that was never used", opcode_read, [](Io& io) { return over_after(io.respond(0xFFFF, 0)); }},
    {"more data than asked for", opcode_read,
     [](Io& io) { return over_after(io.data(io.cid, 0, zeroes(2 * page + 4), last) && io.respond()); }},
    {"data behind the end", opcode_read,
     [](Io& io) {
         return over_after(io.data(io.cid, 0, zeroes(2 * page), 0) &&
                           io.data(io.cid, 2 * page, zeroes(512), last) && io.respond());
     }},
    {"data at a far offset", opcode_read,
     [](Io& io) { return over_after(io.data(io.cid, 0xFFFFF000, zeroes(2 * page), last) && io.respond()); }},
    {"too little data", opcode_read,
     [](Io& io) { return over_after(io.data(io.cid, 0, zeroes(page), last) && io.respond()); }},
    {"no data", opcode_read, [](Io& io) { return over_after(io.respond()); }},
    {"a hole in the data", opcode_read,
     [](Io& io) {
         return over_after(io.data(io.cid, 0, zeroes(512), 0) &&
                           io.data(io.cid, 1024, zeroes(2 * page - 1024), last) && io.respond());
     }},
    {"the same data twice", opcode_read,
     [](Io& io) {
         return over_after(io.data(io.cid, 0, zeroes(page), 0) && io.data(io.cid, 0, zeroes(page), last) &&
                           io.respond());
     }},
    {"data after the last data", opcode_read,
     [](Io& io) {
         return over_after(io.data(io.cid, 0, zeroes(page), last) &&
                           io.data(io.cid, page, zeroes(page), last) && io.respond());
     }},
    {"SUCCESS before all data", opcode_read,
     [](Io& io) { return over_after(io.data(io.cid, 0, zeroes(page), last | success)); }},
    {"an R2T for a read", opcode_read, [](Io& io) { return over_after(io.r2t(io.cid, 0, 2 * page)); }},
    {"a wrong header digest", opcode_read,
     [](Io& io) {
         io.damage_header = true;
         return over_after(io.data(io.cid, 0, zeroes(2 * page), last) && io.respond());
     }},
    {"a wrong data digest", opcode_read,
     [](Io& io) {
         io.damage_data = true;
         return over_after(io.data(io.cid, 0, zeroes(2 * page), last) && io.respond());
     }},
    {"a response with a wrong header digest", opcode_write,
     [](Io& io) {
         io.damage_header = true;
         return over_after(io.respond());
     }},
    {"data for a write", opcode_write,
     [](Io& io) { return over_after(io.data(io.cid, 0, zeroes(page), last)); }},
    {"success without the data", opcode_write, [](Io& io) { return over_after(io.respond()); }},
    {"an R2T beyond the end", opcode_write, [](Io& io) { return over_after(io.r2t(io.cid, 0, 17 * page)); }},
    {"an R2T at a far offset", opcode_write,
     [](Io& io) { return over_after(io.r2t(io.cid, 0xFFFFF000, 8192)); }},
    {"an R2T of nothing", opcode_write, [](Io& io) { return over_after(io.r2t(io.cid, 0, 0)); }},
    {"an R2T that begins in the middle", opcode_write,
     [](Io& io) { return over_after(io.r2t(io.cid, page, page)); }},
    {"two R2Ts that overlap", opcode_write,
     [](Io& io) { return over_after(io.r2t(io.cid, 0, 16 * page) && io.r2t(io.cid, page, page)); }},
    {"an R2T for another command", opcode_write,
     [](Io& io) { return over_after(io.r2t(other(io.cid), 0, page)); }},
    {"a response while it asks for data", opcode_write,
     [](Io& io) { return over_after(io.r2t(io.cid, 0, page) && io.respond()); }},
    {"a PDU that only hosts send", opcode_read,
     [](Io& io) {
         Bytes pdu(72);
         pdu[0] = 4;
         pdu[2] = pdu[4] = 72;
         return over_after(io.raw(pdu));
     }},
    {"a PDU of an enormous length", opcode_read,
     [](Io& io) {
         return over_after(io.raw({7, 0x0F, 24, 28, 0xFF, 0xFF, 0xFF, 0xFF}));
     }},
    {"a PDU of no length", opcode_read,
     [](Io& io) {
         return over_after(io.raw({7, 0, 24, 24, 0, 0, 0, 0}));
     }},
    {"noise", opcode_read, [](Io& io) { return over_after(io.raw(Bytes(1000, 0xA5))); }},
    {"a termination request", opcode_read,
     [](Io& io) {
         Bytes pdu(24);
         pdu[0] = 3;
         pdu[2] = pdu[4] = 24;
         pdu[8] = 0xFF;
         return over_after(io.raw(pdu));
     }},
    {"half a header", opcode_read,
     [](Io& io) {
         io.raw({7, 0, 24});
         return Fate::over;
     }},
    {"half of the data", opcode_read,
     [](Io& io) {
         Bytes pdu(24 + 100);
         pdu[0] = 7;
         pdu[1] = last;
         pdu[2] = pdu[3] = 24;
         Io::put(pdu, 4, 24 + 2 * page, 4);
         Io::put(pdu, 8, io.cid, 2);
         Io::put(pdu, 16, 2 * page, 4);
         io.raw(pdu);
         return Fate::over;
     }},
    {"a close without an answer", opcode_write, [](Io&) { return Fate::over; }},
    {"silence", opcode_write, [](Io&) { return Fate::done; }},
    {"an answer that comes drop by drop, for ever", opcode_read,
     [](Io& io) {
         io.split = 1;
         io.pace_ms = 20;
         return over_after(io.data(io.cid, 0, zeroes(2 * page), last) && io.respond());
     }},
};

}  // namespace

TEST_CASE("whatever a peer does against the rules, no request ends with anything but the truth") {
    for (const bool digests : {false, true}) {
        for (const Lie& lie : lies) {
            const std::string name = lie.name;
            CAPTURE(name);
            CAPTURE(digests);
            if (!digests && name.find("digest") != std::string::npos) {
                continue;
            }
            ScriptedTarget target;
            std::atomic<bool> told{false};
            target.set_hook([&](Io& io) {
                if (io.admin || io.opcode != lie.opcode || told.exchange(true)) {
                    return Fate::serve;
                }
                return lie.tell(io);
            });
            BlockRig rig;
            block::DeviceSpec spec = target.device("far");
            spec.remote.header_digest = spec.remote.data_digest = digests;
            Device& device = *rig.make(spec).value();
            REQUIRE(rig.serves(device));
            Pages out(16 * page);
            Pages in(16 * page);
            fill(out, 1);
            CHECK(rig.run(device, Action::write, 8 * page, out.size(), out.data()) == Status::ok);
            CHECK(rig.run(device, Action::read, 8 * page, 2 * page, in.data()) == Status::ok);
            CHECK(std::memcmp(in.data(), out.data(), 2 * page) == 0);
            CHECK(rig.run(device, Action::read, 8 * page, in.size(), in.data()) == Status::ok);
            CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
            CHECK(told);
            CHECK(target.associations() >= 2);
        }
    }
}

TEST_CASE("a second completion of a command ends the connection, and nobody hears of it twice") {
    ScriptedTarget target;
    std::atomic<bool> told{false};
    target.set_hook([&](Io& io) {
        if (io.admin || io.opcode != 0 || told.exchange(true)) {
            return Fate::serve;
        }
        return over_after(io.respond() && io.respond());
    });
    BlockRig rig;
    Device& device = *rig.make(target.device("far")).value();
    REQUIRE(rig.serves(device));
    TestRequest flush;
    flush.action = Action::flush;
    CHECK(rig.run(device, flush) == Status::ok);
    CHECK(rig.run_until([&] { return target.associations() >= 2; }));
    REQUIRE(rig.serves(device));
    CHECK(flush.completed == 1);
    CHECK(rig.run(device, Action::flush) == Status::ok);
}

TEST_CASE("a connection that ends at any point of its way up is made anew, and serves in the end") {
    bool whole = false;
    for (std::uint32_t pdus = 0; !whole && pdus < 40; ++pdus) {
        CAPTURE(pdus);
        ScriptedTarget target;
        Facts facts;
        facts.hang_up_after = pdus;
        target.set_facts(facts);
        BlockRig rig;
        Device& device = *rig.make(target.device("far")).value();
        REQUIRE(rig.run_until([&] { return device.health().state == "ok" || complains(device); }));
        whole = device.health().state == "ok";
        target.set_facts({});
        REQUIRE(rig.serves(device));
        CHECK(device.describe().size_bytes == ScriptedTarget::blocks_default * page);
        CHECK(rig.run(device, Action::flush) == Status::ok);
    }
    CHECK(whole);
}

TEST_CASE("a peer that falls silent on the way up is left after the timeout") {
    bool whole = false;
    for (std::uint32_t silent_at = 0; !whole && silent_at < 40; ++silent_at) {
        CAPTURE(silent_at);
        ScriptedTarget target;
        std::atomic<std::uint32_t> commands{0};
        target.set_hook([&](Io& io) {
            const bool event = io.admin && io.opcode == 0x0C;
            return !event && commands++ == silent_at ? Fate::done : Fate::serve;
        });
        BlockRig rig;
        block::DeviceSpec spec = target.device("far");
        spec.remote.timeout_ms = 200;
        Device& device = *rig.make(spec).value();
        REQUIRE(rig.serves(device));
        CHECK(rig.run(device, Action::flush) == Status::ok);
        whole = commands <= silent_at;
    }
    CHECK(whole);
}

TEST_CASE("answers in single bytes are answers") {
    ScriptedTarget target;
    target.set_hook([](Io& io) {
        io.split = io.admin ? 97 : 1;
        return Fate::serve;
    });
    BlockRig rig;
    block::DeviceSpec spec = target.device("far");
    spec.remote.timeout_ms = 10'000;
    spec.remote.header_digest = spec.remote.data_digest = true;
    Device& device = *rig.make(spec).value();
    REQUIRE(rig.serves(device));
    Pages out(3 * page);
    Pages in(3 * page);
    fill(out, 9);
    CHECK(rig.run(device, Action::write, 0, out.size(), out.data()) == Status::ok);
    CHECK(rig.run(device, Action::read, 0, in.size(), in.data()) == Status::ok);
    CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
    CHECK(target.associations() == 1);
}

TEST_CASE("odd limits of a peer are kept to") {
    struct Row {
        const char* name;
        std::uint8_t mdts;
        std::uint16_t maxcmd;
        std::uint64_t mqes;
        std::uint32_t largest;  // blocks of one command
    };
    for (const Row& row : {Row{"no limit", 0, 0, 0x3FF, 256}, Row{"the smallest transfer", 1, 0, 0x3FF, 2},
                           Row{"an impossible transfer", 255, 0, 0x3FF, 256},
                           Row{"one command", 5, 1, 0x3FF, 32}, Row{"two entries", 5, 0, 1, 32}}) {
        const std::string name = row.name;
        CAPTURE(name);
        ScriptedTarget target;
        Facts facts;
        facts.mdts = row.mdts;
        facts.maxcmd = row.maxcmd;
        facts.cap = (facts.cap & ~0xFFFFull) | row.mqes;
        target.set_facts(facts);
        std::atomic<std::uint32_t> largest{0};
        target.set_hook([&](Io& io) {
            if (!io.admin && io.opcode != 0) {
                largest = std::max(largest.load(), io.blocks);
            }
            return Fate::serve;
        });
        BlockRig rig;
        Device& device = *rig.make(target.device("far")).value();
        REQUIRE(rig.serves(device));
        Pages out(2 << 20);
        Pages in(2 << 20);
        fill(out, row.mdts);
        CHECK(rig.run(device, Action::write, 0, out.size(), out.data()) == Status::ok);
        CHECK(rig.run(device, Action::read, 0, in.size(), in.data()) == Status::ok);
        CHECK(std::memcmp(in.data(), out.data(), in.size()) == 0);
        CHECK(largest == row.largest);
    }
}

TEST_CASE("a peer whose data make no sense is not served from, and says why") {
    struct Row {
        const char* name;
        void (*spoil)(Bytes& controller, Bytes& ns);
    };
    const Row rows[] = {
        {"no blocks", [](Bytes&, Bytes& ns) { Io::put(ns, 0, 0, 8); }},
        {"more bytes than there are", [](Bytes&, Bytes& ns) { Io::put(ns, 0, ~0ull, 8); }},
        {"2^61 blocks", [](Bytes&, Bytes& ns) { Io::put(ns, 0, 1ull << 61, 8); }},
        {"blocks of a byte", [](Bytes&, Bytes& ns) { ns[130] = 0; }},
        {"blocks of 2^255 bytes", [](Bytes&, Bytes& ns) { ns[130] = 255; }},
        {"metadata", [](Bytes&, Bytes& ns) { ns[128] = 8; }},
        {"another controller", [](Bytes& c, Bytes&) { Io::put(c, 78, 77, 2); }},
        {"capsules of nothing", [](Bytes& c, Bytes&) { Io::put(c, 1792, 0, 4); }},
        {"no SGLs", [](Bytes& c, Bytes&) { Io::put(c, 536, 0, 4); }},
        {"no keep alive", [](Bytes& c, Bytes&) { Io::put(c, 320, 0, 2); }},
    };
    for (const Row& row : rows) {
        const std::string name = row.name;
        CAPTURE(name);
        ScriptedTarget target;
        std::atomic<bool> spoilt{true};
        target.set_hook([&](Io& io) {
            if (!spoilt || !io.admin || io.opcode != 6 || (io.cdw10 & 0xFF) > 1) {
                return Fate::serve;
            }
            Bytes controller(4096);
            Io::put(controller, 78, 1, 2);
            Io::put(controller, 320, 1, 2);
            Io::put(controller, 536, 1, 4);
            Io::put(controller, 1792, 68, 4);
            Io::put(controller, 1796, 1, 4);
            Bytes ns(4096);
            Io::put(ns, 0, ScriptedTarget::blocks_default, 8);
            ns[104] = 1;
            ns[130] = 12;
            row.spoil(controller, ns);
            return over_after(io.data(io.cid, 0, (io.cdw10 & 0xFF) == 1 ? controller : ns, last) &&
                              io.respond());
        });
        BlockRig rig;
        Device& device = *rig.make(target.device("far")).value();
        REQUIRE(rig.run_until([&] { return complains(device); }));
        CHECK(device.health().state != "ok");
        CHECK(device.describe().size_bytes == 0);
        spoilt = false;
        REQUIRE(rig.serves(device));
        CHECK(rig.run(device, Action::flush) == Status::ok);
    }
}

TEST_CASE("events that come while the namespace is looked at make it look once more, and no more") {
    ScriptedTarget target;
    std::atomic<std::uint32_t> looks{0};
    target.set_hook([&](Io& io) {
        looks += io.admin && io.opcode == 6 && (io.cdw10 & 0xFF) == 0 ? 1 : 0;
        if (!io.admin || io.opcode != 0x0C || looks > 8) {
            return Fate::serve;
        }
        return over_after(io.respond(io.cid, 0, 0x00040002));
    });
    BlockRig rig;
    Device& device = *rig.make(target.device("far")).value();
    REQUIRE(rig.serves(device));
    CHECK(rig.run_until([&] { return looks > 8; }));
    CHECK(rig.run(device, Action::flush) == Status::ok);
    CHECK(target.associations() == 1);
}
