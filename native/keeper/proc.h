// The few things that are read from or written to /proc.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>

namespace keeper {

// Without the final newline; empty if it cannot be read.
std::string read_small_file(const char* path);
void write_small_file(const char* path, const std::string& text);

// When a process started, in clock ticks since the boot; 0 if there is none. Together with the pid it names a
// process for ever.
std::uint64_t process_start_ticks(pid_t pid);

// Memory that can be had without swapping; 0 if unknown.
std::uint64_t memory_available_bytes();

}  // namespace keeper
