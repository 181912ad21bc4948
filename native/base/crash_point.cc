#include "base/crash_point.h"

#include <fcntl.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

namespace base {

bool crash_points_armed = false;

namespace {

// The mutable globals of the engine: a marker has no object that it could ask.
char armed_name[64];
std::atomic<long> passages_left = 0;
const char* armed_file = nullptr;

// False: it is not name:count.
bool parse(const char* text, char (&name)[sizeof armed_name], long& count) {
    const char* colon = std::strrchr(text, ':');
    const std::size_t length = colon != nullptr ? static_cast<std::size_t>(colon - text) : std::strlen(text);
    if (length == 0 || length >= sizeof name) {
        return false;
    }
    std::memcpy(name, text, length);
    name[length] = '\0';
    count = colon != nullptr ? std::strtol(colon + 1, nullptr, 10) : 1;
    return true;
}

// Dies if the file names this marker; the count begins with each new content.
void ask_file(const char* marker) {
    static std::mutex mutex;
    static char last[96];
    static long left = 0;
    const std::lock_guard<std::mutex> lock(mutex);
    char text[sizeof last] = {};
    const int file = open(armed_file, O_RDONLY | O_CLOEXEC);
    const ssize_t bytes = file < 0 ? 0 : read(file, text, sizeof text - 1);
    if (file >= 0) {
        close(file);
    }
    char name[sizeof armed_name];
    long count = 0;
    if (bytes <= 0 || !parse(text, name, count)) {
        last[0] = '\0';
        return;
    }
    if (std::strcmp(text, last) != 0) {
        std::memcpy(last, text, sizeof last);
        left = count;
    }
    if (std::strcmp(name, marker) == 0 && --left == 0 && unlink(armed_file) == 0) {
        kill(getpid(), SIGKILL);
    }
}

}  // namespace

void arm_crash_points_from_environment() {
    const char* text = std::getenv("KEEL_CRASH_POINT");
    if (text == nullptr) {
        return;
    }
    long count = 0;
    if (text[0] == '@') {
        armed_file = text + 1;
    } else if (parse(text, armed_name, count)) {
        passages_left = count;
    } else {
        std::fprintf(stderr, "KEEL_CRASH_POINT=%s is not name:count\n", text);
        return;
    }
    crash_points_armed = true;
}

void crash_point_passed(const char* name) {
    if (armed_file != nullptr) {
        ask_file(name);
        return;
    }
    // "*" counts every marker: a random step of the whole data path.
    if (armed_name[0] != '*' && std::strcmp(name, armed_name) != 0) {
        return;
    }
    if (--passages_left == 0) {
        kill(getpid(), SIGKILL);
    }
}

}  // namespace base
