// What the commands of an I/O queue do and how they refuse.

#include "nvme/io_commands.h"

#include <doctest/doctest.h>

#include "testing/io_host.h"
#include "wire/nvme_log.h"

namespace {

using testing::Answer;
using testing::bytes_of;
using testing::io;
using testing::IoHost;
using testing::IoQueue;
using wire::IoOpcode;
namespace status = wire::status;

std::vector<std::byte> read(IoHost& host, IoQueue& queue, std::uint32_t nsid, std::uint64_t lba,
                            std::uint32_t blocks) {
    queue.stable_data = true;  // a copy, so that the answer holds it
    const Answer answer = host.run(queue, io(IoOpcode::read, nsid, lba, blocks));
    CHECK(answer.status == status::success);
    return answer.data;
}

Answer write(IoHost& host, IoQueue& queue, std::uint32_t nsid, std::uint64_t lba,
             const std::vector<std::byte>& data) {
    return host.run(queue, io(IoOpcode::write, nsid, lba, static_cast<std::uint32_t>(data.size() / 512)),
                    data);
}

block::DeviceSpec failing(const std::string& action, const std::string& how, std::uint64_t count = 0) {
    block::DeviceSpec spec;
    spec.kind = "error";
    spec.error_actions = {action};
    spec.error_status = how;
    spec.error_count = count;
    return spec;
}

std::vector<std::byte> dsm_list(std::initializer_list<std::pair<std::uint64_t, std::uint32_t>> ranges) {
    std::vector<std::byte> bytes(ranges.size() * sizeof(wire::DsmRange));
    auto* range = reinterpret_cast<wire::DsmRange*>(bytes.data());
    for (const auto& [lba, blocks] : ranges) {
        range->slba = lba;
        range++->nlb = blocks;
    }
    return bytes;
}

wire::Sqe dsm(std::uint32_t nsid, std::uint32_t ranges, bool deallocate = true) {
    wire::Sqe sqe = io(IoOpcode::dataset_management, nsid);
    sqe.cdw10 = ranges - 1;
    sqe.cdw11 = wire::dsm_cdw::ad.put(deallocate ? 1 : 0);
    sqe.cdw12 = 0;
    return sqe;
}

}  // namespace

TEST_CASE("what is written is read back, with both block sizes, and counted") {
    for (const std::uint32_t block_bytes : {512u, 4096u}) {
        IoHost host;
        nvme::Namespace& ns = host.add_ram(1, block_bytes);
        IoQueue& queue = host.connect();
        const auto data = bytes_of(std::size_t{8} * block_bytes, 1);
        CHECK(host.run(queue, io(IoOpcode::write, 1, 3, 8), data).status == status::success);
        CHECK(read(host, queue, 1, 3, 8) == data);
        CHECK(host.run(queue, io(IoOpcode::flush, 1)).status == status::success);
        CHECK(ns.counters.write_commands == 1);
        CHECK(ns.counters.written_bytes == data.size());
        CHECK(ns.counters.read_bytes == data.size());
        CHECK(ns.counters.other_commands == 1);
        CHECK(ns.read_latency.total() == 1);
    }
}

TEST_CASE("a read is answered from the device's memory unless the connection needs stable data") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    CHECK(host.run(queue, io(IoOpcode::read, 1, 0, 8)).from_device);
    queue.stable_data = true;
    CHECK_FALSE(host.run(queue, io(IoOpcode::read, 1, 0, 8)).from_device);
}

TEST_CASE("every invalid field has its status, and nothing is changed") {
    IoHost host;
    host.add_ram(1, 512, 1 << 20);  // 2048 blocks
    IoQueue& queue = host.connect();
    const auto data = bytes_of(512, 9);
    CHECK(write(host, queue, 1, 2047, data).status == status::success);

    struct Row {
        const char* name;
        IoOpcode opcode;
        std::uint64_t lba;
        std::uint32_t blocks;
        std::uint32_t dword12;
        std::uint32_t nsid;
        wire::Status expected;
    };
    const std::uint32_t pract = wire::io_cdw12::prinfo.put(8);
    const std::uint32_t stc = wire::io_cdw12::stc.put(1);
    const std::uint32_t streams = wire::io_cdw12::dtype.put(1);
    const std::uint32_t lr = wire::io_cdw12::lr.put(1);
    const Row rows[] = {
        {"one block behind the end", IoOpcode::write, 2048, 1, 0, 1, status::lba_out_of_range},
        {"a range over the end", IoOpcode::read, 2047, 2, 0, 1, status::lba_out_of_range},
        {"a range that overflows", IoOpcode::read, ~std::uint64_t{0}, 2, 0, 1, status::lba_out_of_range},
        {"the last block of all", IoOpcode::write, ~std::uint64_t{0}, 1, 0, 1, status::lba_out_of_range},
        {"compare over the end", IoOpcode::compare, 2047, 2, 0, 1, status::lba_out_of_range},
        {"verify over the end", IoOpcode::verify, 2047, 2, 0, 1, status::lba_out_of_range},
        {"zeroes over the end", IoOpcode::write_zeroes, 2047, 2, 0, 1, status::lba_out_of_range},
        {"a read beyond MDTS", IoOpcode::read, 0, 2049, 0, 1, status::invalid_field},
        {"a write beyond MDTS", IoOpcode::write, 0, 2049, 0, 1, status::invalid_field},
        {"protection information of a read", IoOpcode::read, 0, 1, pract, 1,
         status::invalid_protection_information},
        {"of a write", IoOpcode::write, 0, 1, pract, 1, status::invalid_protection_information},
        {"of zeroes", IoOpcode::write_zeroes, 0, 1, pract, 1, status::invalid_protection_information},
        {"storage tag check", IoOpcode::verify, 0, 1, stc, 1, status::invalid_protection_information},
        {"a directive", IoOpcode::write, 0, 1, streams, 1, status::invalid_field},
        {"limited retry is a hint", IoOpcode::verify, 0, 1, lr, 1, status::success},
        {"no such namespace", IoOpcode::read, 0, 1, 0, 2, status::invalid_namespace_or_format},
        {"namespace 0", IoOpcode::read, 0, 1, 0, 0, status::invalid_namespace_or_format},
        {"all namespaces", IoOpcode::write, 0, 1, 0, wire::nsid_broadcast,
         status::invalid_namespace_or_format},
        {"flush of no namespace", IoOpcode::flush, 0, 1, 0, 9, status::invalid_namespace_or_format},
        {"an opcode that is not supported", IoOpcode::write_uncorrectable, 0, 1, 0, 1,
         status::invalid_opcode},
        {"a reserved opcode", static_cast<IoOpcode>(0x7E), 0, 1, 0, 1, status::invalid_opcode},
    };
    for (const Row& row : rows) {
        INFO(row.name);
        wire::Sqe sqe = io(row.opcode, row.nsid, row.lba, row.blocks);
        sqe.cdw12 = sqe.cdw12 | row.dword12;
        const bool sends = row.opcode == IoOpcode::write || row.opcode == IoOpcode::compare;
        const Answer answer = host.run(queue, sqe, sends ? bytes_of(512, 1) : std::vector<std::byte>{});
        CHECK(answer.status == row.expected);
        CHECK(answer.dnr == !row.expected.ok());
    }
    CHECK(read(host, queue, 1, 2047, 1) == data);
    CHECK(read(host, queue, 1, 0, 1) == std::vector<std::byte>(512));
}

TEST_CASE("a write-protected namespace refuses whatever changes it, and nothing else") {
    IoHost host;
    host.add_ram(1);
    block::DeviceSpec spec;
    spec.size_bytes = 1 << 20;
    spec.block_bytes = 512;
    host.add(2, spec, true);
    IoQueue& queue = host.connect();
    host.target->find(host.nqn())->find_namespace(1)->set_write_protection(1);
    for (const std::uint32_t nsid : {1u, 2u}) {
        CHECK(write(host, queue, nsid, 0, bytes_of(512, 1)).status == status::namespace_write_protected);
        CHECK(host.run(queue, io(IoOpcode::write_zeroes, nsid)).status == status::namespace_write_protected);
        CHECK(host.run(queue, dsm(nsid, 1), dsm_list({{0, 1}})).status == status::namespace_write_protected);
        CHECK(host.run(queue, dsm(nsid, 1, false), dsm_list({{0, 1}})).status == status::success);
        CHECK(host.run(queue, io(IoOpcode::read, nsid)).status == status::success);
        CHECK(host.run(queue, io(IoOpcode::flush, nsid)).status == status::success);
        CHECK(host.run(queue, io(IoOpcode::verify, nsid)).status == status::success);
    }
}

TEST_CASE("a namespace that goes away while data is on its way takes no data any more") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const std::uint16_t late = queue.send(io(IoOpcode::write, 1), bytes_of(512, 1), true);
    bool removed = false;
    REQUIRE(host.target->remove_namespace(host.nqn(), 1, [&] { removed = true; }).ok());
    REQUIRE(host.rig.run_until([&] { return removed; }));
    queue.deliver(late);
    CHECK(host.wait(queue, late).status == status::invalid_namespace_or_format);
}

TEST_CASE("a command holds its namespace until it is done") {
    IoHost host;
    block::DeviceSpec slow;
    slow.kind = "delay";
    slow.write_delay_us = 20'000;
    host.add_above(1, slow);
    IoQueue& queue = host.connect();
    const std::uint16_t cid = queue.send(io(IoOpcode::write, 1), bytes_of(512, 1));
    bool removed = false;
    REQUIRE(host.target->remove_namespace(host.nqn(), 1, [&] { removed = true; }).ok());
    host.settle();
    CHECK_FALSE(removed);
    CHECK(host.wait(queue, cid).status == status::success);
    CHECK(host.rig.run_until([&] { return removed; }));
}

TEST_CASE("flush of all namespaces reaches each, and tells the first error") {
    IoHost host;
    nvme::Namespace& first = host.add_ram(1);
    host.add_above(2, failing("flush", "medium_error", 1));
    nvme::Namespace& third = host.add_ram(3);
    IoQueue& queue = host.connect();
    CHECK(host.run(queue, io(IoOpcode::flush, wire::nsid_broadcast)).status == status::write_fault);
    CHECK(first.counters.other_commands == 1);
    CHECK(third.counters.other_commands == 1);
    CHECK(host.run(queue, io(IoOpcode::flush, wire::nsid_broadcast)).status == status::success);
}

TEST_CASE("how a device's failure reads to a host") {
    struct Row {
        const char* how;
        wire::Status of_read;
        wire::Status of_write;
        bool dnr;
    };
    const Row rows[] = {
        {"medium_error", status::unrecovered_read_error, status::write_fault, false},
        {"no_space", status::capacity_exceeded, status::capacity_exceeded, true},
        {"gone", status::namespace_not_ready, status::namespace_not_ready, false},
        {"busy", status::command_interrupted, status::command_interrupted, false},
        {"aborted", status::abort_requested, status::abort_requested, false},
        {"internal_error", status::internal_error, status::internal_error, false},
        {"read_only", status::namespace_write_protected, status::namespace_write_protected, true},
    };
    for (const Row& row : rows) {
        INFO(row.how);
        IoHost host;
        block::DeviceSpec spec = failing("read", row.how);
        spec.error_actions = {"read", "write"};
        nvme::Namespace& ns = host.add_above(1, spec);
        IoQueue& queue = host.connect();
        const Answer of_read = host.run(queue, io(IoOpcode::read, 1));
        CHECK(of_read.status == row.of_read);
        CHECK(of_read.dnr == row.dnr);
        const Answer of_write = write(host, queue, 1, 0, bytes_of(512, 1));
        CHECK(of_write.status == row.of_write);
        CHECK(of_write.dnr == row.dnr);
        CHECK(host.run(queue, io(IoOpcode::verify, 1)).status == row.of_read);
        CHECK(ns.counters.errors == 3);
        CHECK(ns.counters.read_bytes == 0);
    }
}

TEST_CASE("write zeroes clears its range, natively or by writing") {
    for (const bool native : {true, false}) {
        INFO("native ", native);
        IoHost host;
        if (native) {
            host.add_ram(1);
        } else {
            host.add_above(1, failing("write_zeroes", "not_supported"));
        }
        IoQueue& queue = host.connect();
        const auto data = bytes_of(1 << 20, 3);
        CHECK(write(host, queue, 1, 0, data).status == status::success);
        CHECK(write(host, queue, 1, 2048, data).status == status::success);
        // More than MDTS, and in the second case more than one chunk.
        wire::Sqe sqe = io(IoOpcode::write_zeroes, 1, 1, 4094);
        sqe.cdw12 = sqe.cdw12 | wire::io_cdw12::deac.put(1) | wire::io_cdw12::fua.put(1);
        CHECK(host.run(queue, sqe).status == status::success);
        std::vector<std::byte> expected(1 << 20);
        std::copy_n(data.begin(), 512, expected.begin());
        CHECK(read(host, queue, 1, 0, 2048) == expected);
        std::fill_n(expected.begin(), 512, std::byte{0});
        std::copy_n(data.end() - 512, 512, expected.end() - 512);
        CHECK(read(host, queue, 1, 2048, 2048) == expected);
    }
}

TEST_CASE("write zeroes beyond its own limit is refused") {
    IoHost host;
    host.add_ram(1, 4096, 64 << 20);
    IoQueue& queue = host.connect();
    const std::uint32_t most = nvme::write_zeroes_bytes_max / 4096;
    CHECK(host.run(queue, io(IoOpcode::write_zeroes, 1, 0, most)).status == status::success);
    CHECK(host.run(queue, io(IoOpcode::write_zeroes, 1, 0, most + 1)).status == status::invalid_field);
}

TEST_CASE("dataset management deallocates every range, or nothing if one of them is wrong") {
    IoHost host;
    host.add_ram(1);
    IoQueue& queue = host.connect();
    const auto data = bytes_of(16 * 512, 5);
    CHECK(write(host, queue, 1, 0, data).status == status::success);
    CHECK(host.run(queue, dsm(1, 2), dsm_list({{0, 1}, {8191, 2}})).status == status::lba_out_of_range);
    CHECK(host.run(queue, dsm(1, 1), dsm_list({{~std::uint64_t{0}, 0xFFFFFFFF}})).status ==
          status::lba_out_of_range);
    CHECK(read(host, queue, 1, 0, 16) == data);
    // Linux describes the largest buffer whatever the number of ranges.
    auto list = dsm_list({{1, 2}, {0, 0}, {5, 1}});
    list.resize(4096);
    CHECK(host.run(queue, dsm(1, 3), list).status == status::success);
    auto expected = data;
    std::fill_n(expected.begin() + 512, 1024, std::byte{0});
    std::fill_n(expected.begin() + 5 * 512, 512, std::byte{0});
    CHECK(read(host, queue, 1, 0, 16) == expected);
    // Only a hint without the attribute.
    CHECK(host.run(queue, dsm(1, 1, false), dsm_list({{8, 8}})).status == status::success);
    CHECK(read(host, queue, 1, 0, 16) == expected);
    // Fewer bytes than ranges.
    CHECK(host.run(queue, dsm(1, 3), dsm_list({{0, 1}, {1, 1}})).status == status::data_sgl_length_invalid);
    CHECK(read(host, queue, 1, 0, 16) == expected);
}

TEST_CASE("256 ranges are deallocated, and a failing one is told") {
    IoHost host;
    host.add_above(1, failing("deallocate", "medium_error", 1));
    IoQueue& queue = host.connect();
    std::vector<std::byte> list(4096);
    for (std::uint32_t i = 0; i < 256; ++i) {
        auto& range = reinterpret_cast<wire::DsmRange*>(list.data())[i];
        range.slba = i * 2;
        range.nlb = 1;
    }
    const auto data = bytes_of(512 * 512, 8);
    CHECK(write(host, queue, 1, 0, data).status == status::success);
    CHECK(host.run(queue, dsm(1, 256), list).status == status::write_fault);
    CHECK(host.run(queue, dsm(1, 256), list).status == status::success);
    const auto after = read(host, queue, 1, 0, 512);
    for (std::size_t i = 0; i < 512; ++i) {
        const bool zero = after[i * 512 + 7] == std::byte{0} && after[i * 512 + 8] == std::byte{0};
        CHECK(zero == (i % 2 == 0));
    }
}

TEST_CASE("deallocation on a device that cannot do it changes nothing and is no error") {
    IoHost host;
    host.add_above(1, failing("deallocate", "not_supported"));
    IoQueue& queue = host.connect();
    const auto data = bytes_of(512, 2);
    CHECK(write(host, queue, 1, 0, data).status == status::success);
    CHECK(host.run(queue, dsm(1, 1), dsm_list({{0, 1}})).status == status::success);
    CHECK(read(host, queue, 1, 0, 1) == data);
}

TEST_CASE("verify reads everything that it names") {
    IoHost host;
    block::DeviceSpec spec = failing("read", "medium_error");
    spec.error_offset = 3000 * 512;
    spec.error_length = 512;
    host.add_above(1, spec);
    IoQueue& queue = host.connect();
    CHECK(host.run(queue, io(IoOpcode::verify, 1, 0, 3000)).status == status::success);
    CHECK(host.run(queue, io(IoOpcode::verify, 1, 0, 3001)).status == status::unrecovered_read_error);
}

TEST_CASE("more commands than there is memory for data wait and are all answered") {
    IoHost host;  // its pool has 16 MiB
    block::DeviceSpec slow;
    slow.kind = "delay";
    slow.read_delay_us = 1000;
    host.add_above(1, slow);
    IoQueue& queue = host.connect();
    std::vector<std::uint16_t> cids;
    for (int i = 0; i < 40; ++i) {
        cids.push_back(queue.send(io(IoOpcode::read, 1, 0, 2048)));
    }
    for (const std::uint16_t cid : cids) {
        REQUIRE(host.rig.run_until([&] {
            host.rig.buffers.serve_waiters();
            return queue.answered(cid);
        }));
        CHECK(queue.take(cid).status == status::success);
    }
    CHECK(host.rig.buffers.bytes_in_use() == 0);
}

TEST_CASE("an aborted command ends with abort requested and its device is asked") {
    IoHost host;
    block::DeviceSpec slow;
    slow.kind = "delay";
    slow.write_delay_us = 10'000'000;
    host.add_above(1, slow);
    IoQueue& queue = host.connect();
    const std::uint16_t cid = queue.send(io(IoOpcode::write, 1), bytes_of(512, 1));
    host.settle();
    CHECK_FALSE(queue.answered(cid));
    REQUIRE(queue.queue->find(cid) != nullptr);
    CHECK(queue.queue->abort(*queue.queue->find(cid)));
    CHECK(host.wait(queue, cid).status == status::abort_requested);
}

TEST_CASE("the table of commands says what identify and the effects log say") {
    for (const nvme::IoCommandRow& row : nvme::io_commands()) {
        CHECK(nvme::find_io_command(static_cast<std::uint8_t>(row.opcode)) == &row);
        CHECK((row.effects & wire::command_effects::csupp) != 0);
        CHECK(wire::name_of(row.opcode) != nullptr);
    }
    CHECK(nvme::find_io_command(0xFF) == nullptr);
}
