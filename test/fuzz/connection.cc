// A whole NVMe/TCP connection, and a second one beside it, against everything that a host may send and the
// control plane may do meanwhile. Found are: whatever the sanitizers see, broken invariants, PDUs that no
// host should get, completions of commands that are not outstanding, and anything left behind once the hosts
// are gone.
//
// The input is a script (script.h). Its set-up brings the connection as far as the script wants to begin.

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <memory>
#include <span>
#include <vector>

#include "script.h"
#include "world.h"

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace fuzz {
namespace {

// How far the set-up goes before the script's first step.
enum class Depth : std::uint8_t {
    nothing = 0,
    initialized = 1,
    connected = 2,
    enabled = 3,
    io_queue = 4,
    io_queue_without_flow_control = 5,
    discovery = 6,
    discovery_listener = 7,
};

constexpr std::uint16_t queue_entries = 32;

class Player {
  public:
    Player(World& world, const Setup& setup) : world_(world), setup_(setup) {}

    void reach(Depth depth) {
        world_.open(0, depth == Depth::discovery_listener);
        if (depth == Depth::nothing) {
            return;
        }
        initialize(0);
        if (depth == Depth::initialized) {
            return;
        }
        const bool discovery = depth == Depth::discovery || depth == Depth::discovery_listener;
        connect(0, 0, discovery ? wire::discovery_nqn : subsystem_nqn);
        world_.run(2);
        for (auto& answer : std::exchange(world_.admissions, {})) {
            answer(true, "");
        }
        world_.run(3);
        if (depth == Depth::connected) {
            return;
        }
        property_set(0x14, 0x00460001);
        world_.run(4);
        if (depth == Depth::enabled || discovery) {
            return;
        }
        cntlid_ = 1;
        world_.open(1, false);
        initialize(1);
        connect(1, 1, subsystem_nqn);
        world_.run(4);
    }

    void play(std::span<const std::uint8_t> step) {
        const std::size_t index = (step[0] >> 4) & 1;
        const auto argument = static_cast<std::uint8_t>(step[0] >> 5);
        Operands operands(step.subspan(1));
        Host& host = world_.peers[index].host;
        Socket& socket = world_.socket(index);
        switch (static_cast<Step>(step[0] & 15)) {
            case Step::raw:
                operands.u8();
                host.raw(socket, operands.rest());
                break;
            case Step::command: command(index, argument, operands); break;
            case Step::sqe: whole_sqe(index, argument, operands); break;
            case Step::answer: answer(index, argument, operands); break;
            case Step::h2c_data: {
                const std::uint16_t cccid = operands.u8();
                const Host::Request to{cccid, operands.u16(), 0, 0};
                const std::uint32_t offset = operands.u32();
                const std::uint16_t length = operands.u16();
                host.untrusted = true;
                host.h2c_data(socket, to, offset, data_of(length), static_cast<std::uint8_t>(argument));
                break;
            }
            case Step::receive: socket.receive_max = std::max<std::size_t>(operands.u16(), 1); break;
            case Step::send: socket.send_max = operands.u16(); break;
            case Step::time:
                world_.kernel.pass(operands.u16() * base::millisecond);
                world_.run(1);
                break;
            case Step::run: world_.run(1 + operands.u8() % 16u); break;
            case Step::control: {
                const std::uint8_t action = operands.u8();
                control(action, operands.u8());
                break;
            }
            case Step::damage: {
                const std::uint16_t offset = operands.u16();
                host.damage_next(offset, operands.u8());
                break;
            }
            case Step::close: close(socket, operands.u8()); break;
            case Step::open: {
                const std::uint8_t mode = operands.u8();
                if (world_.peers[index].connection == nullptr) {
                    world_.open(index, (mode & 4) != 0);
                    if ((mode & 1) != 0) {
                        initialize(index);
                    }
                    if ((mode & 2) != 0) {
                        connect(index, index == 0 ? std::uint16_t{0} : std::uint16_t{1}, subsystem_nqn);
                    }
                }
                break;
            }
            case Step::terminate: host.terminate(socket, operands.u16()); break;
            case Step::connect: odd_connect(index, operands); break;
            case Step::again: host.again(socket, operands.u8()); break;
        }
    }

  private:
    // What data PDUs carry. Ranges are such as Dataset Management and Copy take: small and within the
    // namespaces.
    enum Payload : std::uint8_t { counting = 0, zeroes = 1, deallocation_ranges = 2, copy_ranges = 3 };

    static std::vector<std::uint8_t> make_payload(Payload payload) {
        std::vector<std::uint8_t> made(std::size_t{2} << 20);
        for (std::size_t i = 0; i < made.size(); ++i) {
            const std::size_t entry = payload == copy_ranges ? i / 32 : i / 16;
            const std::size_t within = payload == copy_ranges ? i % 32 : i % 16;
            const auto start = static_cast<std::uint8_t>(entry * 3 % 16);
            const auto blocks = static_cast<std::uint8_t>(entry % 4);
            switch (payload) {
                case counting: made[i] = static_cast<std::uint8_t>(i >> 9); break;
                case zeroes: break;
                case deallocation_ranges:
                    made[i] = within == 4 ? blocks : within == 8 ? start : std::uint8_t{0};
                    break;
                case copy_ranges:
                    made[i] = within == 8 ? start : within == 16 ? blocks : std::uint8_t{0};
                    break;
            }
        }
        return made;
    }

    static std::span<const std::uint8_t> data_of(std::size_t bytes, unsigned payload = counting) {
        static const std::array<std::vector<std::uint8_t>, 4> made{
            make_payload(counting), make_payload(zeroes), make_payload(deallocation_ranges),
            make_payload(copy_ranges)};
        const std::vector<std::uint8_t>& chosen = made[payload % made.size()];
        return {chosen.data(), std::min(bytes, chosen.size())};
    }

    void initialize(std::size_t index) {
        world_.peers[index].host.ic_req(world_.socket(index), setup_.digests, setup_.alignment,
                                        setup_.maxr2t);
        world_.run(3);
    }

    static wire::ConnectData connect_data(const char* subsystem, std::uint16_t cntlid) {
        wire::ConnectData data;
        std::memset(data.hostid, 0x5A, sizeof data.hostid);
        data.cntlid = cntlid;
        std::memcpy(data.subnqn, subsystem, std::strlen(subsystem));
        std::memcpy(data.hostnqn, host_nqn, sizeof host_nqn);
        return data;
    }

    wire::ConnectCommand connect_command(std::uint16_t qid) const {
        wire::ConnectCommand command;
        command.opcode = 0x7F;
        command.flags = 0x40;
        command.cid = next_cid_;
        command.fctype = 1;
        command.qid = qid;
        command.sqsize = queue_entries - 1;
        command.cattr = setup_.flow_control_off ? 4 : 0;
        command.kato = 10'000;
        set_in_capsule(command.sgl1, sizeof(wire::ConnectData));
        return command;
    }

    static void set_in_capsule(wire::Sgl& sgl, std::uint32_t bytes) { set_sgl(sgl, bytes, 0x01); }

    static void set_sgl(wire::Sgl& sgl, std::uint32_t bytes, std::uint8_t identifier) {
        std::uint8_t raw[sizeof(wire::Sgl)]{};
        const base::le32 length = bytes;
        std::memcpy(raw + 8, &length, sizeof length);
        raw[15] = identifier;
        std::memcpy(&sgl, raw, sizeof raw);
    }

    void send_connect(std::size_t index, const wire::ConnectCommand& command, const wire::ConnectData& data) {
        wire::Sqe sqe;
        std::memcpy(&sqe, &command, sizeof sqe);
        world_.peers[index].host.capsule(world_.socket(index), sqe,
                                         {reinterpret_cast<const std::uint8_t*>(&data), sizeof data});
        ++next_cid_;
    }

    void connect(std::size_t index, std::uint16_t qid, const char* subsystem) {
        send_connect(index, connect_command(qid), connect_data(subsystem, qid == 0 ? 0xFFFF : cntlid_));
    }

    // One field of the command or of the data is another one.
    void odd_connect(std::size_t index, Operands& operands) {
        const std::uint8_t variant = operands.u8();
        const std::uint16_t value = operands.u16();
        wire::ConnectCommand command = connect_command(variant & 1);
        wire::ConnectData data =
            connect_data(subsystem_nqn, (variant & 1) != 0 ? cntlid_ : std::uint16_t{0xFFFF});
        switch ((variant >> 1) % 9) {
            case 0: command.recfmt = value; break;
            case 1: command.qid = value; break;
            case 2: command.sqsize = value; break;
            case 3: command.cattr = static_cast<std::uint8_t>(value); break;
            case 4: command.kato = value; break;
            case 5: data.cntlid = value; break;
            case 6: data.subnqn[value % sizeof data.subnqn] = static_cast<char>(value >> 8); break;
            case 7: data.hostnqn[value % sizeof data.hostnqn] = static_cast<char>(value >> 8); break;
            case 8: data.hostid[value % sizeof data.hostid] = static_cast<std::uint8_t>(value >> 8); break;
        }
        send_connect(index, command, data);
    }

    void property_set(std::uint32_t offset, std::uint64_t value) {
        wire::PropertySetCommand command;
        command.opcode = 0x7F;
        command.flags = 0x40;
        command.cid = next_cid_++;
        command.ofst = offset;
        command.value = value;
        wire::Sqe sqe;
        std::memcpy(&sqe, &command, sizeof sqe);
        world_.peers[0].host.capsule(world_.socket(0), sqe, {});
    }

    // A command with a data pointer that fits its data: bits of `data` say how it travels.
    void command(std::size_t index, std::uint8_t argument, Operands& operands) {
        wire::Sqe sqe;
        auto* bytes = reinterpret_cast<std::uint8_t*>(&sqe);
        bytes[0] = operands.u8();
        bytes[1] = static_cast<std::uint8_t>(operands.u8() ^ 0x40);
        const std::uint8_t nsid = operands.u8();
        const base::le32 wide_nsid = nsid == 0xFF ? 0xFFFFFFFFu : nsid;
        std::memcpy(bytes + 4, &wide_nsid, sizeof wide_nsid);
        const std::uint8_t cid = operands.u8();
        const base::le16 wide_cid = cid;
        std::memcpy(bytes + 2, &wide_cid, sizeof wide_cid);
        const std::uint8_t data = operands.u8();
        const std::uint8_t mask = operands.u8();
        // CDW10 … CDW15, then CDW2 and CDW3.
        constexpr std::array<std::size_t, 8> places{40, 44, 48, 52, 56, 60, 8, 12};
        for (std::size_t i = 0; i < places.size(); ++i) {
            if ((mask >> i & 1) != 0) {
                const base::le32 word = operands.u32();
                std::memcpy(bytes + places[i], &word, sizeof word);
            }
        }
        const std::uint32_t units = data & 0x3F;
        const bool in_capsule = (data & 0x40) != 0;
        std::uint32_t length = (data & 0x80) != 0 ? units * 4096 : units * 512;
        const bool with_data = in_capsule && length <= 16384;
        if (in_capsule && !with_data) {
            length = units * 16384;  // too much for a capsule: a transfer of up to 1 MiB
        }
        wire::Sgl sgl;
        set_sgl(sgl, length, with_data ? 0x01 : 0x5A);
        std::memcpy(bytes + 24, &sgl, sizeof sgl);
        world_.peers[index].host.capsule(world_.socket(index), sqe,
                                         data_of(with_data ? length : 0, argument));
    }

    void whole_sqe(std::size_t index, std::uint8_t argument, Operands& operands) {
        wire::Sqe sqe;
        auto* bytes = reinterpret_cast<std::uint8_t*>(&sqe);
        for (std::size_t i = 0; i < sizeof sqe; ++i) {
            bytes[i] = operands.u8();
        }
        world_.peers[index].host.capsule(world_.socket(index), sqe,
                                         data_of(operands.u16() % 16385u, argument));
    }

    // What a host should do, with a piece length of the script's choice; an even argument: the whole answer.
    void answer(std::size_t index, std::uint8_t argument, Operands& operands) {
        Host& host = world_.peers[index].host;
        const std::uint8_t which = operands.u8();
        const std::uint32_t piece = std::max<std::uint32_t>(operands.u16() * 4u, 64);
        if (host.requests.empty()) {
            return;
        }
        const auto chosen = host.requests.begin() + static_cast<std::ptrdiff_t>(which % host.requests.size());
        Host::Request& request = *chosen;
        bool first = true;
        while (request.length != 0 && (first || (argument & 1) == 0)) {
            const std::uint32_t bytes = std::min(piece, request.length);
            const bool last = bytes == request.length;
            host.h2c_data(world_.socket(index), request, request.offset, data_of(bytes, argument / 2u),
                          last ? wire::pdu_flags::last_pdu : std::uint8_t{0});
            request.offset += bytes;
            request.length -= bytes;
            first = false;
        }
        if (request.length == 0) {
            host.requests.erase(chosen);
        }
    }

    static void close(Socket& socket, std::uint8_t how) {
        switch (how % 4) {
            case 0: socket.ended = true; break;
            case 1: socket.error = ECONNRESET; break;
            case 2: socket.error = EPIPE; break;
            case 3: socket.error = ETIMEDOUT; break;
        }
    }

    void control(std::uint8_t action, std::uint8_t argument) {
        nvme::Target& target = world_.target;
        const std::uint32_t nsid = 1 + argument % 5u;
        switch (action % 12) {
            case 0: (void)target.remove_namespace(subsystem_nqn, nsid, [] {}); break;
            case 1: world_.add_namespace(nsid); break;
            case 2:
                (void)world_.device(argument % 2 == 0 ? "a" : "b")
                    ->resize(std::uint64_t{4096} * (1 + argument % 32u));
                break;
            case 3: {
                constexpr std::array states{nvme::AnaState::optimized, nvme::AnaState::non_optimized,
                                            nvme::AnaState::inaccessible, nvme::AnaState::persistent_loss,
                                            nvme::AnaState::change};
                (void)target.set_ana_state(subsystem_nqn, states[argument % states.size()]);
                break;
            }
            case 4:
                (void)target.set_hosts(
                    subsystem_nqn, (argument & 1) != 0,
                    (argument & 2) != 0 ? std::vector<std::string>{host_nqn} : std::vector<std::string>{});
                break;
            case 5: target.set_loading((argument & 1) != 0); break;
            case 6:
                if (argument < 64) {  // seldom: little works afterwards
                    (void)target.remove_subsystem(subsystem_nqn, [] {});
                }
                break;
            case 7: world_.add_subsystem(); break;
            case 8: (void)target.set_namespace_read_only(subsystem_nqn, nsid, (argument & 8) != 0); break;
            case 9: {
                std::vector<nvme::Referral> referrals(
                    argument % 4u, nvme::Referral{"tcp", "ipv4", "192.0.2.9", "8009", 1, ""});
                target.set_referrals(std::move(referrals));
                break;
            }
            case 10:
                for (auto& answer : std::exchange(world_.admissions, {})) {
                    answer((argument & 1) != 0, "asked for");
                }
                break;
            case 11:
                (void)target.controller_status();
                (void)target.subsystem_status();
                break;
        }
    }

    World& world_;
    const Setup& setup_;
    std::uint16_t next_cid_ = 1000;
    std::uint16_t cntlid_ = 1;
};

}  // namespace
}  // namespace fuzz

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    using namespace fuzz;
    static const std::unique_ptr<Memory> memory = std::make_unique<Memory>();
    if (size < setup_bytes) {
        return 0;
    }
    constexpr std::array<std::uint32_t, 8> r2t_limits{0, 1, 3, 7, 15, 0xFFFFFFFF, 0, 0};
    const auto depth = static_cast<Depth>(data[0] >> 5);
    Setup setup;
    setup.digests = {(data[0] & 1) != 0, (data[0] & 2) != 0};
    setup.maxr2t = r2t_limits[(data[0] >> 2) & 7];
    setup.alignment = data[1] & 31;
    setup.ask_admission = (data[1] & 0x80) != 0;
    constexpr std::size_t kib = 1024;
    constexpr std::array<std::size_t, 4> reserves{1024 * kib, 512 * kib, 64 * kib, 16 * kib};
    setup.reserve_bytes = reserves[data[2] & 3];
    setup.pool_bytes = (data[2] & 3) == 0 ? Memory::pool_bytes : 1024 * kib + setup.reserve_bytes;
    setup.in_capsule_bytes_io = (data[2] & 4) != 0 ? 0 : (data[2] & 8) != 0 ? 16384 : 8192;
    using Policy = transport::DigestPolicy;
    setup.policy = (data[3] & 3) == 1   ? Policy::off
                   : (data[3] & 3) == 2 ? Policy::required
                                        : Policy::optional;
    setup.flow_control_off = depth == Depth::io_queue_without_flow_control;

    World world(*memory, setup);
    Player player(world, setup);
    player.reach(depth);
    constexpr std::size_t steps_max = 200;
    std::size_t played = 0;
    for (const auto& step : steps_of({data + setup_bytes, size - setup_bytes})) {
        if (++played > steps_max) {
            break;
        }
        player.play(step);
        if ((step[0] & 15) < 3) {
            world.run(1);
        }
    }
    world.run(4);
    world.end();
    return 0;
}

namespace {

// A step that is likely to mean something.
std::vector<std::uint8_t> plausible_step(std::uint32_t random) {
    using fuzz::Step;
    const auto pick = [&random](std::uint32_t limit) {
        const std::uint32_t chosen = random % limit;
        random = random * 1664525u + 1013904223u;
        return chosen;
    };
    const auto first = [&](Step step) {
        return static_cast<std::uint8_t>(static_cast<std::uint32_t>(step) | pick(2) << 4 | pick(4) << 5);
    };
    switch (pick(10)) {
        case 0:
            return {first(Step::answer), static_cast<std::uint8_t>(pick(4)), 0xFF,
                    static_cast<std::uint8_t>(pick(256))};
        case 1:
            return {first(Step::time), static_cast<std::uint8_t>(pick(256)),
                    static_cast<std::uint8_t>(pick(8) * pick(8))};
        case 2: return {first(Step::run), static_cast<std::uint8_t>(pick(16))};
        case 3:
            return {first(Step::control), static_cast<std::uint8_t>(pick(12)),
                    static_cast<std::uint8_t>(pick(256))};
        case 4:
            return {first(pick(2) == 0 ? Step::receive : Step::send), static_cast<std::uint8_t>(pick(200)),
                    static_cast<std::uint8_t>(pick(2))};
        default: break;
    }
    constexpr std::array<std::uint8_t, 24> opcodes{0x00, 0x01, 0x02, 0x05, 0x08, 0x09, 0x0C, 0x19,
                                                   0x02, 0x06, 0x08, 0x09, 0x0A, 0x0C, 0x18, 0x7F,
                                                   0x01, 0x05, 0x01, 0x02, 0x06, 0x0C, 0x0A, 0x09};
    std::vector<std::uint8_t> step{first(Step::command),
                                   opcodes[pick(opcodes.size())],
                                   static_cast<std::uint8_t>(pick(6) == 0 ? 1 + pick(3) : 0),
                                   static_cast<std::uint8_t>(pick(8) == 0 ? 255 : pick(7)),
                                   static_cast<std::uint8_t>(pick(40)),
                                   static_cast<std::uint8_t>(pick(256)),
                                   0x07};
    for (int word = 0; word < 3; ++word) {
        const std::uint32_t value = pick(3) == 0 ? pick(4) : pick(3) == 0 ? pick(1u << 30) : pick(32);
        for (int byte = 0; byte < 4; ++byte) {
            step.push_back(static_cast<std::uint8_t>(value >> (8 * byte)));
        }
    }
    return step;
}

}  // namespace

// Half of the mutations are libFuzzer's own; the others cut, repeat, swap and insert whole steps.
extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned int seed) {
    if (size < fuzz::setup_bytes || seed % 2 == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    std::uint32_t random = seed / 2;
    const auto pick = [&random](std::size_t limit) {
        random = random * 1664525u + 1013904223u;
        return static_cast<std::size_t>(random >> 8) % limit;
    };
    std::vector<std::vector<std::uint8_t>> steps;
    for (const auto& step : fuzz::steps_of({data + fuzz::setup_bytes, size - fuzz::setup_bytes})) {
        steps.emplace_back(step.begin(), step.end());
    }
    const auto anywhere = [&] { return static_cast<std::ptrdiff_t>(pick(steps.size() + 1)); };
    for (std::size_t changes = 1 + pick(3); changes != 0; --changes) {
        if (steps.empty() || pick(4) == 0) {
            steps.insert(steps.begin() + anywhere(), plausible_step(random));
            continue;
        }
        const std::size_t chosen = pick(steps.size());
        switch (pick(5)) {
            case 0: steps.erase(steps.begin() + static_cast<std::ptrdiff_t>(chosen)); break;
            case 1: {
                const std::vector<std::uint8_t> copy = steps[chosen];
                steps.insert(steps.begin() + anywhere(), copy);
                break;
            }
            case 2: std::swap(steps[chosen], steps[pick(steps.size())]); break;
            case 3:
                steps[chosen][0] = static_cast<std::uint8_t>(steps[chosen][0] ^ (1u << (4 + pick(4))));
                break;
            default: {  // within the step; its kind and length stay
                std::vector<std::uint8_t>& step = steps[chosen];
                if (step.size() > 1) {
                    LLVMFuzzerMutate(step.data() + 1, step.size() - 1, step.size() - 1);
                }
                break;
            }
        }
    }
    std::vector<std::uint8_t> script(data, data + fuzz::setup_bytes);
    for (const auto& step : steps) {
        script.insert(script.end(), step.begin(), step.end());
    }
    const std::size_t bytes = std::min(script.size(), max_size);
    std::memcpy(data, script.data(), bytes);
    return bytes;
}
