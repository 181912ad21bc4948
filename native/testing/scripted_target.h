// An NVMe/TCP target that does what a test tells it: small, with a memory of its own, and able to lie, to
// hang and to change between two connections. One thread for each connection, blocking sockets; it shares no
// code with the server's own target.
//
// Every command passes the test's hook before it is served. A hook that answers the command itself, truly or
// not, says so with Fate::done; Fate::over ends the connection.
#pragma once

#include <arpa/inet.h>
#include <doctest/doctest.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>
#include <deque>
#include <functional>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/crc32c.h"
#include "block/spec.h"

namespace testing {

class ScriptedTarget {
  public:
    using Bytes = std::vector<std::uint8_t>;
    static constexpr std::uint32_t block_bytes = 4096;
    static constexpr std::uint64_t blocks_default = 2048;

    struct Facts {  // of the next connection
        std::uint8_t mdts = 0;
        std::uint64_t blocks = blocks_default;
        std::uint16_t oncs = 0x0C;  // Dataset Management, Write Zeroes
        std::uint8_t vwc = 1;
        std::uint8_t nguid = 1;  // 0: none
        std::uint8_t wzsl = 0;
        std::uint32_t dmrsl = 0;
        std::uint16_t maxcmd = 0;
        std::uint64_t cap = 0x3FF | 1ull << 16 | 4ull << 24 | 1ull << 37;
        // Ends the association after so many PDUs were sent on all its connections.
        std::uint32_t hang_up_after = ~0u;
        bool descriptors = false;  // CNS 03h is there, and the NGUID only there
    };

    struct Capsule {
        std::uint8_t sqe[64];
        Bytes data;
    };
    enum class Fate : std::uint8_t { serve, done, over };

    // One command on its connection, and the ways to answer it.
    class Io {
      public:
        std::uint8_t opcode = 0;
        bool admin = false;
        bool fabrics = false;
        std::uint16_t cid = 0;
        std::uint64_t lba = 0;
        std::uint32_t blocks = 0;
        std::uint32_t cdw10 = 0;
        std::uint32_t in_capsule = 0;  // bytes of data that came with it

        bool respond(std::uint16_t command, std::uint16_t status, std::uint64_t result = 0) {
            Bytes pdu = header(5, 24, 0, 0);
            put(pdu, 8, result, 8);
            put(pdu, 20, command, 2);
            put(pdu, 22, std::uint64_t{status} << 1, 2);
            return raw(seal(std::move(pdu), 24, 0));
        }
        bool respond(std::uint16_t status = 0) { return respond(cid, status); }
        // C2HData; flags: 4 the last one, 8 success.
        bool data(std::uint16_t command, std::uint32_t offset, const Bytes& content, std::uint8_t flags) {
            Bytes pdu = header(7, 24, content.size(), flags);
            put(pdu, 8, command, 2);
            put(pdu, 12, offset, 4);
            put(pdu, 16, content.size(), 4);
            return raw(seal(std::move(pdu), 24, content.size(), content.data()));
        }
        bool r2t(std::uint16_t command, std::uint32_t offset, std::uint32_t size) {
            Bytes pdu = header(9, 24, 0, 0);
            put(pdu, 8, command, 2);
            put(pdu, 10, 7, 2);
            put(pdu, 12, offset, 4);
            put(pdu, 16, size, 4);
            return raw(seal(std::move(pdu), 24, 0));
        }
        bool raw(const Bytes& bytes) {
            if (target_.sent_++ >= facts_.hang_up_after) {
                return false;
            }
            const std::size_t step = split == 0 ? bytes.size() : split;
            for (std::size_t at = 0; at < bytes.size(); at += step) {
                const std::size_t part = std::min(step, bytes.size() - at);
                if (send(peer_, bytes.data() + at, part, MSG_NOSIGNAL) != static_cast<ssize_t>(part)) {
                    return false;
                }
                pollfd ended{peer_, POLLRDHUP, 0};
                if (pace_ms != 0 && ::poll(&ended, 1, pace_ms) != 0) {
                    return false;
                }
            }
            return true;
        }
        // The next PDU gets one bit wrong, in its header digest or in its data digest.
        bool damage_header = false;
        bool damage_data = false;
        std::size_t split = 0;  // bytes of one send
        int pace_ms = 0;        // between two of them

        static void put(Bytes& bytes, std::size_t at, std::uint64_t value, unsigned size) {
            for (unsigned i = 0; i < size; ++i) {
                bytes[at + i] = static_cast<std::uint8_t>(value >> (8 * i));
            }
        }

      private:
        friend class ScriptedTarget;
        Io(ScriptedTarget& target, const Facts& facts, int peer)
            : target_(target), facts_(facts), peer_(peer) {}

        Bytes header(std::uint8_t type, std::size_t size, std::size_t content, std::uint8_t flags) const {
            Bytes pdu(size);
            const bool digest = data_digest_ && content != 0;
            const std::size_t begin = size + (header_digest_ ? 4 : 0);
            pdu[0] = type;
            pdu[1] = static_cast<std::uint8_t>(flags | (header_digest_ ? 1 : 0) | (digest ? 2 : 0));
            pdu[2] = static_cast<std::uint8_t>(size);
            pdu[3] = static_cast<std::uint8_t>(content != 0 ? begin : 0);
            put(pdu, 4, begin + content + (digest ? 4 : 0), 4);
            return pdu;
        }
        static void append_digest(Bytes& pdu, const std::uint8_t* from, std::size_t size, bool damaged) {
            const std::uint32_t digest = base::crc32c({reinterpret_cast<const std::byte*>(from), size});
            pdu.resize(pdu.size() + 4);
            put(pdu, pdu.size() - 4, digest ^ (damaged ? 1u : 0u), 4);
        }
        Bytes seal(Bytes pdu, std::size_t size, std::size_t content, const std::uint8_t* from = nullptr) {
            if (header_digest_) {
                append_digest(pdu, Bytes(pdu).data(), size, std::exchange(damage_header, false));
            }
            pdu.insert(pdu.end(), from, from + content);
            if (data_digest_ && content != 0) {
                append_digest(pdu, from, content, std::exchange(damage_data, false));
            }
            return pdu;
        }

        ScriptedTarget& target_;
        const Facts facts_;
        const int peer_;
        bool header_digest_ = false;
        bool data_digest_ = false;
        bool admin_queue_ = true;
        std::deque<Capsule> capsules_;  // that came and were not looked at
    };
    using Hook = std::function<Fate(Io& io)>;

    ScriptedTarget() : memory_(blocks_default * block_bytes) {
        listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        REQUIRE(bind(listener_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0);
        REQUIRE(listen(listener_, 64) == 0);
        socklen_t length = sizeof address;
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
        port_ = ntohs(address.sin_port);
        acceptor_ = std::thread([this] { accept_all(); });
    }
    ScriptedTarget(const ScriptedTarget&) = delete;
    ScriptedTarget& operator=(const ScriptedTarget&) = delete;
    ~ScriptedTarget() {
        stopping_ = true;
        shutdown(listener_, SHUT_RDWR);
        acceptor_.join();
        cut();
        for (std::thread& thread : threads_) {
            thread.join();
        }
        for (const int peer : peers_) {
            close(peer);
        }
        close(listener_);
    }

    void set_facts(const Facts& facts) {
        const std::lock_guard lock(mutex_);
        facts_ = facts;
    }
    // Asked for each command, in the thread of its connection, one at a time.
    void set_hook(Hook hook) {
        const std::lock_guard lock(hook_mutex_);
        hook_ = std::move(hook);
    }
    // Ends all connections.
    void cut() {
        const std::lock_guard lock(mutex_);
        for (const int peer : peers_) {
            shutdown(peer, SHUT_RDWR);
        }
    }
    // How often an admin queue was joined.
    std::uint32_t associations() const { return associations_; }
    void overwrite(std::uint64_t offset, std::size_t size, std::uint8_t value) {
        const std::lock_guard lock(mutex_);
        std::memset(&memory_[offset], value, size);
    }
    std::uint8_t content(std::uint64_t offset) {
        const std::lock_guard lock(mutex_);
        return memory_[offset];
    }

    block::DeviceSpec device(const std::string& name) const {
        block::DeviceSpec spec;
        spec.name = name;
        spec.kind = "nvme";
        spec.remote.addresses = {"127.0.0.1:" + std::to_string(port_)};
        spec.remote.subnqn = "nqn.2024-01.example:scripted";
        spec.remote.hostnqn = "nqn.2024-01.example:host";
        spec.remote.hostid[0] = 7;
        spec.remote.kato_ms = 400;
        spec.remote.ping_ms = 0;
        spec.remote.timeout_ms = 1000;
        return spec;
    }

  private:
    static std::uint64_t get(const std::uint8_t* at, unsigned size) {
        std::uint64_t value = 0;
        for (unsigned i = 0; i < size; ++i) {
            value |= std::uint64_t{at[i]} << (8 * i);
        }
        return value;
    }
    static bool receive(int peer, std::uint8_t* at, std::size_t size) {
        return size == 0 || recv(peer, at, size, MSG_WAITALL) == static_cast<ssize_t>(size);
    }
    static bool skip(int peer, std::size_t size) {
        Bytes nothing(size);
        return receive(peer, nothing.data(), size);
    }

    void accept_all() {
        for (;;) {
            const int peer = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
            if (peer < 0 || stopping_) {
                if (peer >= 0) {
                    close(peer);
                }
                return;
            }
            const int on = 1;
            (void)setsockopt(peer, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
            const std::lock_guard lock(mutex_);
            peers_.push_back(peer);
            threads_.emplace_back([this, peer, facts = facts_] {
                serve(peer, facts);
                shutdown(peer, SHUT_RDWR);
            });
        }
    }

    void serve(int peer, const Facts& facts) {
        std::uint8_t pdu[128];
        if (!receive(peer, pdu, 128)) {
            return;
        }
        Io io(*this, facts, peer);
        Bytes answer = io.header(1, 128, 0, 0);
        answer[11] = pdu[11];
        Io::put(answer, 12, 1 << 20, 4);
        bool open = io.raw(answer);
        io.header_digest_ = (pdu[11] & 1) != 0;
        io.data_digest_ = (pdu[11] & 2) != 0;
        while (open) {
            if (io.capsules_.empty() &&
                (!receive(peer, pdu, 8) || pdu[0] != 4 || !receive_capsule(io, pdu))) {
                return;
            }
            Capsule next = std::move(io.capsules_.front());
            io.capsules_.pop_front();
            open = command(io, next.sqe, next.data);
        }
    }

    static bool receive_capsule(Io& io, const std::uint8_t* common) {
        Capsule capsule;
        const std::size_t begin = common[3] != 0 ? common[3] : 72u + (io.header_digest_ ? 4 : 0);
        const bool digest = (common[1] & 2) != 0;
        capsule.data.resize(get(common + 4, 4) - begin - (digest ? 4 : 0));
        const bool whole = receive(io.peer_, capsule.sqe, 64) && skip(io.peer_, begin - 72) &&
                           receive(io.peer_, capsule.data.data(), capsule.data.size()) &&
                           (!digest || skip(io.peer_, 4));
        io.capsules_.push_back(std::move(capsule));
        return whole;
    }

    // False: the connection is over.
    bool command(Io& io, const std::uint8_t* sqe, Bytes& data) {
        io.opcode = sqe[0];
        io.cid = static_cast<std::uint16_t>(get(sqe + 2, 2));
        io.cdw10 = static_cast<std::uint32_t>(get(sqe + 40, 4));
        io.lba = get(sqe + 40, 8);
        io.blocks = static_cast<std::uint32_t>(get(sqe + 48, 2)) + 1;
        io.in_capsule = static_cast<std::uint32_t>(data.size());
        io.fabrics = sqe[0] == 0x7F;
        if (io.fabrics && sqe[4] == 1) {
            io.admin_queue_ = get(sqe + 42, 2) == 0;
            associations_ += io.admin_queue_ ? 1 : 0;
            sent_ = io.admin_queue_ ? 1 : sent_.load();
        }
        io.admin = io.admin_queue_;
        if (io.opcode == 9 && !io.admin && data.size() >= 16) {
            io.blocks = static_cast<std::uint32_t>(get(data.data() + 4, 4));
            io.lba = get(data.data() + 8, 8);
        }
        {
            const std::lock_guard lock(hook_mutex_);
            const Fate fate = hook_ ? hook_(io) : Fate::serve;
            if (fate != Fate::serve) {
                return fate == Fate::done;
            }
        }
        if (io.fabrics) {
            // CAP and VS 1.4; CSTS says ready.
            const std::uint64_t property = sqe[44] == 0 ? io.facts_.cap : (sqe[44] == 8 ? 0x10400 : 1);
            return io.respond(io.cid, 0, sqe[4] == 4 ? property : 1);
        }
        return io.admin ? admin(io) : transfer(io, data);
    }

    bool admin(Io& io) {
        const Facts& facts = io.facts_;
        Bytes page(4096);
        switch (io.opcode) {
            case 0x06: break;
            case 0x02: return io.data(io.cid, 0, page, 4) && io.respond();
            case 0x0C: return true;  // an event that never comes
            case 0x09: return io.respond(io.cid, 0, (io.cdw10 & 0xFF) == 7 ? 0x003F003F : 0);
            default: return io.respond();
        }
        switch (io.cdw10 & 0xFF) {
            case 0:
                Io::put(page, 0, facts.blocks, 8);
                Io::put(page, 8, facts.blocks, 8);
                page[104] = facts.descriptors ? std::uint8_t{0} : facts.nguid;
                page[130] = 12;
                break;
            case 1:
                std::memset(&page[4], '1', 20);
                page[77] = facts.mdts;
                Io::put(page, 78, 1, 2);
                page[259] = 3;
                Io::put(page, 320, 1, 2);
                Io::put(page, 514, facts.maxcmd, 2);
                Io::put(page, 520, facts.oncs, 2);
                page[525] = facts.vwc;
                Io::put(page, 536, 1, 4);
                Io::put(page, 1792, 4 + 8192 / 16, 4);
                Io::put(page, 1796, 1, 4);
                break;
            case 3:
                if (!facts.descriptors) {
                    return io.respond(0x4002);
                }
                page[0] = 2;
                page[1] = 16;
                page[4] = facts.nguid;
                break;
            case 6:
                page[1] = facts.wzsl;
                Io::put(page, 4, facts.dmrsl, 4);
                break;
            default: return io.respond(0x4002);
        }
        return io.data(io.cid, 0, page, 4) && io.respond();
    }

    bool transfer(Io& io, Bytes& data) {
        const std::size_t size = std::size_t{io.blocks} * block_bytes;
        const std::size_t at = io.lba * block_bytes;
        if (io.opcode != 0 && at + size > memory_.size()) {
            return io.respond(0x4080);
        }
        if (io.opcode == 2) {
            Bytes content;
            {
                const std::lock_guard lock(mutex_);
                const auto begin = memory_.begin() + static_cast<std::ptrdiff_t>(at);
                content.assign(begin, begin + static_cast<std::ptrdiff_t>(size));
            }
            return io.data(io.cid, 0, content, 4) && io.respond();
        }
        if (io.opcode == 1) {
            if (data.empty() && !fetch(io, data, size)) {
                return false;
            }
            const std::lock_guard lock(mutex_);
            std::memcpy(&memory_[at], data.data(), size);
        } else if (io.opcode == 8 || io.opcode == 9) {
            const std::lock_guard lock(mutex_);
            std::memset(&memory_[at], 0, size);
        }
        return io.respond();
    }

    // The data of one write; commands that come meanwhile are served later.
    bool fetch(Io& io, Bytes& data, std::size_t size) {
        data.resize(size);
        std::uint8_t pdu[24];
        if (!io.r2t(io.cid, 0, static_cast<std::uint32_t>(size))) {
            return false;
        }
        for (std::size_t at = 0; at < size;) {
            if (!receive(io.peer_, pdu, 8)) {
                return false;
            }
            if (pdu[0] == 4) {
                if (!receive_capsule(io, pdu)) {
                    return false;
                }
                continue;
            }
            if (pdu[0] != 6 || !receive(io.peer_, pdu + 8, 16)) {
                return false;
            }
            const std::size_t part = get(pdu + 16, 4);
            if (part > size - at || !skip(io.peer_, io.header_digest_ ? 4 : 0) ||
                !receive(io.peer_, &data[at], part) || !skip(io.peer_, io.data_digest_ ? 4 : 0)) {
                return false;
            }
            at += part;
        }
        return true;
    }

    std::mutex mutex_;
    std::mutex hook_mutex_;
    Facts facts_;
    Hook hook_;
    Bytes memory_;
    std::vector<int> peers_;
    std::vector<std::thread> threads_;
    std::thread acceptor_;
    std::atomic<bool> stopping_{false};
    std::atomic<std::uint32_t> associations_{0};
    std::atomic<std::uint32_t> sent_{0};  // PDUs of the present association
    int listener_ = -1;
    std::uint16_t port_ = 0;
};

}  // namespace testing
