// Data structures returned by Identify.
//
// Every structure is complete, so that a value-initialized one with a few fields set is a valid answer. Text
// fields (SN, MN, FR) are padded with spaces, NQNs with zeroes. Sizes written "2^n" hold n.
//
// NVM Express Base 2.0 §5.17 (Identify); NVM Command Set 1.0 §4.1.5 (namespace and controller, NVM specific).
#pragma once

#include <cstddef>
#include <cstdint>

#include "wire/nvme.h"

namespace wire {

inline constexpr std::size_t identify_bytes = 4096;

// Dwords of the Identify command.
namespace identify_cdw {
inline constexpr BitField<std::uint32_t, 0, 8> cns;            // dword 10
inline constexpr BitField<std::uint32_t, 16, 16> cntid;        // dword 10
inline constexpr BitField<std::uint32_t, 0, 16> cns_specific;  // dword 11: NVM set, domain, endurance group
inline constexpr BitField<std::uint32_t, 24, 8> csi;           // dword 11
inline constexpr BitField<std::uint32_t, 0, 7> uuid_index;     // dword 14
}  // namespace identify_cdw

// Power State Descriptor.
struct PowerState {
    le16 mp;  // Maximum Power, in 0.01 W or, with MXPS, 0.0001 W
    std::uint8_t reserved0 = 0;
    std::uint8_t flags = 0;  // bit 0 MXPS, bit 1 NOPS
    le32 enlat;              // microseconds
    le32 exlat;              // microseconds
    std::uint8_t rrt = 0;
    std::uint8_t rrl = 0;
    std::uint8_t rwt = 0;
    std::uint8_t rwl = 0;
    le16 idlp;
    std::uint8_t ips = 0;  // bits 7:6
    std::uint8_t reserved1 = 0;
    le16 actp;
    std::uint8_t apw_aps = 0;  // APW in bits 2:0, APS in bits 7:6
    std::uint8_t reserved2[9]{};
};
static_assert(sizeof(PowerState) == 32 && offsetof(PowerState, rrt) == 12 &&
              offsetof(PowerState, actp) == 20);

// Identify Controller (CNS 01h).
struct IdentifyController {
    // Controller capabilities and features
    le16 vid;
    le16 ssvid;
    char sn[20]{};
    char mn[40]{};
    char fr[8]{};
    std::uint8_t rab = 0;
    std::uint8_t ieee[3]{};  // least significant byte first
    std::uint8_t cmic = 0;
    std::uint8_t mdts = 0;  // 2^n units of CAP.MPSMIN
    le16 cntlid;
    le32 ver;
    le32 rtd3r;
    le32 rtd3e;
    le32 oaes;
    le32 ctratt;
    le16 rrls;
    std::uint8_t reserved102[9]{};
    std::uint8_t cntrltype = 0;
    std::uint8_t fguid[16]{};
    le16 crdt1;  // Command Retry Delay Times, in 100 ms
    le16 crdt2;
    le16 crdt3;
    std::uint8_t reserved134[106]{};
    std::uint8_t reserved240[13]{};  // NVMe-MI
    std::uint8_t nvmsr = 0;
    std::uint8_t vwci = 0;
    std::uint8_t mec = 0;
    // Admin command set attributes
    le16 oacs;
    std::uint8_t acl = 0;   // 0's based
    std::uint8_t aerl = 0;  // 0's based
    std::uint8_t frmw = 0;
    std::uint8_t lpa = 0;
    std::uint8_t elpe = 0;  // 0's based
    std::uint8_t npss = 0;  // 0's based
    std::uint8_t avscc = 0;
    std::uint8_t apsta = 0;
    le16 wctemp;  // Kelvin
    le16 cctemp;
    le16 mtfa;  // 100 ms
    le32 hmpre;
    le32 hmmin;
    std::uint8_t tnvmcap[16]{};
    std::uint8_t unvmcap[16]{};
    le32 rpmbs;
    le16 edstt;
    std::uint8_t dsto = 0;
    std::uint8_t fwug = 0;
    le16 kas;  // 100 ms
    le16 hctma;
    le16 mntmt;
    le16 mxtmt;
    le32 sanicap;
    le32 hmminds;
    le16 hmmaxd;
    le16 nsetidmax;
    le16 endgidmax;
    std::uint8_t anatt = 0;  // seconds
    std::uint8_t anacap = 0;
    le32 anagrpmax;
    le32 nanagrpid;
    le32 pels;
    le16 domain_identifier;
    std::uint8_t reserved358[10]{};
    std::uint8_t megcap[16]{};
    std::uint8_t tmpthmha = 0;
    std::uint8_t reserved385 = 0;
    le16 cqt;  // Command Quiesce Time, milliseconds [NVM Express Base 2.1]
    std::uint8_t reserved388[124]{};
    // NVM command set attributes
    std::uint8_t sqes = 0;  // required size in bits 3:0, maximum in bits 7:4, 2^n bytes
    std::uint8_t cqes = 0;
    le16 maxcmd;
    le32 nn;
    le16 oncs;
    le16 fuses;
    std::uint8_t fna = 0;
    std::uint8_t vwc = 0;
    le16 awun;   // 0's based, logical blocks
    le16 awupf;  // 0's based
    std::uint8_t icsvscc = 0;
    std::uint8_t nwpc = 0;
    le16 acwu;  // 0's based
    le16 cdfs;  // Copy Descriptor Formats Supported, one bit per format
    le32 sgls;
    le32 mnan;
    std::uint8_t maxdna[16]{};
    le32 maxcna;
    std::uint8_t reserved564[204]{};
    char subnqn[256]{};
    std::uint8_t reserved1024[768]{};
    // NVMe over Fabrics
    le32 ioccsz;  // 16 bytes
    le32 iorcsz;  // 16 bytes
    le16 icdoff;  // 16 bytes
    std::uint8_t fcatt = 0;
    std::uint8_t msdbd = 0;
    le16 ofcs;
    std::uint8_t dctype = 0;
    std::uint8_t reserved1807[241]{};
    PowerState psd[32]{};
    std::uint8_t vendor_specific[1024]{};
};
static_assert(sizeof(IdentifyController) == identify_bytes && alignof(IdentifyController) == 1);
static_assert(offsetof(IdentifyController, mn) == 24 && offsetof(IdentifyController, fr) == 64);
static_assert(offsetof(IdentifyController, mdts) == 77 && offsetof(IdentifyController, cntlid) == 78);
static_assert(offsetof(IdentifyController, ctratt) == 96 && offsetof(IdentifyController, cntrltype) == 111);
static_assert(offsetof(IdentifyController, crdt1) == 128 && offsetof(IdentifyController, nvmsr) == 253);
static_assert(offsetof(IdentifyController, oacs) == 256 && offsetof(IdentifyController, wctemp) == 266);
static_assert(offsetof(IdentifyController, tnvmcap) == 280 && offsetof(IdentifyController, kas) == 320);
static_assert(offsetof(IdentifyController, sanicap) == 328 && offsetof(IdentifyController, anatt) == 342);
static_assert(offsetof(IdentifyController, anagrpmax) == 344 && offsetof(IdentifyController, megcap) == 368);
static_assert(offsetof(IdentifyController, cqt) == 386);
static_assert(offsetof(IdentifyController, sqes) == 512 && offsetof(IdentifyController, nn) == 516);
static_assert(offsetof(IdentifyController, oncs) == 520 && offsetof(IdentifyController, vwc) == 525);
static_assert(offsetof(IdentifyController, nwpc) == 531 && offsetof(IdentifyController, cdfs) == 534);
static_assert(offsetof(IdentifyController, sgls) == 536 && offsetof(IdentifyController, mnan) == 540);
static_assert(offsetof(IdentifyController, subnqn) == 768 && offsetof(IdentifyController, ioccsz) == 1792);
static_assert(offsetof(IdentifyController, msdbd) == 1803 && offsetof(IdentifyController, dctype) == 1806);
static_assert(offsetof(IdentifyController, psd) == 2048 &&
              offsetof(IdentifyController, vendor_specific) == 3072);

enum class ControllerType : std::uint8_t { not_reported = 0, io = 1, discovery = 2, administrative = 3 };

namespace cmic {  // Controller Multi-Path I/O and Namespace Sharing Capabilities
inline constexpr std::uint8_t multiple_ports = 1u << 0;
inline constexpr std::uint8_t multiple_controllers = 1u << 1;
inline constexpr std::uint8_t sr_iov_virtual_function = 1u << 2;
inline constexpr std::uint8_t ana_reporting = 1u << 3;
}  // namespace cmic

// Optional Asynchronous Events Supported; Asynchronous Event Configuration (feature 0Bh) has the same bits.
namespace async_events {
inline constexpr std::uint32_t smart_critical_warnings = 0xFF;  // in the feature only: one bit per warning
inline constexpr std::uint32_t namespace_attribute = 1u << 8;
inline constexpr std::uint32_t firmware_activation = 1u << 9;
inline constexpr std::uint32_t telemetry_log = 1u << 10;
inline constexpr std::uint32_t ana_change = 1u << 11;
inline constexpr std::uint32_t predictable_latency_aggregate = 1u << 12;
inline constexpr std::uint32_t lba_status = 1u << 13;
inline constexpr std::uint32_t endurance_group_aggregate = 1u << 14;
inline constexpr std::uint32_t normal_subsystem_shutdown = 1u << 15;
inline constexpr std::uint32_t zone_descriptor = 1u << 27;
inline constexpr std::uint32_t discovery_log = 1u << 31;
}  // namespace async_events

namespace ctratt {  // Controller Attributes
inline constexpr std::uint32_t host_identifier_128 = 1u << 0;
inline constexpr std::uint32_t non_operational_power_state_permissive = 1u << 1;
inline constexpr std::uint32_t nvm_sets = 1u << 2;
inline constexpr std::uint32_t read_recovery_levels = 1u << 3;
inline constexpr std::uint32_t endurance_groups = 1u << 4;
inline constexpr std::uint32_t predictable_latency = 1u << 5;
inline constexpr std::uint32_t traffic_based_keep_alive = 1u << 6;
inline constexpr std::uint32_t namespace_granularity = 1u << 7;
inline constexpr std::uint32_t sq_associations = 1u << 8;
inline constexpr std::uint32_t uuid_list = 1u << 9;
inline constexpr std::uint32_t multi_domain = 1u << 10;
inline constexpr std::uint32_t extended_lba_formats = 1u << 15;
}  // namespace ctratt

namespace oacs {  // Optional Admin Command Support
inline constexpr std::uint16_t security = 1u << 0;
inline constexpr std::uint16_t format_nvm = 1u << 1;
inline constexpr std::uint16_t firmware = 1u << 2;
inline constexpr std::uint16_t namespace_management = 1u << 3;
inline constexpr std::uint16_t device_self_test = 1u << 4;
inline constexpr std::uint16_t directives = 1u << 5;
inline constexpr std::uint16_t nvme_mi = 1u << 6;
inline constexpr std::uint16_t virtualization = 1u << 7;
inline constexpr std::uint16_t doorbell_buffer_config = 1u << 8;
inline constexpr std::uint16_t get_lba_status = 1u << 9;
inline constexpr std::uint16_t lockdown = 1u << 10;
}  // namespace oacs

namespace frmw {  // Firmware Updates
inline constexpr Bit<std::uint8_t, 0> slot_1_read_only;
inline constexpr BitField<std::uint8_t, 1, 3> slots;
inline constexpr Bit<std::uint8_t, 4> activation_without_reset;
}  // namespace frmw

namespace lpa {  // Log Page Attributes
inline constexpr std::uint8_t smart_per_namespace = 1u << 0;
inline constexpr std::uint8_t commands_supported_and_effects = 1u << 1;
inline constexpr std::uint8_t extended_data = 1u << 2;  // NUMDU, LPOL, LPOU
inline constexpr std::uint8_t telemetry = 1u << 3;
inline constexpr std::uint8_t persistent_event_log = 1u << 4;
inline constexpr std::uint8_t supported_log_pages = 1u << 5;  // and log pages 12h and 13h
inline constexpr std::uint8_t telemetry_data_area_4 = 1u << 6;
}  // namespace lpa

namespace anacap {  // Asymmetric Namespace Access Capabilities
inline constexpr std::uint8_t optimized = 1u << 0;
inline constexpr std::uint8_t non_optimized = 1u << 1;
inline constexpr std::uint8_t inaccessible = 1u << 2;
inline constexpr std::uint8_t persistent_loss = 1u << 3;
inline constexpr std::uint8_t change = 1u << 4;
inline constexpr std::uint8_t group_id_fixed_while_attached = 1u << 6;
inline constexpr std::uint8_t group_id_in_namespace_management = 1u << 7;
}  // namespace anacap

namespace oncs {  // Optional NVM Command Support
inline constexpr std::uint16_t compare = 1u << 0;
inline constexpr std::uint16_t write_uncorrectable = 1u << 1;
inline constexpr std::uint16_t dataset_management = 1u << 2;
inline constexpr std::uint16_t write_zeroes = 1u << 3;
inline constexpr std::uint16_t save_and_select = 1u << 4;
inline constexpr std::uint16_t reservations = 1u << 5;
inline constexpr std::uint16_t timestamp = 1u << 6;
inline constexpr std::uint16_t verify = 1u << 7;
inline constexpr std::uint16_t copy = 1u << 8;
}  // namespace oncs

inline constexpr std::uint16_t fuses_compare_and_write = 1u << 0;

namespace fna {  // Format NVM Attributes
inline constexpr std::uint8_t format_applies_to_all = 1u << 0;
inline constexpr std::uint8_t secure_erase_applies_to_all = 1u << 1;
inline constexpr std::uint8_t cryptographic_erase = 1u << 2;
inline constexpr std::uint8_t broadcast_nsid_not_supported = 1u << 3;
}  // namespace fna

namespace vwc {  // Volatile Write Cache
inline constexpr std::uint8_t present = 1u << 0;
inline constexpr BitField<std::uint8_t, 1, 2> flush_behavior;
inline constexpr std::uint8_t flush_broadcast_not_supported = 2;  // values of flush_behavior
inline constexpr std::uint8_t flush_broadcast_supported = 3;
}  // namespace vwc

namespace nwpc {  // Namespace Write Protection Capabilities
inline constexpr std::uint8_t write_protect = 1u << 0;
inline constexpr std::uint8_t until_power_cycle = 1u << 1;
inline constexpr std::uint8_t permanent = 1u << 2;
}  // namespace nwpc

namespace sgls {  // SGL Support
inline constexpr BitField<std::uint32_t, 0, 2> supported;
inline constexpr std::uint32_t supported_any_alignment = 1;  // values of supported
inline constexpr std::uint32_t supported_dword_alignment = 2;
inline constexpr std::uint32_t keyed_data_block = 1u << 2;
inline constexpr std::uint32_t bit_bucket = 1u << 16;
inline constexpr std::uint32_t contiguous_metadata = 1u << 17;
inline constexpr std::uint32_t longer_than_data = 1u << 18;
inline constexpr std::uint32_t metadata_sgl_descriptor = 1u << 19;
inline constexpr std::uint32_t offset = 1u << 20;
inline constexpr std::uint32_t transport_data_block = 1u << 21;
}  // namespace sgls

inline constexpr std::uint8_t fcatt_static_controllers = 1u << 0;  // clear: dynamic controller model
inline constexpr std::uint16_t ofcs_disconnect = 1u << 0;

// LBA Format.
struct LbaFormat {
    le16 ms;                 // metadata bytes
    std::uint8_t lbads = 0;  // 2^n bytes
    std::uint8_t rp = 0;     // Relative Performance, bits 1:0
};
static_assert(sizeof(LbaFormat) == 4);

inline constexpr std::size_t lba_formats_max = 64;

// Identify Namespace (CNS 00h and 11h), NVM Command Set.
struct IdentifyNamespace {
    le64 nsze;
    le64 ncap;
    le64 nuse;
    std::uint8_t nsfeat = 0;
    std::uint8_t nlbaf = 0;  // 0's based
    std::uint8_t flbas = 0;
    std::uint8_t mc = 0;
    std::uint8_t dpc = 0;
    std::uint8_t dps = 0;
    std::uint8_t nmic = 0;
    std::uint8_t rescap = 0;
    std::uint8_t fpi = 0;
    std::uint8_t dlfeat = 0;
    le16 nawun;  // 0's based, as all block counts below that have no other note
    le16 nawupf;
    le16 nacwu;
    le16 nabsn;
    le16 nabo;  // not 0's based
    le16 nabspf;
    le16 noiob;  // not 0's based
    std::uint8_t nvmcap[16]{};
    le16 npwg;
    le16 npwa;
    le16 npdg;
    le16 npda;
    le16 nows;
    le16 mssrl;             // Copy: blocks in one source range, not 0's based
    le32 mcl;               // Copy: blocks in all, not 0's based
    std::uint8_t msrc = 0;  // Copy: source ranges, 0's based
    std::uint8_t reserved81[11]{};
    le32 anagrpid;
    std::uint8_t reserved96[3]{};
    std::uint8_t nsattr = 0;
    le16 nvmsetid;
    le16 endgid;
    std::uint8_t nguid[16]{};  // most significant byte first
    std::uint8_t eui64[8]{};   // most significant byte first
    LbaFormat lbaf[lba_formats_max]{};
    std::uint8_t vendor_specific[3712]{};
};
static_assert(sizeof(IdentifyNamespace) == identify_bytes && alignof(IdentifyNamespace) == 1);
static_assert(offsetof(IdentifyNamespace, nsfeat) == 24 && offsetof(IdentifyNamespace, nmic) == 30);
static_assert(offsetof(IdentifyNamespace, dlfeat) == 33 && offsetof(IdentifyNamespace, noiob) == 46);
static_assert(offsetof(IdentifyNamespace, npwg) == 64 && offsetof(IdentifyNamespace, mcl) == 76);
static_assert(offsetof(IdentifyNamespace, msrc) == 80 && offsetof(IdentifyNamespace, anagrpid) == 92);
static_assert(offsetof(IdentifyNamespace, nsattr) == 99 && offsetof(IdentifyNamespace, nguid) == 104);
static_assert(offsetof(IdentifyNamespace, eui64) == 120 && offsetof(IdentifyNamespace, lbaf) == 128);
static_assert(offsetof(IdentifyNamespace, vendor_specific) == 384);

namespace nsfeat {  // Namespace Features
inline constexpr std::uint8_t thin_provisioning = 1u << 0;
inline constexpr std::uint8_t namespace_atomics = 1u << 1;  // NAWUN, NAWUPF, NACWU are defined
inline constexpr std::uint8_t deallocated_read_error = 1u << 2;
inline constexpr std::uint8_t uid_not_reused = 1u << 3;
inline constexpr std::uint8_t optimal_performance = 1u << 4;  // NPWG, NPWA, NPDG, NPDA, NOWS are defined
}  // namespace nsfeat

namespace nsfeat_independent {  // NSFEAT of CNS 08h
inline constexpr std::uint8_t uid_not_reused = 1u << 3;
inline constexpr std::uint8_t rotational_media = 1u << 4;
}  // namespace nsfeat_independent

namespace flbas {  // Formatted LBA Size
inline constexpr BitField<std::uint8_t, 0, 4> format_low;
inline constexpr Bit<std::uint8_t, 4> metadata_extended;
inline constexpr BitField<std::uint8_t, 5, 2> format_high;
}  // namespace flbas

inline constexpr std::uint8_t nmic_shared = 1u << 0;
inline constexpr std::uint8_t nsattr_write_protected = 1u << 0;
inline constexpr std::uint8_t nstat_ready = 1u << 0;

namespace dlfeat {  // Deallocate Logical Block Features
inline constexpr BitField<std::uint8_t, 0, 3> read_value;
inline constexpr std::uint8_t read_not_reported = 0;  // values of read_value
inline constexpr std::uint8_t read_zeroes = 1;
inline constexpr std::uint8_t read_ones = 2;
inline constexpr Bit<std::uint8_t, 3> write_zeroes_deallocate;
inline constexpr Bit<std::uint8_t, 4> guard_is_crc;
}  // namespace dlfeat

namespace rescap {  // Reservation Capabilities
inline constexpr std::uint8_t persist_through_power_loss = 1u << 0;
inline constexpr std::uint8_t write_exclusive = 1u << 1;
inline constexpr std::uint8_t exclusive_access = 1u << 2;
inline constexpr std::uint8_t write_exclusive_registrants_only = 1u << 3;
inline constexpr std::uint8_t exclusive_access_registrants_only = 1u << 4;
inline constexpr std::uint8_t write_exclusive_all_registrants = 1u << 5;
inline constexpr std::uint8_t exclusive_access_all_registrants = 1u << 6;
inline constexpr std::uint8_t ignore_existing_key_1_3 = 1u << 7;
}  // namespace rescap

// One entry of the Namespace Identification Descriptor list (CNS 03h); NIDL bytes follow, an entry of zeroes
// ends it.
struct NamespaceIdDescriptor {
    std::uint8_t nidt = 0;
    std::uint8_t nidl = 0;
    std::uint8_t reserved[2]{};
};
static_assert(sizeof(NamespaceIdDescriptor) == 4);

enum class NamespaceIdType : std::uint8_t { eui64 = 1, nguid = 2, uuid = 3, csi = 4 };

// NIDL of each type; all are below 17 bytes.
constexpr std::uint8_t namespace_id_bytes(NamespaceIdType type) {
    switch (type) {
        case NamespaceIdType::eui64: return 8;
        case NamespaceIdType::nguid: return 16;
        case NamespaceIdType::uuid: return 16;
        case NamespaceIdType::csi: return 1;
    }
    return 0;
}

// I/O Command Set Independent Identify Namespace (CNS 08h).
struct IdentifyNamespaceIndependent {
    std::uint8_t nsfeat = 0;  // nsfeat_independent
    std::uint8_t nmic = 0;
    std::uint8_t rescap = 0;
    std::uint8_t fpi = 0;
    le32 anagrpid;
    std::uint8_t nsattr = 0;
    std::uint8_t reserved9 = 0;
    le16 nvmsetid;
    le16 endgid;
    std::uint8_t nstat = 0;
    std::uint8_t reserved15[4081]{};
};
static_assert(sizeof(IdentifyNamespaceIndependent) == identify_bytes);
static_assert(offsetof(IdentifyNamespaceIndependent, nsattr) == 8);
static_assert(offsetof(IdentifyNamespaceIndependent, nstat) == 14);

// Extended LBA Format (ELBAF).
namespace elbaf {
inline constexpr BitField<std::uint32_t, 0, 7> sts;  // Storage Tag Size
inline constexpr BitField<std::uint32_t, 7, 2> pif;  // Protection Information Format
}  // namespace elbaf

// I/O Command Set Specific Identify Namespace, NVM Command Set (CNS 05h, CSI 00h).
struct IdentifyNvmNamespace {
    le64 lbstm;
    std::uint8_t pic = 0;
    std::uint8_t reserved9[3]{};
    le32 elbaf[lba_formats_max]{};
    std::uint8_t reserved268[3828]{};
};
static_assert(sizeof(IdentifyNvmNamespace) == identify_bytes && offsetof(IdentifyNvmNamespace, elbaf) == 12);

// I/O Command Set Specific Identify Controller, NVM Command Set (CNS 06h, CSI 00h). 0 means no limit.
struct IdentifyNvmController {
    std::uint8_t vsl = 0;   // Verify Size Limit, 2^n units of CAP.MPSMIN
    std::uint8_t wzsl = 0;  // Write Zeroes Size Limit, likewise
    std::uint8_t wusl = 0;  // Write Uncorrectable Size Limit, likewise
    std::uint8_t dmrl = 0;  // Dataset Management Ranges Limit
    le32 dmrsl;             // Dataset Management Range Size Limit, logical blocks
    le64 dmsl;              // Dataset Management Size Limit, logical blocks
    std::uint8_t reserved16[4080]{};
};
static_assert(sizeof(IdentifyNvmController) == identify_bytes && offsetof(IdentifyNvmController, dmsl) == 8);

// Namespace lists (CNS 02h, 07h, 10h): ascending, unused entries 0.
struct NamespaceList {
    le32 nsid[1024]{};
};
static_assert(sizeof(NamespaceList) == identify_bytes);

// Controller lists (CNS 12h, 13h): ascending, unused entries 0.
struct ControllerList {
    le16 count;
    le16 cntlid[2047]{};
};
static_assert(sizeof(ControllerList) == identify_bytes);

// Identify I/O Command Set (CNS 1Ch): combinations that may be selected together; bit n is CSI n.
struct CommandSetCombinations {
    le64 vector[512]{};
};
static_assert(sizeof(CommandSetCombinations) == identify_bytes);

inline constexpr std::uint64_t command_set_vector_nvm = 1u << 0;

}  // namespace wire
