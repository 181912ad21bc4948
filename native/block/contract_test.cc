// The block contract, held against every kind on every medium that this machine has. A new kind adds a row to
// `subjects`.

#include <doctest/doctest.h>

#include <algorithm>
#include <functional>
#include <random>

#include "block/mirror/format.h"
#include "testing/block_media.h"
#include "testing/block_rig.h"
#include "testing/loopback_target.h"

namespace {

using block::Action;
using block::Device;
using block::DeviceSpec;
using block::Status;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t size_bytes = 4 << 20;

struct Subject;

// One device under test, and everything it stands on.
struct Bench {
    explicit Bench(const Subject& subject_);

    // The device, newly made; null where the machine cannot have it (`missing` says why).
    Device* open();
    void close();
    void close_legs();  // and what else it stands on

    const Subject& subject;
    testing::TemporaryFolder folder;
    std::unique_ptr<testing::LoopDevice> loop;
    std::unique_ptr<testing::DetachedMount> mount;
    std::unique_ptr<testing::LoopbackTarget> peer;
    DeviceSpec base;  // its name is empty unless the subject stands on another device
    std::vector<DeviceSpec> legs;
    DeviceSpec spec;
    std::string missing;
    BlockRig rig;
};

struct Subject {
    std::string name;
    std::string kind;
    std::uint32_t block_bytes;
    void (*prepare)(Bench& bench);
    bool keeps_data = true;
    bool resizes = true;  // by a size in the call
};

void prepare_nothing(Bench&) {}

void prepare_file(Bench& bench) {
    bench.spec.path = bench.folder.file("disk");
    bench.spec.create = true;
}

void prepare_file_on_tmpfs(Bench& bench) {
    bench.mount = std::make_unique<testing::DetachedMount>(
        "tmpfs", std::initializer_list<testing::DetachedMount::Option>{{"size", "64m"}});
    bench.missing = bench.mount->missing();
    bench.spec.path = bench.mount->file("disk");
    bench.spec.create = true;
}

void prepare_loop(Bench& bench) {
    CHECK(testing::make_file(bench.folder.file("loop"), size_bytes));
    bench.loop = std::make_unique<testing::LoopDevice>(bench.folder.file("loop"), bench.spec.block_bytes);
    bench.missing = bench.loop->missing();
    bench.spec.path = bench.loop->path();
}

void prepare_file_on_a_disk_of_4096(Bench& bench) {
    CHECK(testing::make_file(bench.folder.file("loop"), 64 << 20));
    bench.loop = std::make_unique<testing::LoopDevice>(bench.folder.file("loop"), 4096);
    bench.missing = bench.loop->missing();
    if (bench.missing.empty() &&
        std::system(("mkfs.ext4 -q " + bench.loop->path() + " >/dev/null 2>&1").c_str()) != 0) {
        bench.missing = "mkfs.ext4 is missing (e2fsprogs)";
    }
    if (bench.missing.empty()) {
        bench.mount = std::make_unique<testing::DetachedMount>(
            "ext4", std::initializer_list<testing::DetachedMount::Option>{{"source", bench.loop->path()}});
        bench.missing = bench.mount->missing();
        bench.spec.path = bench.mount->file("disk");
        bench.spec.create = true;
    }
}

void prepare_remote(Bench& bench) {
    DeviceSpec disk;
    disk.name = "disk";
    disk.kind = "ram";
    disk.size_bytes = size_bytes;
    disk.block_bytes = bench.spec.block_bytes;
    bench.peer = std::make_unique<testing::LoopbackTarget>(disk);
    const std::uint64_t size = bench.spec.size_bytes;
    bench.spec = testing::remote_device(*bench.peer, "subject");
    bench.spec.size_bytes = size;
    bench.spec.block_bytes = disk.block_bytes;
}

void prepare_delay(Bench& bench) {
    bench.base.name = "below";
    bench.base.kind = "ram";
    bench.spec.base = "below";
    bench.spec.read_delay_us = 50;
    bench.spec.write_delay_us = 100;
}

void prepare_error(Bench& bench) {
    bench.base.name = "below";
    bench.base.kind = "ram";
    bench.spec.base = "below";
    bench.spec.error_actions = {"read"};
    bench.spec.error_offset = size_bytes;  // nothing there
}

void prepare_tcmu_file(Bench& bench) {
    bench.spec.size_bytes = 0;
    bench.spec.tcmu.handler = "file";
    bench.spec.tcmu.configuration = bench.folder.file("disk");
    CHECK(testing::make_file(bench.spec.tcmu.configuration, size_bytes));
}

void prepare_tcmu_ram(Bench& bench) {
    bench.spec.size_bytes = 0;
    bench.spec.tcmu.handler = "ram";
    bench.spec.tcmu.configuration = std::to_string(size_bytes) + ";" + bench.folder.file("disk");
}

void prepare_tcmu_qcow(Bench& bench) {
    bench.spec.size_bytes = 0;
    bench.spec.tcmu.handler = "qcow";
    bench.spec.tcmu.configuration = bench.folder.file("disk.qcow2");
    bench.missing = testing::make_qcow(bench.spec.tcmu.configuration, size_bytes);
}

void prepare_delay_over_file(Bench& bench) {
    prepare_delay(bench);
    bench.base.kind = "file";
    bench.base.path = bench.folder.file("disk");
    bench.base.create = true;
}

void prepare_mirror(Bench& bench, const char* second) {
    bench.spec.mirror.volume.fill(1);
    bench.spec.mirror.assume_clean = true;
    bench.spec.size_bytes = 0;
    for (const char* kind : {"ram", second}) {
        DeviceSpec& leg = bench.legs.emplace_back();
        leg.name = "leg" + std::to_string(bench.legs.size());
        leg.kind = kind;
        leg.block_bytes = bench.spec.block_bytes;
        leg.size_bytes =
            block::mirror::leg_bytes_for(size_bytes, 0, leg.block_bytes, bench.spec.mirror.checksums);
        leg.path = bench.folder.file(leg.name);
        leg.create = true;
        bench.spec.parts.push_back({leg.name, 0, 0});
    }
}

void prepare_mirror_of_ram(Bench& bench) { prepare_mirror(bench, "ram"); }
void prepare_mirror_with_checksums(Bench& bench) {
    bench.spec.mirror.checksums = true;
    prepare_mirror(bench, "file");
}
void prepare_mirror_of_ram_and_file(Bench& bench) { prepare_mirror(bench, "file"); }

// The second leg has to get everything first, and loses its place at the first write.
void prepare_degraded_mirror(Bench& bench) {
    prepare_mirror(bench, "ram");
    bench.spec.mirror.assume_clean = false;
    bench.legs[1].name = "below";
    DeviceSpec& broken = bench.legs.emplace_back();
    broken.name = "leg2";
    broken.kind = "error";
    broken.base = "below";
    broken.error_actions = {"write"};
    broken.block_bytes = bench.spec.block_bytes;
}

void prepare_parts(Bench& bench, const char* kind) {
    const bool linear = bench.spec.kind == "linear";
    const std::uint64_t first = linear ? size_bytes / 4 : size_bytes / 2;
    for (const std::uint64_t bytes : {first, size_bytes - first}) {
        DeviceSpec& part = bench.legs.emplace_back();
        part.name = "part" + std::to_string(bench.legs.size());
        part.kind = kind;
        part.block_bytes = bench.spec.block_bytes;
        part.size_bytes = bytes;
        part.path = bench.folder.file(part.name);
        part.create = true;
        bench.spec.parts.push_back({part.name, 0, 0});
    }
    bench.spec.chunk_bytes = 65536;
}

void prepare_parts_of_ram(Bench& bench) { prepare_parts(bench, "ram"); }
void prepare_parts_of_files(Bench& bench) { prepare_parts(bench, "file"); }

void prepare_migration(Bench& bench, const char* source, const char* destination) {
    for (const char* kind : {source, destination}) {
        DeviceSpec& side = bench.legs.emplace_back();
        side.name = "side" + std::to_string(bench.legs.size());
        side.kind = kind;
        side.block_bytes = bench.spec.block_bytes;
        side.size_bytes = size_bytes;
        side.path = bench.folder.file(side.name);
        side.create = true;
    }
    bench.spec.migration.source = "side1";
    bench.spec.migration.destination = "side2";
}

void prepare_migration_in_ram(Bench& bench) { prepare_migration(bench, "ram", "ram"); }
void prepare_migration_to_file(Bench& bench) { prepare_migration(bench, "ram", "file"); }
void prepare_migration_from_file(Bench& bench) { prepare_migration(bench, "file", "ram"); }

const Subject subjects[] = {
    {"ram, 512", "ram", 512, prepare_nothing},
    {"ram, 4096", "ram", 4096, prepare_nothing},
    {"null", "null", 512, prepare_nothing, false},
    {"file, 512", "file", 512, prepare_file},
    {"file, 4096", "file", 4096, prepare_file},
    {"file on tmpfs, 512", "file", 512, prepare_file_on_tmpfs},
    {"file on tmpfs, 4096", "file", 4096, prepare_file_on_tmpfs},
    {"file on a disk with blocks of 4096, 512", "file", 512, prepare_file_on_a_disk_of_4096},
    {"blockdev, 512", "blockdev", 512, prepare_loop, true, false},
    {"blockdev, 4096", "blockdev", 4096, prepare_loop, true, false},
    {"nvme, 512", "nvme", 512, prepare_remote, true, false},
    {"nvme, 4096", "nvme", 4096, prepare_remote, true, false},
    {"delay over ram", "delay", 512, prepare_delay},
    {"delay over file", "delay", 512, prepare_delay_over_file},
    {"error over ram", "error", 512, prepare_error},
    {"linear over ram", "linear", 512, prepare_parts_of_ram},
    {"linear over files", "linear", 4096, prepare_parts_of_files},
    {"stripe over ram", "stripe", 4096, prepare_parts_of_ram, true, false},
    {"stripe over files", "stripe", 512, prepare_parts_of_files, true, false},
    {"migration in ram", "migration", 4096, prepare_migration_in_ram, true, false},
    {"migration from ram to file", "migration", 512, prepare_migration_to_file, true, false},
    {"migration from file to ram", "migration", 512, prepare_migration_from_file, true, false},
    {"mirror of ram, 512", "mirror", 512, prepare_mirror_of_ram, true, false},
    {"mirror of ram, 4096", "mirror", 4096, prepare_mirror_of_ram, true, false},
    {"mirror of ram and file", "mirror", 512, prepare_mirror_of_ram_and_file, true, false},
    {"mirror with checksums, 512", "mirror", 512, prepare_mirror_with_checksums, true, false},
    {"mirror with checksums, 4096", "mirror", 4096, prepare_mirror_with_checksums, true, false},
    {"mirror, degraded", "mirror", 4096, prepare_degraded_mirror, true, false},
    {"tcmu, handler file, 512", "tcmu", 512, prepare_tcmu_file, true, false},
    {"tcmu, handler file, 4096", "tcmu", 4096, prepare_tcmu_file, true, false},
    {"tcmu, handler ram, 4096", "tcmu", 4096, prepare_tcmu_ram, true, false},
    {"tcmu, handler qcow as packaged", "tcmu", 512, prepare_tcmu_qcow, true, false},
};

Bench::Bench(const Subject& subject_) : subject(subject_) {
    spec.name = "subject";
    spec.kind = subject.kind;
    spec.block_bytes = base.block_bytes = subject.block_bytes;
    spec.size_bytes = base.size_bytes = size_bytes;
    subject.prepare(*this);
    if (!missing.empty()) {
        MESSAGE(subject.name << ": skipped: " << missing);
    }
}

Device* Bench::open() {
    if (!missing.empty()) {
        return nullptr;
    }
    if (!base.name.empty()) {
        const auto made = rig.make(base);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
    }
    for (const DeviceSpec& leg : legs) {
        const auto made = rig.make(leg);
        REQUIRE_MESSAGE(made.ok(), made.error().message);
    }
    const auto made = rig.make(spec);
    REQUIRE_MESSAGE(made.ok(), made.error().message);
    Device* device = made.value();
    const bool opened = rig.run_until([&] { return device->describe().size_bytes != 0; });
    REQUIRE_MESSAGE(opened, device->health().state << ": " << device->health().reason);
    return device;
}

void Bench::close() {
    rig.close(spec.name);
    close_legs();
}

void Bench::close_legs() {
    for (auto leg = legs.rbegin(); leg != legs.rend(); ++leg) {
        rig.close(leg->name);
    }
    if (!base.name.empty()) {
        rig.close(base.name);
    }
}

// Runs the check with every subject that there is.
void with_every_kind(const std::function<void(Bench&, Device&)>& check) {
    for (const Subject& subject : subjects) {
        CAPTURE(subject.name);
        Bench bench(subject);
        if (Device* device = bench.open()) {
            check(bench, *device);
        }
    }
}

void fill(std::span<std::byte> memory, std::mt19937_64& random) {
    for (std::size_t i = 0; i + 8 <= memory.size(); i += 8) {
        const std::uint64_t value = random();
        std::memcpy(memory.data() + i, &value, 8);
    }
}

bool all_are(std::span<const std::byte> memory, std::uint8_t value) {
    return memory.empty() || (memory[0] == std::byte{value} &&
                              std::memcmp(memory.data(), memory.data() + 1, memory.size() - 1) == 0);
}

TEST_CASE("random requests, many at once, agree with a shadow copy, also after closing and opening again") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    with_every_kind([&](Bench& bench, Device& first) {
        Device* device = &first;
        std::vector<std::byte> shadow(size_bytes);
        const std::uint32_t block = device->describe().block_bytes;
        constexpr std::uint64_t lanes = 16;
        constexpr std::uint64_t lane_bytes = size_bytes / lanes;
        Pages memory(size_bytes);
        TestRequest requests[lanes];
        for (int round = 0; round < 60; ++round) {
            for (std::uint64_t lane = 0; lane < lanes; ++lane) {
                TestRequest& request = requests[lane];
                const std::uint64_t blocks = 1 + random() % (lane_bytes / block);
                const std::uint64_t start = random() % (lane_bytes / block - blocks + 1);
                request.completed = 0;
                request.action = static_cast<Action>(random() % 5);
                request.force_unit_access = random() % 4 == 0;
                request.may_deallocate = random() % 2 == 0;
                request.offset = lane * lane_bytes + start * block;
                request.length = request.action == Action::flush ? 0 : blocks * block;
                request.data = memory.data() + request.offset;
                if (request.action == Action::write) {
                    fill({request.data, request.length}, random);
                }
                if (request.action == Action::deallocate &&
                    (!device->describe().can_deallocate || !device->describe().deallocated_reads_zero)) {
                    request.action = Action::write_zeroes;
                }
                device->submit(request);
            }
            REQUIRE(bench.rig.run_until([&] {
                return std::all_of(requests, requests + lanes,
                                   [](const TestRequest& r) { return r.completed == 1; });
            }));
            for (TestRequest& request : requests) {
                REQUIRE(request.status == Status::ok);
                std::byte* const content = shadow.data() + request.offset;
                if (!bench.subject.keeps_data) {
                    continue;
                }
                if (request.action == Action::read) {
                    REQUIRE(std::memcmp(content, request.data, request.length) == 0);
                } else if (request.action == Action::write) {
                    std::memcpy(content, request.data, request.length);
                } else if (request.action != Action::flush) {
                    std::memset(content, 0, request.length);
                }
            }
            if (round % 20 == 19) {
                bench.close();
                device = bench.open();
                REQUIRE(device->describe().size_bytes == size_bytes);
                REQUIRE(bench.rig.run(*device, Action::read, 0, size_bytes, memory.data()) == Status::ok);
                REQUIRE(std::memcmp(memory.data(), shadow.data(), size_bytes) == 0);
            }
        }
    });
}

TEST_CASE("the guard refuses what is out of range, misaligned or comes while closing") {
    with_every_kind([](Bench& bench, Device& device) {
        const block::Description& is = device.describe();
        Pages memory(size_bytes);
        REQUIRE(is.size_bytes == size_bytes);
        const std::uint64_t block = is.block_bytes;
        const auto run = [&](Action action, std::uint64_t offset, std::uint64_t length) {
            return bench.rig.run(device, action, offset, length, memory.data());
        };
        for (const Action action : {Action::read, Action::write, Action::write_zeroes}) {
            CHECK(run(action, size_bytes, block) == Status::out_of_range);
            CHECK(run(action, size_bytes - block, 2 * block) == Status::out_of_range);
            CHECK(run(action, ~std::uint64_t{0} - block + 1, block) == Status::out_of_range);
            CHECK(run(action, block, ~std::uint64_t{0} - block + 1) == Status::out_of_range);
            CHECK(run(action, 1, block) == Status::misaligned);
            CHECK(run(action, 0, block - 1) == Status::misaligned);
            CHECK(run(action, size_bytes - block, block) == Status::ok);
            CHECK(run(action, 0, 0) == Status::ok);
        }
        if (is.data_alignment > 1) {
            CHECK(bench.rig.run(device, Action::read, 0, block, memory.data() + 1) == Status::misaligned);
        }
        CHECK(bench.rig.run(device, Action::flush) == Status::ok);
        CHECK(device.counters().in_flight == 0);
        CHECK(device.counters().completed[static_cast<int>(Action::flush)] == 1);
        CHECK(device.counters().errors > 0);
        bool closed = false;
        device.close([&] { closed = true; });
        TestRequest late;
        late.length = block;
        late.data = memory.data();
        device.submit(late);
        CHECK(late.completed == 1);
        CHECK(late.status == Status::gone);
        REQUIRE(bench.rig.run_until([&] { return closed; }));
        bench.rig.forget_device(bench.spec.name);
    });
}

TEST_CASE("a read-only device reads, and refuses every change") {
    for (const Subject& subject : subjects) {
        CAPTURE(subject.name);
        Bench bench(subject);
        Device* device = bench.open();
        if (device == nullptr) {
            continue;
        }
        bench.close();
        bench.spec.read_only = true;
        device = bench.open();
        Pages memory(4096);
        CHECK(device->describe().read_only);
        CHECK(bench.rig.run(*device, Action::read, 0, 4096, memory.data()) == Status::ok);
        CHECK(bench.rig.run(*device, Action::write, 0, 4096, memory.data()) == Status::read_only);
        CHECK(bench.rig.run(*device, Action::write_zeroes, 0, 4096) == Status::read_only);
        CHECK(bench.rig.run(*device, Action::deallocate, 0, 4096) != Status::ok);
        CHECK(bench.rig.run(*device, Action::flush) == Status::ok);
    }
}

TEST_CASE("zeroes of every size and alignment leave what lies beside them") {
    with_every_kind([](Bench& bench, Device& device) {
        if (!bench.subject.keeps_data) {
            return;
        }
        const std::uint64_t block = device.describe().block_bytes;
        Pages memory(size_bytes);
        const std::uint64_t lengths[] = {block,       3 * block, 64 * 1024, 64 * 1024 + block,
                                         1536 * 1024, 3 << 20};
        for (const std::uint64_t length : lengths) {
            for (const std::uint64_t offset : {block, std::uint64_t{8192}}) {
                for (int way = 0; way < 4; ++way) {
                    CAPTURE(length);
                    CAPTURE(way);
                    std::memset(memory.data(), 0xa5, size_bytes);
                    REQUIRE(bench.rig.run(device, Action::write, 0, size_bytes, memory.data()) == Status::ok);
                    TestRequest request;
                    request.action = way == 3 ? Action::deallocate : Action::write_zeroes;
                    request.may_deallocate = way == 1;
                    request.force_unit_access = way == 2;
                    request.offset = offset;
                    request.length = length;
                    if (way == 3 && !device.describe().can_deallocate) {
                        REQUIRE(bench.rig.run(device, request) == Status::not_supported);
                        continue;
                    }
                    REQUIRE(bench.rig.run(device, request) == Status::ok);
                    REQUIRE(bench.rig.run(device, Action::read, 0, size_bytes, memory.data()) == Status::ok);
                    CHECK(all_are(memory.span().first(offset), 0xa5));
                    CHECK(all_are(memory.span().subspan(offset + length), 0xa5));
                    if (way != 3 || device.describe().deallocated_reads_zero) {
                        CHECK(all_are(memory.span().subspan(offset, length), 0));
                    }
                }
            }
        }
    });
}

TEST_CASE("resize changes the size, tells the claim's listener, and grows with zeroes") {
    with_every_kind([](Bench& bench, Device& device) {
        int told = 0;
        auto claim = block::Claim::take(device, block::Access::read_write, "test").take();
        claim.on_change([&] { ++told; });
        Pages memory(size_bytes);
        if (!bench.subject.resizes) {
            CHECK(device.resize(size_bytes * 2).error().code == "E_UNSUPPORTED");
            CHECK(device.resize(std::nullopt).value() == size_bytes);
            CHECK(told == 0);
            return;
        }
        std::memset(memory.data(), 0x77, size_bytes);
        REQUIRE(bench.rig.run(device, Action::write, 0, size_bytes, memory.data()) == Status::ok);
        CHECK(device.resize(size_bytes + 1).error().code == "E_INVALID");
        CHECK(device.resize(0).error().code == "E_INVALID");
        CHECK(told == 0);
        CHECK(device.resize(size_bytes / 2).value() == size_bytes / 2);
        CHECK(told == 1);
        CHECK(bench.rig.run(device, Action::read, size_bytes / 2, 4096, memory.data()) ==
              Status::out_of_range);
        CHECK(device.resize(size_bytes).value() == size_bytes);
        CHECK(device.resize(size_bytes).value() == size_bytes);
        CHECK(told == 2);
        REQUIRE(bench.rig.run(device, Action::read, 0, size_bytes, memory.data()) == Status::ok);
        if (bench.subject.keeps_data) {
            CHECK(memory.data()[size_bytes / 2 - 1] == std::byte{0x77});
        }
        CHECK(all_are(memory.span().subspan(size_bytes / 2), 0));
    });
}

TEST_CASE(
    "closing under load completes every request once, then says closed, and keeps what was acknowledged") {
    with_every_kind([](Bench& bench, Device& device) {
        constexpr std::uint64_t count = 256;
        Pages memory(size_bytes);
        std::memset(memory.data(), 0x3c, size_bytes);
        std::vector<TestRequest> requests(count);
        bool closed = false;
        const std::uint64_t length = size_bytes / count;
        for (std::uint64_t i = 0; i < count; ++i) {
            requests[i].action = Action::write;
            requests[i].offset = i * length;
            requests[i].length = length;
            requests[i].data = memory.data() + i * length;
            device.submit(requests[i]);
            if (i == count / 2) {
                device.close([&] { closed = true; });
                CHECK(device.closing());
                CHECK_FALSE(closed);
            }
        }
        REQUIRE(bench.rig.run_until([&] { return closed; }));
        bench.rig.forget_device(bench.spec.name);
        bench.close_legs();
        CHECK(std::all_of(requests.begin(), requests.end(),
                          [](const TestRequest& r) { return r.completed == 1; }));
        CHECK(requests.front().status == Status::ok);
        CHECK(requests.back().status == Status::gone);
        Device* again = bench.open();
        REQUIRE(bench.rig.run(*again, Action::read, 0, size_bytes, memory.data()) == Status::ok);
        for (std::uint64_t i = 0; i < count && bench.subject.keeps_data; ++i) {
            if (requests[i].status == Status::ok) {
                REQUIRE(memory.data()[i * length] == std::byte{0x3c});
            }
        }
    });
}

TEST_CASE("cancelled requests complete once, and cancelling does not disturb the others") {
    with_every_kind([](Bench& bench, Device& device) {
        constexpr std::uint64_t count = 64;
        Pages memory(size_bytes);
        std::vector<TestRequest> requests(count);
        for (std::uint64_t i = 0; i < count; ++i) {
            requests[i].action = i % 2 == 0 ? Action::read : Action::write;
            requests[i].offset = i * 65536;
            requests[i].length = 65536;
            requests[i].data = memory.data() + i * 65536;
            device.submit(requests[i]);
            if (i % 3 == 0 && requests[i].completed == 0) {
                device.cancel(requests[i]);
            }
        }
        REQUIRE(bench.rig.run_until([&] {
            return std::all_of(requests.begin(), requests.end(),
                               [](const TestRequest& r) { return r.completed > 0; });
        }));
        for (std::uint64_t i = 0; i < count; ++i) {
            CHECK(requests[i].completed == 1);
            CHECK(
                (requests[i].status == Status::ok || (i % 3 == 0 && requests[i].status == Status::aborted)));
        }
    });
}

TEST_CASE("a direct read refers to what a read returns, or to nothing") {
    with_every_kind([](Bench& bench, Device& device) {
        const std::string& kind = bench.spec.kind;
        const bool passes_on = kind == "linear" || kind == "stripe";
        const bool has_place =
            kind == "ram" || kind == "null" || (passes_on && bench.legs.front().kind == "ram");
        const auto place = device.direct_read(8192, 4096);
        REQUIRE(place.has_value() == has_place);
        if (place) {
            CHECK(place->region == (bench.spec.kind == "null" ? 9 : 3));
            CHECK(place->offset == (bench.spec.kind == "null" ? 0 : 8192));
        }
        CHECK_FALSE(device.direct_read(size_bytes, 4096).has_value());
        CHECK_FALSE(device.direct_read(4096, ~std::uint64_t{0}).has_value());
    });
}

TEST_CASE("a claim for writing excludes all others, claims for reading only those for writing") {
    with_every_kind([](Bench&, Device& device) {
        using block::Access;
        using block::Claim;
        auto writer = Claim::take(device, Access::read_write, "writer").take();
        const auto refused = Claim::take(device, Access::read_only, "reader");
        REQUIRE_FALSE(refused.ok());
        CHECK(refused.error().code == "E_BUSY");
        CHECK(refused.error().message.find("writer") != std::string::npos);
        block::Claim moved = std::move(writer);
        CHECK(writer.device() == nullptr);  // NOLINT(bugprone-use-after-move): what a moved claim is
        CHECK_FALSE(Claim::take(device, Access::read_write, "other").ok());
        moved.release();
        auto first = Claim::take(device, Access::read_only, "first").take();
        auto second = Claim::take(device, Access::read_only, "second").take();
        CHECK_FALSE(Claim::take(device, Access::read_write, "other").ok());
        first = std::move(second);
        CHECK(first.owner() == "second");
        CHECK_FALSE(Claim::take(device, Access::read_write, "other").ok());
        first.release();
        CHECK(Claim::take(device, Access::read_write, "other").ok());
    });
}

}  // namespace
