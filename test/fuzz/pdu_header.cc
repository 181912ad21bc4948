// Any bytes as a PDU header, to a controller and to a host: the checks answer, the layouts that they derive
// are sound, and what was planned by the sender's side passes the receiver's.
//
// Input: four bytes of rules (see below), then the bytes of a PDU header.

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "base/limits.h"
#include "wire/nvme_tcp.h"

namespace {

void require(bool condition) {
    if (!condition) {
        std::abort();
    }
}

template <typename Pdu>
Pdu read_as(const std::uint8_t* data, std::size_t size) {
    Pdu pdu;
    std::memcpy(&pdu, data, size < sizeof pdu ? size : sizeof pdu);
    return pdu;
}

// What the receiving half computes with: nothing may be outside of the PDU or overlap.
void check_layout(const wire::PduLayout& layout, const wire::CommonHeader& header,
                  const wire::ReceiveRules& rules) {
    require(layout.pdu_bytes == header.plen);
    require(layout.header_bytes == wire::header_length(header.type));
    require(layout.header_bytes >= sizeof(wire::CommonHeader));
    const std::uint64_t header_end = std::uint64_t{layout.header_bytes} + layout.header_digest_bytes;
    require(layout.data_offset >= header_end);
    require(layout.padding_bytes() == layout.data_offset - header_end);
    require(std::uint64_t{layout.data_offset} + layout.data_bytes + layout.data_digest_bytes ==
            layout.pdu_bytes);
    require(layout.header_digest_bytes == 0 || rules.digests.header);
    require(layout.data_digest_bytes == 0 || (rules.digests.data && layout.has_data()));
    switch (layout.type) {
        case wire::PduType::capsule_cmd: require(layout.data_bytes <= rules.capsule_data_bytes_max); break;
        case wire::PduType::h2c_data:
        case wire::PduType::c2h_data:
            require(layout.has_data() && layout.data_bytes <= rules.data_pdu_bytes_max);
            break;
        case wire::PduType::h2c_term_req:
        case wire::PduType::c2h_term_req: require(layout.data_bytes <= wire::term_req_data_bytes_max); break;
        default: require(!layout.has_data());
    }
}

// A sender that uses the layout of a PDU that was accepted announces a PDU that is accepted.
void check_round_trip(const wire::PduLayout& layout, const wire::ReceiveRules& rules) {
    const wire::PduLayout planned = wire::plan_pdu(layout.type, layout.data_bytes, rules.digests, rules.pda);
    require(planned.data_bytes == layout.data_bytes && planned.data_offset <= layout.data_offset);
    const wire::CommonHeader header = wire::make_header(planned);
    const wire::PduCheck again = wire::check_common_header(header, rules);
    require(again.ok());
    require(again.layout.pdu_bytes == planned.pdu_bytes && again.layout.data_offset == planned.data_offset);
}

void check_body(const wire::PduLayout& layout, const std::uint8_t* data, std::size_t size) {
    switch (layout.type) {
        case wire::PduType::ic_req: (void)wire::check_ic_req(read_as<wire::IcReq>(data, size)); break;
        case wire::PduType::ic_resp: (void)wire::check_ic_resp(read_as<wire::IcResp>(data, size)); break;
        case wire::PduType::h2c_data: {
            const auto pdu = read_as<wire::H2cData>(data, size);
            require((wire::check_h2c_data(pdu, layout) == wire::PduError{}) ==
                    (pdu.datal == layout.data_bytes));
            break;
        }
        case wire::PduType::c2h_data: {
            const auto pdu = read_as<wire::C2hData>(data, size);
            require((wire::check_c2h_data(pdu, layout) == wire::PduError{}) ==
                    (pdu.datal == layout.data_bytes));
            break;
        }
        case wire::PduType::r2t: {
            const auto pdu = read_as<wire::R2t>(data, size);
            if (wire::check_r2t(pdu, limits::transfer_bytes_max) == wire::PduError{}) {
                require(std::uint64_t{pdu.r2to} + pdu.r2tl <= limits::transfer_bytes_max && pdu.r2tl != 0);
            }
            break;
        }
        default: break;
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    constexpr std::size_t rule_bytes = 4;
    if (size < rule_bytes + sizeof(wire::CommonHeader)) {
        return 0;
    }
    wire::ReceiveRules rules;
    rules.receiver = (data[0] & 1) != 0 ? wire::Receiver::host : wire::Receiver::controller;
    rules.initialized = (data[0] & 2) != 0;
    rules.digests = {(data[0] & 4) != 0, (data[0] & 8) != 0};
    rules.pda = static_cast<std::uint8_t>(data[1] % (wire::pdu_data_alignment_max + 1));
    rules.capsule_data_bytes_max = std::uint32_t{data[2]} * 1024;
    rules.data_pdu_bytes_max = std::uint32_t{data[3]} << 16;
    data += rule_bytes;
    size -= rule_bytes;

    const auto header = read_as<wire::CommonHeader>(data, size);
    const wire::PduCheck check = wire::check_common_header(header, rules);
    if (check.ok()) {
        check_layout(check.layout, header, rules);
        check_round_trip(check.layout, rules);
        check_body(check.layout, data, size);
        return 0;
    }
    if (check.verdict == wire::PduVerdict::report) {
        require(check.error.fes != wire::FatalErrorStatus::none);
        require(wire::name_of(check.error.fes) != nullptr);
        const auto type = rules.receiver == wire::Receiver::controller ? wire::PduType::c2h_term_req
                                                                       : wire::PduType::h2c_term_req;
        const wire::TermReq request = wire::make_term_req(type, check.error, header.plen);
        require(request.common.plen <= sizeof request + wire::term_req_data_bytes_max);
    }
    return 0;
}
