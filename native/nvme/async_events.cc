// Asynchronous events: what happened waits in the record until the host has a request parked and wants the
// event; once reported it is quiet until the host has read the log page that belongs to it.
//
// An event is taken from the record only after its report's `done` was stored, so a kill can repeat a report
// but not lose one.
//
// NVM Express Base 2.0 §5.2 (Asynchronous Event Request), §5.27.1.8 (configuration).

#include <algorithm>
#include <array>

#include "nvme/controller.h"
#include "nvme/target.h"
#include "wire/nvme_identify.h"

namespace nvme {

namespace {

struct EventRow {
    AsyncEvent event;
    wire::AsyncEventType type;
    std::uint8_t info;
    wire::LogPage log_page;
    std::uint32_t enabled_by;  // bits of Asynchronous Event Configuration; 0: cannot be turned off
};

constexpr std::uint32_t warning_temperature = 1u << 1;  // SMART critical warning bit

constexpr std::array rows{
    EventRow{AsyncEvent::namespace_attribute, wire::AsyncEventType::notice,
             static_cast<std::uint8_t>(wire::AsyncNoticeInfo::namespace_attribute_changed),
             wire::LogPage::changed_namespace_list, wire::async_events::namespace_attribute},
    EventRow{AsyncEvent::ana_change, wire::AsyncEventType::notice,
             static_cast<std::uint8_t>(wire::AsyncNoticeInfo::asymmetric_namespace_access_change),
             wire::LogPage::asymmetric_namespace_access, wire::async_events::ana_change},
    EventRow{AsyncEvent::discovery_change, wire::AsyncEventType::notice,
             static_cast<std::uint8_t>(wire::AsyncNoticeInfo::discovery_log_page_change),
             wire::LogPage::discovery, wire::async_events::discovery_log},
    EventRow{AsyncEvent::persistent_internal_error, wire::AsyncEventType::error_status,
             static_cast<std::uint8_t>(wire::AsyncErrorInfo::persistent_internal_error),
             wire::LogPage::error_information, 0},
    EventRow{AsyncEvent::temperature, wire::AsyncEventType::smart_health,
             static_cast<std::uint8_t>(wire::AsyncSmartInfo::temperature_threshold),
             wire::LogPage::smart_health, warning_temperature},
};

constexpr bool in_order_of_the_enum() {
    for (std::size_t i = 0; i < rows.size(); ++i) {
        if (static_cast<std::size_t>(rows[i].event) != i) {
            return false;
        }
    }
    return rows.size() == static_cast<std::size_t>(AsyncEvent::count);
}
static_assert(in_order_of_the_enum());

constexpr std::uint32_t bit_of(AsyncEvent event) { return 1u << static_cast<std::uint32_t>(event); }

}  // namespace

std::uint32_t Controller::enabled_events() const {
    std::uint32_t enabled = 0;
    for (const EventRow& row : rows) {
        if (row.enabled_by == 0 || (features().async_event_configuration & row.enabled_by) != 0) {
            enabled |= bit_of(row.event);
        }
    }
    return enabled;
}

void Controller::raise(AsyncEvent event) {
    // Until the host reads the log page, the one report covers everything.
    if ((record_.events_masked & bit_of(event)) == 0) {
        record_.events_pending |= bit_of(event) & enabled_events();
    }
    deliver_events();
}

void Controller::clear(AsyncEvent event) {
    record_.events_masked &= ~bit_of(event);
    record_.events_pending &= ~bit_of(event);
    deliver_events();
}

void Controller::park(Command& event_request) {
    if (parked_count_ == parked_.size()) {
        event_request.queue->complete(event_request, wire::status::async_event_limit_exceeded, true);
        return;
    }
    parked_[parked_count_++] = &event_request;
    deliver_events();
}

void Controller::deliver_events() {
    for (const EventRow& row : rows) {
        const std::uint32_t due = record_.events_pending & enabled_events() & ~record_.events_masked;
        if ((due & bit_of(row.event)) == 0) {
            continue;
        }
        if (parked_count_ == 0 || terminating_) {
            return;
        }
        Command& request = *parked_[0];
        std::copy(parked_.begin() + 1, parked_.end(), parked_.begin());
        parked_[--parked_count_] = nullptr;
        request.record->result0 = wire::async_event_dw0(row.type, row.info, row.log_page);
        // Which event: by its place in the table. The mask is set first, so that no step in between loses the
        // event.
        request.step = static_cast<std::uint32_t>(row.event);
        request.after_done = [](Command& done) {
            if (Controller* const controller = done.queue->controller()) {
                const std::uint32_t bit = 1u << done.step;
                controller->record_.events_masked |= bit;
                controller->record_.events_pending &= ~bit;
            }
        };
        request.queue->complete_ok(request);
    }
}

// --- what changed ---

void Controller::namespace_changed(std::uint32_t nsid) {
    if (is_discovery()) {
        return;
    }
    const std::uint32_t count = std::min(record_.changed_count, limits::changed_namespaces_max);
    auto* const end = record_.changed_namespaces + count;
    if (std::find(record_.changed_namespaces, end, nsid) == end) {
        if (count < limits::changed_namespaces_max) {
            record_.changed_namespaces[count] = nsid;
            record_.changed_count = count + 1;
        } else {
            record_.changed_count = limits::changed_namespaces_max + 1;
        }
    }
    record_.namespace_digest = subsystem_.namespace_digest();
    raise(AsyncEvent::namespace_attribute);
}

void Controller::note_target_state() {
    record_.namespace_digest = subsystem_.namespace_digest();
    if (is_discovery()) {
        record_.discovery_generation = target_.discovery_generation();
        record_.discovery_digest = target_.discovery_digest(host_nqn());
    }
}

void Controller::compare_with_target() {
    if (is_discovery()) {
        const std::uint64_t digest = target_.discovery_digest(host_nqn());
        if (digest != record_.discovery_digest) {
            record_.discovery_digest = digest;
            raise(AsyncEvent::discovery_change);
        }
        return;
    }
    const std::uint64_t digest = subsystem_.namespace_digest();
    if (digest != record_.namespace_digest) {
        // Which ones changed while nobody was here cannot be said.
        record_.changed_count = limits::changed_namespaces_max + 1;
        record_.namespace_digest = digest;
        raise(AsyncEvent::namespace_attribute);
    }
}

}  // namespace nvme
