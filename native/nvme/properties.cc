// The life of a controller as its properties show it: CC.EN and CSTS.RDY, reset, shutdown.
//
// A Controller Level Reset (CC.EN 1 → 0) ends all I/O queues and admin commands but keeps the association:
// the host may enable the controller again on the same admin queue. CSTS.RDY falls only when no device has a
// request of this controller any more, so that nothing old can land afterwards.
//
// NVM Express Base 2.0 §3.1.3 (properties), §3.5.2 (initialization), §3.6.2 (shutdown), §3.7.2 (reset).

#include "nvme/properties.h"

#include <memory>

#include "nvme/controller.h"
#include "nvme/target.h"

namespace nvme {

std::uint64_t Controller::capabilities() const {
    return wire::cap::mqes.put(target_.limits().queue_entries - 1) | wire::cap::cqr.put(1) |
           wire::cap::to.put(ready_timeout_500ms) |
           wire::cap::css.put(wire::cap::css_nvm | wire::cap::css_io_command_sets) | wire::cap::crwms.put(1);
}

bool Controller::enabled() const { return wire::cc::en.test(record_.cc); }
bool Controller::ready() const { return wire::csts::rdy.test(record_.csts); }

bool Controller::accepts_io() const {
    return transition_ == Transition::none && !wire::csts::cfs.test(record_.csts) &&
           wire::csts::shst.get(record_.csts) == wire::csts::shst_normal_operation;
}

namespace {

struct PropertyRow {
    std::uint32_t offset;
    bool eight_bytes;
    std::uint64_t (*get)(const Controller& controller);
};

constexpr PropertyRow rows[] = {
    {wire::property::cap, true, [](const Controller& controller) { return controller.capabilities(); }},
    {wire::property::vs, false, [](const Controller&) { return std::uint64_t{controller_version}; }},
    {wire::property::cc, false,
     [](const Controller& controller) { return std::uint64_t{controller.record().cc}; }},
    {wire::property::csts, false,
     [](const Controller& controller) { return std::uint64_t{controller.record().csts}; }},
    {wire::property::crto, false,
     [](const Controller&) { return std::uint64_t{wire::crto::crwmt.put(ready_timeout_500ms)}; }},
};

}  // namespace

void Controller::check_temperature() {
    const std::uint16_t temperature = target_.temperature();
    if (temperature >= features().temperature_over || temperature <= features().temperature_under) {
        raise(AsyncEvent::temperature);
    }
}

bool Controller::property_get(std::uint32_t offset, bool eight_bytes, std::uint64_t& value) const {
    for (const PropertyRow& row : rows) {
        if (row.offset == offset && row.eight_bytes == eight_bytes) {
            value = row.get(*this);
            return true;
        }
    }
    return false;
}

wire::Status Controller::property_set(std::uint32_t offset, bool eight_bytes, std::uint64_t value,
                                      const Command* command) {
    if (offset != wire::property::cc || eight_bytes) {
        return wire::status::invalid_field;
    }
    set_configuration(static_cast<std::uint32_t>(value), command);
    return wire::status::success;
}

// --- configuration ---

bool Controller::configuration_valid() const {
    const std::uint32_t cc = record_.cc;
    const std::uint32_t css = wire::cc::css.get(cc);
    const bool queue_entries_fit = is_discovery() || (wire::cc::iosqes.get(cc) == io_sqe_exponent &&
                                                      wire::cc::iocqes.get(cc) == io_cqe_exponent);
    return queue_entries_fit && wire::cc::mps.get(cc) == 0 && wire::cc::ams.get(cc) == 0 &&
           (css == wire::cc::css_nvm || css == wire::cc::css_all_supported);
}

void Controller::set_configuration(std::uint32_t value, const Command* command) {
    const std::uint32_t before = record_.cc;
    record_.cc = value;
    const bool was_enabled = wire::cc::en.test(before);
    const bool is_enabled = wire::cc::en.test(value);
    if (!was_enabled && is_enabled && transition_ != Transition::reset) {
        enable();
    }
    if (was_enabled && !is_enabled) {
        start_reset(command);
    }
    if (is_enabled && wire::cc::shn.get(value) != wire::cc::shn_none &&
        wire::cc::shn.get(before) == wire::cc::shn_none) {
        start_shutdown();
    }
    if (!is_enabled && !was_enabled && wire::cc::shn.get(value) != wire::cc::shn_none) {
        start_shutdown();  // nothing is running, but the host waits for SHST
    }
}

void Controller::enable() {
    if (!configuration_valid()) {
        record_.csts = wire::csts::cfs.put(1);
        return;
    }
    record_.csts = wire::csts::rdy.put(1);
}

// --- reset ---

void Controller::start_reset(const Command* command) {
    transition_ = Transition::reset;
    if (!is_discovery()) {
        target_.emit({.kind = TargetEventKind::controller_reset,
                      .subsystem_nqn = record_.subsystem_nqn,
                      .host_nqn = record_.host_nqn,
                      .cntlid = cntlid(),
                      .text = "CC.EN was cleared"});
    }
    disconnect_io_queues("controller reset");
    if (queues_[0] != nullptr) {
        queues_[0]->abort_all(command);
    }
    continue_transition();
}

// Goes on when the I/O queues are gone and idle.
void Controller::continue_transition() {
    if (transition_ == Transition::none || io_queue_count() != 0 || leaving_queues_ != 0 ||
        flush_ != nullptr) {
        return;
    }
    const Transition now = transition_;
    transition_ = Transition::none;
    if (now == Transition::shutdown) {
        flush_ = std::make_unique<Flush>(*this);
        flush_next();
        return;
    }
    record_.events_pending = 0;
    record_.events_masked = 0;
    record_.changed_count = 0;
    reset_features();
    record_.csts = 0;
    if (enabled()) {  // the host did not wait for CSTS.RDY to fall
        enable();
    }
}

void Controller::resume() {
    if (record_.keep_alive_expired != 0) {
        terminate("keep alive timer expired");
    } else if (queues_[0] == nullptr) {
        terminate("its admin queue was not adopted");
    } else if (ready() && !enabled()) {
        start_reset(nullptr);
    } else if (wire::csts::shst.get(record_.csts) == wire::csts::shst_occurring) {
        start_shutdown();
    }
}

// --- shutdown ---

void Controller::start_shutdown() {
    if (transition_ == Transition::reset || flush_ != nullptr) {
        return;
    }
    transition_ = Transition::shutdown;
    record_.csts = wire::csts::shst.replace(record_.csts, wire::csts::shst_occurring);
    if (!is_discovery()) {
        target_.emit({.kind = TargetEventKind::controller_shutdown,
                      .subsystem_nqn = record_.subsystem_nqn,
                      .host_nqn = record_.host_nqn,
                      .cntlid = cntlid(),
                      .text = "shutdown notification"});
    }
    disconnect_io_queues("controller shutdown");
    continue_transition();
}

void Controller::flush_next() {
    Flush& flush = *flush_;
    if (flush.ns != nullptr) {
        Namespace& done = *flush.ns;
        flush.ns = nullptr;
        done.release();
    }
    const auto& namespaces = subsystem_.namespaces();
    for (auto at = namespaces.upper_bound(flush.last_nsid); at != namespaces.end(); ++at) {
        Namespace& ns = *at->second;
        const block::Description& description = ns.device().describe();
        if (ns.removing() || description.read_only || !description.volatile_cache) {
            continue;
        }
        flush.last_nsid = ns.nsid();
        flush.ns = &ns;
        ns.hold();
        flush.request.flush = &flush;
        flush.request.action = block::Action::flush;
        flush.request.offset = 0;
        flush.request.length = 0;
        flush.request.data = nullptr;
        // A flush that fails is no reason to keep the host waiting; the device's health says that it is ill.
        flush.request.done = [](block::Request& request, block::Status) {
            Flush* const done = static_cast<Flush::Request&>(request).flush;
            if (done->controller != nullptr) {
                done->controller->flush_next();
            } else {
                delete done;
            }
        };
        ns.device().submit(flush.request);
        return;
    }
    finish_shutdown();
}

// The last request may still be on the stack, and it lies in `flush_`.
void Controller::finish_shutdown() {
    target_.post([this] {
        flush_ = nullptr;
        record_.csts = wire::csts::shst.replace(record_.csts, wire::csts::shst_complete);
        continue_transition();  // a reset may have been asked for meanwhile
        end_if_unused();
    });
}

}  // namespace nvme
