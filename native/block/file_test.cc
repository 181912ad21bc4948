// What can happen to a file under a device: locks, a full file system, a cut, a resize from outside.

#include <doctest/doctest.h>
#include <signal.h>
#include <sys/file.h>
#include <sys/wait.h>

#include <algorithm>

#include "testing/block_media.h"
#include "testing/block_rig.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t size_bytes = 1 << 20;

DeviceSpec file_at(const std::string& path) {
    DeviceSpec spec;
    spec.name = "f";
    spec.kind = "file";
    spec.path = path;
    spec.create = true;
    spec.size_bytes = size_bytes;
    return spec;
}

bool mentions(const std::string& text, const std::string& part) {
    return text.find(part) != std::string::npos;
}

// Another process that holds the lock on a file, until it is told to end or is killed.
class LockingProcess {
  public:
    explicit LockingProcess(const std::string& path) {
        int told[2];
        int locked[2];
        REQUIRE(pipe2(told, O_CLOEXEC) == 0);
        REQUIRE(pipe2(locked, O_CLOEXEC) == 0);
        process_ = fork();
        if (process_ == 0) {
            const int descriptor = open(path.c_str(), O_RDWR | O_CLOEXEC);
            const char answer = flock(descriptor, LOCK_EX) == 0 ? 'y' : 'n';
            char end = 0;
            close(told[1]);
            (void)!write(locked[1], &answer, 1);
            (void)!read(told[0], &end, 1);
            _exit(0);
        }
        close(told[0]);
        close(locked[1]);
        tell_ = told[1];
        char answer = 'n';
        REQUIRE(read(locked[0], &answer, 1) == 1);
        REQUIRE(answer == 'y');
        close(locked[0]);
    }
    LockingProcess(const LockingProcess&) = delete;
    LockingProcess& operator=(const LockingProcess&) = delete;
    ~LockingProcess() { end(); }
    void end() {
        if (process_ > 0) {
            close(tell_);
            waitpid(process_, nullptr, 0);
            process_ = -1;
        }
    }
    int process() const { return process_; }

  private:
    int process_ = -1;
    int tell_ = -1;
};

TEST_CASE("requests wait while another process holds the lock, and run when it lets go") {
    testing::TemporaryFolder folder;
    const DeviceSpec spec = file_at(folder.file("disk"));
    REQUIRE(testing::make_file(spec.path, size_bytes / 2));
    LockingProcess other(spec.path);
    BlockRig rig;
    Device& device = *rig.make(spec).value();
    CHECK(device.describe().size_bytes == size_bytes);
    CHECK(device.health().state == "waiting for lock");
    CHECK(mentions(device.health().reason, "process " + std::to_string(other.process())));
    CHECK(device.resize(size_bytes * 2).error().code == "E_BUSY");

    Pages memory(8192);
    std::memset(memory.data(), 0x11, 4096);
    TestRequest write;
    write.action = Action::write;
    write.length = 4096;
    write.data = memory.data();
    TestRequest cancelled = write;
    TestRequest flush;
    flush.action = Action::flush;
    device.submit(write);
    device.submit(cancelled);
    device.submit(flush);
    device.cancel(cancelled);
    CHECK(cancelled.completed == 1);
    CHECK(cancelled.status == Status::aborted);
    const base::Nanoseconds until = base::monotonic_now() + 10 * base::millisecond;
    while (base::monotonic_now() < until) {
        rig.reactor.run_once(until);
    }
    CHECK(write.completed == 0);
    struct stat status {};
    REQUIRE(stat(spec.path.c_str(), &status) == 0);
    CHECK(status.st_size == size_bytes / 2);  // nothing happens to a file that is not ours

    other.end();
    REQUIRE(rig.run_until([&] { return write.completed == 1 && flush.completed == 1; }));
    CHECK(write.status == Status::ok);
    CHECK(flush.status == Status::ok);
    CHECK(device.health().state == "ok");
    REQUIRE(stat(spec.path.c_str(), &status) == 0);
    CHECK(status.st_size == size_bytes);
    CHECK(rig.run(device, Action::read, 0, 4096, memory.data() + 4096) == Status::ok);
    CHECK(std::memcmp(memory.data(), memory.data() + 4096, 4096) == 0);
}

TEST_CASE("the lock of a killed process is waited for like any other") {
    testing::TemporaryFolder folder;
    const DeviceSpec spec = file_at(folder.file("disk"));
    REQUIRE(testing::make_file(spec.path, size_bytes));
    LockingProcess other(spec.path);
    BlockRig rig;
    Device& device = *rig.make(spec).value();
    kill(other.process(), SIGKILL);
    CHECK(rig.run(device, Action::flush) == Status::ok);
}

TEST_CASE("without wait_for_lock a locked file is refused, and its holder named") {
    testing::TemporaryFolder folder;
    DeviceSpec spec = file_at(folder.file("disk"));
    spec.wait_for_lock = false;
    REQUIRE(testing::make_file(spec.path, size_bytes));
    BlockRig rig;
    {
        LockingProcess other(spec.path);
        const auto refused = rig.make(spec);
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().code == "E_BUSY");
        CHECK(mentions(refused.error().message, "process " + std::to_string(other.process())));
    }
    CHECK(rig.make(spec).ok());
    DeviceSpec twice = spec;
    twice.name = "g";
    twice.wait_for_lock = true;
    const auto refused = rig.make(twice);
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == "E_BUSY");
    CHECK(mentions(refused.error().message, "another device of this server"));
}

TEST_CASE("closing while it waits for the lock ends what waits with gone") {
    testing::TemporaryFolder folder;
    const DeviceSpec spec = file_at(folder.file("disk"));
    REQUIRE(testing::make_file(spec.path, size_bytes));
    LockingProcess other(spec.path);
    BlockRig rig;
    Device& device = *rig.make(spec).value();
    TestRequest flush;
    flush.action = Action::flush;
    device.submit(flush);
    rig.close(spec.name);
    CHECK(flush.completed == 1);
    CHECK(flush.status == Status::gone);
}

TEST_CASE("a full file system answers no_space, and the same write succeeds when there is room again") {
    testing::TemporaryFolder folder;
    REQUIRE(testing::make_file(folder.file("loop"), 16 << 20));
    testing::LoopDevice loop(folder.file("loop"), 512);
    const bool formatted =
        loop.missing().empty() &&
        std::system(("mkfs.ext4 -q -m 0 -O ^has_journal " + loop.path() + " >/dev/null 2>&1").c_str()) == 0;
    for (const std::string type : {"tmpfs", "ext4"}) {
        CAPTURE(type);
        const bool memory_only = type == "tmpfs";
        if (!memory_only && !formatted) {
            MESSAGE("skipped: ext4 on a loop device cannot be made: " << loop.missing());
            continue;
        }
        testing::DetachedMount mount(type.c_str(),
                                     {memory_only ? testing::DetachedMount::Option{"size", "4m"}
                                                  : testing::DetachedMount::Option{"source", loop.path()}});
        if (!mount.missing().empty()) {
            MESSAGE("skipped: " << mount.missing());
            continue;
        }
        BlockRig rig;
        DeviceSpec spec = file_at(mount.file("disk"));
        spec.size_bytes = 32 << 20;  // thin: more than there is
        const auto made = rig.make(spec);
        REQUIRE(made.ok());
        Device& device = *made.value();
        Pages memory(1 << 20);
        std::memset(memory.data(), 0x42, memory.size());
        std::uint64_t written = 0;
        Status status = Status::ok;
        while (written < spec.size_bytes) {
            status = rig.run(device, Action::write, written, memory.size(), memory.data());
            if (status != Status::ok) {
                break;
            }
            written += memory.size();
        }
        CHECK(status == Status::no_space);
        CHECK(written >= 1 << 20);
        CHECK(device.health().state == "ok");
        CHECK(rig.run(device, Action::read, 0, memory.size(), memory.data()) == Status::ok);
        CHECK(memory.data()[4096] == std::byte{0x42});
        REQUIRE(rig.run(device, Action::deallocate, 0, written) == Status::ok);
        CHECK(rig.run(device, Action::write, written, memory.size(), memory.data()) == Status::ok);
    }
}

TEST_CASE(
    "a file that was cut off under the device fails reads behind the cut, and says its size when asked") {
    testing::TemporaryFolder folder;
    BlockRig rig;
    const DeviceSpec spec = file_at(folder.file("disk"));
    Device& device = *rig.make(spec).value();
    auto claim = block::Claim::take(device, block::Access::read_write, "test").take();
    int told = 0;
    claim.on_change([&] { ++told; });
    Pages memory(size_bytes);
    for (const off_t cut : {off_t{4096 + 100}, off_t{8192}, off_t{0}}) {
        REQUIRE(truncate(spec.path.c_str(), cut) == 0);
        CHECK(rig.run(device, Action::read, 0, size_bytes, memory.data()) == Status::medium_error);
        CHECK(rig.run(device, Action::read, size_bytes - 4096, 4096, memory.data()) == Status::medium_error);
    }
    REQUIRE(truncate(spec.path.c_str(), 8192 + 5) == 0);
    CHECK(told == 0);
    CHECK(device.resize(std::nullopt).value() == 8192);
    CHECK(told == 1);
    CHECK(rig.run(device, Action::read, 0, 8192, memory.data()) == Status::ok);
    CHECK(rig.run(device, Action::read, 8192, 4096, memory.data()) == Status::out_of_range);
    REQUIRE(truncate(spec.path.c_str(), 2 * size_bytes) == 0);
    CHECK(device.resize(std::nullopt).value() == 2 * size_bytes);
    CHECK(told == 2);
}

TEST_CASE("paths that are no file, or cannot be one, are refused with a remedy") {
    testing::TemporaryFolder folder;
    BlockRig rig;
    DeviceSpec spec = file_at(folder.file("absent"));
    spec.create = false;
    auto refused = rig.make(spec).error();
    CHECK(refused.code == "E_NOT_FOUND");
    CHECK(mentions(refused.message, spec.path));
    CHECK(mentions(refused.message, "create"));

    spec = file_at(folder.file("no/such/folder"));
    CHECK(rig.make(spec).error().code == "E_NOT_FOUND");

    spec = file_at(folder.file("new"));
    spec.size_bytes = 0;
    CHECK(rig.make(spec).error().code == "E_INVALID");
    CHECK(access(spec.path.c_str(), F_OK) != 0);  // what was created for nothing is gone again

    CHECK(mentions(rig.make(file_at(folder.file(""))).error().message, "directory"));
    CHECK(mentions(rig.make(file_at("/dev/null")).error().message, "neither"));
    REQUIRE(mkfifo(folder.file("pipe").c_str(), 0600) == 0);
    CHECK(rig.make(file_at(folder.file("pipe"))).error().code == "E_INVALID");
    CHECK(rig.make(file_at("")).error().code == "E_INVALID");

    REQUIRE(testing::make_file(folder.file("small"), 4096));
    spec = file_at(folder.file("small"));
    spec.read_only = true;
    CHECK(mentions(rig.make(spec).error().message, "read_only"));
    spec.kind = "blockdev";
    CHECK(mentions(rig.make(spec).error().message, "kind \"file\""));
}

TEST_CASE("a file is never made smaller by its specification") {
    testing::TemporaryFolder folder;
    BlockRig rig;
    const DeviceSpec spec = file_at(folder.file("disk"));
    REQUIRE(testing::make_file(spec.path, 3 * size_bytes));
    CHECK(rig.make(spec).value()->describe().size_bytes == 3 * size_bytes);
}

TEST_CASE("a device that must be buffered says why; a direct one is direct") {
    testing::TemporaryFolder folder;
    BlockRig rig;
    DeviceSpec spec = file_at(folder.file("disk"));
    CHECK(rig.make(spec).value()->health().reason.empty());
    REQUIRE(testing::make_file(folder.file("loop"), 64 << 20));
    testing::LoopDevice loop(folder.file("loop"), 4096);
    if (!loop.missing().empty() ||
        std::system(("mkfs.ext4 -q " + loop.path() + " >/dev/null 2>&1").c_str()) != 0) {
        MESSAGE("skipped: ext4 on a disk with blocks of 4096 cannot be made: " << loop.missing());
        return;
    }
    testing::DetachedMount mount("ext4", {{"source", loop.path()}});
    if (!mount.missing().empty()) {
        MESSAGE("skipped: " << mount.missing());
        return;
    }
    spec = file_at(mount.file("disk"));
    spec.name = "small blocks";
    spec.block_bytes = 512;
    Device& device = *rig.make(spec).value();
    CHECK(device.health().state == "ok");
    CHECK(mentions(device.health().reason, "buffered"));
    CHECK(device.describe().data_alignment == 1);
    rig.close(spec.name);
}

}  // namespace
