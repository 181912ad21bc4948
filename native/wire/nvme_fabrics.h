// Fabrics commands and the discovery log page.
//
// Each command structure is a view of the same 64 bytes as Sqe. Text fields are fixed arrays, padded as the
// standard says (NQNs with zeroes, discovery addresses with spaces); nothing received is known to be
// terminated.
//
// NVM Express Base 2.0 §6.2 (Disconnect), §6.3 (Connect), §6.5 and §6.6 (properties), §5.16.1.23 (discovery
// log).
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/nvme.h"

namespace wire {

inline constexpr char discovery_nqn[] = "nqn.2014-08.org.nvmexpress.discovery";
inline constexpr std::size_t nqn_field_bytes = 256;

// Connect.
struct ConnectCommand {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    le16 cid;
    std::uint8_t fctype = 0;
    std::uint8_t reserved0[19]{};
    Sgl sgl1;
    le16 recfmt;
    le16 qid;
    le16 sqsize;  // 0's based
    std::uint8_t cattr = 0;
    std::uint8_t reserved1 = 0;
    le32 kato;  // milliseconds
    std::uint8_t reserved2[12]{};
};
static_assert(sizeof(ConnectCommand) == 64 && offsetof(ConnectCommand, sgl1) == 24);
static_assert(offsetof(ConnectCommand, recfmt) == 40 && offsetof(ConnectCommand, qid) == 42);
static_assert(offsetof(ConnectCommand, sqsize) == 44 && offsetof(ConnectCommand, cattr) == 46);
static_assert(offsetof(ConnectCommand, kato) == 48);

namespace connect_attribute {  // CATTR
inline constexpr BitField<std::uint8_t, 0, 2> priority_class;
inline constexpr Bit<std::uint8_t, 2> disable_sq_flow_control;
inline constexpr Bit<std::uint8_t, 3> individual_queue_deletion;
}  // namespace connect_attribute

inline constexpr std::uint16_t connect_record_format = 0;
inline constexpr std::uint16_t cntlid_dynamic = 0xFFFF;  // Connect: the controller chooses (dynamic model)
inline constexpr std::uint16_t cntlid_any = 0xFFFE;      // Connect: any of the static controllers

struct ConnectData {
    std::uint8_t hostid[16]{};
    le16 cntlid;
    std::uint8_t reserved0[238]{};
    char subnqn[nqn_field_bytes]{};
    char hostnqn[nqn_field_bytes]{};
    std::uint8_t reserved1[256]{};
};
static_assert(sizeof(ConnectData) == 1024 && offsetof(ConnectData, cntlid) == 16);
static_assert(offsetof(ConnectData, subnqn) == 256 && offsetof(ConnectData, hostnqn) == 512);

// Dword 0 of Connect's completion after success: the controller id, and which authentication must follow.
namespace connect_result {
inline constexpr BitField<std::uint32_t, 0, 16> cntlid;
inline constexpr BitField<std::uint32_t, 16, 16> authreq;
inline constexpr Bit<std::uint32_t, 17> atr;   // Authentication Transaction Required
inline constexpr Bit<std::uint32_t, 18> ascr;  // Authentication and Secure Channel Required
}  // namespace connect_result

// Where the parameter at fault lies.
enum class InvalidAttribute : std::uint8_t { command = 0, data = 1 };  // IATTR

// Dword 0 after Connect Invalid Parameters: the byte offset of the first parameter at fault.
constexpr std::uint32_t connect_invalid_dw0(std::uint16_t ipo, InvalidAttribute iattr) {
    return std::uint32_t{ipo} | (static_cast<std::uint32_t>(iattr) << 16);
}

// Property Get.
struct PropertyGetCommand {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    le16 cid;
    std::uint8_t fctype = 0;
    std::uint8_t reserved0[35]{};
    std::uint8_t attrib = 0;  // bits 2:0: PropertySize
    std::uint8_t reserved1[3]{};
    le32 ofst;
    std::uint8_t reserved2[16]{};
};
static_assert(sizeof(PropertyGetCommand) == 64 && offsetof(PropertyGetCommand, attrib) == 40);
static_assert(offsetof(PropertyGetCommand, ofst) == 44);

// Property Set.
struct PropertySetCommand {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    le16 cid;
    std::uint8_t fctype = 0;
    std::uint8_t reserved0[35]{};
    std::uint8_t attrib = 0;
    std::uint8_t reserved1[3]{};
    le32 ofst;
    le64 value;
    std::uint8_t reserved2[8]{};
};
static_assert(sizeof(PropertySetCommand) == 64 && offsetof(PropertySetCommand, value) == 48);

enum class PropertySize : std::uint8_t { four_bytes = 0, eight_bytes = 1 };
inline constexpr BitField<std::uint8_t, 0, 3> property_attrib_size;

// Disconnect.
struct DisconnectCommand {
    std::uint8_t opcode = 0;
    std::uint8_t flags = 0;
    le16 cid;
    std::uint8_t fctype = 0;
    std::uint8_t reserved0[35]{};
    le16 recfmt;
    std::uint8_t reserved1[22]{};
};
static_assert(sizeof(DisconnectCommand) == 64 && offsetof(DisconnectCommand, recfmt) == 40);

// A view of the command's own fields; all of these structures have the size and alignment of an Sqe.
template <typename Command>
const Command& view_as(const Sqe& sqe) {
    static_assert(sizeof(Command) == sizeof(Sqe) && alignof(Command) == 1);
    return reinterpret_cast<const Command&>(sqe);
}

enum class TransportType : std::uint8_t { rdma = 1, fibre_channel = 2, tcp = 3, intra_host = 254 };
enum class AddressFamily : std::uint8_t {
    none = 0,
    ipv4 = 1,
    ipv6 = 2,
    infiniband = 3,
    fibre_channel = 4,
    intra_host = 254
};

enum class SubsystemType : std::uint8_t {
    discovery_referral = 1,  // another discovery service
    nvm = 2,
    current_discovery = 3,  // the discovery subsystem that is being asked
};

namespace treq {  // Transport Requirements
inline constexpr BitField<std::uint8_t, 0, 2> secure_channel;
inline constexpr Bit<std::uint8_t, 2> sq_flow_control_disable_supported;
inline constexpr std::uint8_t secure_channel_not_specified = 0;  // values of secure_channel
inline constexpr std::uint8_t secure_channel_required = 1;
inline constexpr std::uint8_t secure_channel_not_required = 2;
}  // namespace treq

enum class SecurityType : std::uint8_t { none = 0, tls_1_2 = 1, tls_1_3 = 2 };  // SECTYPE in TSAS

namespace discovery_eflags {  // Entry Flags
inline constexpr Bit<std::uint16_t, 0> duplicate_returned_information;
inline constexpr Bit<std::uint16_t, 1> explicit_persistent_connection_support;
inline constexpr Bit<std::uint16_t, 2> no_cdc_connectivity;
}  // namespace discovery_eflags

// Header of the discovery log page; entries follow.
struct DiscoveryLogHeader {
    le64 genctr;
    le64 numrec;
    le16 recfmt;
    std::uint8_t reserved[1006]{};
};
static_assert(sizeof(DiscoveryLogHeader) == 1024 && offsetof(DiscoveryLogHeader, recfmt) == 16);

struct DiscoveryLogEntry {
    std::uint8_t trtype = 0;
    std::uint8_t adrfam = 0;
    std::uint8_t subtype = 0;
    std::uint8_t treq = 0;
    le16 portid;
    le16 cntlid;
    le16 asqsz;
    le16 eflags;
    std::uint8_t reserved0[20]{};
    char trsvcid[32]{};
    std::uint8_t reserved1[192]{};
    char subnqn[nqn_field_bytes]{};
    char traddr[256]{};
    std::uint8_t tsas[256]{};  // TCP: byte 0 is SECTYPE
};
static_assert(sizeof(DiscoveryLogEntry) == 1024 && offsetof(DiscoveryLogEntry, portid) == 4);
static_assert(offsetof(DiscoveryLogEntry, eflags) == 10 && offsetof(DiscoveryLogEntry, trsvcid) == 32);
static_assert(offsetof(DiscoveryLogEntry, subnqn) == 256 && offsetof(DiscoveryLogEntry, traddr) == 512);
static_assert(offsetof(DiscoveryLogEntry, tsas) == 768);

inline constexpr std::uint16_t discovery_record_format = 0;

}  // namespace wire
