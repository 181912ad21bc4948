#include "block/remote/remote.h"

#include <netdb.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace block {

namespace remote {

namespace {

constexpr base::Nanoseconds back_off_first = 100 * base::millisecond;
constexpr base::Nanoseconds back_off_longest = 5 * base::second;
// A peer that lets its hosts in only to drop them has not shown that it is well.
constexpr base::Nanoseconds held_long_enough = 250 * base::millisecond;
constexpr base::Nanoseconds back_off_of_drops = base::second;
constexpr base::Nanoseconds look_period = 100 * base::millisecond;
constexpr std::uint32_t depth_max = 1024;
constexpr std::uint32_t queues_max = 64;

struct Endpoint {
    std::string address;
    std::uint16_t port = 0;
};

// "10.0.0.9:4420" or "[fd00::9]:4420".
std::optional<Endpoint> parse_endpoint(const std::string& text) {
    const std::size_t colon = text.rfind(':');
    if (colon == std::string::npos || colon == 0) {
        return std::nullopt;
    }
    Endpoint endpoint;
    endpoint.address = text.substr(0, colon);
    if (endpoint.address.front() == '[' && endpoint.address.back() == ']') {
        endpoint.address = endpoint.address.substr(1, endpoint.address.size() - 2);
    }
    const char* const begin = text.data() + colon + 1;
    const char* const end = text.data() + text.size();
    const auto [last, error] = std::from_chars(begin, end, endpoint.port);
    if (error != std::errc{} || last != end || endpoint.port == 0) {
        return std::nullopt;
    }
    addrinfo hints{};
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_NUMERICHOST;
    addrinfo* found = nullptr;
    if (getaddrinfo(endpoint.address.c_str(), nullptr, &hints, &found) != 0) {
        return std::nullopt;
    }
    freeaddrinfo(found);
    return endpoint;
}

}  // namespace

Remote::Remote(const Environment& environment, const DeviceSpec& spec)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      identity_(spec.known.identity),
      pause_timer_(environment_.reactor, *this),
      look_timer_(environment_.reactor, *this) {
    description_.size_bytes = spec.known.size_bytes;
    description_.block_bytes = spec.known.size_bytes != 0 ? spec.known.block_bytes : spec.block_bytes;
    description_.physical_block_bytes = std::max(description_.block_bytes, limits::page_bytes);
    description_.read_only = spec.read_only;
    // Until the controller is heard: what is safe to say.
    description_.volatile_cache = true;
    zeroes_bytes_max_ = 32u << 20;
    deallocate_bytes_max_ = 1u << 30;
    doubts_.reserve(limits::queue_entries_max);
}

Remote::~Remote() { EK_CHECK(controller_ == nullptr, "a remote device is closed before it is destroyed"); }

base::Result<void> Remote::start() {
    const RemoteSpec& remote = spec_.remote;
    const auto invalid = [&](const std::string& what) {
        return base::Error{"E_INVALID", describe_device(spec_) + what};
    };
    if (remote.addresses.empty()) {
        return invalid("there is no address to connect to");
    }
    for (const std::string& address : remote.addresses) {
        if (!parse_endpoint(address)) {
            return invalid("\"" + address +
                           "\" is not ADDRESS:PORT or [ADDRESS]:PORT with an IPv4 or IPv6 address");
        }
    }
    if (remote.subnqn.empty() || remote.subnqn.size() > limits::nqn_bytes_max || remote.hostnqn.empty() ||
        remote.hostnqn.size() > limits::nqn_bytes_max) {
        return invalid("NQNs have 1 to " + std::to_string(limits::nqn_bytes_max) + " bytes");
    }
    if (remote.io_queues == 0 || remote.io_queues > queues_max || remote.depth == 0 ||
        remote.depth > depth_max - 1 || remote.nsid == 0 || remote.timeout_ms == 0) {
        return invalid("queues, depth, nsid or timeout are out of range");
    }
    if (spec_.known.size_bytes != 0 && spec_.known.block_bytes != 512 && spec_.known.block_bytes != 4096) {
        return invalid("a known block has 512 or 4096 bytes, not " + std::to_string(spec_.known.block_bytes));
    }
    pieces_ = std::vector<Piece>(std::size_t{remote.io_queues} * remote.depth);
    free_pieces_.reserve(pieces_.size());
    sorted_.reserve(pieces_.size());
    for (Piece& piece : pieces_) {
        piece.remote = this;
        free_pieces_.push_back(&piece);
    }
    look_timer_.start_after(look_period);
    connect();
    return {};
}

// --- The connection
// ------------------------------------------------------------------------------------------------------

void Remote::connect() {
    EK_CHECK(controller_ == nullptr, "one connection at a time");
    const RemoteSpec& remote = spec_.remote;
    peer_ = remote.addresses[address_ % remote.addresses.size()];
    ++address_;
    const auto endpoint = parse_endpoint(peer_);
    initiator::ControllerOptions options;
    options.address = endpoint->address;
    options.port = endpoint->port;
    options.subnqn = remote.subnqn;
    options.hostnqn = remote.hostnqn;
    options.hostid = remote.hostid;
    options.nsid = remote.nsid;
    options.header_digest = remote.header_digest;
    options.data_digest = remote.data_digest;
    options.io_queues = remote.io_queues;
    options.depth = remote.depth;
    options.kato_ms = remote.kato_ms;
    options.connect_timeout_ms = remote.timeout_ms;
    options.ping_ms = remote.ping_ms;
    options.answer_timeout_ms = remote.timeout_ms;
    options.adapt = true;
    options.learn = true;
    options.events = wire::async_events::namespace_attribute;
    options.reset_on_close = true;
    state_ = State::connecting;
    reconnect_now_ = false;
    initiator::ControllerOwner& owner = *this;
    controller_ = std::make_unique<initiator::Controller>(environment_.reactor, std::move(options), owner);
    if (const auto opened = controller_->open(); !opened.ok()) {
        controller_.reset();
        last_error_ = reason_ = peer_ + ": " + opened.error().message;
        pause();
    }
}

void Remote::controller_ready() {
    if (!accept_facts()) {
        return;
    }
    state_ = State::serving;
    served_ = true;
    ready_at_ = environment_.reactor.now();
    if (cache_behind_ && changes_ != changes_flushed_) {
        ++losses_;
        changes_flushed_ = changes_;
    }
    cache_behind_ = facts_.volatile_cache;
    ++generation_;
    reason_.clear();
    say("info", "connected to " + peer_ + (generation_ > 1 ? " again" : ""));
    tell_changed();
    find_contested();
    pump();
}

// False: it is not what it was, and is left alone.
bool Remote::accept_facts() {
    const initiator::NamespaceFacts& facts = controller_->facts();
    const std::uint64_t bytes = facts.blocks * facts.block_bytes;
    const bool known = description_.size_bytes != 0;
    const std::string kind = identity_.substr(0, identity_.find('.') + 1);
    const std::string* alike = nullptr;  // what it says of itself in the way in which it is known
    const std::string* best = nullptr;
    for (const std::string& identity : facts.identities) {
        alike = alike == nullptr && identity.starts_with(kind) && !identity.empty() ? &identity : alike;
        best = best == nullptr && !identity.empty() ? &identity : best;
    }
    std::string wrong;
    foreign_ = true;
    if (facts.block_bytes != 512 && facts.block_bytes != 4096) {
        wrong = "its blocks have " + std::to_string(facts.block_bytes) + " bytes, not 512 or 4096";
    } else if (facts.blocks == 0 || facts.blocks > (std::uint64_t{1} << 62) / facts.block_bytes) {
        wrong = "it has " + std::to_string(facts.blocks) + " blocks";
    } else if (!identity_.empty() && alike == nullptr) {
        foreign_ = false;  // or not: it cannot be known
        wrong = "it does not say whether it is " + identity_;
    } else if (!identity_.empty() && *alike != identity_) {
        wrong = "the namespace there is " + *alike + "; this device is " + identity_;
    } else if (known && facts.block_bytes != description_.block_bytes) {
        wrong = "its blocks have " + std::to_string(facts.block_bytes) + " bytes; this device's have " +
                std::to_string(description_.block_bytes);
    } else if (known && bytes < description_.size_bytes) {
        wrong = "it has " + std::to_string(bytes) + " bytes; this device is known with " +
                std::to_string(description_.size_bytes);
    }
    if (!wrong.empty()) {
        lose(peer_ + ": " + wrong);
        return false;
    }
    foreign_ = false;
    facts_ = facts;
    identity_ = *best;
    quiesce_ = facts.quiesce_ms * base::millisecond;
    describe(facts);
    return true;
}

void Remote::describe(const initiator::NamespaceFacts& facts) {
    Description description = description_;
    description.size_bytes = facts.blocks * facts.block_bytes;
    description.block_bytes = facts.block_bytes;
    description.physical_block_bytes =
        std::max({facts.block_bytes, facts.physical_block_bytes, limits::page_bytes});
    description.optimal_io_bytes = facts.optimal_io_bytes;
    description.read_only = spec_.read_only || facts.write_protected;
    description.volatile_cache = facts.volatile_cache;
    description.can_deallocate = (facts.optional_commands & wire::oncs::dataset_management) != 0;
    description.can_write_zeroes = (facts.optional_commands & wire::oncs::write_zeroes) != 0;
    set_description(description);
}

void Remote::controller_event(std::uint32_t) {
    if (state_ == State::serving) {
        controller_->look_again();
    }
}

void Remote::controller_looked() {
    if (state_ == State::serving) {
        accept_facts();
    }
}

void Remote::controller_failed(const std::string& reason) {
    reason_ = peer_ + ": " + reason;
    last_error_ = reason_;
    if (state_ != State::ending) {
        if (state_ == State::serving) {
            say("warn", "the connection is lost: " + reason_);
        }
        state_ = State::ending;
    }
}

void Remote::controller_closed() {
    environment_.reactor.post([this, gone = controller_.get()] {
        EK_CHECK(controller_.get() == gone, "the controller that closed is the present one");
        controller_.reset();
        if (closed_) {
            state_ = State::closed;
            std::exchange(closed_, nullptr)();
            return;
        }
        pause();
        tell_changed();
    });
}

void Remote::pause() {
    state_ = State::pausing;
    if (closing()) {
        return;
    }
    const bool came_up = ready_at_ != 0;
    if (came_up && environment_.reactor.now() - ready_at_ >= held_long_enough) {
        back_off_ = 0;
        --address_;  // it works: the next attempt begins here
    }
    ready_at_ = 0;
    const bool at_once = reconnect_now_ || (served_ && back_off_ == 0);
    const base::Nanoseconds pause = at_once ? base::millisecond : std::max(back_off_, back_off_first);
    // Many that lost the same peer do not come back at the same moment.
    const base::Nanoseconds jitter = pause / 8 * ((generation_ + address_ + spec_.name.size() * 7) % 5) / 4;
    back_off_ =
        at_once ? back_off_first : std::min(pause * 2, came_up ? back_off_of_drops : back_off_longest);
    pause_timer_.start_after(pause + jitter);
}

void Remote::lose(std::string reason) {
    if (state_ == State::ending || state_ == State::pausing || controller_ == nullptr) {
        return;
    }
    state_ = State::ending;
    last_error_ = reason_ = std::move(reason);
    say("warn", reason_);
    controller_->close(false);
}

// Answers that are late end the connection; requests whose deadline has passed end.
void Remote::look_around() {
    look_timer_.start_after(look_period);
    const base::Nanoseconds now = environment_.reactor.now();
    const base::Nanoseconds timeout = spec_.remote.timeout_ms * base::millisecond;
    if (state_ == State::serving && at_controller_ != 0) {
        for (const Piece& piece : pieces_) {
            if (piece.at_controller && now - piece.sent_at >= timeout) {
                ++timeouts_;
                shrink_ranges(piece);
                lose(peer_ + ": a command was not answered within " +
                     std::to_string(spec_.remote.timeout_ms) + " ms");
                break;
            }
        }
    }
    end_overdue();
    pump();
}

// --- The rest of the contract
// --------------------------------------------------------------------------------------------

base::Result<std::uint64_t> Remote::resize(std::optional<std::uint64_t> bytes) {
    if (bytes && *bytes != description_.size_bytes) {
        return base::Error{"E_UNSUPPORTED",
                           describe_device(spec_) + "the size is the remote namespace's; change it there"};
    }
    if (state_ == State::serving) {
        controller_->look_again();
    }
    return description_.size_bytes;
}

void Remote::command(const Command& command, CommandDone done) {
    if (command.verb != "reconnect") {
        Device::command(command, std::move(done));
        return;
    }
    reconnect_now_ = true;
    if (state_ == State::pausing) {
        pause_timer_.start_after(0);
    } else {
        lose("asked to connect again");
    }
    done({});
}

void Remote::closing_checked() {
    pause_timer_.stop();
    for (Transfer* transfer = first_; transfer != nullptr;) {
        Transfer& waiting = *transfer;
        transfer = transfer->next;
        const std::uint32_t pieces = waiting.pieces;
        drop_waiting_pieces(waiting);
        if (waiting.issued && waiting.pieces == pieces) {
            continue;  // all of it is at the controller, whose answer counts
        }
        if (waiting.in_line) {
            leave_line(waiting);
        }
        waiting.issued = true;
        waiting.status = Status::gone;
        if (waiting.pieces == 0) {
            finish(waiting, waiting.status);
            transfer = first_;  // who was told may have ended others
        }
    }
}

void Remote::close_checked(std::function<void()> closed) {
    look_timer_.stop();
    pause_timer_.stop();
    if (controller_ == nullptr) {
        state_ = State::closed;
        environment_.reactor.post(std::move(closed));
        return;
    }
    closed_ = std::move(closed);
    if (state_ != State::ending) {
        state_ = State::ending;
        controller_->close(true);
    }
}

Device::Health Remote::health() const {
    if (state_ == State::serving) {
        return {};
    }
    if (foreign_) {
        return {"foreign", reason_};
    }
    if (served_) {
        return {"lost", reason_};
    }
    return {"connecting", reason_.empty() ? "connecting to " + peer_ : reason_};
}

void Remote::tell(Details& details) const {
    details.emplace_back("address", peer_);
    details.emplace_back("subsystem", spec_.remote.subnqn);
    details.emplace_back("generation", generation_);
    details.emplace_back("queues",
                         std::uint64_t{state_ == State::serving ? controller_->io_queue_count() : 0u});
    details.emplace_back("at_controller", std::uint64_t{at_controller_});
    details.emplace_back("resent", resent_);
    details.emplace_back("retried", retried_);
    details.emplace_back("timeouts", timeouts_);
    details.emplace_back("cache_losses", losses_);
    details.emplace_back("mean_latency_us",
                         std::uint64_t{answers_ == 0 ? 0 : waited_ / answers_ / base::microsecond});
    if (!last_error_.empty()) {
        details.emplace_back("last_error", last_error_);
    }
}

void Remote::say(const char* level, const std::string& message) {
    if (environment_.log) {
        environment_.log(level, "nvme", describe_device(spec_) + message);
    }
}

}  // namespace remote

MadeDevice make_remote(Environment& environment, const DeviceSpec& spec) {
    auto device = std::make_unique<remote::Remote>(environment, spec);
    if (const auto started = device->start(); !started.ok()) {
        return started.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
