#include "block/device.h"

#include <algorithm>
#include <new>
#include <utility>
#include <vector>

#include "base/check.h"

namespace block {

namespace {

// What the guard must know of an action, indexed by Action.
struct Rule {
    bool has_range;
    bool has_data;
    bool changes;
    bool Description::*needs;  // the ability without which the answer is not_supported, or null
};

constexpr Rule rules[] = {
    {true, true, false, nullptr},                         // read
    {true, true, true, nullptr},                          // write
    {false, false, false, nullptr},                       // flush
    {true, false, true, &Description::can_write_zeroes},  // write_zeroes
    {true, false, true, &Description::can_deallocate},    // deallocate
};

}  // namespace

Device::~Device() {
    EK_CHECK(claims_ == nullptr, "a device goes away while somebody holds a claim on it");
    EK_CHECK(counters_.in_flight == 0, "a device goes away with requests in flight");
}

Status Device::judge(const Request& request) const {
    const Rule& rule = rules[static_cast<std::size_t>(request.action)];
    if (closing_) {
        return Status::gone;
    }
    if (rule.needs != nullptr && !(description_.*rule.needs)) {
        return Status::not_supported;
    }
    if (rule.changes && description_.read_only) {
        return Status::read_only;
    }
    if (!rule.has_range) {
        return Status::ok;
    }
    if (request.offset > description_.size_bytes ||
        request.length > description_.size_bytes - request.offset) {
        return Status::out_of_range;
    }
    if (request.offset % description_.block_bytes != 0 || request.length % description_.block_bytes != 0) {
        return Status::misaligned;
    }
    if (rule.has_data && reinterpret_cast<std::uintptr_t>(request.data) % description_.data_alignment != 0) {
        return Status::misaligned;
    }
    return Status::ok;
}

std::vector<std::string> Device::claimed_by() const {
    std::vector<std::string> owners;
    for (const Claim* claim = claims_; claim != nullptr; claim = claim->next_) {
        owners.push_back(claim->owner_);
    }
    return owners;
}

[[gnu::always_inline]] inline void Device::forward(Request& request) {
    const Status status = judge(request);
    const bool nothing_to_do = request.length == 0 && request.action != Action::flush;
    if (status != Status::ok || nothing_to_do) {
        complete(request, status);
        return;
    }
    EK_CHECK(request.data != nullptr || !rules[static_cast<std::size_t>(request.action)].has_data,
             "a transfer without memory");
    submit_checked(request);
}

void Device::submit(Request& request) {
    EK_CHECK(request.phase == Request::Phase::idle, "a request is submitted while a device has it");
    EK_CHECK(request.done != nullptr, "nobody waits for the request");
    EK_CHECK(request.action <= Action::deallocate, "no such action");
    request.phase = Request::Phase::submitted;
    request.cancelled = false;
    request.device = this;
    ++counters_.in_flight;
    if (holds_ != 0) [[unlikely]] {
        wait(request);
        return;
    }
    forward(request);
}

void Device::command(const Command& command, CommandDone done) {
    done(base::Error{"E_UNSUPPORTED", "device \"" + name_ + "\" (" + kind_ + ") cannot be asked to \"" +
                                          command.verb + "\"; that is for other kinds"});
}

[[gnu::always_inline]] inline void Device::end(Request& request, Status status) {
    const auto action = static_cast<std::size_t>(request.action);
    if (status == Status::ok) {
        ++counters_.completed[action];
        counters_.bytes[action] += request.action == Action::flush ? 0 : request.length;
    } else {
        ++counters_.errors;
    }
    request.device = nullptr;
    request.phase = Request::Phase::idle;  // `done` may submit it again or destroy it
    request.done(request, status);
    --counters_.in_flight;
    if (ends_matter_) {
        finish_if_idle();
    }
}

void Device::cancel(Request& request) {
    EK_CHECK(request.phase == Request::Phase::submitted && request.device == this,
             "cancels a request that this device does not have");
    request.cancelled = true;
    if (request.waiting) {
        stop_waiting(request);
        end(request, Status::aborted);
        return;
    }
    cancel_checked(request);
}

void Device::complete(Request& request, Status status) {
    EK_CHECK(request.phase == Request::Phase::submitted && !request.waiting,
             "a request completes that is not in flight");
    EK_CHECK(request.device == this, "a request completes on a device that does not have it");
    if (ends_matter_ && keeps(request, status)) [[unlikely]] {
        finish_if_idle();
        return;
    }
    end(request, status);
}

// --- requests that wait

namespace {

// In the scratch of a request that waits: no kind has it.
struct Links {
    Request* next;
    Request* previous;
};

Links& links_of(Request& request) { return *std::launder(reinterpret_cast<Links*>(request.scratch)); }

}  // namespace

void Device::wait(Request& request) {
    request.waiting = true;
    ::new (static_cast<void*>(request.scratch)) Links{nullptr, last_waiting_};
    (last_waiting_ != nullptr ? links_of(*last_waiting_).next : first_waiting_) = &request;
    last_waiting_ = &request;
    ++waiting_;
}

void Device::stop_waiting(Request& request) {
    const Links links = links_of(request);
    (links.previous != nullptr ? links_of(*links.previous).next : first_waiting_) = links.next;
    (links.next != nullptr ? links_of(*links.next).previous : last_waiting_) = links.previous;
    request.waiting = false;
    --waiting_;
}

void Device::suspend(Hold hold) {
    const bool was = suspended();
    holds_ = static_cast<std::uint8_t>(holds_ | static_cast<std::uint8_t>(hold));
    if (!was && watcher_) {
        watcher_();
    }
}

void Device::resume(Hold hold) {
    const auto left = static_cast<std::uint8_t>(holds_ & ~static_cast<std::uint8_t>(hold));
    if (left == holds_) {
        return;
    }
    if (left != 0) {
        holds_ = left;
        return;
    }
    // What comes while they go on queues up behind them. Somebody may suspend it again meanwhile.
    while (first_waiting_ != nullptr && holds_ == static_cast<std::uint8_t>(hold) && !closing_) {
        Request& request = *first_waiting_;
        stop_waiting(request);
        forward(request);
    }
    if (holds_ == static_cast<std::uint8_t>(hold)) {
        holds_ = 0;
    } else {
        holds_ = static_cast<std::uint8_t>(holds_ & ~static_cast<std::uint8_t>(hold));
    }
    if (watcher_) {
        watcher_();
    }
}

void Device::drain(std::function<void()> drained) {
    drained_ = std::move(drained);
    ends_matter_ = ends_matter_ || drained_ != nullptr;
    if (drained_ && inside() == 0) {
        std::exchange(drained_, nullptr)();
    }
}

// --- the end

bool Device::keeps(Request& request, Status status) {
    if (!keeping_ || request.cancelled || (status != Status::gone && status != Status::aborted)) {
        return false;
    }
    wait(request);
    return true;
}

void Device::close(std::function<void()> closed) {
    EK_CHECK(!closing_, "a device is closed twice");
    closing_ = true;
    ends_matter_ = true;
    closed_ = std::move(closed);
    ++counters_.in_flight;  // keeps it open while closing_checked ends what waits
    while (!keeping_ && first_waiting_ != nullptr) {
        Request& request = *first_waiting_;
        stop_waiting(request);
        end(request, Status::gone);
    }
    holds_ = keeping_ ? holds_ : 0;
    closing_checked();
    --counters_.in_flight;
    finish_if_idle();
}

void Device::close_for_successor(std::function<void()> closed) {
    suspend(Hold::engine);
    keeping_ = true;
    close(std::move(closed));
}

void Device::finish_if_idle() {
    if (inside() != 0) {
        return;
    }
    if (drained_) {
        ends_matter_ = closing_;
        std::exchange(drained_, nullptr)();
    } else if (closing_ && closed_) {
        close_checked(std::exchange(closed_, nullptr));
    }
}

void Device::hand_over(Device& successor) {
    EK_CHECK(suspended() && inside() == 0, "a device is exchanged while requests are inside");
    EK_CHECK(&successor != this, "a device is its own successor");
    const bool goes_on = !successor.suspended_by(Hold::engine);
    successor.suspend(Hold::engine);
    if (suspended_by(Hold::operators)) {
        successor.suspend(Hold::operators);
    }
    while (first_waiting_ != nullptr) {
        Request& request = *first_waiting_;
        stop_waiting(request);
        --counters_.in_flight;
        request.device = &successor;
        ++successor.counters_.in_flight;
        successor.wait(request);
    }
    while (claims_ != nullptr) {
        Claim& claim = *claims_;
        claims_ = claim.next_;
        claim.device_ = &successor;
        claim.next_ = successor.claims_;
        successor.claims_ = &claim;
    }
    successor.tell_listeners();
    if (goes_on) {
        successor.resume(Hold::engine);
    }
}

void Device::set_description(const Description& description) {
    const bool changed = description.size_bytes != description_.size_bytes ||
                         description.block_bytes != description_.block_bytes ||
                         description.read_only != description_.read_only;
    description_ = description;
    if (changed) {
        tell_listeners();
    }
}

// A listener may release claims, its own included.
void Device::tell_listeners() {
    std::vector<Claim*> listening;
    for (Claim* claim = claims_; claim != nullptr; claim = claim->next_) {
        listening.push_back(claim);
    }
    for (Claim* candidate : listening) {
        Claim* claim = claims_;
        while (claim != nullptr && claim != candidate) {
            claim = claim->next_;
        }
        if (claim != nullptr && claim->listener_) {
            const ChangeListener listener = claim->listener_;
            listener();
        }
    }
    if (watcher_) {
        watcher_();
    }
}

// --- Claim
// -----------------------------------------------------------------------------------------------------

namespace {

// Nothing for a whole device.
std::string text_of(const ClaimRange& range) {
    if (range.begin == 0 && range.end == ~std::uint64_t{0}) {
        return {};
    }
    const std::string end =
        range.end == ~std::uint64_t{0} ? "its end" : "byte " + std::to_string(range.end - 1);
    return " (from byte " + std::to_string(range.begin) + " to " + end + ")";
}

}  // namespace

base::Result<Claim> Claim::take(Device& device, Access access, std::string owner, ClaimRange range) {
    if (device.closing_) {
        return base::Error{"E_BUSY", "device \"" + device.name() + "\" is being closed; \"" + owner +
                                         "\" cannot use it any more"};
    }
    for (const Claim* other = device.claims_; other != nullptr; other = other->next_) {
        const bool apart = range.end <= other->range_.begin || other->range_.end <= range.begin;
        if (!apart && (access == Access::read_write || other->access_ == Access::read_write)) {
            const char* use = other->access_ == Access::read_write ? "for writing" : "for reading";
            return base::Error{"E_BUSY", "device \"" + device.name() + "\"" + text_of(other->range_) +
                                             " is used " + use + " by \"" + other->owner_ +
                                             "\"; remove it there before \"" + owner + "\" can use it" +
                                             text_of(range)};
        }
    }
    Claim claim;
    claim.device_ = &device;
    claim.access_ = access;
    claim.range_ = range;
    claim.owner_ = std::move(owner);
    claim.next_ = device.claims_;
    device.claims_ = &claim;
    return claim;  // the list follows the move
}

Claim::Claim(Claim&& other) noexcept { *this = std::move(other); }

Claim& Claim::operator=(Claim&& other) noexcept {
    if (this == &other) {
        return *this;
    }
    release();
    device_ = std::exchange(other.device_, nullptr);
    access_ = other.access_;
    range_ = other.range_;
    owner_ = std::move(other.owner_);
    listener_ = std::exchange(other.listener_, nullptr);
    next_ = std::exchange(other.next_, nullptr);
    if (device_ != nullptr) {
        Claim** link = &device_->claims_;
        while (*link != &other) {
            link = &(*link)->next_;
        }
        *link = this;
    }
    return *this;
}

Claim::~Claim() { release(); }

void Claim::release() {
    if (device_ == nullptr) {
        return;
    }
    Claim** link = &device_->claims_;
    while (*link != this) {
        link = &(*link)->next_;
    }
    *link = next_;
    device_ = nullptr;
    next_ = nullptr;
    listener_ = nullptr;
}

}  // namespace block
