// Lines for the server's log, on standard error: "<n>text", n as in syslog. One line is one write, so that
// lines of several threads do not mix.
#pragma once

#include <cstdarg>
#include <string>

namespace tcmu {

enum class Level : char { error = '3', warning = '4', info = '6', debug = '7' };

void log_line(Level level, const char* format, ...) __attribute__((format(printf, 2, 3)));
void log_line(Level level, const char* format, std::va_list arguments) __attribute__((format(printf, 2, 0)));

// What was logged as an error last: handlers say there why they fail. Any thread.
std::string last_error();

}  // namespace tcmu
