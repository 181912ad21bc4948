// A mirror's scrub, and what its checksums find.

#include <doctest/doctest.h>

#include "testing/mirror_volume.h"

namespace {

using block::Action;
using block::Device;
using block::Status;
using testing::Pages;
using Volume = testing::MirrorVolume;

}  // namespace

TEST_CASE("a scrub finds and repairs what differs") {
    Volume v(3);
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0x91) == Status::ok);
    v.close();
    Pages memory(4096);
    REQUIRE(v.rig.run(v.rig.device("a"), Action::write, 8192, 4096, memory.data()) == Status::ok);
    v.open_serving();
    CHECK(v.becomes("ok"));
    CHECK(v.ask("scrub", {{"repair", "no"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "1"; }));
    CHECK(v.detail("scrub.different_blocks") == "1");
    CHECK(v.reads(8192, 4096, 0, "a"));
    CHECK(v.ask("scrub", {{"repair", "yes"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "2"; }));
    CHECK(v.detail("scrub.repaired_blocks") == "1");
    CHECK(v.reads(8192, 4096, 0x91, "a"));  // two of three said so
}

TEST_CASE("with checksums a corrupt block comes from the other leg, and is counted and mended") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.detail("checksums") == "yes");
    CHECK(v.write(1 << 20, 65536, 0xA1) == Status::ok);
    v.corrupt("a", (1 << 20) + 8192);
    for (int i = 0; i < 4; ++i) {
        CHECK(v.reads(1 << 20, 65536, 0xA1));
    }
    CHECK(v.detail("leg.a.corruptions") == "1");
    CHECK(v.detail("leg.a.repaired") == "1");
    CHECK(v.detail("leg.b.corruptions") == "0");
    CHECK(v.reads(1 << 20, 65536, 0xA1, "a"));
    CHECK(v.health() == "ok");
    v.close();
    // The same after a restart, when the checksums come from the legs.
    v.corrupt("b", (1 << 20) + 4096);
    v.open_serving();
    for (int i = 0; i < 4; ++i) {
        CHECK(v.reads(1 << 20, 65536, 0xA1));
    }
    CHECK(v.detail("leg.b.corruptions") == "1");
    CHECK(v.reads(1 << 20, 65536, 0xA1, "b"));
    CHECK(v.detail("resync.done_bytes") == "0");
}

TEST_CASE("what is corrupt on every leg is an error, until it is written") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 65536, 0xA2) == Status::ok);
    v.corrupt("a", 4096);
    v.corrupt("b", 4096);
    Pages memory(65536);
    Device& device = v.rig.device(v.mirror.name);
    CHECK(v.rig.run(device, Action::read, 0, 65536, memory.data()) == Status::medium_error);
    CHECK(v.rig.run(device, Action::read, 4096, 4096, memory.data()) == Status::medium_error);
    CHECK(v.reads(0, 4096, 0xA2));
    CHECK(v.reads(8192, 4096, 0xA2));
    CHECK(v.detail("checksums.lost_blocks") != "0");
    CHECK(v.write(4096, 4096, 0xA3) == Status::ok);
    CHECK(v.reads(4096, 4096, 0xA3));
    CHECK(v.legs_are_equal("a", "b"));
}

TEST_CASE("with checksums a scrub knows which of two legs is wrong") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0xA4) == Status::ok);
    v.corrupt("a", 8192);
    v.corrupt("b", 16384);
    CHECK(v.ask("scrub", {{"repair", "no"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "1"; }));
    CHECK(v.detail("scrub.different_blocks") == "2");
    CHECK(v.detail("scrub.repaired_blocks") == "0");
    CHECK_FALSE(v.legs_are_equal("a", "b"));
    CHECK(v.ask("scrub", {{"repair", "yes"}}).empty());
    CHECK(v.rig.run_until([&] { return v.detail("scrub.runs") == "2"; }));
    CHECK(v.detail("scrub.repaired_blocks") == "2");
    CHECK(v.reads(0, 1 << 20, 0xA4, "a"));
    CHECK(v.reads(0, 1 << 20, 0xA4, "b"));
}

TEST_CASE("a leg that gets everything gets the checksums, too") {
    Volume v;
    v.mirror.mirror.checksums = true;
    v.open_serving();
    CHECK(v.write(0, 1 << 20, 0xA5) == Status::ok);
    v.make_ram("c");
    CHECK(v.ask("replace_leg", {{"leg", "a"}, {"device", "c"}}).empty());
    CHECK(v.rig.run_until([&] { return v.state("a") == "there is no leg.a.state"; }));
    CHECK(v.becomes("ok"));
    v.close();
    v.mirror.parts = {{"c", 0, 0}, {"b", 0, 0}};
    v.open_serving();
    v.corrupt("b", 4096);
    CHECK(v.reads(0, 1 << 20, 0xA5));
    CHECK(v.reads(0, 1 << 20, 0xA5));
    CHECK(v.detail("leg.b.corruptions") == "1");
    CHECK(v.detail("leg.c.corruptions") == "0");
    // Alone it still tells.
    CHECK(v.ask("remove_leg", {{"leg", "b"}}).empty());
    v.corrupt("c", 12288);
    Pages memory(4096);
    CHECK(v.rig.run(v.rig.device(v.mirror.name), Action::read, 12288, 4096, memory.data()) ==
          Status::medium_error);
}
