// The kind tcmu with handlers that crash, hang, talk and refuse; the contract itself is in contract_test.cc.

#include "block/tcmu/device.h"

#include <dirent.h>
#include <doctest/doctest.h>
#include <fcntl.h>
#include <signal.h>

#include <cerrno>
#include <cstring>

#include "testing/tcmu_faults.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using block::TcmuSpec;
using testing::number;
using testing::Pages;
using testing::refusal;
using testing::TestRequest;
using Faults = testing::TcmuFaults;
using Load = testing::TcmuLoad;

constexpr std::uint64_t size_bytes = testing::tcmu_bytes;

TEST_CASE(
    "a tcmu handler that crashes on one request: that one fails, all others are done, the device goes on") {
    Faults faults;
    Device& device = faults.open();
    Load load(faults, device);
    TestRequest poison;
    faults.submit_marker(device, poison, "crash now");
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.completed == 1);
    CHECK(poison.status == Status::internal_error);
    for (const TestRequest& request : load.requests) {
        CHECK(request.status == Status::ok);
    }
    load.verify();
    CHECK(number(device, "starts") == 4);  // it was tried three times
    CHECK(faults.logged("this handler crashes now"));
    CHECK(faults.logged("died of Aborted"));
    CHECK(device.health().state == "ok");
}

TEST_CASE("what was in flight when a tcmu handler crashed is sent again") {
    Faults faults;
    Device& device = faults.open();
    Load load(faults, device);
    TestRequest poison;
    faults.submit_marker(device, poison, "crash now");
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
    const auto process = static_cast<pid_t>(number(device, "process"));
    TestRequest poison;
    faults.submit_marker(device, poison, "hang now");
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
    REQUIRE(faults.rig.serves(device));
    CHECK(faults.rig.run(device, Action::read, 0, 4096, faults.memory.data()) == Status::ok);
}

TEST_CASE("a tcmu process that is killed under load loses no acknowledged write") {
    Faults faults;
    Device& device = faults.open();
    for (int round = 0; round < 10; ++round) {
        CAPTURE(round);
        REQUIRE(faults.rig.serves(device));
        const auto process = static_cast<pid_t>(number(device, "process"));
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
    CHECK(number(device, "starts") == 1);
}

TEST_CASE("a tcmu process that breaks the rules of the shared memory is ended, and the device goes on") {
    Faults faults;
    Device& device = faults.open();
    TestRequest poison;
    faults.submit_marker(device, poison, "break the rules");
    REQUIRE(faults.rig.run_until([&] { return faults.logged("broke the rules"); }));
    faults.cure();
    Load load(faults, device);
    load.settle();
    REQUIRE(faults.rig.run_until([&] { return poison.completed > 0; }));
    CHECK(poison.completed == 1);
    load.verify();
    CHECK(number(device, "starts") >= 2);
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
    const std::string folder = "/proc/" + std::to_string(number(device, "process")) + "/fd";
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

}  // namespace
