#include "nvme/copy.h"

#include <doctest/doctest.h>

#include "nvme/io_commands.h"
#include "testing/io_host.h"

namespace {

using testing::Answer;
using testing::bytes_of;
using testing::io;
using testing::IoHost;
using testing::IoQueue;
using wire::IoOpcode;
namespace status = wire::status;

struct Source {
    std::uint64_t lba;
    std::uint32_t blocks;
};

std::vector<std::byte> list_of(const std::vector<Source>& sources) {
    std::vector<std::byte> bytes(sources.size() * sizeof(wire::CopyRange));
    auto* range = reinterpret_cast<wire::CopyRange*>(bytes.data());
    for (const Source& source : sources) {
        range->slba = source.lba;
        range++->nlb = static_cast<std::uint16_t>(source.blocks - 1);
    }
    return bytes;
}

wire::Sqe copy_to(std::uint64_t lba, std::size_t ranges, std::uint32_t dword12 = 0) {
    wire::Sqe sqe = io(IoOpcode::copy, 1, lba);
    sqe.cdw12 = static_cast<std::uint32_t>(ranges - 1) | dword12;
    return sqe;
}

Answer copy(IoHost& host, IoQueue& queue, std::uint64_t lba, const std::vector<Source>& sources,
            std::uint32_t dword12 = 0) {
    return host.run(queue, copy_to(lba, sources.size(), dword12), list_of(sources));
}

std::vector<std::byte> content(IoHost& host, IoQueue& queue, std::uint64_t lba, std::uint32_t blocks) {
    queue.stable_data = true;
    return host.run(queue, io(IoOpcode::read, 1, lba, blocks)).data;
}

void put(IoHost& host, IoQueue& queue, std::uint64_t lba, const std::vector<std::byte>& data) {
    CHECK(host.run(queue, io(IoOpcode::write, 1, lba, static_cast<std::uint32_t>(data.size() / 512)), data)
              .status == status::success);
}

std::vector<std::byte> part(const std::vector<std::byte>& data, std::size_t block, std::size_t blocks) {
    return {data.begin() + static_cast<std::ptrdiff_t>(block * 512),
            data.begin() + static_cast<std::ptrdiff_t>((block + blocks) * 512)};
}

}  // namespace

TEST_CASE("copy joins its sources in order at the destination") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const auto data = bytes_of(64 * 512, 1);
    put(host, queue, 0, data);
    CHECK(copy(host, queue, 1000, {{10, 3}, {0, 1}, {60, 4}}, wire::copy_cdw12::fua.put(1)).status ==
          status::success);
    const auto copied = content(host, queue, 1000, 9);
    CHECK(part(copied, 0, 3) == part(data, 10, 3));
    CHECK(part(copied, 3, 1) == part(data, 0, 1));
    CHECK(part(copied, 4, 4) == part(data, 60, 4));
    CHECK(part(copied, 8, 1) == std::vector<std::byte>(512));
}

TEST_CASE("copy onto its own sources writes what was there before") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const auto data = bytes_of(64 * 512, 1);
    put(host, queue, 0, data);
    CHECK(copy(host, queue, 4, {{0, 32}}).status == status::success);
    CHECK(content(host, queue, 4, 32) == part(data, 0, 32));
    CHECK(content(host, queue, 0, 4) == part(data, 0, 4));
}

TEST_CASE("copy keeps its limits and checks every range before it reads any") {
    IoHost host;
    host.add_ram(1, 512, 4 << 20);  // 8192 blocks
    IoQueue& queue = host.connect();
    const std::uint32_t most = nvme::copy_blocks_max(9);
    CHECK(copy(host, queue, 4096, {{0, most}}).status == status::success);
    std::vector<Source> many(limits::copy_ranges_max, Source{0, 1});
    CHECK(copy(host, queue, 4096, many).status == status::success);
    many.push_back({0, 1});
    CHECK(copy(host, queue, 4096, many).status == status::command_size_limit_exceeded);

    struct Row {
        const char* name;
        std::uint64_t destination;
        std::vector<Source> sources;
        std::uint32_t dword12;
        wire::Status expected;
        std::uint32_t result;
    };
    const Row rows[] = {
        {"a range over the limit", 0, {{0, 1}, {0, most + 1}}, 0, status::command_size_limit_exceeded, 1},
        {"ranges that are over it together",
         0,
         {{0, most}, {0, 1}},
         0,
         status::command_size_limit_exceeded,
         1},
        {"a source over the end", 0, {{0, 1}, {1, 1}, {8191, 2}}, 0, status::lba_out_of_range, 2},
        {"a source that overflows", 0, {{~std::uint64_t{0}, 2}}, 0, status::lba_out_of_range, 0},
        {"a destination over the end", 8191, {{0, 2}}, 0, status::lba_out_of_range, 0},
        {"another format", 0, {{0, 1}}, wire::copy_cdw12::desfmt.put(1), status::invalid_field, 0},
        {"a directive", 0, {{0, 1}}, wire::copy_cdw12::dtype.put(1), status::invalid_field, 0},
        {"protection of the read",
         0,
         {{0, 1}},
         wire::copy_cdw12::prinfor.put(1),
         status::invalid_protection_information,
         0},
        {"protection of the write",
         0,
         {{0, 1}},
         wire::copy_cdw12::prinfow.put(1),
         status::invalid_protection_information,
         0},
    };
    put(host, queue, 0, bytes_of(512, 7));
    for (const Row& row : rows) {
        INFO(row.name);
        const Answer answer = copy(host, queue, row.destination, row.sources, row.dword12);
        CHECK(answer.status == row.expected);
        CHECK(answer.result0 == row.result);
        CHECK(answer.dnr);
    }
    CHECK(content(host, queue, 0, 1) == bytes_of(512, 7));
    CHECK(host.run(queue, copy_to(0, 2), list_of({{0, 1}})).status == status::data_sgl_length_invalid);
    host.target->find(host.nqn())->find_namespace(1)->set_write_protection(1);
    CHECK(copy(host, queue, 0, {{1, 1}}).status == status::namespace_write_protected);
}

TEST_CASE("copy tells which source could not be read, and has written nothing then") {
    IoHost host;
    block::DeviceSpec spec;
    spec.kind = "error";
    spec.error_actions = {"read"};
    spec.error_offset = 100 * 512;
    spec.error_length = 512;
    host.add_above(1, spec);
    IoQueue& queue = host.connect();
    const Answer answer = copy(host, queue, 1000, {{0, 2}, {99, 1}, {98, 4}, {5, 1}});
    CHECK(answer.status == status::unrecovered_read_error);
    CHECK(answer.result0 == 2);
    CHECK(content(host, queue, 1000, 8) == std::vector<std::byte>(8 * 512));
}

TEST_CASE("while a copy writes its record says that everything was read") {
    IoHost host;
    block::DeviceSpec spec;
    spec.kind = "delay";
    spec.read_delay_us = 20'000;
    spec.write_delay_us = 50'000;
    host.add_above(1, spec);
    IoQueue& queue = host.connect();
    const std::uint16_t cid = queue.send(copy_to(8, 1), list_of({{0, 4}}));
    const nvme::Command& command = *queue.queue->find(cid);
    CHECK(command.record->progress == 0);
    REQUIRE(host.rig.run_until([&] { return command.record->progress != 0; }));
    CHECK_FALSE(queue.answered(cid));
    CHECK(host.wait(queue, cid).status == status::success);
}

TEST_CASE("a copy that had read everything before a restart only writes") {
    for (const bool staged : {false, true}) {
        INFO("staged ", staged);
        IoHost host;
        host.add_ram(1);
        IoQueue& live = host.connect();
        const auto original = bytes_of(32 * 512, 1);
        // Overlapping: the predecessor had already begun to overwrite what it was copying.
        put(host, live, 0, original);
        if (staged) {
            put(host, live, 4, part(original, 0, 16));
        }
        IoQueue& queue = host.inherit();
        nvme::CommandRecord& record = queue.records[0];
        record.sqe = copy_to(4, 1);
        record.sqe.cid = 77;
        record.direction = nvme::DataDirection::to_controller;
        const auto list = list_of({{0, 32}});
        record.data_length = static_cast<std::uint32_t>(list.size());
        record.buffer_bytes = nvme::copy_buffer_bytes;
        const auto place = host.rig.buffers.allocate(record.buffer_bytes);
        REQUIRE(place.has_value());
        record.data_region = 0;
        record.data_offset = *place;
        std::byte* const buffer = host.rig.buffers.at(*place);
        std::memcpy(buffer, list.data(), list.size());
        if (staged) {
            std::memcpy(buffer + nvme::copy_list_bytes_max, original.data(), original.size());
            record.progress = 1;
        }
        record.state = nvme::CommandState::ready;
        host.rig.buffers.release(*place, record.buffer_bytes);
        const std::vector<std::uint16_t> slots{0};
        REQUIRE(queue.queue->adopt(slots));
        queue.queue->execute(queue.queue->commands()[0]);
        CHECK(host.wait(queue, 77).status == status::success);
        CHECK(content(host, live, 4, 32) == original);
    }
}
