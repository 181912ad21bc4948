// A device over the handler of faults (testing/tcmu/faulty.cc), and load for it. For tests with doctest.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "testing/block_media.h"
#include "testing/block_rig.h"
#include "testing/details.h"

namespace testing {

inline constexpr std::uint64_t tcmu_bytes = 4 << 20;

// A device over the handler of faults.
struct TcmuFaults {
    TcmuFaults() {
        rig.environment.log = [this](const char* level, const char*, const std::string& message) {
            log.push_back(std::string(level) + " " + message);
        };
        path = folder.file("disk");
        CHECK(make_file(path, tcmu_bytes));
        spec.name = "subject";
        spec.kind = "tcmu";
        spec.block_bytes = 512;
        spec.tcmu.handler = "faulty";
        spec.tcmu.configuration = path;
    }

    block::Device& open() {
        const auto made = rig.make(spec);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        block::Device* device = made.value();
        const bool opened = rig.run_until([&] { return device->describe().size_bytes != 0; });
        REQUIRE_MESSAGE(opened, device->health().state << ": " << device->health().reason);
        return *device;
    }

    // What fixes the handler: markers are data from now on.
    void cure() const { CHECK(make_file(path + ".cured", 1)); }

    bool logged(const std::string& text) const {
        return std::any_of(log.begin(), log.end(),
                           [&](const std::string& line) { return line.find(text) != std::string::npos; });
    }

    block::Status write_marker(block::Device& device, const char* marker) {
        std::memset(memory.data(), 0, 4096);
        std::strcpy(reinterpret_cast<char*>(memory.data()), marker);
        return rig.run(device, block::Action::write, 0, 4096, memory.data());
    }

    // The same without waiting for its end.
    void submit_marker(block::Device& device, TestRequest& poison, const char* marker) {
        poison.action = block::Action::write;
        poison.length = 4096;
        poison.data = memory.data();
        std::strcpy(reinterpret_cast<char*>(poison.data), marker);
        device.submit(poison);
    }

    TemporaryFolder folder;
    std::string path;
    block::DeviceSpec spec;
    Pages memory{tcmu_bytes};
    std::vector<std::string> log;
    BlockRig rig;
};

// Writes of 4 KiB all over the device, some of them under way at any time.
struct TcmuLoad {
    static constexpr std::uint64_t count = 512;
    explicit TcmuLoad(TcmuFaults& faults_, block::Device& device_)
        : faults(faults_), device(device_), requests(count) {
        for (std::uint64_t i = 0; i < count; ++i) {
            TestRequest& request = requests[i];
            request.action = block::Action::write;
            request.offset = tcmu_bytes / 2 + i * 4096;
            request.length = 4096;
            request.data = faults.memory.data() + tcmu_bytes / 2 + i * 4096;
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
            if (request.status == block::Status::ok) {
                REQUIRE(faults.rig.run(device, block::Action::read, request.offset, 4096, back.data()) ==
                        block::Status::ok);
                REQUIRE(std::memcmp(back.data(), request.data, 4096) == 0);
            }
        }
    }
    TcmuFaults& faults;
    block::Device& device;
    std::vector<TestRequest> requests;
};

// Waits for the refusal of a device that cannot open, and returns its reason.
inline std::string refusal(TcmuFaults& faults) {
    const auto made = faults.rig.make(faults.spec);
    REQUIRE_MESSAGE(made.ok(), made.error().message);
    block::Device& device = *made.value();
    REQUIRE(faults.rig.run_until(
        [&] { return device.health().state == "failed" || device.describe().size_bytes != 0; }));
    CHECK(device.describe().size_bytes == 0);
    const std::string reason = device.health().reason;
    faults.rig.close(faults.spec.name);
    return reason;
}

}  // namespace testing
