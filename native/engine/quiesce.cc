// A planned replacement, seen from both of its ends.
//
// The old process comes to rest: no socket is read any more, commands get a moment to end, what is live is
// described (carry.h) and the description stored with the keeper. From then on this thread does nothing but
// listen to the keeper, so nothing that was described can change before the keeper kills the process. If the
// replacement fails, the description is taken back and everything goes on.
//
// The new process, if it cannot read the arena, rebuilds its own from the description before anything of it
// is stored, so it may be killed at any moment: either its successor begins at the same point, or it finds a
// complete arena. A successor with the same layout needs no description and ignores it.

#include <unistd.h>

#include <algorithm>
#include <cinttypes>
#include <cstdio>

#include "base/crash_point.h"
#include "engine/arena_layout.h"
#include "engine/carry.h"
#include "engine/engine.h"
#include "nvme/controller.h"
#include "transport/stream_position.h"

namespace engine {

namespace {

// What is simply executed again need not be waited for long: hosts wait meanwhile.
constexpr base::Nanoseconds quiet_wait = 5 * base::millisecond;
// What has begun and cannot be begun again, or must not be executed again by policy.
constexpr base::Nanoseconds end_wait = 150 * base::millisecond;
// The keeper kills at once. If it does not, hosts must not wait for ever.
constexpr base::Nanoseconds rest_max = 1500 * base::millisecond;

// Must end here if it can: a successor would not do the same again.
bool needs_end(transport::TcpConnection& connection) {
    const nvme::Controller* controller = connection.queue().controller();
    const bool replayed = controller == nullptr || connection.queue().qid() == 0 ||
                          controller->subsystem().spec().in_flight == nvme::InFlight::replay;
    const auto commands = connection.queue().commands();
    return std::any_of(commands.begin(), commands.end(), [&](const nvme::Command& command) {
        return command.executing && (!replayed || command.record->progress != 0);
    });
}

bool is_idle(transport::TcpConnection& connection) {
    const nvme::Controller* controller = connection.queue().controller();
    const std::uint32_t parked =
        controller != nullptr && connection.queue().qid() == 0 ? controller->parked_requests() : 0;
    return connection.queue().executing_count() <= parked && !connection.sends();
}

}  // namespace

// Of the data pool in the keeper's store: each layout has its own, so that no other's is taken for it.
std::string Engine::data_name(const durable::Arena& arena) {
    char name[32];
    std::snprintf(name, sizeof name, "%s%016" PRIx64, data_prefix, arena.header().fingerprint);
    return name;
}

// --- the old process ---

void Engine::come_to_rest(base::Nanoseconds deadline, bool describe) {
    if (rest_) {
        if (rest_->described) {
            keeper_->client().quiesced();
        }
        return;
    }
    const base::Nanoseconds now = base::monotonic_now();
    rest_ = std::make_unique<Rest>();
    rest_->describe = describe;
    // A successor that reads the arena finds every command in it.
    rest_->quiet_by = describe ? std::min(deadline, now + quiet_wait) : now;
    rest_->end_by = std::min(deadline, now + end_wait);
    transport_->stop_reading();
    post([this] { check_rest(); });
}

bool Engine::is_quiet(bool needs_end_only) {
    for (std::uint32_t slot = 0; slot < options_.connections_max; ++slot) {
        transport::TcpConnection* connection = transport_->connection(slot);
        if (connection == nullptr || connection->ending()) {
            continue;
        }
        if (needs_end_only ? needs_end(*connection) : !is_idle(*connection)) {
            return false;
        }
    }
    return true;
}

void Engine::check_rest() {
    if (!rest_ || !transport_) {
        return;
    }
    const base::Nanoseconds now = base::monotonic_now();
    const bool late = now >= rest_->end_by;
    const bool reading = transport_->receives();
    const bool quiet = is_quiet(now >= rest_->quiet_by);
    if (!rest_->over && !late && (reading || !quiet)) {
        post([this] { check_rest(); });
        return;
    }
    if (!rest_->over) {
        if (rest_->describe) {
            be_described();
        }
        rest();
    }
    // In the next iteration, with a clock that knows how much time has passed.
    post([this] {
        rest_.reset();
        if (!transport_) {
            return;
        }
        for (std::uint32_t slot = 0; slot < options_.controllers_max; ++slot) {
            if (nvme::Controller* controller = target_->controller_at(slot); controller != nullptr) {
                controller->contact();  // the pause was ours
            }
        }
        transport_->go_on_reading();
    });
}

void Engine::be_described() {
    const std::uint64_t mark = base::monotonic_now();
    std::string text = describe({.arena = arena_,
                                 .options = options_,
                                 .transport = *transport_,
                                 .pool_name = data_name(arena_),
                                 .mark = mark});
    // A description that cannot be stored is missed only by a successor of another layout.
    if (auto stored = keeper_->store_text(description_name, text); !stored) {
        log("error", "keeper", stored.error().message);
    } else {
        arena_.header().counters[counter_described] = mark;
    }
}

// Until the end, or until the replacement has failed.
void Engine::rest() {
    rest_->described = true;
    keeper_->client().quiesced();
    const base::Nanoseconds limit = base::monotonic_now() + rest_max;
    while (!rest_->over && keeper_->client().connected() && base::monotonic_now() < limit) {
        keeper_->client().converse(limit);
    }
    arena_.header().counters[counter_described] = 0;
    keeper_->forget_memories([](const std::string& name) { return name == description_name; });
    log("warn", "keeper", "this process was to be replaced and was not: it goes on");
}

// The replacement failed.
void Engine::go_on() {
    if (rest_) {
        rest_->over = true;
    }
}

// --- the new process ---

void Engine::rebuild() {
    const auto other = durable::Arena::peek(keeper_->memory("arena"));
    auto text = CarryText::parse(keeper_->stored_text(description_name));
    if (!text) {
        loss_ = "the arena was left by a version with another layout, and " + text.error().message;
        return;
    }
    const CarryOrigin origin = origin_of(text.value());
    if (!other || origin.mark == 0 || other->counters[counter_described] != origin.mark) {
        loss_ = "the arena was left by a version with another layout, which had not come to rest";
        return;
    }
    auto pool = durable::MemoryFile::open(keeper_->memory(origin.pool_name), origin.pool_name, 0, 0);
    if (!pool || !pool.value().carried()) {
        loss_ = "the arena was left by a version with another layout, and its data pool is gone";
        return;
    }
    CarryTarget target{.arena = arena_,
                       .options = options_,
                       .buffers = *buffers_,
                       .old_pool = pool.value().mapped(),
                       .received = [this](std::uint64_t id) -> std::optional<std::uint64_t> {
                           for (const KeeperLink::Connection& connection : keeper_->connections()) {
                               if (connection.id == id) {
                                   return transport::read_stream_position(connection.socket).received;
                               }
                           }
                           return std::nullopt;
                       }};
    const CarryResult result = restore(text.value(), target);
    rebuilt_ = true;
    loss_ = "it was not described by the version before";
    lost_.insert(result.lost.begin(), result.lost.end());
    arena_.header().counters[counter_generation] = result.discovery_generation;
    log("info", "keeper",
        std::to_string(result.connections) + " connections of a version with another layout were rebuilt");
    EK_CRASH_POINT("engine.go.rebuilt");
}

void Engine::explain_loss(std::uint64_t connection, std::string& why) const {
    if (const auto found = lost_.find(connection); found != lost_.end()) {
        why = found->second;
    } else if (other_layout_ && why == "no record of it") {
        why = loss_;
    }
}

}  // namespace engine
