// The fuzzer's controller: reads what the initiator sends, which must be sound, and answers: truly, or with
// what the script puts together.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

#include "base/crc32c.h"
#include "peer_kernel.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_identify.h"
#include "wire/nvme_io.h"
#include "wire/nvme_properties.h"
#include "wire/nvme_tcp.h"

namespace fuzz {

using Bytes = std::vector<std::uint8_t>;

struct Facts {
    std::uint8_t mdts = 0;
    std::uint16_t oncs = 0x0C;
    std::uint8_t vwc = 1;
    bool descriptors = true;
    std::uint8_t limits = 0;  // WZSL and DMRSL
    bool traffic_based = false;
};

// A byte of what it says about itself that is another one: of an Identify page, or of a property.
struct Tamper {
    std::uint8_t what = 0;  // CNS, or FFh: CAP
    std::uint16_t offset = 0;
    std::uint8_t value = 0;
};

inline constexpr std::uint32_t block_bytes = 512;
inline constexpr std::uint64_t blocks = 256;

struct Storage {
    Bytes content = Bytes(blocks * block_bytes);
    Facts facts;
    std::vector<Tamper> tampers;
};

class Peer {
  public:
    struct Pending {
        wire::Sqe sqe;
        Bytes data;  // that came with it, or after an R2T
        std::uint32_t asked = 0;
        bool answered = false;
    };

    Peer(Link& link, Storage& storage) : link_(link), storage_(storage) {}

    std::vector<Pending> pending;
    std::vector<Pending> events;  // Asynchronous Event Requests

    Link& link() { return link_; }
    void damage_next(std::uint16_t offset, std::uint8_t value) {
        damage_offset_ = offset;
        damage_ = value;
    }

    // Takes in what the host has sent.
    void look() {
        while (whole_pdu()) {
            const auto common = read<wire::CommonHeader>(0);
            const std::size_t bytes = common.plen;
            check_digests(common);
            switch (static_cast<wire::PduType>(common.type)) {
                case wire::PduType::ic_req: {
                    require(!initialized_ && bytes == sizeof(wire::IcReq), "one ICReq, at first");
                    const auto request = read<wire::IcReq>(0);
                    wanted_ = {(request.dgst & 1) != 0, (request.dgst & 2) != 0};
                    asked_ = true;
                    break;
                }
                case wire::PduType::capsule_cmd: take_capsule(common); break;
                case wire::PduType::h2c_data: take_data(common); break;
                case wire::PduType::h2c_term_req: break;
                default: require(false, "a PDU that only controllers send");
            }
            link_.outgoing.erase(link_.outgoing.begin(),
                                 link_.outgoing.begin() + static_cast<std::ptrdiff_t>(bytes));
        }
    }

    // Answers truly: what waits, in order, at most `count` times.
    std::size_t serve(std::size_t count) {
        std::size_t done = 0;
        if (asked_ && !initialized_ && done < count) {
            initialize();
            ++done;
        }
        for (std::size_t i = 0; i < pending.size() && done < count;) {
            Pending command = pending[i];
            pending.erase(pending.begin() + static_cast<std::ptrdiff_t>(i));
            if (answer(command)) {
                ++done;
            } else {
                pending.insert(pending.begin() + static_cast<std::ptrdiff_t>(i), command);
                ++i;
            }
        }
        return done;
    }

    void initialize() {
        wire::IcResp pdu;
        pdu.common = wire::make_header(wire::plan_pdu(wire::PduType::ic_resp, 0, {}, 0));
        pdu.dgst = static_cast<std::uint8_t>((wanted_.header ? 1 : 0) | (wanted_.data ? 2 : 0));
        pdu.maxh2cdata = 8192;
        initialized_ = true;
        put(wire::PduType::ic_resp, pdu, {});
        digests_ = wanted_;
    }
    void respond(std::uint16_t cid, std::uint16_t status, std::uint64_t result) {
        wire::CapsuleResp pdu;
        std::uint8_t cqe[16]{};
        std::memcpy(cqe, &result, 8);
        cqe[12] = static_cast<std::uint8_t>(cid);
        cqe[13] = static_cast<std::uint8_t>(cid >> 8);
        cqe[14] = static_cast<std::uint8_t>(status << 1);
        cqe[15] = static_cast<std::uint8_t>(status >> 7);
        std::memcpy(static_cast<void*>(&pdu.cqe), cqe, sizeof cqe);
        put(wire::PduType::capsule_resp, pdu, {});
    }
    void data(std::uint16_t cid, std::uint32_t offset, std::span<const std::uint8_t> bytes,
              std::uint8_t flags) {
        wire::C2hData pdu;
        pdu.cccid = cid;
        pdu.datao = offset;
        pdu.datal = static_cast<std::uint32_t>(bytes.size());
        put(wire::PduType::c2h_data, pdu, bytes, flags);
    }
    void r2t(std::uint16_t cid, std::uint32_t offset, std::uint32_t length) {
        wire::R2t pdu;
        pdu.cccid = cid;
        pdu.ttag = ++tag_;
        pdu.r2to = offset;
        pdu.r2tl = length;
        put(wire::PduType::r2t, pdu, {});
    }
    void raw(std::span<const std::uint8_t> bytes) {
        link_.incoming.insert(link_.incoming.end(), bytes.begin(), bytes.end());
    }

  private:
    template <typename Pdu>
    Pdu read(std::size_t at) const {
        Pdu pdu;
        std::memcpy(static_cast<void*>(&pdu), link_.outgoing.data() + at, sizeof pdu);
        return pdu;
    }
    bool whole_pdu() const {
        if (link_.outgoing.size() < sizeof(wire::CommonHeader)) {
            return false;
        }
        const std::uint32_t bytes = read<wire::CommonHeader>(0).plen;
        require(bytes >= sizeof(wire::CommonHeader) && bytes <= (1u << 21), "a PDU has a length");
        return link_.outgoing.size() >= bytes;
    }
    std::uint32_t digest_at(std::size_t at) const { return read<wire::le32>(at); }
    std::uint32_t crc(std::size_t at, std::size_t bytes) const {
        return base::crc32c({reinterpret_cast<const std::byte*>(link_.outgoing.data()) + at, bytes});
    }
    void check_digests(const wire::CommonHeader& common) {
        const auto type = static_cast<wire::PduType>(common.type);
        if (type == wire::PduType::ic_req || type == wire::PduType::h2c_term_req) {
            return;
        }
        require(((common.flags & 1) != 0) == digests_.header, "the header digest that was agreed on");
        if (digests_.header) {
            require(crc(0, common.hlen) == digest_at(common.hlen), "a right header digest");
        }
        const bool digest = (common.flags & 2) != 0;
        payload_at_ = common.pdo;
        payload_bytes_ = common.pdo == 0 ? 0 : common.plen - common.pdo - (digest ? 4 : 0);
        require(payload_bytes_ == 0 || digest == digests_.data, "the data digest that was agreed on");
        if (digest && payload_bytes_ != 0) {
            require(crc(payload_at_, payload_bytes_) == digest_at(payload_at_ + payload_bytes_),
                    "a right data digest");
        }
    }
    std::span<const std::uint8_t> payload() const {
        return std::span(link_.outgoing).subspan(payload_at_, payload_bytes_);
    }

    void take_capsule(const wire::CommonHeader&) {
        Pending command;
        command.sqe = read<wire::CapsuleCmd>(0).sqe;
        command.data.assign(payload().begin(), payload().end());
        const bool event =
            admin_ && command.sqe.opcode == static_cast<std::uint8_t>(wire::AdminOpcode::async_event_request);
        (event ? events : pending).push_back(command);
    }

    void take_data(const wire::CommonHeader&) {
        const auto pdu = read<wire::H2cData>(0);
        require(pdu.datal == payload_bytes_ && payload_bytes_ != 0, "H2CData with its own length");
        for (Pending& command : pending) {
            if (command.sqe.cid == pdu.cccid) {
                require(pdu.datao == command.data.size(), "H2CData in order");
                require(command.data.size() + payload_bytes_ <= std::uint32_t{command.sqe.dptr.length},
                        "H2CData within the command");
                command.data.insert(command.data.end(), payload().begin(), payload().end());
                return;
            }
        }
    }

    // False: it waits for its data.
    bool answer(Pending& command) {
        const std::uint16_t cid = command.sqe.cid;
        const wire::Sqe& sqe = command.sqe;
        if (sqe.opcode == 0x7F) {
            fabrics(sqe);
        } else if (admin_) {
            administrate(sqe);
        } else {
            const std::uint32_t length = sqe.dptr.length;
            if ((sqe.opcode == 1 || sqe.opcode == 9) && command.data.size() < length) {
                if (command.asked == 0) {
                    command.asked = length;
                    r2t(cid, 0, length);
                }
                return false;
            }
            transfer(command);
        }
        return true;
    }

    void fabrics(const wire::Sqe& sqe) {
        std::uint8_t bytes[64];
        std::memcpy(bytes, &sqe, sizeof bytes);
        std::uint64_t result = 0;
        if (bytes[4] == 1) {
            admin_ = bytes[42] == 0 && bytes[43] == 0;
            result = 1;
        } else if (bytes[4] == 4) {
            const std::uint64_t cap = 0x7F | 1ull << 16 | 4ull << 24 | 1ull << 37;
            result = bytes[44] == 0 ? tampered(cap) : (bytes[44] == 8 ? 0x20000 : 1);
        }
        respond(sqe.cid, 0, result);
    }
    std::uint64_t tampered(std::uint64_t cap) const {
        for (const Tamper& tamper : storage_.tampers) {
            if (tamper.what == 0xFF) {
                const unsigned shift = 8u * (tamper.offset % 8u);
                cap = (cap & ~(0xFFull << shift)) | std::uint64_t{tamper.value} << shift;
            }
        }
        return cap;
    }

    void administrate(const wire::Sqe& sqe) {
        if (sqe.opcode == 0x09) {
            respond(sqe.cid, 0, (sqe.cdw10 & 0xFF) == 7 ? 0x00030003 : 0);
            return;
        }
        if (sqe.opcode != 0x06) {
            if (sqe.opcode == 0x02) {
                data(sqe.cid, 0, Bytes(std::min(std::uint32_t{sqe.dptr.length}, 4096u)), 4);
            }
            respond(sqe.cid, 0, 0);
            return;
        }
        const auto cns = static_cast<std::uint8_t>(sqe.cdw10);
        Bytes page(4096);
        if (!describe(cns, page)) {
            respond(sqe.cid, 0x4002, 0);
            return;
        }
        for (const Tamper& tamper : storage_.tampers) {
            if (tamper.what == cns) {
                page[tamper.offset % page.size()] = tamper.value;
            }
        }
        data(sqe.cid, 0, page, 4);
        respond(sqe.cid, 0, 0);
    }
    bool describe(std::uint8_t cns, Bytes& page) const {
        const Facts& facts = storage_.facts;
        switch (cns) {
            case 0:
                page[0] = page[8] = blocks & 0xFF;
                page[1] = page[9] = blocks >> 8;
                page[104] = 1;
                page[130] = 9;
                return true;
            case 1:
                std::fill_n(page.begin() + 4, 20, '1');
                page[77] = facts.mdts;
                page[78] = 1;
                page[98] = facts.traffic_based ? 0x40 : 0;
                page[259] = 3;
                page[320] = 1;
                page[520] = static_cast<std::uint8_t>(facts.oncs);
                page[525] = facts.vwc;
                page[536] = 1;
                page[1792] = 4 + 1024 / 16;
                page[1796] = 1;
                return true;
            case 3:
                page[0] = 2;
                page[1] = 16;
                page[4] = 1;
                return facts.descriptors;
            case 6:
                page[1] = facts.limits & 15;
                page[4] = facts.limits >> 4;
                return true;
            default: return false;
        }
    }

    void transfer(const Pending& command) {
        std::uint64_t lba = wire::starting_lba(command.sqe);
        std::uint64_t count = (command.sqe.cdw12 & 0xFFFF) + 1;
        const std::uint8_t opcode = command.sqe.opcode;
        if (opcode == 9) {
            wire::DsmRange range;
            std::memcpy(static_cast<void*>(&range), command.data.data(),
                        std::min(sizeof range, command.data.size()));
            lba = range.slba;
            count = range.nlb;
        }
        if (opcode != 0 && (lba >= blocks || count > blocks - lba)) {
            respond(command.sqe.cid, 0x4080, 0);
            return;
        }
        const auto begin = storage_.content.begin() + static_cast<std::ptrdiff_t>(lba * block_bytes);
        const auto size = static_cast<std::ptrdiff_t>(count * block_bytes);
        if (opcode == 2) {
            data(command.sqe.cid, 0, {&*begin, static_cast<std::size_t>(size)}, 4);
        } else if (opcode == 1) {
            require(command.data.size() == static_cast<std::size_t>(size), "a write with all of its data");
            std::copy(command.data.begin(), command.data.end(), begin);
        } else if (opcode == 8 || opcode == 9) {
            std::fill(begin, begin + size, std::uint8_t{0});
        }
        respond(command.sqe.cid, 0, 0);
    }

    template <typename Pdu>
    void put(wire::PduType type, Pdu& pdu, std::span<const std::uint8_t> content, std::uint8_t flags = 0) {
        const wire::PduLayout layout =
            wire::plan_pdu(type, static_cast<std::uint32_t>(content.size()), digests_, 0);
        pdu.common = wire::make_header(layout, flags);
        Bytes bytes(layout.pdu_bytes);
        std::memcpy(bytes.data(), &pdu, sizeof pdu);
        const auto digest = [&](std::size_t from, std::size_t size, std::size_t to) {
            const wire::le32 value =
                base::crc32c({reinterpret_cast<const std::byte*>(bytes.data()) + from, size});
            std::memcpy(bytes.data() + to, &value, sizeof value);
        };
        if (damage_ != 0) {  // under a right digest
            bytes[damage_offset_ % sizeof pdu] ^= damage_;
            damage_ = 0;
        }
        if (layout.header_digest_bytes != 0) {
            digest(0, layout.header_bytes, layout.header_bytes);
        }
        if (!content.empty()) {
            std::memcpy(bytes.data() + layout.data_offset, content.data(), content.size());
        }
        if (layout.data_digest_bytes != 0) {
            digest(layout.data_offset, layout.data_bytes, layout.data_offset + layout.data_bytes);
        }
        raw(bytes);
    }

    Link& link_;
    Storage& storage_;
    wire::Digests wanted_;
    wire::Digests digests_;
    bool asked_ = false;
    bool initialized_ = false;
    bool admin_ = true;
    std::uint16_t tag_ = 0;
    std::uint16_t damage_offset_ = 0;
    std::uint8_t damage_ = 0;
    std::size_t payload_at_ = 0;
    std::size_t payload_bytes_ = 0;
};

}  // namespace fuzz
