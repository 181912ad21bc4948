// Identify, byte by byte against the figures of NVM Express Base 2.0 §5.17 and NVM Command Set 1.0 §4.1.5.

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;
using testing::text_at;

namespace {

// All bytes outside of the ranges given are zero.
bool zero_except(std::span<const std::byte> data,
                 std::initializer_list<std::pair<std::size_t, std::size_t>> ranges) {
    for (std::size_t i = 0; i < data.size(); ++i) {
        bool excepted = false;
        for (const auto& [from, to] : ranges) {
            excepted = excepted || (i >= from && i < to);
        }
        if (!excepted && data[i] != std::byte{0}) {
            MESSAGE("byte " << i << " is " << std::to_integer<int>(data[i]));
            return false;
        }
    }
    return true;
}

std::uint64_t sum(std::span<const std::byte> data) {
    std::uint64_t total = 0;
    for (const std::byte byte : data) {
        total += std::to_integer<std::uint64_t>(byte);
    }
    return total;
}

}  // namespace

TEST_CASE("identify: an I/O controller") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto completion = host.identify(0x01);
    REQUIRE(completion.status().ok());
    const auto& id = completion.data;
    REQUIRE(id.size() == 4096);
    CHECK(text_at(id, 4, 20) == "SERIAL01            ");
    CHECK(text_at(id, 24, 40) == "Model" + std::string(35, ' '));
    CHECK(text_at(id, 64, 8) == "7.1     ");
    CHECK(number_at(id, 73, 3) == 0x332211);  // IEEE
    CHECK(number_at(id, 76, 1) == 0x0B);      // CMIC: ports, controllers, ANA
    CHECK(number_at(id, 77, 1) == 8);         // MDTS
    CHECK(number_at(id, 78, 2) == host.cntlid);
    CHECK(number_at(id, 80, 4) == 0x00020000);  // VER
    CHECK(number_at(id, 88, 4) == 15'000'000);  // RTD3E
    CHECK(number_at(id, 92, 4) == 0x00000900);  // OAES: namespace attribute, ANA
    CHECK(number_at(id, 96, 4) == 0x00000041);  // CTRATT: 128-bit host id, TBKAS
    CHECK(number_at(id, 111, 1) == 1);          // CNTRLTYPE
    CHECK(number_at(id, 128, 2) == 2);          // CRDT1
    CHECK(number_at(id, 256, 2) == 0);          // OACS
    CHECK(number_at(id, 258, 1) == 3);          // ACL
    CHECK(number_at(id, 259, 1) == 3);          // AERL
    CHECK(number_at(id, 260, 1) == 0x03);       // FRMW: slot 1 read-only, one slot
    CHECK(number_at(id, 261, 1) == 0x26);       // LPA: effects, extended data, supported pages
    CHECK(number_at(id, 262, 1) == 63);         // ELPE
    CHECK(number_at(id, 263, 1) == 0);          // NPSS
    CHECK(number_at(id, 266, 2) == 343);        // WCTEMP
    CHECK(number_at(id, 268, 2) == 353);        // CCTEMP
    CHECK(number_at(id, 280, 8) == 2u << 20);   // TNVMCAP
    CHECK(number_at(id, 320, 2) == 10);         // KAS
    CHECK(number_at(id, 342, 1) == 10);         // ANATT
    CHECK(number_at(id, 343, 1) == 0x5F);       // ANACAP
    CHECK(number_at(id, 344, 4) == 1);          // ANAGRPMAX
    CHECK(number_at(id, 348, 4) == 1);          // NANAGRPID
    CHECK(number_at(id, 512, 1) == 0x66);       // SQES
    CHECK(number_at(id, 513, 1) == 0x44);       // CQES
    CHECK(number_at(id, 514, 2) == 1024);       // MAXCMD
    CHECK(number_at(id, 516, 4) == 32);         // NN
    CHECK(number_at(id, 520, 2) == 0x01DD);  // ONCS: compare, DSM, WZ, save/select, timestamp, verify, copy
    CHECK(number_at(id, 522, 2) == 1);       // FUSES
    CHECK(number_at(id, 525, 1) == 0x07);    // VWC: present, flush of all supported
    CHECK(number_at(id, 526, 2) == 0);       // AWUN
    CHECK(number_at(id, 528, 2) == 0);       // AWUPF
    CHECK(number_at(id, 531, 1) == 0x01);    // NWPC
    CHECK(number_at(id, 534, 2) == 1);       // Copy descriptor format 0
    CHECK(number_at(id, 536, 4) == 0x00340001);  // SGLS
    CHECK(number_at(id, 540, 4) == 32);          // MNAN
    CHECK(text_at(id, 768, 256).c_str() == std::string(testing::test_subsystem));
    CHECK(number_at(id, 1792, 4) == (64 + 8192) / 16);  // IOCCSZ
    CHECK(number_at(id, 1796, 4) == 1);                 // IORCSZ
    CHECK(number_at(id, 1800, 2) == 0);                 // ICDOFF
    CHECK(number_at(id, 1802, 1) == 0);                 // FCATT: dynamic controllers
    CHECK(number_at(id, 1803, 1) == 1);                 // MSDBD
    CHECK(number_at(id, 1804, 2) == 1);                 // OFCS: Disconnect
    CHECK(zero_except(id, {{4, 72},
                           {73, 84},
                           {88, 100},
                           {111, 112},
                           {128, 130},
                           {258, 263},
                           {266, 270},
                           {280, 288},
                           {320, 322},
                           {342, 352},
                           {512, 524},
                           {525, 526},
                           {531, 532},
                           {534, 544},
                           {768, 1024},
                           {1792, 1800},
                           {1803, 1806}}));
}

TEST_CASE("identify: a discovery controller") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    host.bring_up();
    const auto completion = host.identify(0x01);
    REQUIRE(completion.status().ok());
    const auto& id = completion.data;
    CHECK(number_at(id, 78, 2) == host.cntlid);
    CHECK(number_at(id, 80, 4) == 0x00020000);
    CHECK(number_at(id, 92, 4) == 0x80000000);  // OAES: discovery log
    CHECK(number_at(id, 111, 1) == 2);          // CNTRLTYPE
    CHECK(number_at(id, 320, 2) == 10);         // KAS
    CHECK(number_at(id, 516, 4) == 0);          // NN
    CHECK(number_at(id, 536, 4) == 0x00340001);
    CHECK(text_at(id, 768, 256).c_str() == std::string("nqn.2014-08.org.nvmexpress.discovery"));
    CHECK(number_at(id, 1796, 4) == 1);
    for (const int cns : {0x00, 0x02, 0x03, 0x05, 0x06, 0x07, 0x08, 0x10, 0x11, 0x12, 0x13}) {
        CAPTURE(cns);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 1).status().value == 0x002);
    }
}

TEST_CASE("identify: a namespace") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (const int cns : {0x00, 0x11}) {
        const auto completion = host.identify(static_cast<std::uint8_t>(cns), 1);
        REQUIRE(completion.status().ok());
        const auto& id = completion.data;
        CHECK(number_at(id, 0, 8) == 256);                   // NSZE
        CHECK(number_at(id, 8, 8) == 256);                   // NCAP
        CHECK(number_at(id, 16, 8) == 256);                  // NUSE
        CHECK(number_at(id, 24, 1) == 0x10);                 // NSFEAT: NPWG and its like
        CHECK(number_at(id, 25, 1) == 0);                    // NLBAF
        CHECK(number_at(id, 26, 1) == 0);                    // FLBAS
        CHECK(number_at(id, 30, 1) == 1);                    // NMIC: shared
        CHECK(number_at(id, 33, 1) == 0x09);                 // DLFEAT: zeroes, Write Zeroes may deallocate
        CHECK(number_at(id, 48, 8) == 1u << 20);             // NVMCAP
        CHECK(number_at(id, 64, 2) == 0);                    // NPWG: one block
        CHECK(number_at(id, 74, 2) == 127);                  // MSSRL
        CHECK(number_at(id, 76, 4) == 127);                  // MCL
        CHECK(number_at(id, 80, 1) == 127);                  // MSRC
        CHECK(number_at(id, 92, 4) == 1);                    // ANAGRPID
        CHECK(number_at(id, 99, 1) == 0);                    // NSATTR
        CHECK(number_at(id, 104, 8) == 0xA1A1A1A1A1A1A1A1);  // NGUID
        CHECK(number_at(id, 120, 8) == 0);                   // EUI64
        CHECK(number_at(id, 128, 4) == 12u << 16);           // LBAF0: 4096 bytes, no metadata
        CHECK(zero_except(
            id, {{0, 25}, {30, 31}, {33, 34}, {48, 56}, {64, 81}, {92, 96}, {104, 120}, {128, 132}}));
    }
    CHECK(number_at(host.identify(0x00, 3).data, 128, 4) == 9u << 16);
    CHECK(number_at(host.identify(0x00, 3).data, 0, 8) == 2048);
}

TEST_CASE("identify: inactive namespaces are zeroes, invalid ones an error") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (const int cns : {0x00, 0x05, 0x08, 0x11}) {
        CAPTURE(cns);
        const auto inactive = host.identify(static_cast<std::uint8_t>(cns), 2);
        REQUIRE(inactive.status().ok());
        CHECK(sum(inactive.data) == 0);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 0).status().value == 0x00B);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 33).status().value == 0x00B);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 0xFFFFFFFF).status().value == 0x00B);
    }
    CHECK(host.identify(0x03, 2).status().value == 0x00B);
}

TEST_CASE("identify: namespace identification descriptors") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto completion = host.identify(0x03, 3);
    REQUIRE(completion.status().ok());
    const auto& list = completion.data;
    CHECK(number_at(list, 0, 4) == 0x1002);  // NGUID, 16 bytes
    CHECK(number_at(list, 4, 8) == 0xA3A3A3A3A3A3A3A3);
    CHECK(number_at(list, 20, 4) == 0x1003);  // UUID, 16 bytes
    CHECK(number_at(list, 24, 8) == 0xB3B3B3B3B3B3B3B3);
    CHECK(number_at(list, 40, 4) == 0x0104);  // CSI, 1 byte
    CHECK(number_at(list, 44, 1) == 0);
    CHECK(zero_except(list, {{0, 42}}));
}

TEST_CASE("identify: lists of namespaces start after the one that is named") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (const int cns : {0x02, 0x07, 0x10, 0x1A}) {
        CAPTURE(cns);
        const auto all = host.identify(static_cast<std::uint8_t>(cns), 0);
        CHECK(number_at(all.data, 0, 4) == 1);
        CHECK(number_at(all.data, 4, 4) == 3);
        CHECK(zero_except(all.data, {{0, 8}}));
        const auto rest = host.identify(static_cast<std::uint8_t>(cns), 1);
        CHECK(number_at(rest.data, 0, 4) == 3);
        CHECK(zero_except(rest.data, {{0, 4}}));
        CHECK(sum(host.identify(static_cast<std::uint8_t>(cns), 3).data) == 0);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 0xFFFFFFFE).status().value == 0x00B);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 0xFFFFFFFF).status().value == 0x00B);
    }
}

TEST_CASE("identify: what is specific to the NVM command set, and that there is no other") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto controller = host.identify(0x06);
    REQUIRE(controller.status().ok());
    CHECK(number_at(controller.data, 0, 1) == 0);   // VSL
    CHECK(number_at(controller.data, 1, 1) == 13);  // WZSL: 32 MiB
    CHECK(number_at(controller.data, 3, 1) == 0);   // DMRL
    CHECK(zero_except(controller.data, {{1, 2}}));
    CHECK(sum(host.identify(0x05, 1).data) == 0);
    for (const int cns : {0x05, 0x06, 0x07, 0x1A, 0x1B}) {
        CAPTURE(cns);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 1, 0, 2).status().value == 0x002);  // zoned
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 1, 0, 1).status().value == 0x002);  // key value
    }
    const auto independent = host.identify(0x08, 1);
    CHECK(number_at(independent.data, 1, 1) == 1);   // NMIC
    CHECK(number_at(independent.data, 4, 4) == 1);   // ANAGRPID
    CHECK(number_at(independent.data, 8, 1) == 0);   // NSATTR
    CHECK(number_at(independent.data, 14, 1) == 1);  // NSTAT: ready
    const auto combinations = host.identify(0x1C, 0, 0xFFFF);
    CHECK(number_at(combinations.data, 0, 8) == 1);
    CHECK(zero_except(combinations.data, {{0, 8}}));
    CHECK(host.identify(0x1C, 0, host.cntlid).status().ok());
    CHECK(host.identify(0x1C, 0, 999).status().value == 0x002);
}

TEST_CASE("identify: lists of controllers") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    ScriptedHost other(rig);
    host.bring_up();
    other.bring_up();
    const auto all = host.identify(0x13, 0, 0);
    CHECK(number_at(all.data, 0, 2) == 2);
    CHECK(number_at(all.data, 2, 2) == host.cntlid);
    CHECK(number_at(all.data, 4, 2) == other.cntlid);
    const auto later = host.identify(0x13, 0, other.cntlid);
    CHECK(number_at(later.data, 0, 2) == 1);
    CHECK(number_at(later.data, 2, 2) == other.cntlid);
    CHECK(number_at(host.identify(0x12, 1, 0).data, 0, 2) == 2);
    CHECK(number_at(host.identify(0x12, 2, 0).data, 0, 2) == 0);
    CHECK(host.identify(0x12, 0, 0).status().value == 0x00B);
}

TEST_CASE("identify: unknown structures and short buffers are refused") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    for (const int cns : {0x04, 0x09, 0x0A, 0x14, 0x15, 0x16, 0x17, 0x18, 0x19, 0x1D, 0x80, 0xFF}) {
        CAPTURE(cns);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 1).status().value == 0x002);
        CHECK(host.identify(static_cast<std::uint8_t>(cns), 1).dnr());
    }
    CHECK(host.command(Entry(0x06).dword(10, 1).length(4095)).status().value == 0x00F);
    CHECK(host.command(Entry(0x06).dword(10, 1).in_capsule(4096)).status().value == 0x011);
    CHECK(host.command(Entry(0x06).dword(10, 1).length(4096).put8(1, 0x00)).status().value == 0x002);  // PRP
    CHECK(host.command(Entry(0x06).dword(10, 1).length(4096).put8(1, 0x41)).status().value ==
          0x002);  // fused
    CHECK(host.command(Entry(0x06).dword(10, 1).length(8192)).data.size() == 4096);
}

TEST_CASE("identify: write protection and read-only exports show in the attributes") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(rig.target->set_namespace_read_only(testing::test_subsystem, 1, true).ok());
    CHECK(number_at(host.identify(0x00, 1).data, 99, 1) == 1);
    CHECK(number_at(host.identify(0x08, 1).data, 8, 1) == 1);
    CHECK(rig.target->set_namespace_read_only(testing::test_subsystem, 1, false).ok());
    CHECK(number_at(host.identify(0x00, 1).data, 99, 1) == 0);
    rig.disk(1).set_read_only(true);
    CHECK(number_at(host.identify(0x00, 1).data, 99, 1) == 1);
}
