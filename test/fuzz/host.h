// The fuzzer's host: makes well-formed PDUs around whatever commands, and looks at everything that the server
// sends. A server that breaks the protocol is a finding like a crash.
#pragma once

#include <cstdint>
#include <cstring>
#include <map>
#include <span>
#include <vector>

#include "base/crc32c.h"
#include "kernel.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_tcp.h"

namespace fuzz {

class Host {
  public:
    struct Request {  // an R2T that came
        std::uint16_t cccid, ttag;
        std::uint32_t offset, length;
    };

    wire::Digests digests;       // in use once ICResp came
    std::uint8_t alignment = 0;  // HPDA
    std::vector<Request> requests;
    std::vector<std::vector<std::uint8_t>> sent;
    // Bytes that are no PDU, or a damaged one, were sent: which commands are outstanding is not known any
    // more.
    bool untrusted = false;
    bool terminated = false;  // a termination request came: it must be the last PDU
    std::uint32_t completions = 0;
    std::uint16_t last_cntlid = 0;

    void damage_next(std::uint16_t offset, std::uint8_t value) {
        damage_offset_ = offset;
        damage_ = value;
    }

    void raw(Socket& socket, std::span<const std::uint8_t> bytes) {
        untrusted = true;
        socket.incoming.insert(socket.incoming.end(), bytes.begin(), bytes.end());
    }

    void again(Socket& socket, std::size_t index) {
        if (!sent.empty()) {
            const std::vector<std::uint8_t> copy = sent[index % sent.size()];
            raw(socket, copy);
        }
    }

    void ic_req(Socket& socket, wire::Digests wanted, std::uint8_t hpda, std::uint32_t maxr2t) {
        wire::IcReq pdu;
        pdu.common = wire::make_header(wire::plan_pdu(wire::PduType::ic_req, 0, {}, 0));
        pdu.hpda = hpda;
        pdu.dgst = static_cast<std::uint8_t>((wanted.header ? 1 : 0) | (wanted.data ? 2 : 0));
        pdu.maxr2t = maxr2t;
        alignment = hpda;
        std::vector<std::uint8_t> bytes(sizeof pdu);
        std::memcpy(bytes.data(), &pdu, sizeof pdu);
        put(socket, std::move(bytes));
    }

    void capsule(Socket& socket, const wire::Sqe& sqe, std::span<const std::uint8_t> data) {
        wire::CapsuleCmd pdu;
        std::memcpy(&pdu.sqe, &sqe, sizeof sqe);
        if (put(socket, with_data(wire::PduType::capsule_cmd, 0, pdu, data))) {
            ++outstanding_[std::uint16_t{sqe.cid}];
        }
    }

    void h2c_data(Socket& socket, const Request& to, std::uint32_t offset, std::span<const std::uint8_t> data,
                  std::uint8_t flags) {
        if (data.empty()) {
            return;
        }
        wire::H2cData pdu;
        pdu.cccid = to.cccid;
        pdu.ttag = to.ttag;
        pdu.datao = offset;
        pdu.datal = static_cast<std::uint32_t>(data.size());
        put(socket, with_data(wire::PduType::h2c_data, flags, pdu, data));
    }

    void terminate(Socket& socket, std::uint16_t fes) {
        const wire::TermReq pdu = wire::make_term_req(wire::PduType::h2c_term_req,
                                                      {static_cast<wire::FatalErrorStatus>(fes), 0}, 8);
        std::vector<std::uint8_t> bytes(sizeof pdu + 8);
        std::memcpy(bytes.data(), &pdu, sizeof pdu);
        put(socket, std::move(bytes));
    }

    void look(Socket& socket) {
        const std::vector<std::uint8_t>& bytes = socket.outgoing;
        std::size_t at = 0;
        while (bytes.size() - at >= sizeof(wire::CommonHeader)) {
            wire::CommonHeader header;
            std::memcpy(&header, bytes.data() + at, sizeof header);
            const std::uint32_t plen = header.plen;
            must(plen >= sizeof header && plen <= (2u << 20), "the length of a PDU to the host");
            if (bytes.size() - at < plen) {
                break;
            }
            take({bytes.data() + at, plen});
            at += plen;
        }
        socket.outgoing.erase(socket.outgoing.begin(),
                              socket.outgoing.begin() + static_cast<std::ptrdiff_t>(at));
    }

  private:
    static void must(bool condition, const char* what) { require(condition, what); }

    template <typename Pdu>
    std::vector<std::uint8_t> with_data(wire::PduType type, std::uint8_t flags, Pdu& pdu,
                                        std::span<const std::uint8_t> data) {
        const wire::PduLayout layout =
            wire::plan_pdu(type, static_cast<std::uint32_t>(data.size()), digests, 0);
        pdu.common = wire::make_header(layout, flags);
        std::vector<std::uint8_t> bytes(layout.pdu_bytes);
        std::memcpy(bytes.data(), &pdu, sizeof pdu);
        if (layout.header_digest_bytes != 0) {
            put_digest(bytes.data() + sizeof pdu, {bytes.data(), sizeof pdu});
        }
        if (!data.empty()) {
            std::memcpy(bytes.data() + layout.data_offset, data.data(), data.size());
            if (layout.data_digest_bytes != 0) {
                put_digest(bytes.data() + layout.data_offset + data.size(), data);
            }
        }
        return bytes;
    }

    static std::uint32_t digest_of(std::span<const std::uint8_t> bytes) {
        return base::crc32c(std::as_bytes(bytes));
    }
    static void put_digest(std::uint8_t* place, std::span<const std::uint8_t> bytes) {
        const base::le32 digest = digest_of(bytes);
        std::memcpy(place, &digest, sizeof digest);
    }

    // False: what was sent is not what was meant.
    bool put(Socket& socket, std::vector<std::uint8_t> bytes) {
        const bool damaged = damage_ != 0;
        if (damaged) {
            bytes[damage_offset_ % bytes.size()] ^= damage_;
            damage_ = 0;
            untrusted = true;
        }
        socket.incoming.insert(socket.incoming.end(), bytes.begin(), bytes.end());
        if (sent.size() < 64) {
            sent.push_back(std::move(bytes));
        }
        return !damaged;
    }

    void complete(std::uint16_t cid) {
        ++completions;
        if (untrusted) {
            return;
        }
        must(outstanding_[cid] > 0, "a completion for a command that is outstanding");
        --outstanding_[cid];
    }

    void take(std::span<const std::uint8_t> pdu) {
        must(!terminated, "nothing after a termination request");
        const auto type = static_cast<wire::PduType>(pdu[0]);
        if (type == wire::PduType::ic_resp) {
            must(pdu.size() == sizeof(wire::IcResp) && !initialized_, "one ICResp of 128 bytes");
            initialized_ = true;
            digests = {(pdu[11] & 1) != 0, (pdu[11] & 2) != 0};
            return;
        }
        if (type == wire::PduType::c2h_term_req) {
            must(pdu.size() >= 24 && pdu.size() <= 24 + 128, "the length of a termination request");
            terminated = true;
            return;
        }
        must(initialized_, "ICResp comes first");
        wire::ReceiveRules rules;
        rules.receiver = wire::Receiver::host;
        rules.initialized = true;
        rules.digests = digests;
        rules.pda = alignment;
        rules.data_pdu_bytes_max = limits::transfer_bytes_max;
        wire::CommonHeader header;
        std::memcpy(&header, pdu.data(), sizeof header);
        const wire::PduCheck check = wire::check_common_header(header, rules);
        must(check.ok(), "a PDU that a host accepts");
        const wire::PduLayout& layout = check.layout;
        if (layout.header_digest_bytes != 0) {
            must_match(pdu.first(layout.header_bytes), pdu.subspan(layout.header_bytes));
        }
        if (layout.data_digest_bytes != 0) {
            const auto data = pdu.subspan(layout.data_offset, layout.data_bytes);
            must_match(data, pdu.subspan(layout.data_offset + layout.data_bytes));
        }
        if (type == wire::PduType::capsule_resp) {
            wire::CapsuleResp response;
            std::memcpy(&response, pdu.data(), sizeof response);
            last_cntlid = static_cast<std::uint16_t>(response.cqe.dw0);
            complete(response.cqe.cid);
        } else if (type == wire::PduType::c2h_data) {
            wire::C2hData data;
            std::memcpy(&data, pdu.data(), sizeof data);
            must(wire::check_c2h_data(data, layout) == wire::PduError{}, "DATAL");
            must(untrusted || outstanding_[std::uint16_t{data.cccid}] > 0,
                 "data for a command that is outstanding");
            if ((header.flags & wire::pdu_flags::success) != 0) {
                complete(data.cccid);
            }
        } else {
            wire::R2t r2t;
            std::memcpy(&r2t, pdu.data(), sizeof r2t);
            must(wire::check_r2t(r2t, limits::transfer_bytes_max) == wire::PduError{}, "the range of an R2T");
            must(untrusted || outstanding_[std::uint16_t{r2t.cccid}] > 0,
                 "R2T for a command that is outstanding");
            if (requests.size() < 256) {
                requests.push_back({r2t.cccid, r2t.ttag, r2t.r2to, r2t.r2tl});
            }
        }
    }

    static void must_match(std::span<const std::uint8_t> bytes, std::span<const std::uint8_t> digest) {
        base::le32 found;
        std::memcpy(&found, digest.data(), sizeof found);
        must(found == digest_of(bytes), "a digest that matches");
    }

    bool initialized_ = false;
    std::uint16_t damage_offset_ = 0;
    std::uint8_t damage_ = 0;
    std::map<std::uint16_t, std::uint32_t> outstanding_;  // by CID
};

}  // namespace fuzz
