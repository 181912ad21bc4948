#include "wire/nvme_tcp.h"

#include <algorithm>
#include <iterator>

#include "base/check.h"

namespace wire {

namespace {

// What is fixed per type. Types are their own index; 08h is reserved.
struct TypeRule {
    std::uint8_t header_bytes;
    Receiver receiver;
    bool carries_data;   // the PDO field means something
    bool header_digest;  // HDGST follows the header where the connection uses it
    bool before_icresp;  // allowed before the connection is initialized
    bool after_icresp;   // allowed afterwards
};

constexpr Receiver to_controller = Receiver::controller;
constexpr Receiver to_host = Receiver::host;

constexpr TypeRule type_rules[] = {
    {sizeof(IcReq), to_controller, false, false, true, false},     // 00h ICReq
    {sizeof(IcResp), to_host, false, false, true, false},          // 01h ICResp
    {sizeof(TermReq), to_controller, false, false, true, true},    // 02h H2CTermReq
    {sizeof(TermReq), to_host, false, false, true, true},          // 03h C2HTermReq
    {sizeof(CapsuleCmd), to_controller, true, true, false, true},  // 04h CapsuleCmd
    {sizeof(CapsuleResp), to_host, false, true, false, true},      // 05h CapsuleResp
    {sizeof(H2cData), to_controller, true, true, false, true},     // 06h H2CData
    {sizeof(C2hData), to_host, true, true, false, true},           // 07h C2HData
    {0, to_controller, false, false, false, false},                // 08h
    {sizeof(R2t), to_host, false, true, false, true},              // 09h R2T
};

const TypeRule* rule_of(std::uint8_t type) {
    if (type >= std::size(type_rules) || type_rules[type].header_bytes == 0) {
        return nullptr;
    }
    return &type_rules[type];
}

constexpr bool is_term_req(PduType type) {
    return type == PduType::h2c_term_req || type == PduType::c2h_term_req;
}

PduCheck fault(FatalErrorStatus fes, std::size_t fei) {
    return PduCheck{PduVerdict::report, PduError{fes, static_cast<std::uint32_t>(fei)}, PduLayout{}};
}

PduCheck invalid_field(std::size_t offset) {
    return fault(FatalErrorStatus::invalid_pdu_header_field, offset);
}

PduError field_error(std::size_t offset) {
    return PduError{FatalErrorStatus::invalid_pdu_header_field, static_cast<std::uint32_t>(offset)};
}

// ICReq and ICResp share the place and meaning of PFV, the data alignment and DGST; reserved DGST bits are
// ignored.
PduError check_initialize(std::uint16_t pfv, std::uint8_t pda) {
    if (pfv != pdu_format_version) {
        return PduError{FatalErrorStatus::unsupported_parameter, offsetof(IcReq, pfv)};
    }
    if (pda > pdu_data_alignment_max) {
        return field_error(offsetof(IcReq, hpda));
    }
    return PduError{};
}

// A termination request is never answered with one: what is wrong with it ends the connection silently.
PduCheck check_term_req(const CommonHeader& header, std::uint32_t plen, PduLayout layout) {
    if (header.hlen != sizeof(TermReq) || plen < sizeof(TermReq) ||
        plen > sizeof(TermReq) + term_req_data_bytes_max) {
        return PduCheck{PduVerdict::close, PduError{}, PduLayout{}};
    }
    layout.data_offset = sizeof(TermReq);
    layout.data_bytes = plen - static_cast<std::uint32_t>(sizeof(TermReq));
    return PduCheck{PduVerdict::ok, PduError{}, layout};
}

}  // namespace

std::uint8_t header_length(std::uint8_t type) {
    const TypeRule* rule = rule_of(type);
    return rule == nullptr ? std::uint8_t{0} : rule->header_bytes;
}

PduLayout plan_pdu(PduType type, std::uint32_t data_bytes, Digests digests, std::uint8_t pda) {
    const TypeRule* rule = rule_of(static_cast<std::uint8_t>(type));
    EK_CHECK(rule != nullptr, "only PDU types are planned");
    EK_CHECK(
        data_bytes == 0 || rule->carries_data || (is_term_req(type) && data_bytes <= term_req_data_bytes_max),
        "data in a PDU that carries none");
    EK_CHECK(pda <= pdu_data_alignment_max, "the peer's alignment was checked in ICReq or ICResp");

    PduLayout layout;
    layout.type = type;
    layout.header_bytes = rule->header_bytes;
    layout.header_digest_bytes = rule->header_digest && digests.header ? digest_bytes : 0;
    layout.data_offset = std::uint32_t{layout.header_bytes} + layout.header_digest_bytes;
    layout.data_bytes = data_bytes;
    if (data_bytes != 0 && rule->carries_data) {
        const std::uint32_t alignment = data_alignment_bytes(pda);
        layout.data_offset = (layout.data_offset + alignment - 1) / alignment * alignment;
        layout.data_digest_bytes = digests.data ? digest_bytes : 0;
    }
    layout.pdu_bytes = layout.data_offset + data_bytes + layout.data_digest_bytes;
    EK_CHECK(layout.pdu_bytes >= data_bytes, "PLEN is 32 bits");
    return layout;
}

CommonHeader make_header(const PduLayout& layout, std::uint8_t flags) {
    CommonHeader header;
    header.type = static_cast<std::uint8_t>(layout.type);
    header.flags = flags;
    if (layout.header_digest_bytes != 0) {
        header.flags |= pdu_flags::header_digest;
    }
    if (layout.data_digest_bytes != 0) {
        header.flags |= pdu_flags::data_digest;
    }
    header.hlen = layout.header_bytes;
    // The data of a termination request has no PDO: it directly follows the header.
    header.pdo =
        layout.has_data() && !is_term_req(layout.type) ? static_cast<std::uint8_t>(layout.data_offset) : 0;
    header.plen = layout.pdu_bytes;
    return header;
}

PduCheck check_common_header(const CommonHeader& header, const ReceiveRules& rules) {
    const TypeRule* rule = rule_of(header.type);
    if (rule == nullptr || rule->receiver != rules.receiver) {
        return invalid_field(offsetof(CommonHeader, type));
    }
    if (!(rules.initialized ? rule->after_icresp : rule->before_icresp)) {
        return fault(FatalErrorStatus::pdu_sequence_error, 0);
    }

    const std::uint32_t plen = header.plen;
    PduLayout layout;
    layout.type = static_cast<PduType>(header.type);
    layout.header_bytes = rule->header_bytes;
    layout.pdu_bytes = plen;
    if (is_term_req(layout.type)) {
        return check_term_req(header, plen, layout);
    }

    // Digests: present exactly where the connection agreed on them and there is something to protect.
    const bool header_digest = rule->header_digest && rules.digests.header;
    const std::uint32_t header_end = std::uint32_t{rule->header_bytes} + (header_digest ? digest_bytes : 0);
    const bool data_expected = rule->carries_data && plen > header_end;
    const bool header_digest_flag = (header.flags & pdu_flags::header_digest) != 0;
    const bool data_digest_flag = (header.flags & pdu_flags::data_digest) != 0;
    if (rule->header_digest && header_digest_flag != header_digest) {
        return invalid_field(offsetof(CommonHeader, flags));
    }
    if (rule->carries_data && data_digest_flag != rules.digests.data && (data_expected || data_digest_flag)) {
        return invalid_field(offsetof(CommonHeader, flags));
    }
    // SUCCESS stands for the response, which cannot come before the last data.
    if (layout.type == PduType::c2h_data &&
        (header.flags & (pdu_flags::success | pdu_flags::last_pdu)) == pdu_flags::success) {
        return invalid_field(offsetof(CommonHeader, flags));
    }

    if (header.hlen != rule->header_bytes) {
        return invalid_field(offsetof(CommonHeader, hlen));
    }
    layout.header_digest_bytes = header_digest ? digest_bytes : 0;
    layout.data_offset = header_end;

    if (!data_expected) {
        // H2CData and C2HData without data have no purpose: PLEN cannot be right.
        const bool may_be_empty = layout.type != PduType::h2c_data && layout.type != PduType::c2h_data;
        if (plen != header_end || !may_be_empty) {
            return invalid_field(offsetof(CommonHeader, plen));
        }
        return PduCheck{PduVerdict::ok, PduError{}, layout};
    }

    if (header.pdo < header_end || header.pdo % data_alignment_bytes(rules.pda) != 0) {
        return invalid_field(offsetof(CommonHeader, pdo));
    }
    layout.data_offset = header.pdo;
    layout.data_digest_bytes = rules.digests.data ? digest_bytes : 0;
    const std::uint32_t around_data = layout.data_offset + layout.data_digest_bytes;
    if (plen <= around_data) {
        return invalid_field(offsetof(CommonHeader, plen));
    }
    layout.data_bytes = plen - around_data;

    const bool capsule = layout.type == PduType::capsule_cmd;
    if (layout.data_bytes > (capsule ? rules.capsule_data_bytes_max : rules.data_pdu_bytes_max)) {
        return fault(FatalErrorStatus::data_transfer_limit_exceeded, 0);
    }
    return PduCheck{PduVerdict::ok, PduError{}, layout};
}

PduError check_ic_req(const IcReq& pdu) { return check_initialize(pdu.pfv, pdu.hpda); }

PduError check_ic_resp(const IcResp& pdu) {
    const PduError error = check_initialize(pdu.pfv, pdu.cpda);
    if (error.fes != FatalErrorStatus::none) {
        return error;
    }
    if (pdu.maxh2cdata < max_h2c_data_min || pdu.maxh2cdata % 4 != 0) {
        return field_error(offsetof(IcResp, maxh2cdata));
    }
    return PduError{};
}

PduError check_h2c_data(const H2cData& pdu, const PduLayout& layout) {
    return pdu.datal == layout.data_bytes ? PduError{} : field_error(offsetof(H2cData, datal));
}

PduError check_c2h_data(const C2hData& pdu, const PduLayout& layout) {
    return pdu.datal == layout.data_bytes ? PduError{} : field_error(offsetof(C2hData, datal));
}

PduError check_r2t(const R2t& pdu, std::uint32_t command_data_bytes) {
    if (pdu.r2tl == 0) {
        return field_error(offsetof(R2t, r2tl));
    }
    if (pdu.r2to > command_data_bytes || pdu.r2tl > command_data_bytes - pdu.r2to) {
        return PduError{FatalErrorStatus::data_transfer_out_of_range, 0};
    }
    return PduError{};
}

TermReq make_term_req(PduType type, PduError error, std::uint32_t erroneous_header_bytes) {
    EK_CHECK(is_term_req(type), "a termination request");
    const std::uint32_t data_bytes = std::min(erroneous_header_bytes, term_req_data_bytes_max);
    TermReq pdu;
    pdu.common = make_header(plan_pdu(type, data_bytes, Digests{}, 0));
    pdu.fes = static_cast<std::uint16_t>(error.fes);
    pdu.fei = error.fei;
    return pdu;
}

const char* name_of(PduType type) {
    switch (type) {
        case PduType::ic_req: return "ICReq";
        case PduType::ic_resp: return "ICResp";
        case PduType::h2c_term_req: return "H2CTermReq";
        case PduType::c2h_term_req: return "C2HTermReq";
        case PduType::capsule_cmd: return "CapsuleCmd";
        case PduType::capsule_resp: return "CapsuleResp";
        case PduType::h2c_data: return "H2CData";
        case PduType::c2h_data: return "C2HData";
        case PduType::r2t: return "R2T";
    }
    return nullptr;
}

const char* name_of(FatalErrorStatus status) {
    switch (status) {
        case FatalErrorStatus::none: return "None";
        case FatalErrorStatus::invalid_pdu_header_field: return "Invalid PDU Header Field";
        case FatalErrorStatus::pdu_sequence_error: return "PDU Sequence Error";
        case FatalErrorStatus::header_digest_error: return "Header Digest Error";
        case FatalErrorStatus::data_transfer_out_of_range: return "Data Transfer Out of Range";
        case FatalErrorStatus::data_transfer_limit_exceeded: return "Data Transfer Limit Exceeded";
        case FatalErrorStatus::unsupported_parameter: return "Unsupported Parameter";
    }
    return nullptr;
}

}  // namespace wire
