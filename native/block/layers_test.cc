// The kinds that stand on another device, and what every specification must say.

#include <doctest/doctest.h>

#include <cerrno>

#include "testing/block_media.h"
#include "testing/block_rig.h"

namespace {

using block::Action;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

DeviceSpec ram_named(const std::string& name) {
    DeviceSpec spec;
    spec.name = name;
    spec.kind = "ram";
    spec.size_bytes = 1 << 20;
    return spec;
}

DeviceSpec above(const std::string& kind, const std::string& base) {
    DeviceSpec spec;
    spec.name = kind + " on " + base;
    spec.kind = kind;
    spec.base = base;
    return spec;
}

bool mentions(const base::Error& error, const std::string& text) {
    return error.message.find(text) != std::string::npos;
}

TEST_CASE("what a specification gets wrong is named, with what is possible") {
    BlockRig rig;
    DeviceSpec spec = ram_named("r");
    spec.kind = "floppy";
    auto error = rig.make(spec).error();
    CHECK(error.code == "E_INVALID");
    CHECK(mentions(error, "\"floppy\""));
    CHECK(mentions(error, "ram, null, file, blockdev, delay, error"));
    spec = ram_named("r");
    spec.block_bytes = 1024;
    CHECK(rig.make(spec).error().code == "E_INVALID");
    spec = ram_named("r");
    spec.size_bytes = 4097;
    CHECK(mentions(rig.make(spec).error(), "4097"));
    spec.size_bytes = 0;
    CHECK(rig.make(spec).error().code == "E_INVALID");
    spec.kind = "null";
    spec.size_bytes = std::uint64_t{1} << 63;
    CHECK(rig.make(spec).error().code == "E_INVALID");
    for (const char* kind : {"delay", "error"}) {
        error = rig.make(above(kind, "nobody")).error();
        CHECK(error.code == "E_NOT_FOUND");
        CHECK(mentions(error, "\"nobody\""));
    }
    REQUIRE(rig.make(ram_named("r")).ok());
    spec = above("error", "r");
    spec.error_status = "sulking";
    error = rig.make(spec).error();
    CHECK(mentions(error, "\"sulking\""));
    CHECK(mentions(error, "no_space"));
    spec.error_status = "ok";
    CHECK(rig.make(spec).error().code == "E_INVALID");
    spec = above("error", "r");
    spec.error_actions = {"read", "erase"};
    CHECK(mentions(rig.make(spec).error(), "\"erase\""));
}

TEST_CASE("a stacked device claims its base: nobody else may use it meanwhile") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("r")).ok());
    const auto delay = rig.make(above("delay", "r"));
    REQUIRE(delay.ok());
    const auto second = rig.make(above("error", "r"));
    REQUIRE_FALSE(second.ok());
    CHECK(second.error().code == "E_BUSY");
    CHECK(mentions(second.error(), "delay on r"));
    rig.close("delay on r");
    CHECK(rig.make(above("error", "r")).ok());
    rig.close("error on r");
}

TEST_CASE("the error kind fails the chosen action in the chosen range, the chosen number of times") {
    BlockRig rig;
    Pages memory(16384);
    REQUIRE(rig.make(ram_named("r")).ok());
    DeviceSpec spec = above("error", "r");
    spec.error_actions = {"write", "flush"};
    spec.error_status = "no_space";
    spec.error_offset = 8192;
    spec.error_length = 4096;
    spec.error_count = 3;
    block::Device& device = *rig.make(spec).value();
    const auto write = [&](std::uint64_t offset, std::uint64_t length) {
        return rig.run(device, Action::write, offset, length, memory.data());
    };
    CHECK(write(4096, 4096) == Status::ok);
    CHECK(write(12288, 4096) == Status::ok);
    CHECK(write(8192, 4096) == Status::no_space);
    CHECK(rig.run(device, Action::read, 8192, 4096, memory.data()) == Status::ok);
    CHECK(write(0, 16384) == Status::no_space);
    CHECK(rig.run(device, Action::flush) == Status::no_space);
    CHECK(write(8192, 4096) == Status::ok);
    CHECK(device.counters().errors == 3);
    rig.close(spec.name);

    spec.error_count = 0;
    spec.error_length = 0;  // to the end
    block::Device& always = *rig.make(spec).value();
    for (int i = 0; i < 10; ++i) {
        CHECK(rig.run(always, Action::write, (1 << 20) - 4096, 4096, memory.data()) == Status::no_space);
    }
    CHECK(rig.run(always, Action::write, 4096, 4096, memory.data()) == Status::ok);
    rig.close(spec.name);
}

TEST_CASE("the delay kind delays by action, keeps the order of equal delays, and cancels what still waits") {
    BlockRig rig;
    Pages memory(16384);
    REQUIRE(rig.make(ram_named("r")).ok());
    DeviceSpec spec = above("delay", "r");
    spec.read_delay_us = 3000;
    spec.flush_delay_us = 3600ull * 1000 * 1000 * 24;
    block::Device& device = *rig.make(spec).value();
    const base::Nanoseconds start = base::monotonic_now();
    CHECK(rig.run(device, Action::write, 0, 4096, memory.data()) == Status::ok);
    CHECK(rig.run(device, Action::read, 0, 4096, memory.data()) == Status::ok);
    CHECK(base::monotonic_now() >= start + 3 * base::millisecond);

    TestRequest cancelled;
    cancelled.action = Action::flush;
    device.submit(cancelled);
    rig.reactor.run_once(0);
    CHECK(cancelled.completed == 0);
    device.cancel(cancelled);
    CHECK(cancelled.completed == 1);
    CHECK(cancelled.status == Status::aborted);

    TestRequest waiting;  // a day; closing does not wait for it
    waiting.action = Action::flush;
    device.submit(waiting);
    rig.close(spec.name);
    CHECK(waiting.completed == 1);
    CHECK(waiting.status == Status::ok);
    CHECK(rig.device("r").counters().completed[static_cast<int>(Action::flush)] == 1);
}

TEST_CASE("a stacked device follows its base's size and passes its health on") {
    BlockRig rig;
    REQUIRE(rig.make(ram_named("r")).ok());
    REQUIRE(rig.make(above("delay", "r")).ok());
    DeviceSpec top = above("error", "delay on r");
    block::Device& device = *rig.make(top).value();
    auto claim = block::Claim::take(device, block::Access::read_write, "test").take();
    int told = 0;
    claim.on_change([&] { ++told; });
    CHECK(device.resize(2 << 20).value() == 2 << 20);
    CHECK(rig.device("r").describe().size_bytes == 2 << 20);
    CHECK(device.describe().size_bytes == 2 << 20);
    CHECK(told == 1);
    CHECK(device.health().state == "ok");
    claim.release();
    rig.close(top.name);
    rig.close("delay on r");
}

TEST_CASE("a listener may release its own claim and those of others while it is told") {
    BlockRig rig;
    block::Device& device = *rig.make(ram_named("r")).value();
    auto first = block::Claim::take(device, block::Access::read_only, "first").take();
    auto second = block::Claim::take(device, block::Access::read_only, "second").take();
    int told = 0;
    const auto listener = [&] {
        ++told;
        first.release();
        second.release();
    };
    first.on_change(listener);
    second.on_change(listener);
    CHECK(device.resize(2 << 20).ok());
    CHECK(told == 1);
}

TEST_CASE("every errno that a disk may answer has a status") {
    CHECK(block::status_of_errno(0) == Status::ok);
    CHECK(block::status_of_errno(EIO) == Status::medium_error);
    CHECK(block::status_of_errno(EILSEQ) == Status::medium_error);
    CHECK(block::status_of_errno(ENOSPC) == Status::no_space);
    CHECK(block::status_of_errno(EDQUOT) == Status::no_space);
    CHECK(block::status_of_errno(ENODEV) == Status::gone);
    CHECK(block::status_of_errno(EROFS) == Status::read_only);
    CHECK(block::status_of_errno(EAGAIN) == Status::busy);
    CHECK(block::status_of_errno(ECANCELED) == Status::aborted);
    CHECK(block::status_of_errno(EINVAL) == Status::internal_error);
}

}  // namespace
