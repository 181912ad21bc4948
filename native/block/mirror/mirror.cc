#include "block/mirror/mirror.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <new>

#include "base/check.h"

namespace block {

namespace mirror {

namespace {

// A leg that could not be read is tried again so often while nothing can be served.
constexpr base::Nanoseconds retry_interval = base::second;

std::string text_of(const Uuid& uuid) {
    std::string text;
    for (const std::uint8_t byte : uuid) {
        char digits[3];
        std::snprintf(digits, sizeof(digits), "%02x", byte);
        text += digits;
    }
    return text;
}

}  // namespace

const char* name_of(LegState state) {
    switch (state) {
        case LegState::absent: return "absent";
        case LegState::reading: return "reading";
        case LegState::found: return "found";
        case LegState::refused: return "refused";
        case LegState::diverged: return "diverged";
        case LegState::stale: return "stale";
        case LegState::joining: return "joining";
        case LegState::resyncing: return "resyncing";
        case LegState::promoting: return "promoting";
        case LegState::up: return "up";
        case LegState::leaving: return "leaving";
    }
    return "?";
}

Mirror::Mirror(const Environment& environment, const DeviceSpec& spec)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      rate_(spec.mirror.resync_bytes_per_second),
      changed_(
          *this,
          [](reactor::Deferred& deferred) { static_cast<MirrorDeferred&>(deferred).mirror.tell_changed(); }),
      batch_start_(
          *this,
          [](reactor::Deferred& deferred) { static_cast<MirrorDeferred&>(deferred).mirror.run_batch(); }),
      sweep_timer_(*this, [](reactor::Timer& timer) { static_cast<MirrorTimer&>(timer).mirror.sweep(); }),
      resync_timer_(*this,
                    [](reactor::Timer& timer) { static_cast<MirrorTimer&>(timer).mirror.resync_step(); }),
      retry_timer_(*this,
                   [](reactor::Timer& timer) {
                       Mirror& mirror = static_cast<MirrorTimer&>(timer).mirror;
                       for (const auto& leg : mirror.legs_) {
                           if (leg->state == LegState::absent) {
                               mirror.begin_reading(*leg);
                           }
                       }
                       mirror.try_start();
                       mirror.retry_soon();
                   }),
      scrub_timer_(*this,
                   [](reactor::Timer& timer) { static_cast<MirrorTimer&>(timer).mirror.scrub_step(); }) {
    for (Lane& lane : lanes_) {
        lane.mirror = this;
        lane.hold.lane = &lane;
    }
    for (Lane* lane : {&repair_lane_, &scrub_.lane}) {
        lane->mirror = this;
        lane->hold.lane = lane;
    }
    description_.block_bytes = spec.known.block_bytes != 0 ? spec.known.block_bytes : spec.block_bytes;
    description_.size_bytes = spec.known.size_bytes;
    description_.read_only = spec.read_only;
    waiting_for_ = "the legs have not been read yet";
}

Mirror::~Mirror() = default;

base::Result<Leg*> Mirror::add_leg_object(const std::string& device) {
    Device* const found = environment_.find(device);
    if (found == nullptr) {
        return base::Error{"E_NOT_FOUND", describe_device(spec_) + "there is no device \"" + device +
                                              "\" to be a leg; create it first"};
    }
    auto claim =
        Claim::take(*found, read_only() ? Access::read_only : Access::read_write, "device " + spec_.name);
    if (!claim.ok()) {
        return claim.error();
    }
    legs_.push_back(std::make_unique<Leg>());
    Leg& leg = *legs_.back();
    leg.claim = claim.take();
    leg.name = device;
    leg.claim.on_change([this, &leg] { leg_changed(leg); });
    return &leg;
}

base::Result<void> Mirror::start() {
    for (const PartSpec& part : spec_.parts) {
        if (auto leg = add_leg_object(part.device); !leg.ok()) {
            return leg.error();
        }
    }
    describe_from_legs();
    patient_until_ = environment_.reactor.now() + patience;
    for (const auto& leg : legs_) {
        begin_reading(*leg);
    }
    return {};
}

Leg* Mirror::leg_named(const std::string& name) {
    for (const auto& leg : legs_) {
        const bool is = leg->name == name || leg->claim.device()->name() == name;
        if (is && leg->state != LegState::leaving) {
            return leg.get();
        }
    }
    return nullptr;
}

Leg* Mirror::leg_of_slot(std::uint32_t slot) {
    for (const auto& leg : legs_) {
        if (leg->slot == static_cast<int>(slot)) {
            return leg.get();
        }
    }
    return nullptr;
}

std::uint32_t Mirror::mask_of(LegState state) const {
    std::uint32_t mask = 0;
    for (const auto& leg : legs_) {
        mask |= leg->state == state ? leg->bit() : 0;
    }
    return mask;
}

std::uint32_t Mirror::writable_mask() const {
    return mask_of(LegState::up) | mask_of(LegState::resyncing) | mask_of(LegState::promoting);
}

// Every slot whose leg does not get the host's writes.
std::uint32_t Mirror::stale_mask() const {
    std::uint32_t mask = 0;
    for (std::uint32_t slot = 0; slot < legs_max; ++slot) {
        mask |= table_[slot].role != Role::none ? 1u << slot : 0;
    }
    return mask & ~writable_mask();
}

std::uint32_t Mirror::up_count() const {
    return static_cast<std::uint32_t>(std::popcount(mask_of(LegState::up)));
}

// What all legs can do; their sizes are the business of the superblock. What was promised once stays
// promised.
void Mirror::describe_from_legs() {
    Description description = description_;
    description.physical_block_bytes = description.block_bytes;
    description.volatile_cache = false;
    description.can_deallocate = description.deallocated_reads_zero = description.can_write_zeroes = true;
    description.optimal_io_bytes = 0;
    description.data_alignment = 1;
    for (const auto& leg : legs_) {
        const Description& below = leg->claim.device()->describe();
        description.physical_block_bytes =
            std::max({description.physical_block_bytes, below.physical_block_bytes});
        description.volatile_cache = description.volatile_cache || below.volatile_cache;
        // What is not defined after it would differ between the legs.
        description.can_deallocate =
            description.can_deallocate && below.can_deallocate && below.deallocated_reads_zero;
        description.can_write_zeroes = description.can_write_zeroes && below.can_write_zeroes;
        description.optimal_io_bytes = std::max(description.optimal_io_bytes, below.optimal_io_bytes);
        description.data_alignment = std::max(description.data_alignment, below.data_alignment);
        description.rotational = description.rotational || below.rotational;
        if (!ever_served_ && spec_.known.block_bytes == 0 && below.size_bytes != 0) {
            description.block_bytes = std::max(description.block_bytes, below.block_bytes);
        }
    }
    description.deallocated_reads_zero = description.can_deallocate;
    set_description(description);
}

// --- Requests to legs
// ------------------------------------------------------------------------------------------

void Mirror::ask(Leg& leg, const Wish& wish, Ended ended) { ask_io(leg, wish, std::move(ended), nullptr); }

void Mirror::ask_io(Leg& leg, const Wish& wish, Ended ended, LegIo** place) {
    if (free_ios_.empty()) {
        ios_.emplace_back();
        free_ios_.push_back(&ios_.back());
    }
    LegIo& io = *free_ios_.back();
    free_ios_.pop_back();
    io.owner = this;
    io.leg = &leg;
    io.ended = std::move(ended);
    io.buffer = wish.buffer;
    io.abandonable = wish.buffer != nullptr || wish.data == nullptr;
    io.abandoned = io.cancelled = false;
    if (io.buffer != nullptr) {
        buffers_.hold(*io.buffer);
    }
    io.action = wish.action;
    io.offset = wish.offset;
    io.length = wish.length;
    io.data = wish.data;
    io.force_unit_access = wish.force_unit_access;
    io.may_deallocate = wish.may_deallocate;
    io.done = io_done;
    io.next = nullptr;
    io.previous = leg.last_io;
    (leg.last_io != nullptr ? leg.last_io->next : leg.first_io) = &io;
    leg.last_io = &io;
    ++leg.in_flight;
    ++ios_in_flight_;
    if (place != nullptr) {
        *place = &io;
    }
    leg.claim.device()->submit(io);
}

void Mirror::io_done(Request& request, Status status) {
    auto& io = static_cast<LegIo&>(request);
    Mirror& self = *static_cast<Mirror*>(io.owner);
    Leg& leg = *io.leg;
    (io.previous != nullptr ? io.previous->next : leg.first_io) = io.next;
    (io.next != nullptr ? io.next->previous : leg.last_io) = io.previous;
    --leg.in_flight;
    Buffer* const buffer = io.buffer;
    const Ended ended = std::move(io.ended);
    io.ended = nullptr;
    const bool abandoned = io.abandoned;
    self.free_ios_.push_back(&io);
    if (!abandoned) {
        ended(leg, status);
    }
    if (buffer != nullptr) {
        self.buffers_.release(*buffer);
    }
    // Only now: who is told may ask again, and the mirror must be there until then.
    --self.ios_in_flight_;
    if (leg.in_flight == 0) {
        self.leg_ran_dry(leg);
    }
    self.finish_close();
}

// What was asked of the leg has failed, whatever its device still does with it. What lies in the host's
// memory is cancelled and awaited.
void Mirror::abandon(Leg& leg) {
    std::vector<Ended> ended;
    for (LegIo* io = leg.first_io; io != nullptr; io = io->next) {
        if (io->abandonable && !io->abandoned) {
            io->abandoned = true;
            ended.push_back(std::move(io->ended));
        }
    }
    for (bool again = true; again;) {
        again = false;
        for (LegIo* io = leg.first_io; io != nullptr && !again; io = io->next) {
            if (!io->cancelled && io->phase == Request::Phase::submitted) {
                io->cancelled = again = true;
                io->device->cancel(*io);
            }
        }
    }
    for (const Ended& one : ended) {
        one(leg, Status::gone);
    }
}

void Mirror::leg_ran_dry(Leg& leg) {
    if (leg.state == LegState::leaving) {
        // Whoever asked may still look at it.
        environment_.reactor.post([this, gone = &leg] {
            std::erase_if(legs_, [gone](const auto& one) { return one.get() == gone; });
        });
    } else if (leg.join_later) {
        leg.join_later = false;
        begin_reading(leg);
    }
}

// Its device has another size, or can be reached again.
void Mirror::leg_changed(Leg& leg) {
    if (closing()) {
        return;
    }
    const bool away =
        leg.state == LegState::absent || leg.state == LegState::stale || leg.state == LegState::refused;
    if (away && !leg.detached && leg.claim.device()->describe().size_bytes != 0) {
        begin_reading(leg);
    }
}

void Mirror::answer(Leg& leg, base::Result<void> result) {
    if (leg.waiter) {
        CommandDone done = std::move(leg.waiter);
        leg.waiter = nullptr;
        done(std::move(result));
    }
}

void Mirror::retry_soon() {
    const bool absent = std::any_of(legs_.begin(), legs_.end(),
                                    [](const auto& leg) { return leg->state == LegState::absent; });
    if ((absent || !serving_) && !closing()) {
        retry_timer_.start_after(retry_interval);
    }
}

// --- Requests of the host
// --------------------------------------------------------------------------------------

void Mirror::OpList::append(Op& op) {
    op.list = this;
    op.next = nullptr;
    op.previous = last;
    (last != nullptr ? last->next : first) = &op;
    last = &op;
}

void Mirror::OpList::remove(Op& op) {
    (op.previous != nullptr ? op.previous->next : first) = op.next;
    (op.next != nullptr ? op.next->previous : last) = op.previous;
    op.list = nullptr;
}

Mirror::Op& Mirror::take_op(Request& request) {
    if (free_ops_.empty()) {
        free_ops_.push_back(&ops_.emplace_back());
    }
    Op& op = *free_ops_.back();
    free_ops_.pop_back();
    op = {};
    op.above = &request;
    op.hold.op = &op;
    ::new (static_cast<void*>(request.scratch)) Op*(&op);
    return op;
}

void Mirror::submit_checked(Request& request) {
    ++host_in_flight_;
    begin(take_op(request));
}

void Mirror::begin(Op& op) {
    if (!serving_) {
        park_or_fail(op);
    } else if (op.above->action == Action::read) {
        begin_read(op);
    } else if (op.above->action == Action::flush) {
        begin_flush(op);
    } else {
        begin_change(op);
    }
}

void Mirror::end_op(Op& op, Status status) {
    Request& above = *op.above;
    EK_CHECK(op.list == nullptr && op.hold.state == ExtentHold::State::idle,
             "an ended request is in no line");
    free_ops_.push_back(&op);
    --host_in_flight_;
    host_seen_ = environment_.reactor.now();
    complete(above, status);
}

void Mirror::park(Op& op) { parked_.append(op); }

// No leg can be asked at present.
void Mirror::park_or_fail(Op& op) {
    const bool fails = stuck_ && spec_.mirror.when_lost == MirrorSpec::WhenLost::fail;
    if (closing() || fails) {
        end_op(op, Status::gone);
    } else {
        park(op);
    }
}

void Mirror::run_parked() {
    std::vector<Op*> all;
    for (Op* op = parked_.first; op != nullptr; op = op->next) {
        all.push_back(op);
    }
    for (Op* op : all) {
        if (op->list == &parked_) {
            parked_.remove(*op);
            begin(*op);
        }
    }
}

void Mirror::cancel_checked(Request& request) {
    Op& op = **std::launder(reinterpret_cast<Op**>(request.scratch));
    const bool untouched = request.action == Action::read || op.done_bytes == 0;
    if (op.list == &parked_ && untouched) {
        parked_.remove(op);
        end_op(op, Status::aborted);
    } else if (op.list == &waiting_extent_ && untouched) {
        waiting_extent_.remove(op);
        extents_.release(op.hold);
        end_op(op, Status::aborted);
    } else if (op.reading != nullptr && !op.cancelled) {
        op.cancelled = true;
        op.reading->device->cancel(*op.reading);
    }
}

// --- Closing
// ---------------------------------------------------------------------------------------------------

void Mirror::closing_checked() {
    retry_timer_.stop();
    scrub_.stopping = true;
    while (parked_.first != nullptr) {
        Op& op = *parked_.first;
        parked_.remove(op);
        end_op(op, Status::gone);
    }
}

// Nothing of the host's is under way: the intents are taken back, so that the next start has nothing to copy.
void Mirror::close_checked(std::function<void()> closed) {
    closed_ = std::move(closed);
    resync_timer_.stop();
    scrub_timer_.stop();
    sweep_timer_.stop();
    repairs_.clear();
    for (const auto& leg : legs_) {
        answer(*leg, base::Error{"E_BUSY", describe_device(spec_) + "it is being closed"});
    }
    closing_now_ = true;
    if (serving_ && !read_only() && map_.intents() != 0) {
        sweep();
    }
    environment_.reactor.post([this] { finish_close(); });
}

void Mirror::finish_close() {
    const bool busy = ios_in_flight_ != 0 || batch_start_.scheduled() || batching_ || committing_ ||
                      sweeping_ || lanes_busy_ != 0 || repair_lane_.busy || scrub_.lane.busy;
    if (!closing_now_ || busy || !closed_) {
        return;
    }
    closing_now_ = false;
    serving_ = false;
    for (auto& [version, done] : settling_) {
        done(base::Error{"E_BUSY", describe_device(spec_) + "it is being closed"});
    }
    settling_.clear();
    for (const auto& leg : legs_) {
        leg->claim.release();
    }
    environment_.reactor.post(std::move(closed_));
    closed_ = nullptr;
}

// --- For people
// ------------------------------------------------------------------------------------------------

base::Result<std::uint64_t> Mirror::resize(std::optional<std::uint64_t> bytes) {
    if (bytes && *bytes != description_.size_bytes) {
        return base::Error{"E_UNSUPPORTED",
                           describe_device(spec_) + "a mirror keeps the size that it was made with"};
    }
    return description_.size_bytes;
}

std::vector<std::string> Mirror::parts() const {
    std::vector<std::string> names;
    for (const auto& leg : legs_) {
        if (leg->claim.device() != nullptr) {
            names.push_back(leg->claim.device()->name());
        }
    }
    return names;
}

std::string Mirror::identity() const { return "uuid." + text_of(spec_.mirror.volume); }

Device::Health Mirror::health() const {
    if (!serving_) {
        if (foreign_) {
            return {"foreign", waiting_for_};
        }
        if (split_) {
            return {"diverged", waiting_for_};
        }
        if (!stuck_ && !ever_served_) {
            return {"reading metadata", waiting_for_};
        }
        const bool fails = spec_.mirror.when_lost == MirrorSpec::WhenLost::fail;
        return {fails ? "failed" : "frozen", waiting_for_};
    }
    std::string reason;
    bool degraded = false;
    bool resyncing = false;
    for (const auto& leg : legs_) {
        if (leg->state != LegState::up) {
            degraded = true;
            resyncing = resyncing || leg->writable() || leg->state == LegState::joining;
            reason += (reason.empty() ? "" : "; ") + leg->name + " is " + name_of(leg->state) +
                      (leg->reason.empty() ? "" : ": " + leg->reason);
        }
    }
    if (resyncing || (map_.unequal_regions() != 0 && up_count() > 1)) {
        return {"resyncing", reason.empty() ? "regions that were being written are made equal" : reason};
    }
    return {degraded ? "degraded" : "ok", reason};
}

void Mirror::tell(Details& details) const {
    details.emplace_back("volume", text_of(spec_.mirror.volume));
    details.emplace_back("events", events_);
    details.emplace_back("region_bytes", std::uint64_t{geometry_.region_bytes});
    details.emplace_back("dirty_bytes", std::uint64_t{map_.intents()} * geometry_.region_bytes);
    details.emplace_back("unequal_bytes", std::uint64_t{map_.unequal_regions()} * geometry_.region_bytes);
    const std::uint64_t left = serving_ ? resync_left() : 0;
    details.emplace_back("resync.left_bytes", left);
    details.emplace_back("resync.done_bytes", resynced_bytes_);
    details.emplace_back("resync.bytes_per_second_max", rate_);
    if (resync_active_ && resynced_bytes_ != 0) {
        const base::Nanoseconds taken = environment_.reactor.now() - resync_begun_;
        const double per_byte = static_cast<double>(taken) / static_cast<double>(resynced_bytes_);
        details.emplace_back("resync.seconds_left",
                             static_cast<std::uint64_t>(per_byte * static_cast<double>(left) / 1e9) + 1);
    }
    details.emplace_back("scrub.state", std::string(scrub_.running ? "running" : "idle"));
    details.emplace_back("scrub.runs", scrub_.runs);
    details.emplace_back("scrub.checked_bytes", scrub_.offset);
    details.emplace_back("scrub.different_blocks", scrub_.differences);
    details.emplace_back("scrub.repaired_blocks", scrub_.repaired);
    for (const auto& leg : legs_) {
        const std::string prefix = "leg." + leg->name + ".";
        details.emplace_back(prefix + "state", std::string(leg->detached ? "detached" : name_of(leg->state)));
        details.emplace_back(prefix + "reason", leg->reason);
        details.emplace_back(prefix + "uuid", text_of(leg->uuid));
        const std::uint64_t age = leg->keeps_metadata() ? events_ : leg->found ? leg->found->events : 0;
        details.emplace_back(prefix + "events", age);
        const std::uint64_t missing =
            leg->slot < 0 || leg->state == LegState::up
                ? 0
                : map_.missing_regions(static_cast<std::uint32_t>(leg->slot)) * geometry_.region_bytes;
        details.emplace_back(prefix + "dirty_bytes", missing);
        details.emplace_back(prefix + "in_flight", std::uint64_t{leg->in_flight});
        details.emplace_back(prefix + "read_errors", leg->read_errors);
        details.emplace_back(prefix + "write_errors", leg->write_errors);
        details.emplace_back(prefix + "repaired", leg->repaired);
    }
}

}  // namespace mirror

MadeDevice make_mirror(Environment& environment, const DeviceSpec& spec) {
    if (spec.parts.empty() || spec.parts.size() > mirror::legs_max) {
        return base::Error{"E_INVALID", describe_device(spec) + "a mirror has 1 to " +
                                            std::to_string(mirror::legs_max) + " legs, not " +
                                            std::to_string(spec.parts.size())};
    }
    for (std::size_t i = 0; i < spec.parts.size(); ++i) {
        for (std::size_t other = 0; other < i; ++other) {
            if (spec.parts[i].device == spec.parts[other].device) {
                return base::Error{"E_INVALID", describe_device(spec) + "\"" + spec.parts[i].device +
                                                    "\" is named twice as a leg"};
            }
        }
    }
    const std::uint32_t region = spec.mirror.region_bytes;
    if (region != 0 && (!std::has_single_bit(region) || region < mirror::region_bytes_min ||
                        region > mirror::region_bytes_max)) {
        return base::Error{"E_INVALID", describe_device(spec) +
                                            "a region has a power of two of bytes between 4096 and 2^30, "
                                            "not " +
                                            std::to_string(region)};
    }
    if (spec.mirror.checksums) {
        return base::Error{"E_UNSUPPORTED",
                           describe_device(spec) + "checksums are not kept by this version; leave them out"};
    }
    auto device = std::make_unique<mirror::Mirror>(environment, spec);
    if (auto started = device->start(); !started.ok()) {
        return started.error();
    }
    return std::unique_ptr<Device>(std::move(device));
}

}  // namespace block
