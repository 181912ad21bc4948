#include "block/migration/device.h"

#include <sys/mman.h>

#include <algorithm>
#include <charconv>
#include <new>
#include <utility>

#include "base/check.h"
#include "base/crash_point.h"

namespace block::migration {

namespace {

constexpr std::uint32_t attempts_max = 3;
constexpr base::Nanoseconds window = 2 * base::second;

}  // namespace

void Migration::List::add(Child& child) {
    child.next = nullptr;
    child.previous = last;
    (last != nullptr ? last->next : first) = &child;
    last = &child;
}

void Migration::List::remove(Child& child) {
    (child.previous != nullptr ? child.previous->next : first) = child.next;
    (child.next != nullptr ? child.next->previous : last) = child.previous;
    child.next = child.previous = nullptr;
}

Migration::Migration(const Environment& environment, const DeviceSpec& spec, Claim source, Claim destination)
    : Device(spec.name, spec.kind),
      environment_(environment),
      spec_(spec),
      source_(std::move(source)),
      destination_(std::move(destination)),
      rate_(spec.migration.bytes_per_second),
      pace_(environment_.reactor, *this) {
    const auto changed = [this] {
        if (closing()) {
            return;
        }
        describe_anew();
        if (const std::string why = misfit(); has_map_ && !why.empty()) {
            fail(why);
        }
        look_for_losses();
    };
    source_.on_change(changed);
    destination_.on_change(changed);
    describe_anew();
}

Migration::~Migration() {
    if (memory_ != nullptr) {
        munmap(memory_, copiers_max * step_bytes);
    }
}

base::Result<void> Migration::open() {
    const std::string why = misfit();
    if (description_.size_bytes == 0 || (spec_.migration.fresh && !why.empty())) {
        const bool known = description_.size_bytes != 0 && destination_.device()->describe().size_bytes != 0;
        return base::Error{known ? "E_INVALID" : "E_NOT_READY", describe_device(spec_) + why};
    }
    auto memory = environment_.memory(spec_.name + map_suffix, CopyMap::bytes_for(description_.size_bytes));
    if (!memory) {
        return memory.error();
    }
    void* const pages =
        mmap(nullptr, copiers_max * step_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED) {
        return base::Error{"E_NO_MEMORY", describe_device(spec_) + "no memory to copy with"};
    }
    memory_ = static_cast<std::byte*>(pages);
    for (std::size_t index = 0; index < copiers_max; ++index) {
        Copier& copier = copiers_[index];
        copier.owner = this;
        copier.memory = memory_ + index * step_bytes;
        copier.done = [](Request& request, Status status) {
            auto& its = static_cast<Copier&>(request);
            its.owner->step_done(its, status);
        };
    }
    map_ = CopyMap(memory.value().memory, description_.size_bytes, spec_.migration.fresh);
    has_map_ = true;
    told_complete_ = map_.complete();
    losses_ = source_.device()->losses() + destination_.device()->losses();
    window_began_ = environment_.reactor.now();
    flush_.owner = this;
    if (map_.failed()) {
        reason_ = "the destination misses writes since an earlier failure";
    } else if (!why.empty()) {
        fail(why);
    }
    pace_.start_after(0);
    return {};
}

// Why the destination cannot take the source's place; empty if it can.
std::string Migration::misfit() const {
    const Description& from = source_.device()->describe();
    const Description& to = destination_.device()->describe();
    const std::string name = "the destination \"" + destination_.device()->name() + "\" ";
    if (from.size_bytes == 0) {
        return "the size of the source is not known yet";
    }
    if (has_map_ && (from.size_bytes + map_.region_bytes() - 1) / map_.region_bytes() != map_.regions()) {
        return "the source has another size now";
    }
    if (to.size_bytes == 0) {
        return name + "has not told its size yet";
    }
    if (to.size_bytes < from.size_bytes) {
        return name + "has " + std::to_string(to.size_bytes) + " bytes, the source " +
               std::to_string(from.size_bytes);
    }
    if (to.block_bytes != from.block_bytes) {
        return name + "has blocks of " + std::to_string(to.block_bytes) + " bytes, the source of " +
               std::to_string(from.block_bytes);
    }
    return to.read_only ? name + "can only be read" : "";
}

void Migration::describe_anew() {
    Description merged = source_.device()->describe();
    const Description& to = destination_.device()->describe();
    merged.writes_inline = false;
    merged.read_only = merged.read_only || spec_.read_only;
    if (to.size_bytes != 0) {
        merged.data_alignment = std::max(merged.data_alignment, to.data_alignment);
        merged.can_deallocate = merged.can_deallocate && to.can_deallocate;
        merged.can_write_zeroes = merged.can_write_zeroes && to.can_write_zeroes;
        merged.deallocated_reads_zero = merged.deallocated_reads_zero && to.deallocated_reads_zero;
        merged.volatile_cache = merged.volatile_cache || to.volatile_cache;
    }
    set_description(merged);
}

base::Result<std::uint64_t> Migration::resize(std::optional<std::uint64_t> bytes) {
    if (bytes && *bytes != description_.size_bytes) {
        return base::Error{
            "E_UNSUPPORTED",
            describe_device(spec_) + "its size stays while it is copied; finish or cancel the migration"};
    }
    return description_.size_bytes;
}

Device::Health Migration::health() const {
    if (source_.device() == nullptr) {
        return {"closing", ""};
    }
    if (const Health its = source_.device()->health(); its.state != "ok") {
        return its;
    }
    if (!reason_.empty()) {
        return {"failed", "the migration stopped, the source goes on: " + reason_};
    }
    return {"ok", map_.complete() ? "copied" : "being copied"};
}

std::vector<std::string> Migration::parts() const {
    if (source_.device() == nullptr) {
        return {};
    }
    return {source_.device()->name(), destination_.device()->name()};
}

void Migration::tell(Details& details) const {
    const std::uint64_t total = description_.size_bytes;
    const std::uint64_t copied = std::min(total, map_.copied() * map_.region_bytes());
    details.emplace_back("state", !reason_.empty() ? "failed" : map_.complete() ? "copied" : "copying");
    details.emplace_back("reason", reason_);
    details.emplace_back("source", source_.device()->name());
    details.emplace_back("destination", destination_.device()->name());
    details.emplace_back("copied_bytes", copied);
    details.emplace_back("total_bytes", total);
    details.emplace_back("bytes_per_second", reason_.empty() && !map_.complete() ? bytes_per_second_ : 0);
    if (bytes_per_second_ != 0 && reason_.empty()) {
        details.emplace_back("remaining_seconds",
                             (total - copied + bytes_per_second_ - 1) / bytes_per_second_);
    }
    details.emplace_back("limit_bytes_per_second", rate_);
}

std::string Migration::trouble(const char* what, std::uint64_t offset, Status status) const {
    return what + (" at block " + std::to_string(offset / description_.block_bytes)) + " (byte " +
           std::to_string(offset) + "): " + name_of(status);
}

void Migration::fail(const std::string& reason) {
    if (!reason_.empty()) {
        return;
    }
    EK_CRASH_POINT("migration.failing");
    map_.set_failed();
    EK_CRASH_POINT("migration.failed");
    reason_ = reason;
    pace_.start_after(0);  // what waits for the lock of a region waits for nothing any more
    tell_changed();
}

base::Result<void> Migration::restart() {
    const bool busy = std::any_of(std::begin(copiers_), std::end(copiers_),
                                  [](const Copier& copier) { return copier.step != Copier::Step::idle; });
    if (reason_.empty() || busy || doubled_.first != nullptr) {
        return base::Error{"E_BUSY",
                           describe_device(spec_) +
                               (reason_.empty() ? "it has not failed" : "it still ends what was under way")};
    }
    if (const std::string why = misfit(); !why.empty()) {
        return base::Error{"E_INVALID", describe_device(spec_) + why};
    }
    reason_.clear();
    told_complete_ = false;
    copy_from_start();
    tell_changed();
    return {};
}

void Migration::copy_from_start() {
    map_.begin_again();
    cursor_ = 0;
    pace_.start_after(0);
}

// What the source lost the destination may have, and nobody knows what of the copy was flushed. A device
// tells of a loss before it completes anything that came after.
void Migration::look_for_losses() {
    const std::uint64_t losses = source_.device()->losses() + destination_.device()->losses();
    if (!has_map_ || std::exchange(losses_, losses) == losses || !reason_.empty()) {
        return;
    }
    EK_CRASH_POINT("migration.lost");
    for (Copier& copier : copiers_) {
        copier.in_vain = copier.step != Copier::Step::idle;
    }
    copy_from_start();
}

void Migration::command(const Command& command, CommandDone done) {
    if (command.verb == "set_rate") {
        const auto found = command.arguments.find("bytes_per_second");
        const std::string text = found == command.arguments.end() ? "" : found->second;
        std::uint64_t rate = 0;
        const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), rate);
        if (error != std::errc() || end != text.data() + text.size()) {
            done(base::Error{"E_INVALID", describe_device(spec_) + "set_rate: bytes_per_second \"" + text +
                                              "\" is not a number"});
            return;
        }
        rate_ = rate;
        next_start_ = 0;
        pace_.start_after(0);
        done({});
    } else if (command.verb == "restart") {
        done(restart());
    } else if (command.verb == "prepare") {
        if (!reason_.empty() || !map_.complete() || prepared_) {
            done(base::Error{
                "E_NOT_READY",
                describe_device(spec_) + (reason_.empty() ? "not everything is copied yet" : reason_)});
            return;
        }
        prepared_ = std::move(done);
        flush_.action = Action::flush;
        flush_.done = [](Request& request, Status status) {
            static_cast<Flush&>(request).owner->answer_prepare(status);
        };
        flush_.under_way = true;
        destination_.device()->submit(flush_);
    } else {
        Device::command(command, std::move(done));
    }
}

void Migration::answer_prepare(Status status) {
    flush_.under_way = false;
    const CommandDone done = std::exchange(prepared_, nullptr);
    if (status != Status::ok && !closing()) {
        fail(std::string("the destination cannot flush: ") + name_of(status));
    }
    if (status != Status::ok) {
        done(
            base::Error{"E_IO", describe_device(spec_) + "the destination cannot flush: " + name_of(status)});
    } else if (!map_.complete()) {
        done(base::Error{"E_NOT_READY",
                         describe_device(spec_) + "the destination may have lost what was copied"});
    } else {
        done({});
    }
    finish_close();
}

// --- requests of the hosts

Migration::Child& Migration::take_child(Request& request) {
    if (free_children_ == nullptr) {
        Child& made = children_.emplace_back();
        made.device = this;
        made.source.child = made.destination.child = &made;
        free_children_ = &made;
    }
    Child& child = *free_children_;
    free_children_ = child.next;
    child.above = &request;
    child.outstanding = 0;
    child.counted = child.held = child.doubled = false;
    child.next = child.previous = nullptr;
    child.source.status = child.destination.status = Status::ok;
    ::new (static_cast<void*>(request.scratch)) Child*(&child);
    return child;
}

bool Migration::locked(std::uint64_t first, std::uint64_t last) const {
    return std::any_of(std::begin(copiers_), std::end(copiers_), [&](const Copier& copier) {
        return copier.step != Copier::Step::idle && copier.region >= first && copier.region <= last;
    });
}

void Migration::put_back(Child& child) {
    child.previous = nullptr;
    child.next = free_children_;
    free_children_ = &child;
}

void Migration::submit_checked(Request& request) {
    Child& child = take_child(request);
    if (request.action == Action::read || (request.action == Action::flush && !map_.complete())) {
        child.outstanding = 1;
        send(child, child.source, source_);
    } else if (request.action == Action::flush) {
        send_both(child);
    } else {
        child.first = request.offset / map_.region_bytes();
        child.last = (request.offset + request.length - 1) / map_.region_bytes();
        begin_write(child);
    }
}

void Migration::begin_write(Child& child) {
    if ((reason_.empty() && locked(child.first, child.last)) || !map_.begin_write(child.first, child.last)) {
        child.held = true;
        held_.add(child);
        return;
    }
    child.counted = true;
    EK_CRASH_POINT("migration.write.counted");
    if (reason_.empty() && map_.any_copied(child.first, child.last)) {
        send_both(child);
    } else {
        child.outstanding = 1;
        send(child, child.source, source_);
    }
}

void Migration::send_both(Child& child) {
    child.outstanding = reason_.empty() ? 2 : 1;
    if (reason_.empty()) {
        child.doubled = true;
        doubled_.add(child);
        send(child, child.destination, destination_);
    }
    send(child, child.source, source_);
}

void Migration::send(Child& child, Side& side, Claim& claim) {
    const Request& above = *child.above;
    side.action = above.action;
    side.force_unit_access = above.force_unit_access && (&side == &child.source || map_.complete());
    side.may_deallocate = above.may_deallocate;
    side.offset = above.offset;
    side.length = above.length;
    side.data = above.data;
    side.done = [](Request& request, Status status) {
        auto& its = static_cast<Side&>(request);
        its.child->device->side_done(its, status);
    };
    claim.device()->submit(side);
}

void Migration::side_done(Side& side, Status status) {
    side.status = status;
    Child& child = *side.child;
    if (--child.outstanding == 0) {
        settle(child);
    }
}

void Migration::settle(Child& child) {
    Request& above = *child.above;
    const Status status = child.source.status;
    const Status copied = child.destination.status;
    if (child.doubled) {
        doubled_.remove(child);
    }
    bool news = false;
    if (child.counted) {
        // Before anybody is told: the destination lacks this, or nobody knows what the source has.
        if (status != Status::ok || (copied != Status::ok && (above.cancelled || closing()))) {
            news = map_.any_copied(child.first, child.last);
            map_.clear_copied(child.first, child.last);
        } else if (copied != Status::ok) {
            fail(trouble("the destination cannot write", above.offset, copied));
        }
        EK_CRASH_POINT("migration.write.answered");
        map_.end_write(child.first, child.last);
        EK_CRASH_POINT("migration.write.ended");
        news = news || held_.first != nullptr || locked(child.first, child.last);
    } else if (copied != Status::ok && !above.cancelled && !closing()) {
        fail(std::string("the destination cannot flush: ") + name_of(copied));
    }
    put_back(child);
    complete(above, status);
    if (news) {
        pump();
    }
}

void Migration::cancel_checked(Request& request) {
    Child& child = **std::launder(reinterpret_cast<Child**>(request.scratch));
    if (child.held) {
        held_.remove(child);
        put_back(child);
        complete(request, Status::aborted);
        return;
    }
    ++child.outstanding;
    for (Side* side : {&child.source, &child.destination}) {
        if (side->phase == Request::Phase::submitted) {
            side->device->cancel(*side);
        }
    }
    if (--child.outstanding == 0) {
        settle(child);
    }
}

void Migration::release_held() {
    List waiting = std::exchange(held_, {});
    while (waiting.first != nullptr) {
        Child& child = *waiting.first;
        waiting.remove(child);
        child.held = false;
        begin_write(child);
    }
}

// --- copying

// Starts what can be started: called whenever something ended, the rate allows more, or there is news.
void Migration::pump() {
    if (pumping_ || closing()) {
        return;
    }
    pumping_ = true;
    release_held();
    const base::Nanoseconds now = environment_.reactor.now();
    for (Copier& copier : copiers_) {
        if (copier.step == Copier::Step::draining && (!copying() || !map_.being_written(copier.region))) {
            if (copying()) {
                begin_step(copier);
            } else {
                end_copy(copier);
            }
        }
        if (copier.step != Copier::Step::idle || !copying()) {
            continue;
        }
        const std::uint64_t region = next_region();
        if (region == map_.regions()) {
            continue;
        }
        if (rate_ != 0 && now < next_start_) {
            pace_.start(next_start_);
            continue;
        }
        cursor_ = region + 1;
        if (rate_ != 0) {
            next_start_ = std::max(next_start_, now) +
                          static_cast<base::Nanoseconds>(static_cast<double>(map_.region_bytes()) * 1e9 /
                                                         static_cast<double>(rate_));
        }
        copier.region = region;
        copier.place = region * map_.region_bytes();
        copier.step_bytes = step_bytes;
        copier.attempts = 0;
        copier.in_vain = false;
        copier.step = Copier::Step::draining;  // locked from here on
        if (!map_.being_written(region)) {
            begin_step(copier);
        }
    }
    pumping_ = false;
    if (has_map_ && reason_.empty() && map_.complete() != told_complete_) {
        told_complete_ = map_.complete();
        tell_changed();
    }
}

// The next one to copy; `regions()`: none that is not being copied.
std::uint64_t Migration::next_region() const {
    const auto busy = static_cast<std::uint64_t>(
        std::count_if(std::begin(copiers_), std::end(copiers_),
                      [](const Copier& copier) { return copier.step != Copier::Step::idle; }));
    if (map_.regions() - map_.copied() <= busy) {
        return map_.regions();
    }
    for (const std::uint64_t from : {cursor_, std::uint64_t{0}}) {
        std::uint64_t region = map_.next_missing(from);
        while (region < map_.regions() && locked(region, region)) {
            region = map_.next_missing(region + 1);
        }
        if (region < map_.regions()) {
            return region;
        }
    }
    return map_.regions();
}

void Migration::begin_step(Copier& copier) {
    const std::uint64_t region_end =
        std::min((copier.region + 1) * map_.region_bytes(), description_.size_bytes);
    copier.step = Copier::Step::reading;
    copier.action = Action::read;
    copier.force_unit_access = false;
    copier.length = std::min(copier.step_bytes, region_end - copier.place);
    copier.offset = copier.place;
    copier.data = copier.memory;
    source_.device()->submit(copier);
}

void Migration::step_done(Copier& copier, Status status) {
    const bool reading = copier.step == Copier::Step::reading;
    if (status != Status::ok && copying()) {
        const std::uint64_t block = description_.block_bytes;
        if (reading && status == Status::medium_error && copier.length > block) {
            copier.step_bytes = std::max(copier.length / 2 / block * block, block);
            begin_step(copier);
            return;
        }
        if (++copier.attempts < attempts_max) {
            begin_step(copier);
            return;
        }
        fail(trouble(reading ? "the source cannot be read" : "the destination cannot write", copier.place,
                     status));
    }
    if (!copying()) {
        end_copy(copier);
        return;
    }
    if (reading) {
        copier.step = Copier::Step::writing;
        copier.action = Action::write;
        destination_.device()->submit(copier);
        return;
    }
    copier.place += copier.length;
    copier.attempts = 0;
    if (copier.place < std::min((copier.region + 1) * map_.region_bytes(), description_.size_bytes)) {
        begin_step(copier);
        return;
    }
    EK_CRASH_POINT("migration.region.written");
    if (!copier.in_vain) {
        map_.set_copied(copier.region);
    }
    EK_CRASH_POINT("migration.region.copied");
    measure(environment_.reactor.now());
    end_copy(copier);
}

void Migration::end_copy(Copier& copier) {
    copier.step = Copier::Step::idle;
    if (closing()) {
        finish_close();
        return;
    }
    pace_.start_after(0);  // not from within: copies of a device in memory end at once
}

void Migration::measure(base::Nanoseconds now) {
    ++window_copied_;
    if (now - window_began_ >= window || bytes_per_second_ == 0) {
        const double seconds = static_cast<double>(std::max<base::Nanoseconds>(now - window_began_, 1)) / 1e9;
        bytes_per_second_ =
            static_cast<std::uint64_t>(static_cast<double>(window_copied_ * map_.region_bytes()) / seconds);
        window_began_ = now;
        window_copied_ = 0;
    }
}

// --- the end

// A destination that hangs must not keep the source from going on alone.
void Migration::closing_checked() {
    pace_.stop();
    while (held_.first != nullptr) {
        Child& child = *held_.first;
        held_.remove(child);
        child.held = false;
        Request& above = *child.above;
        put_back(child);
        complete(above, Status::gone);
    }
    // Each may end others: looked for from the start again.
    for (Child* child = doubled_.first; child != nullptr;) {
        const bool hangs =
            child->destination.phase == Request::Phase::submitted && !child->destination.cancelled;
        if (hangs) {
            child->destination.device->cancel(child->destination);
        }
        child = hangs ? doubled_.first : child->next;
    }
    for (Copier& copier : copiers_) {
        if (copier.step == Copier::Step::draining) {
            copier.step = Copier::Step::idle;
        } else if (copier.phase == Request::Phase::submitted) {
            copier.device->cancel(copier);
        }
    }
    if (flush_.under_way) {
        destination_.device()->cancel(flush_);
    }
}

void Migration::close_checked(std::function<void()> closed) {
    closed_ = std::move(closed);
    finish_close();
}

void Migration::finish_close() {
    const bool busy = std::any_of(std::begin(copiers_), std::end(copiers_),
                                  [](const Copier& copier) { return copier.step != Copier::Step::idle; });
    if (!closed_ || busy || flush_.under_way) {
        return;
    }
    source_.release();
    destination_.release();
    environment_.reactor.post(std::exchange(closed_, nullptr));
}

}  // namespace block::migration

namespace block {

MadeDevice make_migration(Environment& environment, const DeviceSpec& spec) {
    Claim claims[2];
    const std::string* const names[] = {&spec.migration.source, &spec.migration.destination};
    for (int side = 0; side < 2; ++side) {
        Device* const device = environment.find(*names[side]);
        if (device == nullptr) {
            return base::Error{"E_NOT_FOUND",
                               describe_device(spec) + "there is no device \"" + *names[side] + "\""};
        }
        const bool reads = side == 0 && device->describe().read_only;
        auto claim =
            Claim::take(*device, reads ? Access::read_only : Access::read_write, "device " + spec.name);
        if (!claim) {
            return claim.error();
        }
        claims[side] = claim.take();
    }
    auto made =
        std::make_unique<migration::Migration>(environment, spec, std::move(claims[0]), std::move(claims[1]));
    if (auto opened = made->open(); !opened) {
        return opened.error();
    }
    return std::unique_ptr<Device>(std::move(made));
}

}  // namespace block
