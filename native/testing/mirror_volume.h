// A mirror under test, and its legs.
#pragma once

#include <doctest/doctest.h>

#include <algorithm>
#include <cstring>
#include <map>
#include <span>
#include <string>

#include "block/mirror/format.h"
#include "testing/block_rig.h"
#include "testing/details.h"

namespace testing {

// Legs in memory, each below a device that can be told to fail or to be slow.
class MirrorVolume {
  public:
    using Action = block::Action;
    using Device = block::Device;
    using DeviceSpec = block::DeviceSpec;
    using Status = block::Status;

    static constexpr std::uint64_t data_bytes = 4 << 20;
    static constexpr std::uint32_t region_bytes = 65536;
    static std::uint64_t leg_bytes(bool checksums = false) {
        return block::mirror::leg_bytes_for(data_bytes, region_bytes, 4096, checksums);
    }

    explicit MirrorVolume(std::size_t legs = 2, reactor::Kernel* kernel = nullptr) : rig(kernel) {
        mirror.name = "v";
        mirror.kind = "mirror";
        mirror.mirror.volume.fill(7);
        mirror.mirror.region_bytes = region_bytes;
        mirror.mirror.assume_clean = true;
        for (std::size_t i = 0; i < legs; ++i) {
            const std::string name(1, static_cast<char>('a' + i));
            make_ram(name);
            mirror.parts.push_back({name, 0, 0});
        }
    }

    void make_ram(const std::string& name, std::uint64_t bytes = leg_bytes()) {
        DeviceSpec spec;
        spec.name = name;
        spec.kind = "ram";
        spec.size_bytes = bytes;
        REQUIRE(rig.make(spec).ok());
    }

    // A device between the mirror and its leg, which begins with what `prepare` says.
    template <typename Prepare>
    void put_between(const std::string& leg, const std::string& kind, Prepare prepare) {
        DeviceSpec spec;
        spec.name = "z" + leg;  // is closed before what it stands on
        spec.kind = kind;
        spec.base = leg;
        prepare(spec);
        const auto made = rig.make(spec);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        for (auto& part : mirror.parts) {
            part.device = part.device == leg ? spec.name : part.device;
        }
    }

    Device& open() {
        mirror.name = "zz" + std::to_string(++opened_);
        const auto made = rig.make(mirror);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
        return *made.value();
    }
    void close() { rig.close(mirror.name); }

    Device& open_serving() {
        Device& device = open();
        REQUIRE(rig.run_until([&] { return device.describe().size_bytes != 0; }));
        return device;
    }

    std::string detail(const std::string& key) { return testing::detail(rig.device(mirror.name), key); }
    std::string state(const std::string& leg) { return detail("leg." + leg + ".state"); }
    std::string health() { return rig.device(mirror.name).health().state; }
    bool becomes(const std::string& wanted) {
        return rig.run_until([&] { return health() == wanted; });
    }

    // The answer's code; empty: it went well.
    std::string ask(const std::string& verb, std::map<std::string, std::string> arguments = {}) {
        std::string code = "no answer";
        rig.device(mirror.name).command({verb, std::move(arguments)}, [&](base::Result<void> result) {
            code = result.ok() ? "" : result.error().code;
        });
        CHECK(rig.run_until([&] { return code != "no answer"; }));
        return code;
    }

    Status write(std::uint64_t offset, std::uint64_t length, int value) {
        std::memset(memory_.data(), value, length);
        return rig.run(rig.device(mirror.name), Action::write, offset, length, memory_.data());
    }
    bool reads(std::uint64_t offset, std::uint64_t length, int value, const std::string& device = "") {
        Device& from = rig.device(device.empty() ? mirror.name : device);
        if (rig.run(from, Action::read, offset, length, memory_.data()) != Status::ok) {
            return false;
        }
        const std::span<std::byte> read = memory_.span().first(length);
        return std::all_of(read.begin(), read.end(),
                           [&](std::byte byte) { return byte == static_cast<std::byte>(value); });
    }
    // Behind the mirror's back.
    void corrupt(const std::string& leg, std::uint64_t offset) {
        Pages block(4096);
        std::memset(block.data(), 0xEE, 4096);
        REQUIRE(rig.run(rig.device(leg), Action::write, offset, 4096, block.data()) == Status::ok);
    }
    // The legs' data, without the mirror.
    bool legs_are_equal(const std::string& a, const std::string& b, std::uint64_t bytes = data_bytes) {
        Pages other(bytes);
        return rig.run(rig.device(a), Action::read, 0, bytes, memory_.data()) == Status::ok &&
               rig.run(rig.device(b), Action::read, 0, bytes, other.data()) == Status::ok &&
               std::memcmp(memory_.data(), other.data(), bytes) == 0;
    }

    BlockRig rig;
    DeviceSpec mirror;

  private:
    Pages memory_{4 * data_bytes};
    int opened_ = 0;
};

}  // namespace testing
