// The kind tcmu with handlers that crash, hang, talk and refuse; the contract itself is in contract_test.cc.

#include "block/tcmu/device.h"

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <map>
#include <sstream>

#include "block/tcmu/find_handler.h"
#include "testing/block_media.h"
#include "testing/block_rig.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using block::TcmuSpec;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t size_bytes = 4 << 20;

// A device over the handler of faults.
struct Faults {
    Faults() {
        rig.environment.log = [this](const char* level, const char*, const std::string& message) {
            log.push_back(std::string(level) + " " + message);
        };
        path = folder.file("disk");
        CHECK(testing::make_file(path, size_bytes));
        spec.name = "subject";
        spec.kind = "tcmu";
        spec.block_bytes = 512;
        spec.tcmu.handler = "faulty";
        spec.tcmu.configuration = path;
    }

    Device& open() {
        const auto made = rig.make(spec);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        Device* device = made.value();
        const bool opened = rig.run_until([&] { return device->describe().size_bytes != 0; });
        REQUIRE_MESSAGE(opened, device->health().state << ": " << device->health().reason);
        return *device;
    }

    // What fixes the handler: markers are data from now on.
    void cure() const { CHECK(testing::make_file(path + ".cured", 1)); }

    bool logged(const std::string& text) const {
        return std::any_of(log.begin(), log.end(),
                           [&](const std::string& line) { return line.find(text) != std::string::npos; });
    }

    Status write_marker(Device& device, const char* marker) {
        std::memset(memory.data(), 0, 4096);
        std::strcpy(reinterpret_cast<char*>(memory.data()), marker);
        return rig.run(device, Action::write, 0, 4096, memory.data());
    }

    testing::TemporaryFolder folder;
    std::string path;
    DeviceSpec spec;
    Pages memory{size_bytes};
    std::vector<std::string> log;
    BlockRig rig;
};

std::uint64_t detail(const Device& device, const std::string& key) {
    block::Details details;
    device.tell(details);
    for (const auto& [name, value] : details) {
        if (const auto* number = std::get_if<std::uint64_t>(&value); number != nullptr && name == key) {
            return *number;
        }
    }
    FAIL("no detail " << key);
    return 0;
}

// Writes of 4 KiB all over the device, some of them under way at any time.
struct Load {
    static constexpr std::uint64_t count = 512;
    explicit Load(Faults& faults_, Device& device_) : faults(faults_), device(device_), requests(count) {
        for (std::uint64_t i = 0; i < count; ++i) {
            TestRequest& request = requests[i];
            request.action = Action::write;
            request.offset = size_bytes / 2 + i * 4096;
            request.length = 4096;
            request.data = faults.memory.data() + size_bytes / 2 + i * 4096;
            std::memset(request.data, static_cast<int>(1 + i % 255), 4096);
            device.submit(request);
        }
    }
    void settle() {
        REQUIRE(faults.rig.run_until([&] {
            return std::all_of(requests.begin(), requests.end(),
                               [](const TestRequest& r) { return r.completed > 0; });
        }));
        for (const TestRequest& request : requests) {
            CHECK(request.completed == 1);
        }
    }
    void verify() {
        Pages back(4096);
        for (const TestRequest& request : requests) {
            if (request.status == Status::ok) {
                REQUIRE(faults.rig.run(device, Action::read, request.offset, 4096, back.data()) ==
                        Status::ok);
                REQUIRE(std::memcmp(back.data(), request.data, 4096) == 0);
            }
        }
    }
    Faults& faults;
    Device& device;
    std::vector<TestRequest> requests;
};

TEST_CASE(
    "a tcmu handler that crashes on one request: that one fails, all others are done, the device goes on") {
    Faults faults;
    Device& device = faults.open();
    Load load(faults, device);
    TestRequest poison;
    poison.action = Action::write;
    poison.length = 4096;
    poison.data = faults.memory.data();
    std::strcpy(reinterpret_cast<char*>(poison.data), "crash now");
    device.submit(poison);
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.completed == 1);
    CHECK(poison.status == Status::internal_error);
    for (const TestRequest& request : load.requests) {
        CHECK(request.status == Status::ok);
    }
    load.verify();
    CHECK(detail(device, "starts") == 4);  // it was tried three times
    CHECK(faults.logged("this handler crashes now"));
    CHECK(faults.logged("died of Aborted"));
    CHECK(device.health().state == "ok");
}

TEST_CASE("what was in flight when a tcmu handler crashed is sent again") {
    Faults faults;
    Device& device = faults.open();
    Load load(faults, device);
    TestRequest poison;
    poison.action = Action::write;
    poison.length = 4096;
    poison.data = faults.memory.data();
    std::strcpy(reinterpret_cast<char*>(poison.data), "crash now");
    device.submit(poison);
    REQUIRE(faults.rig.run_until([&] { return device.health().state == "restarting"; }));
    faults.cure();
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.status == Status::ok);
    load.verify();
}

TEST_CASE("a tcmu handler that hangs is killed, awaited and started again") {
    Faults faults;
    faults.spec.tcmu.timeout_ms = 300;
    Device& device = faults.open();
    const auto process = static_cast<pid_t>(detail(device, "process"));
    TestRequest poison;
    poison.action = Action::write;
    poison.length = 4096;
    poison.data = faults.memory.data();
    std::strcpy(reinterpret_cast<char*>(poison.data), "hang now");
    device.submit(poison);
    Load load(faults, device);
    REQUIRE(faults.rig.run_until([&] { return device.health().state == "restarting"; }));
    CHECK(device.health().reason.find("300 ms") != std::string::npos);
    faults.cure();
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.status == Status::ok);
    load.verify();
    CHECK(kill(process, 0) != 0);
    CHECK(errno == ESRCH);
}

TEST_CASE("with when_lost: fail, what a lost tcmu handler had fails, and what comes later is done") {
    Faults faults;
    faults.spec.tcmu.when_lost = TcmuSpec::WhenLost::fail;
    Device& device = faults.open();
    CHECK(faults.write_marker(device, "crash now") == Status::internal_error);
    CHECK(device.health().state == "restarting");
    // While it is away.
    CHECK(faults.rig.run(device, Action::read, 0, 4096, faults.memory.data()) == Status::internal_error);
    REQUIRE(faults.rig.run_until([&] { return device.health().state == "ok"; }));
    CHECK(faults.rig.run(device, Action::read, 0, 4096, faults.memory.data()) == Status::ok);
}

TEST_CASE("a tcmu process that is killed under load loses no acknowledged write") {
    Faults faults;
    Device& device = faults.open();
    for (int round = 0; round < 10; ++round) {
        CAPTURE(round);
        REQUIRE(faults.rig.run_until([&] { return device.health().state == "ok"; }));
        const auto process = static_cast<pid_t>(detail(device, "process"));
        Load load(faults, device);
        const std::size_t when = static_cast<std::size_t>(round) * 40;
        REQUIRE(faults.rig.run_until([&] { return load.requests[when].completed > 0; }));
        kill(process, SIGKILL);
        load.settle();
        for (const TestRequest& request : load.requests) {
            CHECK(request.status == Status::ok);
        }
        load.verify();
    }
}

TEST_CASE("a tcmu handler's error is the request's; its completing one twice does no harm") {
    Faults faults;
    Device& device = faults.open();
    CHECK(faults.write_marker(device, "fail now") == Status::medium_error);
    CHECK(faults.write_marker(device, "complete twice") == Status::ok);
    CHECK(faults.rig.run(device, Action::flush) == Status::ok);
    REQUIRE(faults.rig.run_until([&] { return faults.logged("only what it returns counts"); }));
    CHECK(detail(device, "starts") == 1);
}

TEST_CASE("a tcmu process that breaks the rules of the shared memory is ended, and the device goes on") {
    Faults faults;
    Device& device = faults.open();
    TestRequest poison;
    poison.action = Action::write;
    poison.length = 4096;
    poison.data = faults.memory.data();
    std::strcpy(reinterpret_cast<char*>(poison.data), "break the rules");
    device.submit(poison);
    REQUIRE(faults.rig.run_until([&] { return faults.logged("broke the rules"); }));
    faults.cure();
    Load load(faults, device);
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.completed == 1);
    load.verify();
    CHECK(detail(device, "starts") >= 2);
}

TEST_CASE("with when_lost: fail, requests wait for the first process, and fail once it could not open") {
    Faults faults;
    faults.spec.known = {size_bytes, 512, ""};
    faults.spec.tcmu.when_lost = TcmuSpec::WhenLost::fail;
    faults.spec.tcmu.configuration = faults.folder.file("absent");
    REQUIRE(faults.rig.make(faults.spec).ok());
    CHECK(faults.rig.run(faults.rig.device("subject"), Action::read, 0, 4096, faults.memory.data()) ==
          Status::internal_error);
}

TEST_CASE("a tcmu handler that talks without end leaves only some lines in the log") {
    Faults faults;
    Device& device = faults.open();
    CHECK(faults.write_marker(device, "talk now") == Status::ok);
    CHECK(faults.logged("line 1 of very many"));
    CHECK(faults.log.size() < 200);
    faults.rig.close("subject");
}

TEST_CASE("a tcmu process has the six descriptors that are meant for it and no others") {
    Faults faults;
    const int careless = open("/dev/null", O_RDONLY);  // not closed on exec
    Device& device = faults.open();
    const std::string folder = "/proc/" + std::to_string(detail(device, "process")) + "/fd";
    DIR* directory = opendir(folder.c_str());
    REQUIRE(directory != nullptr);
    int inherited = 0;
    for (const dirent* entry = readdir(directory); entry != nullptr; entry = readdir(directory)) {
        char target[256] = {};
        if (readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1) > 0) {
            CHECK(std::string(target) != "/dev/null");
            inherited += std::atoi(entry->d_name) < block::tcmu::descriptors_end ? 1 : 0;
        }
    }
    closedir(directory);
    close(careless);
    CHECK(inherited == 6);
}

TEST_CASE("two devices never have one medium open: the second waits until the first is closed") {
    Faults faults;
    Device& first = faults.open();
    DeviceSpec spec = faults.spec;
    spec.name = "second";
    const auto made = faults.rig.make(spec);
    REQUIRE(made.ok());
    Device& second = *made.value();
    REQUIRE(faults.rig.run_until([&] { return second.health().state == "waiting for lock"; }));
    CHECK(second.health().reason.find(faults.path) != std::string::npos);
    CHECK(second.describe().size_bytes == 0);
    std::memset(faults.memory.data(), 0x5a, 4096);
    CHECK(faults.rig.run(first, Action::write, 0, 4096, faults.memory.data()) == Status::ok);
    faults.rig.close("subject");
    REQUIRE(faults.rig.run_until([&] { return second.describe().size_bytes == size_bytes; }));
    std::memset(faults.memory.data(), 0, 4096);
    CHECK(faults.rig.run(second, Action::read, 0, 4096, faults.memory.data()) == Status::ok);
    CHECK(faults.memory.data()[4095] == std::byte{0x5a});
}

TEST_CASE("a tcmu device waits for a medium that a file device of the server uses") {
    Faults faults;
    DeviceSpec file;
    file.name = "file";
    file.kind = "file";
    file.path = faults.path;
    REQUIRE(faults.rig.make(file).ok());
    const auto made = faults.rig.make(faults.spec);
    REQUIRE(made.ok());
    REQUIRE(faults.rig.run_until([&] { return made.value()->health().state == "waiting for lock"; }));
}

TEST_CASE("an unknown tcmu handler is refused and those that are there are named") {
    Faults faults;
    faults.spec.tcmu.handler = "qcow3";
    const auto made = faults.rig.make(faults.spec);
    REQUIRE_FALSE(made.ok());
    CHECK(made.error().code == "E_NOT_FOUND");
    for (const char* part : {"qcow3", "file", "ram", "faulty"}) {
        CHECK(made.error().message.find(part) != std::string::npos);
    }
    faults.spec.tcmu.library = "/nonexistent/handler_x.so";
    CHECK(faults.rig.make(faults.spec).error().code == "E_NOT_FOUND");
    faults.spec.tcmu.library = "";
    faults.spec.tcmu.handler = "../x";
    CHECK(faults.rig.make(faults.spec).error().code == "E_INVALID");
}

// Waits for the refusal of a device that cannot open, and returns its reason.
std::string refusal(Faults& faults) {
    const auto made = faults.rig.make(faults.spec);
    REQUIRE_MESSAGE(made.ok(), made.error().message);
    Device& device = *made.value();
    REQUIRE(faults.rig.run_until(
        [&] { return device.health().state == "failed" || device.describe().size_bytes != 0; }));
    CHECK(device.describe().size_bytes == 0);
    const std::string reason = device.health().reason;
    faults.rig.close(faults.spec.name);
    return reason;
}

TEST_CASE("a configuration that a tcmu handler refuses is reported with its reason, and nothing is touched") {
    Faults faults;
    faults.spec.tcmu.handler = "ram";
    faults.spec.tcmu.configuration = "1000;" + faults.folder.file("new");
    CHECK(refusal(faults).find("a multiple of 4096") != std::string::npos);
    CHECK(access(faults.folder.file("new").c_str(), F_OK) != 0);
    faults.spec.tcmu.handler = "file";
    faults.spec.tcmu.configuration = faults.folder.file("absent");
    CHECK(refusal(faults).find("No such file") != std::string::npos);
    faults.spec.tcmu.handler = "faulty";  // which does not check, and fails to open
    const std::string reason = refusal(faults);
    CHECK(reason.find("cannot open") != std::string::npos);
    CHECK(reason.find("No such file") != std::string::npos);
}

TEST_CASE("a tcmu device opens once its medium appears") {
    Faults faults;
    faults.spec.tcmu.configuration = faults.folder.file("later");
    const auto made = faults.rig.make(faults.spec);
    REQUIRE(made.ok());
    Device& device = *made.value();
    REQUIRE(faults.rig.run_until([&] { return device.health().state == "failed"; }));
    CHECK(testing::make_file(faults.folder.file("later"), size_bytes));
    CHECK(faults.rig.run_until([&] { return device.describe().size_bytes == size_bytes; }));
}

TEST_CASE("a tcmu device with known facts has its size at once, and refuses another medium") {
    Faults faults;
    faults.spec.known = {size_bytes, 512, ""};
    auto made = faults.rig.make(faults.spec);
    REQUIRE(made.ok());
    CHECK(made.value()->describe().size_bytes == size_bytes);
    CHECK(faults.rig.run(*made.value(), Action::read, 0, 4096, faults.memory.data()) == Status::ok);
    faults.rig.close("subject");
    faults.spec.known.size_bytes = 2 * size_bytes;
    made = faults.rig.make(faults.spec);
    REQUIRE(made.ok());
    REQUIRE(faults.rig.run_until([&] { return made.value()->health().state == "foreign"; }));
    const std::string reason = made.value()->health().reason;
    CHECK(reason.find(std::to_string(size_bytes)) != std::string::npos);
    CHECK(reason.find(std::to_string(2 * size_bytes)) != std::string::npos);
    CHECK(made.value()->describe().size_bytes == 2 * size_bytes);
    TestRequest waiting;
    waiting.length = 4096;
    waiting.data = faults.memory.data();
    made.value()->submit(waiting);
    made.value()->cancel(waiting);
    CHECK(waiting.status == Status::aborted);
}

// --- Handlers as Debian packages them
// ----------------------------------------------------------------------------

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

TEST_CASE("a qcow image that the packaged handler would damage is refused, untouched") {
    Faults faults;
    const std::string image = faults.folder.file("disk.qcow2");
    const std::string missing = testing::make_qcow(image, size_bytes);
    if (!missing.empty()) {
        MESSAGE("skipped: " << missing);
        return;
    }
    faults.spec.tcmu.handler = "qcow";
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
    CHECK(refused(faults.path).find("is not a qcow image") != std::string::npos);
    const std::string overlay = faults.folder.file("overlay.qcow2");
    run("qemu-img create -f qcow2 -F qcow2 -b " + image + " " + overlay);
    CHECK(refused(overlay).find("backing file") != std::string::npos);
    const std::string zeroes = faults.folder.file("zeroes.qcow2");
    CHECK(testing::make_qcow(zeroes, size_bytes).empty());
    run("qemu-io -c 'write -P 1 0 1M' -c 'write -z 0 128k' " + zeroes);
    CHECK(refused(zeroes).find("marked as zeroes") != std::string::npos);
    run("qemu-img snapshot -c one " + image);
    CHECK(refused(image).find("snapshots") != std::string::npos);
}

// The number of errors that qemu-img finds; what it only finds wasted does not count.
int errors_in(const std::string& image) {
    return std::system(("qemu-img check -q " + image + " >/dev/null 2>&1").c_str());
}

TEST_CASE("a qcow image whose tcmu process was killed while it wrote is mended before it is used again") {
    Faults faults;
    const std::string image = faults.folder.file("disk.qcow2");
    const std::string missing = testing::make_qcow(image, size_bytes);
    if (!missing.empty()) {
        MESSAGE("skipped: " << missing);
        return;
    }
    faults.spec.tcmu.handler = "qcow";
    faults.spec.tcmu.configuration = image;
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
    const std::string image = faults.folder.file("disk.qcow2");
    const std::string missing = testing::make_qcow(image, size_bytes);
    if (!missing.empty()) {
        MESSAGE("skipped: " << missing);
        return;
    }
    faults.spec.tcmu.handler = "qcow";
    faults.spec.tcmu.configuration = image;
    for (int round = 0; round < 4; ++round) {
        Device& device = faults.open();
        const auto process = static_cast<pid_t>(detail(device, "process"));
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
    const auto process = static_cast<std::uint64_t>(detail(*made.value(), "process"));
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
        if (qcow) {
            faults.path = faults.folder.file("disk.qcow2");
            const std::string missing = testing::make_qcow(faults.path, size_bytes);
            if (!missing.empty()) {
                MESSAGE("skipped: " << missing);
                return;
            }
            faults.spec.tcmu.handler = "qcow";
            faults.spec.tcmu.configuration = faults.path;
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
