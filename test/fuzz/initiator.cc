// A remote block device against everything that a target may send, and requests, time and broken connections
// in between. Found are: whatever the sanitizers see, data written into a request's memory after its end,
// requests that end twice or never, unsound PDUs of ours, and a device that does not come back or does not
// hold what was written although the target behaved.
//
// Input: four bytes of set-up, then steps: a byte that names the kind (low four bits) and an argument (high
// four), and operands whose length follows from the kind. Operands beyond the end read as zeroes.

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <new>
#include <span>
#include <vector>

#include "block/spec.h"
#include "peer.h"
#include "peer_kernel.h"
#include "script.h"
#include "testing/block_rig.h"

namespace fuzz {
namespace {

enum class Act : std::uint8_t {
    run = 0,         // iterations
    serve = 1,       // how many commands of the link are answered truly
    raw = 2,         // length, bytes
    respond = 3,     // index, 2 bytes status, 2 bytes result
    data = 4,        // index, 4 bytes offset, 2 bytes length, flags
    r2t = 5,         // index, 4 bytes offset, 4 bytes length
    time = 6,        // 2 bytes: milliseconds
    end = 7,         // how
    damage = 8,      // 2 bytes offset, a byte: of the header of the next PDU
    pieces = 9,      // 2 bytes: arriving at once; 2 bytes: leaving at once
    request = 10,    // block, blocks; the action is the argument
    cancel = 11,     // index
    tamper = 12,     // what, 2 bytes offset, value
    automatic = 13,  // everything is answered truly after each step, or not
    event = 14,      // 4 bytes: dword 0
    control = 15,    // what
};

constexpr base::Nanoseconds deadline = 4 * base::second;

class Memory {
  public:
    explicit Memory(std::size_t bytes)
        : bytes_(static_cast<std::byte*>(::operator new (bytes, std::align_val_t{4096}))), size_(bytes) {
        std::memset(bytes_, 0, bytes);
    }
    ~Memory() { ::operator delete (bytes_, std::align_val_t{4096}); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;
    std::byte* data() { return bytes_; }
    std::size_t size() const { return size_; }

  private:
    std::byte* bytes_;
    std::size_t size_;
};

// A request and its memory, which is given back as soon as it has ended: what comes later is a finding.
struct Asked : block::Request {
    std::unique_ptr<Memory> memory;
    bool ended = false;
    bool kept = false;  // its memory
    block::Status status = block::Status::ok;
};

class World {
  public:
    explicit World(std::span<const std::uint8_t, 4> setup) {
        storage_.facts.mdts = setup[1] & 15;
        storage_.facts.descriptors = (setup[2] & 1) == 0;
        storage_.facts.vwc = (setup[2] >> 1) & 1;
        storage_.facts.traffic_based = (setup[2] & 4) != 0;
        storage_.facts.oncs = static_cast<std::uint16_t>((setup[2] & 8) != 0 ? 0 : 0x0C);
        storage_.facts.limits = setup[3];
        block::DeviceSpec spec;
        spec.name = "far";
        spec.kind = "nvme";
        spec.remote.addresses = {"192.0.2.1:4420", "192.0.2.2:4420"};
        spec.remote.subnqn = "nqn.2014-08.org.nvmexpress:fuzz";
        spec.remote.hostnqn = "nqn.2014-08.org.nvmexpress:host";
        spec.remote.header_digest = (setup[0] & 1) != 0;
        spec.remote.data_digest = (setup[0] & 2) != 0;
        spec.remote.io_queues = static_cast<std::uint16_t>(1 + ((setup[0] >> 2) & 1));
        spec.remote.depth = static_cast<std::uint16_t>((setup[0] & 8) != 0 ? 2 : 16);
        spec.remote.kato_ms = (setup[0] & 16) != 0 ? 0 : 500;
        spec.remote.ping_ms = (setup[0] & 32) != 0 ? 0 : 200;
        spec.remote.timeout_ms = 1000;
        spec.remote.deadline_ms = deadline / base::millisecond;
        spec.known = {blocks * block_bytes, block_bytes, ""};
        device_ = rig_.make(spec).value();
        automatic_ = (setup[0] & 64) == 0;
        settle(40);
    }

    void play(std::span<const std::uint8_t> step) {
        const auto argument = static_cast<std::uint8_t>(step[0] >> 4);
        Operands operands(step.subspan(1));
        Peer* const peer = peer_of(argument & 3u);
        const auto act = static_cast<Act>(step[0] & 15);
        switch (act) {
            case Act::run: settle(1 + operands.u8() % 16u); return;
            case Act::time:
                kernel_.pass(operands.u16() * base::millisecond);
                settle(1);
                return;
            case Act::request: {
                const std::uint8_t at = operands.u8();
                if (!closing_ && asked_.size() < 200) {
                    device_->submit(ask(static_cast<block::Action>(argument % 5), at,
                                        1u + operands.u8() % 64u, argument >= 8));
                }
                break;
            }
            case Act::cancel: {
                const std::size_t index = operands.u8();
                if (!asked_.empty() && !asked_[index % asked_.size()]->ended) {
                    device_->cancel(*asked_[index % asked_.size()]);
                }
                break;
            }
            case Act::tamper: {
                lied_ = true;
                static constexpr std::uint8_t places[] = {0, 1, 3, 6, 0xFF};
                const std::uint8_t what = places[operands.u8() % std::size(places)];
                const std::uint16_t offset = operands.u16();
                storage_.tampers.push_back({what, offset, operands.u8()});
                break;
            }
            case Act::automatic: automatic_ = (argument & 1) == 0; break;
            case Act::control: control(operands.u8()); break;
            default:
                if (peer != nullptr && !peer->link().gone) {
                    play_on(*peer, act, argument, operands);
                }
        }
        settle(1);
    }

    // From here on the target is one that behaves.
    void end() {
        automatic_ = true;
        storage_.tampers.clear();
        kernel_.refuses = false;
        for (const auto& peer : peers_) {
            peer->link().send_max = peer->link().receive_max = ~std::size_t{0};
            peer->link().error = lied_ ? ECONNRESET : peer->link().error;
        }
        wait_until_idle();
        require(idle(), "every request ends soon after its deadline");
        for (int round = 0; round < 400 && !lied_ && !served(); ++round) {
            settle(8);
            kernel_.pass(50 * base::millisecond);
        }
        if (!lied_ && !closing_) {
            require(served(), "a target that behaves is served from");
            compare();
        }
        if (!closed_) {
            close();
        }
        for (int round = 0; round < 100 && !closed_; ++round) {
            settle(8);
            kernel_.pass(50 * base::millisecond);
        }
        require(closed_, "the device closes");
        rig_.forget_device("far");
    }

  private:
    void play_on(Peer& peer, Act act, std::uint8_t argument, Operands& operands) {
        const auto cid = [&](std::uint8_t index) -> std::uint16_t {
            if (!peer.pending.empty() && index < 0xF0) {
                return peer.pending[index % peer.pending.size()].sqe.cid;
            }
            return static_cast<std::uint16_t>(index * 0x0101u);
        };
        switch (act) {
            case Act::serve: peer.serve(1 + operands.u8() % 16u); return;
            case Act::raw:
                lied_ = true;
                operands.u8();
                peer.raw(operands.rest());
                return;
            case Act::respond: {
                lied_ = true;
                const std::uint16_t to = cid(operands.u8());
                const std::uint16_t status = operands.u16();
                peer.respond(to, status, operands.u16());
                forget(peer, to);
                return;
            }
            case Act::data: {
                lied_ = true;
                const std::uint16_t to = cid(operands.u8());
                const std::uint32_t offset = operands.u32();
                const Bytes content(1 + operands.u16());
                peer.data(to, offset, content, operands.u8());
                return;
            }
            case Act::r2t: {
                lied_ = true;
                const std::uint16_t to = cid(operands.u8());
                const std::uint32_t offset = operands.u32();
                peer.r2t(to, offset, operands.u32());
                return;
            }
            case Act::end: {
                const std::uint8_t how = operands.u8();
                Link& link = peer.link();
                link.ended = link.ended || how % 4 == 0;
                link.error = how % 4 == 1 ? ECONNRESET : link.error;
                link.send_max = how % 4 == 2 ? 0 : ~std::size_t{0};
                return;
            }
            case Act::damage: {
                lied_ = true;
                const std::uint16_t offset = operands.u16();
                peer.damage_next(offset, operands.u8());
                return;
            }
            case Act::pieces:
                peer.link().receive_max = std::max<std::size_t>(operands.u16(), 1);
                peer.link().send_max = std::max<std::size_t>(operands.u16(), 1);
                return;
            case Act::event:
                lied_ = true;
                if (!peer.events.empty()) {
                    peer.respond(peer.events.front().sqe.cid, argument >= 12 ? 0x4002 : 0, operands.u32());
                    peer.events.erase(peer.events.begin());
                }
                return;
            default: return;
        }
    }

    void control(std::uint8_t what) {
        switch (what % 8) {
            case 0: device_->command({"reconnect", {}}, [](base::Result<void>) {}); return;
            case 1: (void)device_->resize(std::nullopt); return;
            case 2: kernel_.refuses = true; return;
            case 3: kernel_.refuses = false; return;
            case 4: storage_.facts.mdts = static_cast<std::uint8_t>(what >> 3); return;
            case 5: storage_.facts.limits = what; return;
            case 6: storage_.facts.vwc ^= 1; return;
            default:
                if (what >= 0xF8) {
                    close();
                }
        }
    }

    void close() {
        if (!closing_) {
            closing_ = true;
            device_->close([this] { closed_ = true; });
        }
    }

    static void forget(Peer& peer, std::uint16_t cid) {
        std::erase_if(peer.pending, [&](const Peer::Pending& command) { return command.sqe.cid == cid; });
    }

    Asked& ask(block::Action action, std::uint64_t at, std::uint64_t count, bool through) {
        asked_.push_back(std::make_unique<Asked>());
        Asked& request = *asked_.back();
        request.action = action;
        request.force_unit_access = through && action != block::Action::read;
        if (action != block::Action::flush) {
            request.offset = at * block_bytes;
            request.length = count * block_bytes;
        }
        if (action == block::Action::read || action == block::Action::write) {
            request.memory = std::make_unique<Memory>(request.length);
            request.data = request.memory->data();
        }
        request.done = [](block::Request& ended, block::Status status) {
            auto& self = static_cast<Asked&>(ended);
            require(!self.ended, "a request ends once");
            self.ended = true;
            self.status = status;
            if (!self.kept) {
                self.memory.reset();
            }
        };
        return request;
    }

    // What is written is read.
    void compare() {
        const auto whole = [this](block::Action action) -> Asked& {
            Asked& request = ask(action, 0, blocks, false);
            request.kept = true;
            for (std::size_t i = 0; i < request.length && action == block::Action::write; ++i) {
                request.data[i] = static_cast<std::byte>(i * 7 + i / block_bytes);
            }
            device_->submit(request);
            wait_until_idle();
            require(request.ended && request.status == block::Status::ok, "a request that is served");
            return request;
        };
        const Asked& out = whole(block::Action::write);
        const Asked& in = whole(block::Action::read);
        require(std::memcmp(in.data, out.data, out.length) == 0, "what was written is read");
    }

    void wait_until_idle() {
        for (int round = 0; round < 2500 && !idle(); ++round) {
            settle(8);
            kernel_.pass(50 * base::millisecond);
        }
    }
    bool idle() const {
        return std::all_of(asked_.begin(), asked_.end(), [](const auto& request) { return request->ended; });
    }
    bool served() const { return closing_ || device_->health().state == "ok"; }

    Peer* peer_of(std::size_t index) {
        std::vector<Peer*> living;
        for (const auto& peer : peers_) {
            if (!peer->link().gone) {
                living.push_back(peer.get());
            }
        }
        return living.empty() ? nullptr : living[index % living.size()];
    }

    void settle(unsigned iterations) {
        for (; iterations != 0; --iterations) {
            rig_.reactor.run_once(kernel_.now());
            while (peers_.size() < kernel_.links.size()) {
                peers_.push_back(std::make_unique<Peer>(*kernel_.links[peers_.size()], storage_));
            }
            for (const auto& peer : peers_) {
                if (!peer->link().gone) {
                    peer->look();
                    if (automatic_) {
                        peer->serve(~std::size_t{0});
                    }
                }
            }
        }
    }

    PeerKernel kernel_;
    testing::BlockRig rig_{&kernel_};
    Storage storage_;
    std::vector<std::unique_ptr<Peer>> peers_;
    std::vector<std::unique_ptr<Asked>> asked_;
    block::Device* device_ = nullptr;
    bool automatic_ = true;
    bool lied_ = false;  // it did more than to be slow or to go away
    bool closing_ = false;
    bool closed_ = false;
};

std::size_t operand_bytes_of(std::span<const std::uint8_t> step) {
    static constexpr std::uint8_t sizes[] = {1, 1, 0, 5, 8, 9, 2, 1, 3, 4, 2, 1, 4, 0, 4, 1};
    const auto act = static_cast<Act>(step[0] & 15);
    return act == Act::raw ? 1u + (step.size() > 1 ? step[1] : 0u) : sizes[step[0] & 15];
}

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size < fuzz::setup_bytes || size > 4096) {
        return 0;
    }
    std::span<const std::uint8_t> script(data, size);
    fuzz::World world(script.first<fuzz::setup_bytes>());
    script = script.subspan(fuzz::setup_bytes);
    while (!script.empty()) {
        const std::size_t bytes = std::min(1 + fuzz::operand_bytes_of(script), script.size());
        world.play(script.first(bytes));
        script = script.subspan(bytes);
    }
    world.end();
    return 0;
}
