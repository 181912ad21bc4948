// What a mirror of two legs in memory costs against one such device, and how fast it copies from leg to leg
// against a plain copy of the same device. All in one thread, without a target in front.
//
//   mirror [MIB]      size of a leg, 256 unless told

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "../measurement.h"
#include "base/check.h"
#include "block/mirror/format.h"
#include "testing/block_rig.h"

namespace {

constexpr std::size_t depth = 32;

struct Place : block::Request {
    int* left = nullptr;
    bool idle = true;
};

// Requests per second of one size, best of three rounds.
double run(testing::BlockRig& rig, block::Device& device, block::Action action, std::uint64_t io_bytes,
           int count) {
    bench::Random random;
    testing::Pages memory(depth * io_bytes);
    Place places[depth];
    double best = 0;
    for (int round = 0; round < 3; ++round) {
        int left = count;
        const base::Nanoseconds begun = base::monotonic_now();
        for (int submitted = 0; left > 0;) {
            for (std::size_t i = 0; i < depth; ++i) {
                Place& place = places[i];
                if (!place.idle || submitted == count) {
                    continue;
                }
                ++submitted;
                place.idle = false;
                place.left = &left;
                place.action = action;
                place.offset = random.below(device.describe().size_bytes / io_bytes) * io_bytes;
                place.length = io_bytes;
                place.data = memory.data() + i * io_bytes;
                place.done = [](block::Request& request, block::Status status) {
                    EK_CHECK(status == block::Status::ok, "a request fails");
                    auto& self = static_cast<Place&>(request);
                    self.idle = true;
                    --*self.left;
                };
                device.submit(place);
            }
            rig.reactor.run_once(0);
        }
        const auto taken = static_cast<double>(base::monotonic_now() - begun);
        best = std::max(best, count * 1e9 / taken);
    }
    return best;
}

block::Device& make(testing::BlockRig& rig, const block::DeviceSpec& spec) {
    auto made = rig.make(spec);
    EK_CHECK(made.ok(), "a device is made");
    EK_CHECK(rig.run_until([&] { return made.value()->describe().size_bytes != 0; }), "a device opens");
    return *made.value();
}

}  // namespace

int main(int argc, char** argv) {
    const std::uint64_t bytes = (argc > 1 ? std::strtoull(argv[1], nullptr, 10) : 256) << 20;
    testing::BlockRig rig;
    block::DeviceSpec leg;
    leg.kind = "ram";
    leg.size_bytes = block::mirror::leg_bytes_for(bytes, 0, 4096, false);
    for (const char* name : {"a", "b", "single"}) {
        leg.name = name;
        block::Device& device = make(rig, leg);
        run(rig, device, block::Action::write, 1 << 20,
            static_cast<int>(bytes >> 20) * 4);  // its pages exist
    }
    block::DeviceSpec spec;
    spec.name = "volume";
    spec.kind = "mirror";
    spec.parts = {{"a", 0, 0}, {"b", 0, 0}};
    spec.mirror.volume.fill(1);
    block::Device* volume = rig.make(spec).value();
    // What was written makes legs that are not empty: that is insisted on here.
    volume->command({"attach", {{"leg", "a"}, {"force", "yes"}}}, [](base::Result<void>) {});
    volume->command({"attach", {{"leg", "b"}, {"force", "yes"}}}, [](base::Result<void>) {});
    const base::Nanoseconds begun = base::monotonic_now();
    EK_CHECK(rig.run_until([&] { return volume->health().state == "ok"; }), "the legs become equal");
    const auto resync = static_cast<double>(base::monotonic_now() - begun);

    testing::Pages piece(1 << 20);
    const base::Nanoseconds copy_begun = base::monotonic_now();
    for (std::uint64_t at = 0; at < bytes; at += piece.size()) {
        rig.run(rig.device("single"), block::Action::read, at, piece.size(), piece.data());
        rig.run(rig.device("single"), block::Action::write, at, piece.size(), piece.data());
    }
    const auto copy = static_cast<double>(base::monotonic_now() - copy_begun);
    const auto size = static_cast<double>(bytes);
    std::printf("%-22s %10.2f GB/s   plain copy %10.2f GB/s   ratio %.2f\n", "resync", size / resync,
                size / copy, copy / resync);

    struct Case {
        const char* name;
        block::Action action;
        std::uint64_t io_bytes;
        int count;
    };
    for (const Case& one : {Case{"read 4 KiB", block::Action::read, 4096, 400'000},
                            Case{"write 4 KiB", block::Action::write, 4096, 400'000},
                            Case{"read 128 KiB", block::Action::read, 131072, 20'000},
                            Case{"write 128 KiB", block::Action::write, 131072, 20'000}}) {
        const double single = run(rig, rig.device("single"), one.action, one.io_bytes, one.count);
        const double mirrored = run(rig, *volume, one.action, one.io_bytes, one.count);
        std::printf("%-22s %10.0f /s     one leg    %10.0f /s     ratio %.2f\n", one.name, mirrored, single,
                    mirrored / single);
    }
    return 0;
}
