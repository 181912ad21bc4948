// Handlers as Debian packages them, and servers that are killed with a handler at work.

#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <fstream>
#include <map>

#include "testing/tcmu_faults.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::number;
using testing::Pages;
using testing::refusal;
using testing::TestRequest;
using Faults = testing::TcmuFaults;
using Load = testing::TcmuLoad;

constexpr std::uint64_t size_bytes = testing::tcmu_bytes;

std::string packaged(const std::string& file) {
    for (const char* folder : {"/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu"}) {
        const std::string path = std::string(folder) + "/tcmu-runner/" + file;
        if (access(path.c_str(), R_OK) == 0) {
            return path;
        }
    }
    MESSAGE("skipped: " << file << " (Debian package tcmu-runner)");
    return "";
}

TEST_CASE("a packaged tcmu handler that takes SCSI commands only is refused with the reason") {
    const std::string library = packaged("handler_file_optical.so");
    if (library.empty()) {
        return;
    }
    Faults faults;
    faults.spec.tcmu.handler = "fbo";
    faults.spec.tcmu.library = library;
    CHECK(refusal(faults).find("SCSI commands only") != std::string::npos);
    faults.spec.tcmu.handler = "other";
    CHECK(refusal(faults).find("it has: fbo") != std::string::npos);
}

TEST_CASE("the packaged rbd handler loads, and says why it cannot open without a cluster") {
    if (packaged("handler_rbd.so").empty()) {
        return;
    }
    Faults faults;
    faults.spec.tcmu.handler = "rbd";
    faults.spec.size_bytes = size_bytes;
    faults.spec.tcmu.configuration = "pool/image;conf=/nonexistent/ceph.conf";
    const std::string reason = refusal(faults);
    if (reason.find("librbd") != std::string::npos || reason.find("librados") != std::string::npos) {
        MESSAGE("skipped: librbd1 is not installed");
        return;
    }
    CHECK(reason.find("cannot open \"pool/image") != std::string::npos);
    CHECK(reason.find("/nonexistent/ceph.conf") != std::string::npos);
}

// What the handler works on is a fresh qcow image from now on; false, and a word, where none can be made.
bool use_qcow(Faults& faults) {
    faults.path = faults.folder.file("disk.qcow2");
    faults.spec.tcmu.handler = "qcow";
    faults.spec.tcmu.configuration = faults.path;
    const std::string missing = testing::make_qcow(faults.path, size_bytes);
    if (!missing.empty()) {
        MESSAGE("skipped: " << missing);
    }
    return missing.empty();
}

TEST_CASE("a qcow image that the packaged handler would damage is refused, untouched") {
    Faults faults;
    const std::string no_image = faults.path;
    if (!use_qcow(faults)) {
        return;
    }
    const std::string image = faults.path;
    const auto refused = [&](const std::string& path) {
        std::ifstream before(path, std::ios::binary);
        const std::string bytes(std::istreambuf_iterator<char>(before), {});
        faults.spec.tcmu.configuration = path;
        const std::string reason = refusal(faults);
        std::ifstream after(path, std::ios::binary);
        CHECK(bytes == std::string(std::istreambuf_iterator<char>(after), {}));
        return reason;
    };
    const auto run = [](const std::string& command) {
        REQUIRE(std::system((command + " >/dev/null 2>&1").c_str()) == 0);
    };
    CHECK(refused(no_image).find("is not a qcow image") != std::string::npos);
    const std::string overlay = faults.folder.file("overlay.qcow2");
    run("qemu-img create -f qcow2 -F qcow2 -b " + image + " " + overlay);
    CHECK(refused(overlay).find("backing file") != std::string::npos);
    const std::string zeroes = faults.folder.file("zeroes.qcow2");
    CHECK(testing::make_qcow(zeroes, size_bytes).empty());
    run("qemu-io -c 'write -P 1 0 1M' -c 'write -z 0 128k' " + zeroes);
    CHECK(refused(zeroes).find("marked as zeroes") != std::string::npos);
    const std::string in_memory = "/dev/shm/keel-test-" + std::to_string(getpid()) + ".qcow2";
    CHECK(testing::make_qcow(in_memory, size_bytes).empty());
    CHECK(refused(in_memory).find("FALLOC_FL_ZERO_RANGE") != std::string::npos);
    std::remove(in_memory.c_str());
    run("qemu-img snapshot -c one " + image);
    CHECK(refused(image).find("snapshots") != std::string::npos);
}

// The number of errors that qemu-img finds; what it only finds wasted does not count.
int errors_in(const std::string& image) {
    return std::system(("qemu-img check -q " + image + " >/dev/null 2>&1").c_str());
}

TEST_CASE("a qcow image whose tcmu process was killed while it wrote is mended before it is used again") {
    Faults faults;
    if (!use_qcow(faults)) {
        return;
    }
    const std::string image = faults.path;
    Device* device = &faults.open();
    std::memset(faults.memory.data(), 0x11, size_bytes);
    REQUIRE(faults.rig.run(*device, Action::write, 0, 1 << 20, faults.memory.data()) == Status::ok);
    faults.rig.close("subject");
    REQUIRE(errors_in(image) == 0);
    // As a kill between two of the handler's writes leaves it: the last cluster is in use and not counted.
    std::fstream file(image, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(0, std::ios::end);
    const auto last = static_cast<std::uint64_t>(file.tellg()) / 65536 - 1;
    file.seekp(static_cast<std::streamoff>(2 * 65536 + 2 * last));  // the first block of counts
    file.write("\0\0", 2);
    file.close();
    REQUIRE(errors_in(image) != 0);
    device = &faults.open();
    CHECK(faults.logged("in use that were not counted, and are now: 1"));
    std::memset(faults.memory.data() + (1 << 20), 0x22, 1 << 20);
    REQUIRE(faults.rig.run(*device, Action::write, 1 << 20, 1 << 20, faults.memory.data() + (1 << 20)) ==
            Status::ok);
    Pages back(2 << 20);
    REQUIRE(faults.rig.run(*device, Action::read, 0, 2 << 20, back.data()) == Status::ok);
    CHECK(std::memcmp(back.data(), faults.memory.data(), 2 << 20) == 0);
    faults.rig.close("subject");
    CHECK(errors_in(image) == 0);
}

TEST_CASE("a qcow image keeps every acknowledged write while its tcmu process is killed again and again") {
    Faults faults;
    if (!use_qcow(faults)) {
        return;
    }
    const std::string image = faults.path;
    for (int round = 0; round < 4; ++round) {
        Device& device = faults.open();
        const auto process = static_cast<pid_t>(number(device, "process"));
        Load load(faults, device);
        const std::size_t when = 1 + static_cast<std::size_t>(round) * 16;
        REQUIRE(faults.rig.run_until([&] { return load.requests[when].completed > 0; }));
        kill(process, SIGKILL);
        load.settle();
        for (const TestRequest& request : load.requests) {
            REQUIRE(request.status == Status::ok);
        }
        load.verify();
        faults.rig.close("subject");
        CHECK(errors_in(image) == 0);
        std::remove(image.c_str());
        CHECK(testing::make_qcow(image, size_bytes).empty());
    }
}

// A server of its own: writes block after block, each with its number in it, and tells the number of each
// that was acknowledged. Runs until it is killed.
[[noreturn]] void serve_until_killed(const DeviceSpec& spec, int acknowledged) {
    BlockRig rig;
    const auto made = rig.make(spec);
    if (!made.ok() || !rig.run_until([&] { return made.value()->describe().size_bytes != 0; })) {
        _exit(3);
    }
    const auto process = static_cast<std::uint64_t>(number(*made.value(), "process"));
    (void)!write(acknowledged, &process, sizeof process);
    constexpr std::uint64_t depth = 8;
    Pages memory(depth * 4096);
    TestRequest requests[depth];
    std::uint64_t numbers[depth] = {};
    for (std::uint64_t next = 0;; ++next) {
        const std::uint64_t lane = next % depth;
        TestRequest& request = requests[lane];
        if (next >= depth) {
            if (!rig.run_until([&] { return request.completed > 0; }) || request.status != Status::ok) {
                _exit(4);
            }
            (void)!write(acknowledged, &numbers[lane], sizeof numbers[lane]);
        }
        numbers[lane] = next;
        request.completed = 0;
        request.action = Action::write;
        request.offset = next * 4096 % size_bytes;
        request.length = 4096;
        request.data = memory.data() + lane * 4096;
        for (std::size_t at = 0; at < 4096; at += sizeof next) {
            std::memcpy(request.data + at, &next, sizeof next);
        }
        made.value()->submit(request);
    }
}

// Neither gone nor waiting to be reaped by whoever inherited it.
bool runs(std::uint64_t process) {
    std::ifstream file("/proc/" + std::to_string(process) + "/stat");
    std::string text;
    std::getline(file, text);
    const std::size_t end_of_name = text.rfind(')');
    return end_of_name != std::string::npos && text.compare(end_of_name, 4, ") Z ") != 0 &&
           text.compare(end_of_name, 4, ") X ") != 0;
}

TEST_CASE("a server that is killed leaves its tcmu process to finish what it began; the next one finds all") {
    const bool with_qcow = !packaged("handler_qcow.so").empty();
    for (int round = 0; round < 6; ++round) {
        CAPTURE(round);
        Faults faults;
        const bool qcow = with_qcow && round % 2 == 0;
        if (qcow && !use_qcow(faults)) {
            return;
        }
        int pipe_ends[2];
        REQUIRE(pipe2(pipe_ends, O_CLOEXEC) == 0);
        const pid_t server = fork();
        if (server == 0) {
            serve_until_killed(faults.spec, pipe_ends[1]);
        }
        close(pipe_ends[1]);
        std::uint64_t process = 0;
        REQUIRE(read(pipe_ends[0], &process, sizeof process) == sizeof process);
        std::map<std::uint64_t, std::uint64_t> last;  // by block: the last number acknowledged
        std::uint64_t number = 0;
        const auto take = [&] {
            const bool got = read(pipe_ends[0], &number, sizeof number) == sizeof number;
            if (got) {
                last[number * 4096 % size_bytes] = number;
            }
            return got;
        };
        for (int i = 0; i < 150 + 50 * round; ++i) {
            REQUIRE(take());
        }
        kill(server, SIGKILL);
        REQUIRE(waitpid(server, nullptr, 0) == server);
        while (take()) {
        }
        close(pipe_ends[0]);
        // At once, while the old process may still be at it.
        Device& device = faults.open();
        CHECK_FALSE(runs(process));
        for (const auto& [offset, expected] : last) {
            REQUIRE(faults.rig.run(device, Action::read, offset, 4096, faults.memory.data()) == Status::ok);
            std::uint64_t found = 0;
            std::memcpy(&found, faults.memory.data(), sizeof found);
            // A later one may have got there, unacknowledged.
            CHECK(found >= expected);
            CHECK(found % (size_bytes / 4096) == expected % (size_bytes / 4096));
        }
        faults.rig.close("subject");
        CHECK((!qcow || errors_in(faults.path) == 0));
    }
}

}  // namespace
