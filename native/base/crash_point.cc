#include "base/crash_point.h"

#include <unistd.h>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace base {

bool crash_points_armed = false;

namespace {

// The one mutable global of the engine: a marker has no object that it could ask.
char armed_name[64];
long passages_left = 0;

}  // namespace

void arm_crash_points_from_environment() {
    const char* text = std::getenv("KEEL_CRASH_POINT");
    if (text == nullptr) {
        return;
    }
    const char* colon = std::strrchr(text, ':');
    const std::size_t length = colon != nullptr ? static_cast<std::size_t>(colon - text) : std::strlen(text);
    if (length == 0 || length >= sizeof armed_name) {
        std::fprintf(stderr, "KEEL_CRASH_POINT=%s is not name:count\n", text);
        return;
    }
    std::memcpy(armed_name, text, length);
    armed_name[length] = '\0';
    passages_left = colon != nullptr ? std::strtol(colon + 1, nullptr, 10) : 1;
    crash_points_armed = true;
}

void crash_point_passed(const char* name) {
    // "*" counts every marker: a random step of the whole data path.
    if (armed_name[0] != '*' && std::strcmp(name, armed_name) != 0) {
        return;
    }
    if (--passages_left == 0) {
        kill(getpid(), SIGKILL);
    }
}

}  // namespace base
