// Marked steps at which a test can stop the process as a power switch would: SIGKILL to itself, between two
// stores.
//
// Unarmed, a marker is one load and one branch on a value that never changes. Armed
// (KEEL_CRASH_POINT=name:count in the environment of a server that a test started), the count-th passage of
// the named marker kills the process. With KEEL_CRASH_POINT=@FILE the file says name:count and may come at
// any time; whoever dies of it removes it first, so that its successors live. The markers lie between the
// stores of every commit of the arena, where random kills hit once in tens of thousands.
#pragma once

namespace base {

// True once a test armed a marker. Written before threads start, read everywhere.
extern bool crash_points_armed;

// Reads KEEL_CRASH_POINT. Call once at start.
void arm_crash_points_from_environment();

// Counts a passage; kills the process if it is the one that was asked for. Any thread.
void crash_point_passed(const char* name);

}  // namespace base

#define EK_CRASH_POINT(name)                                   \
    do {                                                       \
        if (__builtin_expect(::base::crash_points_armed, 0)) { \
            ::base::crash_point_passed(name);                  \
        }                                                      \
    } while (false)
