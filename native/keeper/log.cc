#include "keeper/log.h"

#include <poll.h>
#include <unistd.h>

#include <cstdarg>
#include <cstdio>

namespace keeper {

void Log::write(Level level, const char* format, ...) {
    if (level > least_) {
        return;
    }
    char line[1024];
    int used = journal_ ? std::snprintf(line, sizeof line, "<%c>keeper: ", static_cast<char>(level))
                        : std::snprintf(line, sizeof line, "keeper: ");
    va_list arguments;
    va_start(arguments, format);
    const int more =
        std::vsnprintf(line + used, sizeof line - static_cast<unsigned>(used) - 1, format, arguments);
    va_end(arguments);
    used += more < 0 ? 0 : more;
    if (used > static_cast<int>(sizeof line) - 2) {
        used = static_cast<int>(sizeof line) - 2;
    }
    line[used++] = '\n';
    // A pipe that is writable takes a line of this size as a whole.
    pollfd state{STDERR_FILENO, POLLOUT, 0};
    if (poll(&state, 1, 0) == 1 && (state.revents & POLLOUT) != 0) {
        [[maybe_unused]] const ssize_t written = ::write(STDERR_FILENO, line, static_cast<unsigned>(used));
    }
}

}  // namespace keeper
