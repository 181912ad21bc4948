#include "engine/restart_history.h"

#include <algorithm>
#include <cstring>

#include "base/clock.h"
#include "durable/commit.h"

namespace engine {

RestartRecord& remember(RestartArea& area, const RestartRecord& record) {
    RestartTotals& totals = area.totals;
    RestartRecord& place = area.records[totals.restarts % RestartArea::kept];
    place = record;
    place.number = totals.restarts + 1;
    const std::uint64_t pause =
        record.died_ns != 0 && record.served_ns > record.died_ns ? record.served_ns - record.died_ns : 0;
    std::uint32_t bucket = 0;
    while (bucket + 1 < RestartTotals::pause_buckets && pause >= (base::millisecond << bucket)) {
        ++bucket;
    }
    ++totals.pause_counts[bucket];
    totals.pause_sum_ns += pause;
    totals.carried += record.carried;
    totals.refused += record.refused;
    totals.executed += record.executed;
    const auto is = [&](const char* reason) {
        return std::strncmp(record.reason, reason, sizeof record.reason) == 0;
    };
    ++(is("crash")      ? totals.crash
       : is("watchdog") ? totals.watchdog
       : is("upgrade")  ? totals.upgrade
                        : totals.other);
    durable::commit(totals.restarts, totals.restarts + 1);
    return place;
}

std::vector<RestartRecord> restarts_of(const RestartArea& area) {
    std::vector<RestartRecord> all;
    const std::uint64_t count = std::min<std::uint64_t>(area.totals.restarts, RestartArea::kept);
    for (std::uint64_t index = 0; index < count; ++index) {
        all.push_back(area.records[(area.totals.restarts - 1 - index) % RestartArea::kept]);
    }
    return all;
}

}  // namespace engine
