// A server process for crash tests: an engine with devices, a subsystem and a carried arena, and nothing
// else. The test program starts itself again with KEEL_TEST_SERVER in the environment; the parent plays the
// keeper.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace crash {

// Descriptors that the parent holds, by their numbers in the child.
struct Kept {
    int control = -1;  // SOCK_SEQPACKET: connections come down, one letter per event goes up
    int arena = -1;
    int data = -1;
    int ram = -1;
    int slow = -1;  // memory behind the delay
    std::uint64_t data_bytes = 0;
    std::string file;  // path of the file device
    struct Connection {
        int socket;
        std::uint64_t id;
    };
    std::vector<Connection> connections;
};

inline constexpr const char* subsystem_nqn = "nqn.2026-11.example.keel:crash";
inline constexpr std::uint64_t data_bytes_default = 64ull << 20;
// So little that commands of the loads wait for buffers all the time.
inline constexpr std::uint64_t data_bytes_short = 4ull << 20;
inline constexpr std::uint64_t ram_bytes = 64ull << 20;
inline constexpr std::uint64_t file_bytes = 64ull << 20;
// Namespaces: 1 ram, 2 file, 3 ram behind a delay of half a millisecond.

// What the child says on `control`.
inline constexpr char says_ready = 'R';
inline constexpr char says_refused = 'X';  // followed by text

// Serves until it is killed.
[[noreturn]] void serve(const std::string& description);
std::string describe(const Kept& kept);

}  // namespace crash
