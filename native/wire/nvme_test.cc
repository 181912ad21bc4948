#include "wire/nvme.h"

#include <doctest/doctest.h>

#include <cstring>
#include <set>
#include <string>

#include "wire/nvme_fabrics.h"
#include "wire/nvme_identify.h"
#include "wire/nvme_io.h"
#include "wire/nvme_log.h"

namespace {

constexpr unsigned char read_command[64] = {
    0x02, 0x40, 0x34, 0x12, 0x01, 0x00, 0x00, 0x00,  // opcode, PSDT 01b, CID 1234h, NSID 1
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  //
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  //
    0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00, 0x00,  // SGL address
    0x00, 0x10, 0x00, 0x00, 0x00, 0x00, 0x00, 0x5A,  // length 1000h, transport data block
    0xEF, 0xCD, 0xAB, 0x89, 0x67, 0x45, 0x23, 0x01,  // SLBA 123456789ABCDEFh
    0x07, 0x00, 0x00, 0x40, 0x00, 0x00, 0x00, 0x00,  // NLB 8, FUA
};

}  // namespace

TEST_CASE("a command is read from the bytes of the standard's layout") {
    wire::Sqe sqe;
    std::memcpy(&sqe, read_command, sizeof(sqe));
    CHECK(sqe.opcode == static_cast<std::uint8_t>(wire::IoOpcode::read));
    CHECK(sqe.fuse() == wire::Fuse::normal);
    CHECK(sqe.psdt() == wire::Psdt::sgl_contiguous_metadata);
    CHECK(sqe.cid == 0x1234);
    CHECK(sqe.nsid == 1);
    CHECK(sqe.dptr.length == 0x1000);
    CHECK(sqe.dptr.identifier == wire::sgl_transport);
    CHECK(sqe.dptr.type() == wire::SglType::transport_data_block);
    CHECK(sqe.dptr.subtype() == wire::SglSubtype::transport);
    CHECK(wire::starting_lba(sqe) == 0x0123456789ABCDEF);
    CHECK(wire::logical_blocks(sqe) == 8);
    CHECK(wire::io_cdw12::fua.test(sqe.cdw12));
    CHECK_FALSE(wire::io_cdw12::lr.test(sqe.cdw12));
}

TEST_CASE("a command that is built has the bytes of the standard's layout") {
    wire::Sqe sqe;
    sqe.opcode = static_cast<std::uint8_t>(wire::IoOpcode::read);
    sqe.flags = wire::sqe_flags(wire::Fuse::normal, wire::Psdt::sgl_contiguous_metadata);
    sqe.cid = 0x1234;
    sqe.nsid = 1;
    sqe.dptr.length = 0x1000;
    sqe.dptr.identifier = wire::sgl_transport;
    wire::set_starting_lba(sqe, 0x0123456789ABCDEF);
    sqe.cdw12 = wire::io_cdw12::nlb.put(7) | wire::io_cdw12::fua.put(1);
    CHECK(std::memcmp(&sqe, read_command, sizeof(sqe)) == 0);
}

TEST_CASE("the status field puts code, type, delay and do-not-retry where the standard has them") {
    CHECK(wire::status_field(wire::status::success, false) == 0);
    CHECK(wire::status_field(wire::status::invalid_field, true) == 0x8004);
    CHECK(wire::status_field(wire::status::invalid_opcode, false) == 0x0002);
    CHECK(wire::status_field(wire::status::connect_invalid_parameters, true) == 0x8304);
    CHECK(wire::status_field(wire::status::command_interrupted, false, 1) == 0x1042);
    CHECK(wire::status_field(wire::status::invalid_opcode, false, 0, true) == 0x4002);
    CHECK(wire::status::compare_failure.sct() == 2);
    CHECK(wire::status::compare_failure.sc() == 0x85);
}

TEST_CASE("every status survives the way through a completion, with or without its flags") {
    for (std::uint16_t value = 0; value < 0x800; ++value) {
        const wire::Status status{value};
        CHECK(wire::status_of(wire::status_field(status, false)) == status);
        CHECK(wire::status_of(wire::status_field(status, true, 3, true)) == status);
    }
}

TEST_CASE("each listed status has its own text, and Fabrics codes are told from the others") {
    std::set<std::string> texts;
    unsigned listed = 0;
    for (std::uint16_t value = 0; value < 0x800; ++value) {
        if (const char* text = wire::name_of(wire::Status{value})) {
            ++listed;
            CHECK(texts.insert(text).second);
        }
    }
    CHECK(listed > 90);
    CHECK(std::string(wire::name_of(wire::status::success)) == "Successful Completion");
    CHECK(std::string(wire::name_of(wire::status::conflicting_attributes)) == "Conflicting Attributes");
    CHECK(std::string(wire::name_of_fabrics(wire::status::connect_incompatible_format)) ==
          "Connect Incompatible Format");
    CHECK(std::string(wire::name_of_fabrics(wire::status::invalid_field)) == "Invalid Field in Command");
    CHECK(wire::name_of(wire::Status{0x7FF}) == nullptr);
}

TEST_CASE("names of bytes that are no enumerators are null") {
    CHECK(std::string(wire::name_of(wire::AdminOpcode::keep_alive)) == "Keep Alive");
    CHECK(wire::name_of(static_cast<wire::AdminOpcode>(0x03)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::IoOpcode>(0xFF)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::FabricsType>(0x02)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::LogPage>(0xC0)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::FeatureId>(0x00)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::Cns>(0xFF)) == nullptr);
    CHECK(wire::name_of(static_cast<wire::AsyncEventType>(5)) == nullptr);
}

TEST_CASE("the direction bits agree with what each command transfers") {
    using wire::data_direction;
    using wire::DataDirection;
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::flush)) == DataDirection::none);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::write)) == DataDirection::to_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::read)) == DataDirection::from_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::compare)) == DataDirection::to_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::verify)) == DataDirection::none);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::IoOpcode::copy)) == DataDirection::to_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::AdminOpcode::identify)) ==
          DataDirection::from_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::FabricsType::connect)) ==
          DataDirection::to_controller);
    CHECK(data_direction(static_cast<std::uint8_t>(wire::FabricsType::property_get)) == DataDirection::none);
}

TEST_CASE("bit fields read, write and replace only their own bits") {
    using Field = wire::BitField<std::uint32_t, 4, 3>;
    CHECK(Field::put(0xFF) == 0x70);
    CHECK(Field::get(0xFFFFFFDF) == 5);
    CHECK(Field::replace(0xFFFFFFFF, 2) == 0xFFFFFFAF);
    CHECK(wire::BitField<std::uint64_t, 0, 64>::value_max == ~std::uint64_t{0});
    CHECK(wire::Bit<std::uint8_t, 7>::put(1) == 0x80);
}

TEST_CASE("controller properties have the standard's layout") {
    const std::uint64_t cap = wire::cap::mqes.put(1023) | wire::cap::cqr.put(1) | wire::cap::to.put(30) |
                              wire::cap::css.put(wire::cap::css_nvm | wire::cap::css_io_command_sets) |
                              wire::cap::crwms.put(1);
    CHECK(cap == 0x080008201E0103FF);
    CHECK(wire::version(2, 0, 0) == 0x00020000);
    // CC as the Linux host writes it: enabled, 64-byte and 16-byte entries.
    constexpr std::uint32_t cc = 0x00460001;
    CHECK(wire::cc::en.test(cc));
    CHECK(wire::cc::iosqes.get(cc) == 6);
    CHECK(wire::cc::iocqes.get(cc) == 4);
    CHECK(wire::cc::shn.get(0x00464001) == wire::cc::shn_normal);
    CHECK(wire::csts::shst.put(wire::csts::shst_complete) == 0x08);
}

TEST_CASE("asynchronous event dwords carry type, information and log page") {
    CHECK(wire::async_event_dw0(
              wire::AsyncEventType::notice,
              static_cast<std::uint8_t>(wire::AsyncNoticeInfo::asymmetric_namespace_access_change),
              wire::LogPage::asymmetric_namespace_access) == 0x000C0302);
    CHECK(wire::async_event_dw0(wire::AsyncEventType::notice,
                                static_cast<std::uint8_t>(wire::AsyncNoticeInfo::discovery_log_page_change),
                                wire::LogPage::discovery) == 0x0070F002);
}

TEST_CASE("Connect is viewed through a submission queue entry") {
    unsigned char bytes[64] = {0x7F, 0x40, 0x01, 0x00, 0x01};
    bytes[42] = 0x03;  // QID
    bytes[44] = 0x7F;  // SQSIZE
    bytes[46] = 0x04;  // CATTR: no SQ flow control
    bytes[48] = 0x88;  // KATO 5000
    bytes[49] = 0x13;
    wire::Sqe sqe;
    std::memcpy(&sqe, bytes, sizeof(sqe));
    CHECK(sqe.fctype() == static_cast<std::uint8_t>(wire::FabricsType::connect));
    const auto& connect = wire::view_as<wire::ConnectCommand>(sqe);
    CHECK(connect.qid == 3);
    CHECK(connect.sqsize == 127);
    CHECK(wire::connect_attribute::disable_sq_flow_control.test(connect.cattr));
    CHECK(connect.kato == 5000);
    CHECK(wire::connect_invalid_dw0(offsetof(wire::ConnectData, subnqn), wire::InvalidAttribute::data) ==
          0x00010100);
    CHECK(wire::connect_result::atr.mask == 0x00020000);
}

TEST_CASE("log page lengths and offsets are joined from their halves") {
    CHECK(wire::log_bytes(wire::log_cdw::numdl.put(0), 0) == 4);
    CHECK(wire::log_bytes(wire::log_cdw::numdl.put(1023), 0) == 4096);
    CHECK(wire::log_bytes(wire::log_cdw::numdl.put(0xFFFF), wire::log_cdw::numdu.put(0xFFFF)) == 1ull << 34);
    wire::Sqe sqe;
    sqe.cdw12 = 0x400;
    sqe.cdw13 = 1;
    CHECK(wire::log_offset(sqe) == 0x100000400);
    CHECK(wire::parameter_location(40, 3) == 0x0328);
}

TEST_CASE("the timestamp holds 48 bits") {
    wire::TimestampData timestamp;
    timestamp.set_value(0x123456789ABC);
    CHECK(timestamp.value() == 0x123456789ABC);
    CHECK(timestamp.milliseconds[0] == 0xBC);
    CHECK(timestamp.attributes == 0);
    timestamp.set_value(0xFFFF123456789ABC);
    CHECK(timestamp.value() == 0x123456789ABC);
}

TEST_CASE("a completion's 64-bit result is split low half first") {
    wire::Cqe cqe;
    cqe.set_dw01(0x0123456789ABCDEF);
    CHECK(cqe.dw0 == 0x89ABCDEF);
    CHECK(cqe.dw1 == 0x01234567);
    CHECK(cqe.dw01() == 0x0123456789ABCDEF);
}
