// Get Log Page [NVM Express Base 2.0 §5.16].

#include <doctest/doctest.h>

#include "testing/scripted_host.h"

using testing::Entry;
using testing::number_at;
using testing::ScriptedHost;
using testing::TargetRig;
using testing::text_at;

TEST_CASE("log pages: the supported ones are listed and the listed ones are answered") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto list = host.log(0x00, 1024);
    REQUIRE(list.status().ok());
    std::vector<int> supported;
    for (int page = 0; page < 256; ++page) {
        const auto entry = number_at(list.data, static_cast<std::size_t>(page) * 4, 4);
        if (entry != 0) {
            CHECK(entry == 1);
            supported.push_back(page);
        }
    }
    CHECK(supported == std::vector<int>{0x00, 0x01, 0x02, 0x03, 0x04, 0x05, 0x0C, 0x12});
    for (int page = 0; page < 256; ++page) {
        CAPTURE(page);
        const bool listed = std::find(supported.begin(), supported.end(), page) != supported.end();
        const auto completion = host.log(static_cast<std::uint8_t>(page), 512);
        CHECK(completion.status().value == (listed ? 0 : 0x109));
    }
}

TEST_CASE("log pages: lengths, offsets and what lies beyond the end") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto whole = host.log(0x03, 512);
    CHECK(number_at(whole.data, 0, 1) == 1);
    CHECK(text_at(whole.data, 8, 8) == "7.1     ");
    CHECK(number_at(whole.data, 16, 8) == 0);
    CHECK(text_at(host.log(0x03, 8, 8).data, 0, 8) == "7.1     ");
    CHECK(text_at(host.log(0x03, 4, 4).data, 0, 4) == std::string(4, '\0'));
    CHECK(number_at(host.log(0x03, 4096, 8).data, 4088, 8) == 0);
    CHECK(host.log(0x03, 4, 512).status().ok());
    CHECK(host.log(0x03, 4, 516).status().value == 0x002);
    CHECK(host.log(0x03, 4, 2).status().value == 0x002);
    CHECK(host.log(0x03, 4, 1ull << 40).status().value == 0x002);
    CHECK(host.log(0x03, 1 << 20).data.size() == 1u << 20);
    CHECK(host.log(0x03, (1 << 20) + 4).status().value == 0x002);
    CHECK(host.command(ScriptedHost::log_entry(0x03, 512).dword(14, 1u << 23)).status().value == 0x002);
    CHECK(host.command(ScriptedHost::log_entry(0x03, 512).length(508)).status().value == 0x00F);
    CHECK(host.command(ScriptedHost::log_entry(0x03, 512).dword(11, 0xFFFF)).status().value == 0x002);
}

TEST_CASE("log pages: the error log has every failed command, newest first") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    CHECK(number_at(host.log(0x01, 4096).data, 0, 8) == 0);
    transport::LoopConnection& queue = host.io(1);
    const auto failed = host.identify(0xFF);
    CHECK(failed.status().value == 0x002);
    CHECK(((failed.cqe.status.value() >> 14) & 1) == 1);  // More
    const auto read = host.send(queue, ScriptedHost::read_entry(1, 255, 2, 8192));
    REQUIRE(read.has_value());
    CHECK(read->status().value == 0x080);
    const auto log = host.log(0x01, 192);
    CHECK(number_at(log.data, 0, 8) == 2);  // error count
    CHECK(number_at(log.data, 8, 2) == 1);  // SQID
    CHECK(number_at(log.data, 10, 2) == read->cqe.cid.value());
    CHECK(number_at(log.data, 12, 2) == read->cqe.status.value());
    CHECK(number_at(log.data, 16, 8) == 255);  // LBA
    CHECK(number_at(log.data, 24, 4) == 1);    // NSID
    CHECK(number_at(log.data, 29, 1) == 3);    // TRTYPE: TCP
    CHECK(number_at(log.data, 64, 8) == 1);
    CHECK(number_at(log.data, 72, 2) == 0);
    CHECK(number_at(log.data, 74, 2) == failed.cqe.cid.value());
    CHECK(number_at(log.data, 78, 2) == 40);  // the byte at fault: CNS
    CHECK(number_at(log.data, 128, 8) == 0);
    for (int i = 0; i < 70; ++i) {
        host.identify(0xFF);
    }
    const auto full = host.log(0x01, 4096);
    CHECK(number_at(full.data, 0, 8) == 72);
    CHECK(number_at(full.data, 63 * 64, 8) == 9);
    CHECK(number_at(host.log(0x02, 512).data, 176, 8) == 72);  // error log entries
}

TEST_CASE("log pages: SMART counts what hosts did") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    for (int i = 0; i < 3; ++i) {
        REQUIRE(host.send(queue, ScriptedHost::write_entry(1, 0, 64, 262144), testing::filled(262144, 1))
                    ->status()
                    .ok());
    }
    REQUIRE(host.send(queue, ScriptedHost::read_entry(1, 0, 1, 4096))->status().ok());
    rig.disk(1).holding = true;
    const auto cid = host.start(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    rig.advance(90 * base::second);
    rig.disk(1).finish_held(block::Status::medium_error);
    rig.run();
    CHECK(queue.take(cid)->status().value == 0x281);
    const auto smart = host.log(0x02, 512);
    REQUIRE(smart.status().ok());
    CHECK(number_at(smart.data, 0, 1) == 0);    // critical warning
    CHECK(number_at(smart.data, 1, 2) == 298);  // kelvin
    CHECK(number_at(smart.data, 3, 1) == 100);  // spare
    CHECK(number_at(smart.data, 32, 8) == 1);   // data units read: rounded up
    CHECK(number_at(smart.data, 48, 8) == 2);   // 786,432 bytes written
    CHECK(number_at(smart.data, 64, 8) == 1);   // read commands
    CHECK(number_at(smart.data, 80, 8) == 3);   // write commands
    CHECK(number_at(smart.data, 96, 8) == 1);   // busy minutes
    CHECK(number_at(smart.data, 112, 8) == 1);  // power cycles
    CHECK(number_at(smart.data, 160, 8) == 1);  // media errors
    CHECK(host.command(ScriptedHost::log_entry(0x02, 512).nsid(1)).status().value == 0x002);
    CHECK(host.command(ScriptedHost::log_entry(0x02, 512).nsid(0)).status().ok());
    rig.target->set_temperature(360);
    CHECK(number_at(host.log(0x02, 512).data, 0, 1) == 0x02);
}

TEST_CASE("log pages: effects of commands and features") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    const auto log = host.log(0x05, 4096);
    std::vector<int> admin;
    std::vector<int> io;
    for (int opcode = 0; opcode < 256; ++opcode) {
        if ((number_at(log.data, static_cast<std::size_t>(opcode) * 4, 4) & 1) != 0) {
            admin.push_back(opcode);
        }
        if ((number_at(log.data, 1024 + static_cast<std::size_t>(opcode) * 4, 4) & 1) != 0) {
            io.push_back(opcode);
        }
    }
    CHECK(admin == std::vector<int>{0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18});
    CHECK(io == std::vector<int>{0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0C, 0x19});
    CHECK((number_at(log.data, 1024 + 4, 4) & 2) == 2);  // Write changes blocks
    CHECK((number_at(log.data, 1024 + 8, 4) & 2) == 0);  // Read does not
    CHECK(host.command(ScriptedHost::log_entry(0x05, 4096).dword(14, 2u << 24)).status().value == 0x002);
    const auto features = host.log(0x12, 1024);
    std::vector<int> ids;
    for (int id = 0; id < 256; ++id) {
        if ((number_at(features.data, static_cast<std::size_t>(id) * 4, 4) & 1) != 0) {
            ids.push_back(id);
            CHECK(host.get_feature(static_cast<std::uint8_t>(id), 3, 1, 1).status().ok());
        }
    }
    CHECK(ids == std::vector<int>{0x01, 0x02, 0x04, 0x05, 0x06, 0x07, 0x0A, 0x0B, 0x0E, 0x0F, 0x16, 0x19,
                                  0x81, 0x84});
    // A command that is not listed is an invalid opcode.
    for (const int opcode : {0x00, 0x01, 0x04, 0x05, 0x0D, 0x10, 0x14, 0x80, 0x81, 0x84, 0xC0}) {
        CHECK(host.command(Entry(static_cast<std::uint8_t>(opcode))).status().value == 0x001);
    }
}

TEST_CASE("log pages: asymmetric namespace access") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig);
    host.bring_up();
    transport::LoopConnection& queue = host.io(1);
    const auto log = host.log(0x0C, 4096);
    CHECK(number_at(log.data, 0, 8) == 0);
    CHECK(number_at(log.data, 8, 2) == 1);
    CHECK(number_at(log.data, 16, 4) == 1);  // group
    CHECK(number_at(log.data, 20, 4) == 2);  // namespaces in it
    CHECK(number_at(log.data, 32, 1) == 1);  // optimized
    CHECK(number_at(log.data, 48, 4) == 1);
    CHECK(number_at(log.data, 52, 4) == 3);
    CHECK(number_at(log.data, 56, 8) == 0);
    const auto groups = host.log(0x0C, 64, 0, 1u << 8);
    CHECK(number_at(groups.data, 20, 4) == 0);
    CHECK(number_at(groups.data, 48, 8) == 0);
    CHECK(rig.target->set_ana_state(testing::test_subsystem, nvme::AnaState::inaccessible).ok());
    CHECK(number_at(host.log(0x0C, 64).data, 0, 8) == 1);
    CHECK(number_at(host.log(0x0C, 64).data, 32, 1) == 3);
    const auto read = host.send(queue, ScriptedHost::read_entry(1, 0, 1, 4096));
    CHECK(read->status().value == 0x302);
    CHECK(!read->dnr());
}

TEST_CASE("log pages: a discovery controller has those of its kind") {
    TargetRig rig;
    rig.with_subsystem();
    ScriptedHost host(rig, {"nqn.2014-08.org.nvmexpress.discovery", testing::test_host, 1});
    host.bring_up();
    CHECK(host.log(0x02, 512).status().value == 0x109);
    CHECK(host.log(0x0C, 512).status().value == 0x109);
    const auto list = host.log(0x00, 1024);
    for (const std::size_t page : {0x00u, 0x01u, 0x05u, 0x12u, 0x70u}) {
        CHECK(number_at(list.data, page * 4, 4) == 1);
    }
    CHECK(number_at(host.log(0x05, 4096).data, 1024, 8) == 0);
}
