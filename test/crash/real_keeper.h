// The real keeper with the test's own server program (kept_server.h) under it, in a directory of its own.
//
// The keeper starts the server by a script there, which is replaced when another version is to be installed.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <string>
#include <vector>

namespace crash {

class RealKeeper {
  public:
    struct Ready {
        int pid = 0, layout = 0;
        std::uint64_t carried = 0, begun = 0, executed = 0, pause_us = 0, restarts = 0;
    };

    // Empty if all that the test needs was built; else what is missing.
    static std::string missing();

    explicit RealKeeper(const std::vector<std::string>& options);
    ~RealKeeper();

    std::uint16_t port() const { return port_; }
    // What the keeper starts from now on: 1 or 2. The first process of it dies at `crash_point` (name:count),
    // if there is one; with `fails`, all of them end at once.
    void install(int layout, const std::string& crash_point = "", bool fails = false);
    bool start();
    void ask_for_upgrade();
    // Waits for the next line "ready" behind what was read so far; other lines are kept.
    bool wait_ready(Ready& ready, int milliseconds = 20'000);
    // Until there is a standby that waits to be needed.
    bool wait_standby(int milliseconds = 20'000);
    bool wait_failed(int milliseconds = 20'000);
    void kill_server(int pid);

    std::vector<std::string> refused, failed;

  private:
    bool read_log(Ready* ready);

    std::vector<std::string> options_;
    std::string directory_, log_;
    std::size_t read_ = 0;
    std::uint16_t port_ = 0;
    pid_t keeper_ = -1;
    int serving_ = 0, warm_ = 0;  // the last that said so
};

}  // namespace crash
