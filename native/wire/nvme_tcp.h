// NVMe/TCP protocol data units: layouts, lengths, and the checks that need nothing but the header.
//
// Pure: no function here knows a connection. A receiver calls check_common_header() on the first eight bytes;
// after that it knows how many bytes the header, the padding, the data and the digests take, and that they
// fit together. The checks look at the fields from the lowest offset up, because an error is reported for the
// first field in error. Reserved flag bits and the Data Offset of PDUs without data are ignored.
//
// NVMe/TCP Transport 1.0 §3.3 (connection), §3.4 (data), §3.5 (errors), §3.6 (PDUs).
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/byte_order.h"
#include "wire/nvme.h"

namespace wire {

enum class PduType : std::uint8_t {
    ic_req = 0x00,
    ic_resp = 0x01,
    h2c_term_req = 0x02,
    c2h_term_req = 0x03,
    capsule_cmd = 0x04,
    capsule_resp = 0x05,
    h2c_data = 0x06,
    c2h_data = 0x07,
    r2t = 0x09,
};

namespace pdu_flags {
inline constexpr std::uint8_t header_digest = 1u << 0;  // HDGSTF
inline constexpr std::uint8_t data_digest = 1u << 1;    // DDGSTF
inline constexpr std::uint8_t last_pdu = 1u << 2;       // H2CData and C2HData
inline constexpr std::uint8_t success = 1u << 3;        // C2HData: stands for the response capsule
}  // namespace pdu_flags

// Fatal Error Status. Code 05h has one name in each direction.
enum class FatalErrorStatus : std::uint16_t {
    none = 0,
    invalid_pdu_header_field = 1,
    pdu_sequence_error = 2,
    header_digest_error = 3,
    data_transfer_out_of_range = 4,
    data_transfer_limit_exceeded = 5,  // C2HTermReq; R2T Limit Exceeded in H2CTermReq
    unsupported_parameter = 6,
};

inline constexpr std::uint16_t discovery_port = 8009;
inline constexpr std::uint16_t io_port = 4420;
inline constexpr std::uint32_t digest_bytes = 4;
inline constexpr std::uint16_t pdu_format_version = 0;
inline constexpr std::uint8_t pdu_data_alignment_max = 31;  // HPDA and CPDA, 0's based in dwords
inline constexpr std::uint32_t max_h2c_data_min = 4096;     // the smallest MAXH2CDATA
inline constexpr std::uint32_t term_req_data_bytes_max = 128;

// Common header, the first eight bytes of each PDU.
struct CommonHeader {
    std::uint8_t type = 0;
    std::uint8_t flags = 0;
    std::uint8_t hlen = 0;  // bytes of the header without its digest
    std::uint8_t pdo = 0;   // where the data starts, from the start of the PDU
    le32 plen;              // bytes of the whole PDU
};
static_assert(sizeof(CommonHeader) == 8 && alignof(CommonHeader) == 1 && offsetof(CommonHeader, plen) == 4);

namespace digest_enable {  // DGST of ICReq and ICResp
inline constexpr std::uint8_t header = 1u << 0;
inline constexpr std::uint8_t data = 1u << 1;
}  // namespace digest_enable

struct IcReq {
    CommonHeader common;
    le16 pfv;
    std::uint8_t hpda = 0;
    std::uint8_t dgst = 0;
    le32 maxr2t;  // 0's based
    std::uint8_t reserved[112]{};
};
static_assert(sizeof(IcReq) == 128 && offsetof(IcReq, pfv) == 8 && offsetof(IcReq, hpda) == 10);
static_assert(offsetof(IcReq, dgst) == 11 && offsetof(IcReq, maxr2t) == 12);

struct IcResp {
    CommonHeader common;
    le16 pfv;
    std::uint8_t cpda = 0;
    std::uint8_t dgst = 0;
    le32 maxh2cdata;  // bytes of data in one H2CData at most, a multiple of 4
    std::uint8_t reserved[112]{};
};
static_assert(sizeof(IcResp) == 128 && offsetof(IcResp, cpda) == 10 && offsetof(IcResp, maxh2cdata) == 12);

struct TermReq {  // H2CTermReq and C2HTermReq; the header of the PDU in error follows
    CommonHeader common;
    le16 fes;
    le32 fei;
    std::uint8_t reserved[10]{};
};
static_assert(sizeof(TermReq) == 24 && offsetof(TermReq, fes) == 8 && offsetof(TermReq, fei) == 10);

struct CapsuleCmd {
    CommonHeader common;
    Sqe sqe;
};
static_assert(sizeof(CapsuleCmd) == 72);

struct CapsuleResp {
    CommonHeader common;
    Cqe cqe;
};
static_assert(sizeof(CapsuleResp) == 24);

struct H2cData {
    CommonHeader common;
    le16 cccid;
    le16 ttag;
    le32 datao;
    le32 datal;
    std::uint8_t reserved[4]{};
};
static_assert(sizeof(H2cData) == 24 && offsetof(H2cData, ttag) == 10 && offsetof(H2cData, datal) == 16);

struct C2hData {
    CommonHeader common;
    le16 cccid;
    std::uint8_t reserved0[2]{};
    le32 datao;
    le32 datal;
    std::uint8_t reserved1[4]{};
};
static_assert(sizeof(C2hData) == 24 && offsetof(C2hData, datao) == 12 && offsetof(C2hData, datal) == 16);

struct R2t {
    CommonHeader common;
    le16 cccid;
    le16 ttag;
    le32 r2to;
    le32 r2tl;
    std::uint8_t reserved[4]{};
};
static_assert(sizeof(R2t) == 24 && offsetof(R2t, r2to) == 12 && offsetof(R2t, r2tl) == 16);

// HLEN of a type; 0 for a byte that is no PDU type.
std::uint8_t header_length(std::uint8_t type);

inline constexpr std::size_t pdu_header_bytes_max = 128;

// What a connection agreed on in ICReq and ICResp, as far as PDU layout depends on it.
struct Digests {
    bool header = false;
    bool data = false;
};

// The bytes that a HPDA or CPDA value asks the data of a PDU to be aligned to.
constexpr std::uint32_t data_alignment_bytes(std::uint8_t pda) { return (std::uint32_t{pda} + 1) * 4; }

// Where the parts of one PDU lie:
// [header][header digest] padding [data][data digest], the bracketed parts of the lengths below.
struct PduLayout {
    PduType type = PduType::ic_req;
    std::uint8_t header_bytes = 0;         // HLEN
    std::uint8_t header_digest_bytes = 0;  // 0 or 4
    std::uint8_t data_digest_bytes = 0;    // 0 or 4; 0 without data
    std::uint32_t data_offset = 0;         // PDO; the end of header and digest where there is no data
    std::uint32_t data_bytes = 0;
    std::uint32_t pdu_bytes = 0;  // PLEN

    constexpr std::uint32_t padding_bytes() const { return data_offset - header_bytes - header_digest_bytes; }
    constexpr bool has_data() const { return data_bytes != 0; }
};

// The layout of a PDU to be sent. `pda` is the receiver's HPDA or CPDA. ICReq, ICResp and the termination
// requests never carry digests. `data_bytes` must be 0 for types without data; a termination request carries
// at most term_req_data_bytes_max. PLEN is 32 bits: data_bytes must leave room for 136 more.
PduLayout plan_pdu(PduType type, std::uint32_t data_bytes, Digests digests, std::uint8_t pda);

// The common header that announces `layout`; `flags` are those besides the digests'.
CommonHeader make_header(const PduLayout& layout, std::uint8_t flags = 0);

// A fatal transport error, to be reported in a termination request. FEI is the offset of the field for
// invalid_pdu_header_field and unsupported_parameter, the received digest for header_digest_error, otherwise
// 0.
struct PduError {
    FatalErrorStatus fes = FatalErrorStatus::none;
    std::uint32_t fei = 0;

    friend constexpr bool operator==(PduError, PduError) = default;
};

enum class PduVerdict : std::uint8_t {
    ok,
    report,  // send a termination request with the error, then close
    close,   // close without a word: the PDU in error is itself a termination request
};

struct PduCheck {
    PduVerdict verdict = PduVerdict::ok;
    PduError error;
    PduLayout layout;  // valid where the verdict is ok

    constexpr bool ok() const { return verdict == PduVerdict::ok; }
};

enum class Receiver : std::uint8_t { controller, host };

// What the receiver of a PDU knows when its first eight bytes are there.
struct ReceiveRules {
    Receiver receiver = Receiver::controller;
    bool initialized = false;  // ICReq and ICResp were exchanged
    Digests digests;
    std::uint8_t pda = 0;                      // the receiver's own CPDA or HPDA
    std::uint32_t capsule_data_bytes_max = 0;  // controller: in-capsule data (0: none allowed)
    std::uint32_t data_pdu_bytes_max = 0;      // data in one H2CData (MAXH2CDATA) or C2HData
};

// Checks type, direction, order, flags, HLEN, PDO and PLEN, and derives the layout. Any eight bytes are fine
// input.
PduCheck check_common_header(const CommonHeader& header, const ReceiveRules& rules);

// The checks of the rest of each header, once HLEN bytes (and the digest) are there. fes none: no error.
PduError check_ic_req(const IcReq& pdu);
PduError check_ic_resp(const IcResp& pdu);
// DATAL must be what the layout leaves room for.
PduError check_h2c_data(const H2cData& pdu, const PduLayout& layout);
PduError check_c2h_data(const C2hData& pdu, const PduLayout& layout);
// The host's side of an R2T: a range of at least one byte that does not exceed the command's data.
PduError check_r2t(const R2t& pdu, std::uint32_t command_data_bytes);

// Fills the header of a termination request for `erroneous_header_bytes` bytes of the PDU in error (cut to
// term_req_data_bytes_max; the caller sends them behind it).
TermReq make_term_req(PduType type, PduError error, std::uint32_t erroneous_header_bytes);

// The standard's words; nullptr for values that are not enumerators.
const char* name_of(PduType type);
const char* name_of(FatalErrorStatus status);

}  // namespace wire
