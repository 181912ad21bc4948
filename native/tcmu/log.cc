#include "tcmu/log.h"

#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <mutex>

namespace tcmu {

namespace {

// The functions that handlers call carry no context: what they share has to be the process's.
struct LastError {
    std::mutex mutex;
    std::string text;
};

LastError& last_error_of_process() {
    static LastError last;
    return last;
}

}  // namespace

void log_line(Level level, const char* format, ...) {
    std::va_list arguments;
    va_start(arguments, format);
    log_line(level, format, arguments);
    va_end(arguments);
}

void log_line(Level level, const char* format, std::va_list arguments) {
    char line[1024];
    constexpr std::size_t prefix = 3;
    constexpr std::size_t room = sizeof line - prefix - 1;
    line[0] = '<';
    line[1] = static_cast<char>(level);
    line[2] = '>';
    const int formatted = std::vsnprintf(line + prefix, room, format, arguments);
    if (formatted <= 0) {
        return;
    }
    std::size_t length = prefix + std::min(static_cast<std::size_t>(formatted), room - 1);
    while (length > prefix && line[length - 1] == '\n') {
        --length;
    }
    for (std::size_t i = prefix; i < length; ++i) {
        line[i] = line[i] == '\n' ? ' ' : line[i];
    }
    if (level == Level::error) {
        LastError& last = last_error_of_process();
        const std::lock_guard lock(last.mutex);
        last.text.assign(line + prefix, length - prefix);
    }
    line[length++] = '\n';
    [[maybe_unused]] const ssize_t written = write(STDERR_FILENO, line, length);
}

std::string last_error() {
    LastError& last = last_error_of_process();
    const std::lock_guard lock(last.mutex);
    return last.text;
}

}  // namespace tcmu
