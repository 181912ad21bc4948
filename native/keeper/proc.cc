#include "keeper/proc.h"

#include <fcntl.h>
#include <unistd.h>

#include <cstdlib>

namespace keeper {

std::string read_small_file(const char* path) {
    const int file = open(path, O_RDONLY | O_CLOEXEC);
    if (file < 0) {
        return "";
    }
    char text[4096];
    const ssize_t bytes = read(file, text, sizeof text);
    close(file);
    std::string result(text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
    while (!result.empty() && result.back() == '\n') {
        result.pop_back();
    }
    return result;
}

void write_small_file(const char* path, const std::string& text) {
    const int file = open(path, O_WRONLY | O_CLOEXEC);
    if (file >= 0) {
        [[maybe_unused]] const ssize_t written = write(file, text.data(), text.size());
        close(file);
    }
}

std::uint64_t process_start_ticks(pid_t pid) {
    const std::string text = read_small_file(("/proc/" + std::to_string(pid) + "/stat").c_str());
    // "pid (name, which may contain anything) state …": the start is field 22, the state field 3.
    std::size_t at = text.rfind(')');
    for (int field = 2; field < 22 && at != std::string::npos; ++field) {
        at = text.find(' ', at + 1);
    }
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at, nullptr, 10);
}

std::uint64_t memory_available_bytes() {
    const std::string text = read_small_file("/proc/meminfo");
    const std::size_t at = text.find("MemAvailable:");
    return at == std::string::npos ? 0 : std::strtoull(text.c_str() + at + 13, nullptr, 10) * 1024;
}

}  // namespace keeper
