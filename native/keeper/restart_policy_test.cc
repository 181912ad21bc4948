#include "keeper/restart_policy.h"

#include <doctest/doctest.h>

namespace {

using base::millisecond;
using base::second;
using keeper::RestartPolicy;

TEST_CASE("the first deaths are answered at once, the next ones later and later, up to a bound") {
    RestartPolicy policy(second);
    for (std::uint32_t i = 0; i < RestartPolicy::short_lives_free; ++i) {
        CHECK(policy.died(0) == 0);
    }
    base::Nanoseconds expected = RestartPolicy::delay_min;
    for (int i = 0; i < 100; ++i) {
        CHECK(policy.died(i % 2 == 0 ? 0 : 999 * millisecond) == expected);
        expected = std::min(2 * expected, RestartPolicy::delay_max);
    }
}

TEST_CASE("a server that served makes a fresh beginning") {
    RestartPolicy policy(second);
    for (int i = 0; i < 10; ++i) {
        static_cast<void>(policy.died(0));
    }
    CHECK(policy.died(second) == 0);
    CHECK(policy.died(0) == 0);
    CHECK(policy.died(0) == 0);
    CHECK(policy.died(0) == 0);
    CHECK(policy.died(0) == RestartPolicy::delay_min);
}

TEST_CASE("a short life of zero means that nothing is ever delayed") {
    RestartPolicy policy(0);
    for (int i = 0; i < 100; ++i) {
        CHECK(policy.died(0) == 0);
    }
}

}  // namespace
