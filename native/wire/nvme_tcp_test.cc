#include "wire/nvme_tcp.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

namespace {

using wire::CommonHeader;
using wire::FatalErrorStatus;
using wire::PduType;
using wire::PduVerdict;
using wire::Receiver;

CommonHeader header(PduType type, unsigned flags, unsigned hlen, unsigned pdo, std::uint32_t plen) {
    CommonHeader result;
    result.type = static_cast<std::uint8_t>(type);
    result.flags = static_cast<std::uint8_t>(flags);
    result.hlen = static_cast<std::uint8_t>(hlen);
    result.pdo = static_cast<std::uint8_t>(pdo);
    result.plen = plen;
    return result;
}

wire::ReceiveRules controller_rules(wire::Digests digests = {}) {
    wire::ReceiveRules rules;
    rules.receiver = Receiver::controller;
    rules.initialized = true;
    rules.digests = digests;
    rules.capsule_data_bytes_max = 8192;
    rules.data_pdu_bytes_max = 131072;
    return rules;
}

wire::ReceiveRules host_rules(wire::Digests digests = {}) {
    wire::ReceiveRules rules = controller_rules(digests);
    rules.receiver = Receiver::host;
    return rules;
}

wire::ReceiveRules before_icreq() {
    wire::ReceiveRules rules = controller_rules();
    rules.initialized = false;
    return rules;
}

void check_fault(const CommonHeader& pdu, const wire::ReceiveRules& rules, FatalErrorStatus fes,
                 std::uint32_t fei) {
    CAPTURE(static_cast<unsigned>(pdu.type));
    const wire::PduCheck check = wire::check_common_header(pdu, rules);
    CHECK(check.verdict == PduVerdict::report);
    CHECK(check.error.fes == fes);
    CHECK(check.error.fei == fei);
}

constexpr auto invalid = FatalErrorStatus::invalid_pdu_header_field;
constexpr std::uint32_t at_type = 0;
constexpr std::uint32_t at_flags = 1;
constexpr std::uint32_t at_hlen = 2;
constexpr std::uint32_t at_pdo = 3;
constexpr std::uint32_t at_plen = 4;

constexpr wire::Digests no_digests{};
constexpr wire::Digests header_digests{true, false};
constexpr wire::Digests data_digests{false, true};
constexpr wire::Digests both_digests{true, true};

constexpr PduType data_types[] = {PduType::capsule_cmd, PduType::h2c_data, PduType::c2h_data};

}  // namespace

TEST_CASE("header lengths are those of the standard") {
    CHECK(wire::header_length(0x00) == 128);
    CHECK(wire::header_length(0x01) == 128);
    CHECK(wire::header_length(0x02) == 24);
    CHECK(wire::header_length(0x03) == 24);
    CHECK(wire::header_length(0x04) == 72);
    CHECK(wire::header_length(0x05) == 24);
    CHECK(wire::header_length(0x06) == 24);
    CHECK(wire::header_length(0x07) == 24);
    CHECK(wire::header_length(0x08) == 0);
    CHECK(wire::header_length(0x09) == 24);
    for (unsigned type = 0x0A; type <= 0xFF; ++type) {
        CHECK(wire::header_length(static_cast<std::uint8_t>(type)) == 0);
    }
}

TEST_CASE("a planned PDU passes the receiver's check with the same layout, whatever was agreed on") {
    for (const wire::Digests digests : {no_digests, header_digests, data_digests, both_digests}) {
        for (unsigned pda = 0; pda <= wire::pdu_data_alignment_max; ++pda) {
            for (const PduType type : data_types) {
                for (const std::uint32_t bytes : {1u, 511u, 512u, 4096u, 8192u}) {
                    const auto plan = wire::plan_pdu(type, bytes, digests, static_cast<std::uint8_t>(pda));
                    wire::ReceiveRules rules =
                        type == PduType::c2h_data ? host_rules(digests) : controller_rules(digests);
                    rules.pda = static_cast<std::uint8_t>(pda);
                    const wire::PduCheck check = wire::check_common_header(wire::make_header(plan), rules);
                    REQUIRE(check.ok());
                    REQUIRE(check.layout.type == type);
                    REQUIRE(check.layout.header_bytes == plan.header_bytes);
                    REQUIRE(check.layout.header_digest_bytes == (digests.header ? 4 : 0));
                    REQUIRE(check.layout.data_digest_bytes == (digests.data ? 4 : 0));
                    REQUIRE(check.layout.data_offset == plan.data_offset);
                    REQUIRE(check.layout.data_offset % wire::data_alignment_bytes(rules.pda) == 0);
                    REQUIRE(check.layout.padding_bytes() < wire::data_alignment_bytes(rules.pda));
                    REQUIRE(check.layout.data_bytes == bytes);
                    REQUIRE(check.layout.pdu_bytes == plan.pdu_bytes);
                }
            }
        }
    }
}

TEST_CASE("planned headers have the bytes that hosts and controllers expect") {
    const auto capsule = wire::make_header(wire::plan_pdu(PduType::capsule_cmd, 4096, both_digests, 0));
    CHECK(capsule.flags == 0x03);
    CHECK(capsule.hlen == 72);
    CHECK(capsule.pdo == 76);
    CHECK(capsule.plen == 76 + 4096 + 4);

    const auto empty = wire::make_header(wire::plan_pdu(PduType::capsule_cmd, 0, both_digests, 31));
    CHECK(empty.flags == 0x01);
    CHECK(empty.pdo == 0);
    CHECK(empty.plen == 76);

    const auto data = wire::make_header(wire::plan_pdu(PduType::c2h_data, 512, no_digests, 31),
                                        wire::pdu_flags::last_pdu | wire::pdu_flags::success);
    CHECK(data.flags == 0x0C);
    CHECK(data.pdo == 128);
    CHECK(data.plen == 640);

    const auto response = wire::make_header(wire::plan_pdu(PduType::capsule_resp, 0, header_digests, 0));
    CHECK(response.flags == 0x01);
    CHECK(response.plen == 28);

    const auto initialize = wire::make_header(wire::plan_pdu(PduType::ic_resp, 0, both_digests, 0));
    CHECK(initialize.flags == 0);
    CHECK(initialize.plen == 128);
}

TEST_CASE("unknown PDU types and those of the other direction are invalid at the type") {
    for (unsigned type = 0; type <= 0xFF; ++type) {
        if (wire::header_length(static_cast<std::uint8_t>(type)) == 0) {
            check_fault(header(static_cast<PduType>(type), 0, 24, 0, 24), controller_rules(), invalid,
                        at_type);
            check_fault(header(static_cast<PduType>(type), 0, 24, 0, 24), host_rules(), invalid, at_type);
        }
    }
    for (const PduType type :
         {PduType::ic_resp, PduType::c2h_term_req, PduType::capsule_resp, PduType::c2h_data, PduType::r2t}) {
        check_fault(header(type, 0, 24, 0, 24), controller_rules(), invalid, at_type);
    }
    for (const PduType type :
         {PduType::ic_req, PduType::h2c_term_req, PduType::capsule_cmd, PduType::h2c_data}) {
        check_fault(header(type, 0, 72, 0, 72), host_rules(), invalid, at_type);
    }
}

TEST_CASE("PDUs before ICReq and a second ICReq are sequence errors") {
    constexpr auto sequence = FatalErrorStatus::pdu_sequence_error;
    check_fault(header(PduType::capsule_cmd, 0, 72, 0, 72), before_icreq(), sequence, 0);
    check_fault(header(PduType::h2c_data, 0, 24, 24, 536), before_icreq(), sequence, 0);
    check_fault(header(PduType::ic_req, 0, 128, 0, 128), controller_rules(), sequence, 0);
    check_fault(header(PduType::ic_resp, 0, 128, 0, 128), host_rules(), sequence, 0);
    CHECK(wire::check_common_header(header(PduType::ic_req, 0, 128, 0, 128), before_icreq()).ok());
}

TEST_CASE("digest flags must be what ICReq and ICResp agreed on") {
    check_fault(header(PduType::capsule_cmd, 1, 72, 0, 76), controller_rules(), invalid, at_flags);
    check_fault(header(PduType::capsule_cmd, 0, 72, 0, 72), controller_rules(header_digests), invalid,
                at_flags);
    check_fault(header(PduType::capsule_cmd, 2, 72, 72, 588), controller_rules(), invalid, at_flags);
    check_fault(header(PduType::capsule_cmd, 0, 72, 72, 588), controller_rules(data_digests), invalid,
                at_flags);
    check_fault(header(PduType::h2c_data, 4, 24, 24, 540), controller_rules(data_digests), invalid, at_flags);
    check_fault(header(PduType::capsule_resp, 0, 24, 0, 28), host_rules(header_digests), invalid, at_flags);
    check_fault(header(PduType::capsule_cmd, 2, 72, 0, 72), controller_rules(), invalid, at_flags);
    // Without data there is nothing for a data digest to protect, and hosts leave its flag out.
    CHECK(
        wire::check_common_header(header(PduType::capsule_cmd, 0, 72, 0, 72), controller_rules(data_digests))
            .ok());
    CHECK(
        wire::check_common_header(header(PduType::capsule_cmd, 2, 72, 0, 72), controller_rules(data_digests))
            .layout.data_digest_bytes == 0);
}

TEST_CASE("reserved flag bits are ignored") {
    CHECK(wire::check_common_header(header(PduType::capsule_cmd, 0xF0, 72, 0, 72), controller_rules()).ok());
}

TEST_CASE("SUCCESS without LAST_PDU is invalid at the flags") {
    check_fault(header(PduType::c2h_data, 0x08, 24, 24, 536), host_rules(), invalid, at_flags);
    CHECK(wire::check_common_header(header(PduType::c2h_data, 0x0C, 24, 24, 536), host_rules()).ok());
}

TEST_CASE("a wrong HLEN is invalid at HLEN, for every type") {
    check_fault(header(PduType::ic_req, 0, 127, 0, 128), before_icreq(), invalid, at_hlen);
    for (const unsigned hlen : {0u, 8u, 71u, 73u, 255u}) {
        check_fault(header(PduType::capsule_cmd, 0, hlen, 0, 72), controller_rules(), invalid, at_hlen);
        check_fault(header(PduType::h2c_data, 0, hlen, 24, 536), controller_rules(), invalid, at_hlen);
        check_fault(header(PduType::r2t, 0, hlen, 0, 24), host_rules(), invalid, at_hlen);
    }
}

TEST_CASE("a PDO inside the header, unaligned or behind the end is invalid") {
    check_fault(header(PduType::capsule_cmd, 0, 72, 0, 584), controller_rules(), invalid, at_pdo);
    check_fault(header(PduType::capsule_cmd, 0, 72, 68, 584), controller_rules(), invalid, at_pdo);
    check_fault(header(PduType::capsule_cmd, 1, 72, 72, 588), controller_rules(header_digests), invalid,
                at_pdo);
    check_fault(header(PduType::h2c_data, 0, 24, 26, 538), controller_rules(), invalid, at_pdo);
    wire::ReceiveRules aligned = controller_rules();
    aligned.pda = 3;  // 16 bytes
    check_fault(header(PduType::h2c_data, 0, 24, 24, 536), aligned, invalid, at_pdo);
    CHECK(wire::check_common_header(header(PduType::h2c_data, 0, 24, 32, 544), aligned).ok());
    // Aligned, but no byte of data is left.
    check_fault(header(PduType::h2c_data, 0, 24, 128, 128), controller_rules(), invalid, at_plen);
    check_fault(header(PduType::h2c_data, 0, 24, 252, 100), controller_rules(), invalid, at_plen);
}

TEST_CASE("a PDO behind the header's end leaves padding") {
    const auto check = wire::check_common_header(header(PduType::h2c_data, 1, 24, 128, 640),
                                                 controller_rules(header_digests));
    REQUIRE(check.ok());
    CHECK(check.layout.padding_bytes() == 100);
    CHECK(check.layout.data_bytes == 512);
}

TEST_CASE("the PDO of a PDU without data is ignored") {
    for (unsigned pdo = 0; pdo <= 0xFF; ++pdo) {
        CHECK(
            wire::check_common_header(header(PduType::capsule_cmd, 0, 72, pdo, 72), controller_rules()).ok());
    }
}

TEST_CASE("a PLEN that does not fit the parts is invalid at PLEN") {
    check_fault(header(PduType::ic_req, 0, 128, 0, 127), before_icreq(), invalid, at_plen);
    check_fault(header(PduType::ic_req, 0, 128, 0, 129), before_icreq(), invalid, at_plen);
    check_fault(header(PduType::capsule_cmd, 0, 72, 0, 71), controller_rules(), invalid, at_plen);
    check_fault(header(PduType::capsule_cmd, 0, 72, 0, 0), controller_rules(), invalid, at_plen);
    check_fault(header(PduType::capsule_cmd, 1, 72, 0, 72), controller_rules(header_digests), invalid,
                at_plen);
    check_fault(header(PduType::capsule_resp, 0, 24, 0, 28), host_rules(), invalid, at_plen);
    check_fault(header(PduType::r2t, 0, 24, 0, 0xFFFFFFFF), host_rules(), invalid, at_plen);
    check_fault(header(PduType::h2c_data, 0, 24, 0, 24), controller_rules(), invalid, at_plen);
    check_fault(header(PduType::c2h_data, 4, 24, 24, 24), host_rules(), invalid, at_plen);
    // Room for the data digest but not for data.
    check_fault(header(PduType::h2c_data, 2, 24, 24, 28), controller_rules(data_digests), invalid, at_plen);
}

TEST_CASE("more data than the receiver announced exceeds the data transfer limit") {
    constexpr auto limit = FatalErrorStatus::data_transfer_limit_exceeded;
    CHECK(wire::check_common_header(header(PduType::capsule_cmd, 0, 72, 72, 72 + 8192), controller_rules())
              .ok());
    check_fault(header(PduType::capsule_cmd, 0, 72, 72, 72 + 8193), controller_rules(), limit, 0);
    check_fault(header(PduType::capsule_cmd, 0, 72, 72, 0xFFFFFFFF), controller_rules(), limit, 0);
    CHECK(wire::check_common_header(header(PduType::h2c_data, 0, 24, 24, 24 + 131072), controller_rules())
              .ok());
    check_fault(header(PduType::h2c_data, 0, 24, 24, 24 + 131073), controller_rules(), limit, 0);
}

TEST_CASE("termination requests are taken in any state, and a malformed one is not answered") {
    for (const auto& rules : {controller_rules(both_digests), before_icreq()}) {
        const auto bare = wire::check_common_header(header(PduType::h2c_term_req, 0, 24, 0, 24), rules);
        CHECK(bare.ok());
        CHECK(bare.layout.data_bytes == 0);
        CHECK(bare.layout.data_digest_bytes == 0);
        const auto full = wire::check_common_header(header(PduType::h2c_term_req, 0, 24, 0, 152), rules);
        CHECK(full.ok());
        CHECK(full.layout.data_offset == 24);
        CHECK(full.layout.data_bytes == 128);
        for (const std::uint32_t plen : {0u, 23u, 153u, 0xFFFFFFFFu}) {
            CHECK(wire::check_common_header(header(PduType::h2c_term_req, 0, 24, 0, plen), rules).verdict ==
                  PduVerdict::close);
        }
        CHECK(wire::check_common_header(header(PduType::h2c_term_req, 0, 23, 0, 24), rules).verdict ==
              PduVerdict::close);
    }
}

TEST_CASE("of several faults the one at the lowest offset is reported") {
    check_fault(header(PduType::h2c_data, 1, 25, 3, 1), controller_rules(), invalid, at_flags);
    check_fault(header(PduType::h2c_data, 0, 25, 3, 1000), controller_rules(), invalid, at_hlen);
    check_fault(header(PduType::h2c_data, 0, 24, 3, 0xFFFFFFFF), controller_rules(), invalid, at_pdo);
}

TEST_CASE("any eight bytes give a verdict, and what is accepted adds up") {
    const char* given = std::getenv("TEST_SEED");
    const std::uint64_t seed = given != nullptr ? std::strtoull(given, nullptr, 0) : std::random_device{}();
    INFO("TEST_SEED=" << seed);
    std::mt19937_64 random(seed);
    unsigned accepted = 0;
    for (int i = 0; i < 200'000; ++i) {
        wire::ReceiveRules rules = random() % 2 == 0 ? controller_rules() : host_rules();
        rules.initialized = random() % 8 != 0;
        rules.digests = wire::Digests{random() % 2 == 0, random() % 2 == 0};
        rules.pda = static_cast<std::uint8_t>(random() % 32);
        // Half of the headers are random, half are sound ones with one byte changed.
        CommonHeader pdu;
        unsigned char bytes[sizeof(pdu)];
        for (unsigned char& byte : bytes)
            byte = static_cast<unsigned char>(random());
        if (random() % 2 == 0) {
            pdu = wire::make_header(wire::plan_pdu(data_types[random() % 3],
                                                   static_cast<std::uint32_t>(random() % 9000 + 1),
                                                   rules.digests, rules.pda));
            std::memcpy(bytes, &pdu, sizeof(pdu));
            bytes[random() % sizeof(pdu)] ^= static_cast<unsigned char>(random() % 4);
        }
        std::memcpy(&pdu, bytes, sizeof(pdu));
        const wire::PduCheck check = wire::check_common_header(pdu, rules);
        if (!check.ok()) {
            REQUIRE((check.verdict == PduVerdict::close || check.error.fes != FatalErrorStatus::none));
            REQUIRE(check.error.fei <= at_plen);
            continue;
        }
        ++accepted;
        const wire::PduLayout& layout = check.layout;
        REQUIRE(layout.pdu_bytes == pdu.plen);
        REQUIRE(layout.header_bytes == wire::header_length(pdu.type));
        REQUIRE(layout.data_offset >= std::uint32_t{layout.header_bytes} + layout.header_digest_bytes);
        REQUIRE(std::uint64_t{layout.data_offset} + layout.data_bytes + layout.data_digest_bytes ==
                layout.pdu_bytes);
        REQUIRE(layout.data_bytes <= std::max(rules.capsule_data_bytes_max, rules.data_pdu_bytes_max));
    }
    CHECK(accepted > 1000);
}

TEST_CASE("ICReq is refused for an unknown format version and for an alignment beyond the largest") {
    wire::IcReq request;
    CHECK(wire::check_ic_req(request).fes == FatalErrorStatus::none);
    request.hpda = 31;
    request.dgst = 0xFF;
    CHECK(wire::check_ic_req(request).fes == FatalErrorStatus::none);
    request.hpda = 32;
    CHECK(wire::check_ic_req(request) == wire::PduError{invalid, 10});
    request.pfv = 1;
    CHECK(wire::check_ic_req(request) == wire::PduError{FatalErrorStatus::unsupported_parameter, 8});
}

TEST_CASE("ICResp is refused for the same reasons and for an impossible MAXH2CDATA") {
    wire::IcResp response;
    response.maxh2cdata = 4096;
    CHECK(wire::check_ic_resp(response).fes == FatalErrorStatus::none);
    for (const std::uint32_t wrong : {0u, 4095u, 4098u}) {
        response.maxh2cdata = wrong;
        CHECK(wire::check_ic_resp(response) == wire::PduError{invalid, 12});
    }
    response.maxh2cdata = 131072;
    response.cpda = 32;
    CHECK(wire::check_ic_resp(response) == wire::PduError{invalid, 10});
    response.pfv = 0x0100;
    CHECK(wire::check_ic_resp(response) == wire::PduError{FatalErrorStatus::unsupported_parameter, 8});
}

TEST_CASE("DATAL must be the length of the data in the PDU") {
    const auto layout = wire::plan_pdu(PduType::h2c_data, 512, no_digests, 0);
    wire::H2cData h2c;
    wire::C2hData c2h;
    h2c.datal = 512;
    c2h.datal = 512;
    CHECK(wire::check_h2c_data(h2c, layout).fes == FatalErrorStatus::none);
    CHECK(wire::check_c2h_data(c2h, layout).fes == FatalErrorStatus::none);
    h2c.datal = 511;
    c2h.datal = 0xFFFFFFFF;
    CHECK(wire::check_h2c_data(h2c, layout) == wire::PduError{invalid, 16});
    CHECK(wire::check_c2h_data(c2h, layout) == wire::PduError{invalid, 16});
}

TEST_CASE("R2T must ask for bytes of the command's data") {
    wire::R2t r2t;
    r2t.r2to = 4096;
    r2t.r2tl = 4096;
    CHECK(wire::check_r2t(r2t, 8192).fes == FatalErrorStatus::none);
    CHECK(wire::check_r2t(r2t, 8191) == wire::PduError{FatalErrorStatus::data_transfer_out_of_range, 0});
    r2t.r2to = 0xFFFFFFFF;
    CHECK(wire::check_r2t(r2t, 8192) == wire::PduError{FatalErrorStatus::data_transfer_out_of_range, 0});
    r2t.r2tl = 0;
    CHECK(wire::check_r2t(r2t, 8192) == wire::PduError{invalid, 16});
}

TEST_CASE("a termination request holds the error and the cut header of the PDU at fault") {
    const wire::PduError error{FatalErrorStatus::header_digest_error, 0xDEADBEEF};
    const auto request = wire::make_term_req(PduType::c2h_term_req, error, 72);
    CHECK(request.common.type == 0x03);
    CHECK(request.common.flags == 0);
    CHECK(request.common.hlen == 24);
    CHECK(request.common.pdo == 0);
    CHECK(request.common.plen == 96);
    CHECK(request.fes == 3);
    CHECK(request.fei == 0xDEADBEEF);
    CHECK(wire::make_term_req(PduType::h2c_term_req, error, 1000).common.plen == 152);
    CHECK(wire::check_common_header(request.common, host_rules(both_digests)).ok());
}

TEST_CASE("PDU types and fatal error codes have the standard's names") {
    CHECK(std::string(wire::name_of(PduType::c2h_term_req)) == "C2HTermReq");
    CHECK(wire::name_of(static_cast<PduType>(8)) == nullptr);
    CHECK(std::string(wire::name_of(FatalErrorStatus::unsupported_parameter)) == "Unsupported Parameter");
    CHECK(wire::name_of(static_cast<FatalErrorStatus>(7)) == nullptr);
}
