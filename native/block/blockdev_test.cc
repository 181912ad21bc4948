// What can happen to a block device of the system, tried on loop devices; needs root.

#include <doctest/doctest.h>
#include <linux/fs.h>

#include "testing/block_media.h"
#include "testing/block_rig.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;

constexpr std::uint64_t size_bytes = 4 << 20;

struct LoopBench {
    explicit LoopBench(std::uint32_t block_bytes) {
        REQUIRE(testing::make_file(backing, size_bytes));
        loop = std::make_unique<testing::LoopDevice>(backing, block_bytes);
        if (!loop->missing().empty()) {
            MESSAGE("skipped: " << loop->missing());
        }
        spec.name = "b";
        spec.kind = "blockdev";
        spec.path = loop->path();
        spec.block_bytes = block_bytes;
    }
    bool present() const { return loop->missing().empty(); }

    testing::TemporaryFolder folder;
    std::string backing = folder.file("loop");
    std::unique_ptr<testing::LoopDevice> loop;
    DeviceSpec spec;
};

TEST_CASE("a block device describes itself, grows with its volume, and keeps mounts off") {
    LoopBench bench(512);
    if (!bench.present()) {
        return;
    }
    BlockRig rig;
    Device& device = *rig.make(bench.spec).value();
    CHECK(device.describe().size_bytes == size_bytes);
    CHECK(device.health().state == "ok");
    const int exclusive = open(bench.spec.path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);
    CHECK(exclusive < 0);
    auto claim = block::Claim::take(device, block::Access::read_write, "test").take();
    int told = 0;
    claim.on_change([&] { ++told; });
    REQUIRE(truncate(bench.backing.c_str(), 2 * size_bytes) == 0);
    REQUIRE(bench.loop->reread_size());
    CHECK(device.resize(std::nullopt).value() == 2 * size_bytes);
    CHECK(told == 1);
    Pages memory(4096);
    CHECK(rig.run(device, Action::write, 2 * size_bytes - 4096, 4096, memory.data(), true) == Status::ok);
    claim.release();
}

TEST_CASE("a discard reaches the volume") {
    LoopBench bench(512);
    if (!bench.present()) {
        return;
    }
    BlockRig rig;
    Device& device = *rig.make(bench.spec).value();
    Pages memory(size_bytes);
    std::memset(memory.data(), 1, memory.size());
    REQUIRE(rig.run(device, Action::write, 0, size_bytes, memory.data()) == Status::ok);
    REQUIRE(rig.run(device, Action::flush) == Status::ok);
    if (!device.describe().can_deallocate) {
        MESSAGE("skipped: loop devices do not discard here");
        return;
    }
    struct stat before {};
    struct stat after {};
    REQUIRE(stat(bench.backing.c_str(), &before) == 0);
    CHECK(rig.run(device, Action::deallocate, size_bytes / 2, size_bytes / 2) == Status::ok);
    REQUIRE(stat(bench.backing.c_str(), &after) == 0);
    CHECK(after.st_blocks < before.st_blocks);
}

TEST_CASE("a range that the volume cannot read is a medium error; a volume that vanished is gone for good") {
    LoopBench bench(512);
    if (!bench.present()) {
        return;
    }
    BlockRig rig;
    Device& device = *rig.make(bench.spec).value();
    Pages memory(4096);
    REQUIRE(truncate(bench.backing.c_str(), size_bytes / 2) == 0);  // behind it reading is EIO
    CHECK(rig.run(device, Action::read, size_bytes - 4096, 4096, memory.data()) == Status::medium_error);
    CHECK(rig.run(device, Action::read, 0, 4096, memory.data()) == Status::ok);
    CHECK(device.health().state == "ok");

    REQUIRE(bench.loop->reread_size());  // the device itself is smaller now
    CHECK(rig.run(device, Action::read, size_bytes - 4096, 4096, memory.data()) == Status::medium_error);
    CHECK(rig.run(device, Action::write, size_bytes - 4096, 4096, memory.data()) == Status::medium_error);
    CHECK(device.health().state == "ok");

    REQUIRE(truncate(bench.backing.c_str(), 0) == 0);
    REQUIRE(bench.loop->reread_size());
    CHECK(rig.run(device, Action::write, 0, 4096, memory.data()) == Status::gone);
    CHECK(device.health().state == "gone");
    CHECK(device.health().reason.find(bench.spec.path) != std::string::npos);
    CHECK_FALSE(device.resize(std::nullopt).ok());
    REQUIRE(truncate(bench.backing.c_str(), size_bytes) == 0);
    REQUIRE(bench.loop->reread_size());
    CHECK(rig.run(device, Action::read, 0, 4096, memory.data()) == Status::gone);
    CHECK(rig.run(device, Action::flush) == Status::gone);
    rig.close("b");
    CHECK(rig.make(bench.spec).ok());  // closed and made again it is back
}

TEST_CASE(
    "devices that are in use, read-only, of larger blocks or no block devices are refused with a remedy") {
    LoopBench bench(4096);
    if (!bench.present()) {
        return;
    }
    BlockRig rig;
    const auto message = [&](const DeviceSpec& spec) { return rig.make(spec).error().message; };
    const auto mentions = [](const std::string& text, const char* part) {
        return text.find(part) != std::string::npos;
    };
    DeviceSpec spec = bench.spec;
    spec.block_bytes = 512;
    CHECK(mentions(message(spec), "set block_bytes to 4096"));
    spec.kind = "file";
    CHECK(mentions(message(spec), "kind \"blockdev\""));
    spec = bench.spec;
    spec.path = "/dev/no-such-device";
    CHECK(rig.make(spec).error().code == "E_NOT_FOUND");

    const int user = open(bench.spec.path.c_str(), O_RDONLY | O_EXCL | O_CLOEXEC);  // as a mount would
    REQUIRE(user >= 0);
    CHECK(rig.make(bench.spec).error().code == "E_BUSY");
    CHECK(mentions(message(bench.spec), "mounted"));
    close(user);

    const int device = open(bench.spec.path.c_str(), O_RDONLY | O_CLOEXEC);
    int read_only = 1;
    REQUIRE(ioctl(device, BLKROSET, &read_only) == 0);
    CHECK_FALSE(rig.make(bench.spec).ok());
    CHECK(mentions(message(bench.spec), "read_only"));
    spec = bench.spec;
    spec.read_only = true;
    CHECK(rig.make(spec).ok());
    rig.close("b");
    read_only = 0;
    REQUIRE(ioctl(device, BLKROSET, &read_only) == 0);
    close(device);
    CHECK(rig.make(bench.spec).ok());
}

}  // namespace
