// The keeper's part in a native crash test: listens, accepts, holds every descriptor, starts the server
// process, kills it, waits until it is reaped and starts the next one.
#pragma once

#include <sys/types.h>

#include <atomic>
#include <cstdint>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "recovery_server.h"

namespace crash {

class KeeperStandIn {
  public:
    explicit KeeperStandIn(std::uint64_t data_bytes = data_bytes_default);
    ~KeeperStandIn();

    std::uint16_t port() const { return port_; }
    // Starts a server and waits until it is ready. `crash_point`: name:count, or empty.
    bool start(const std::string& crash_point);
    // SIGKILL and reap. Answers false if it had died by itself of anything but SIGKILL.
    bool kill_and_reap();
    // Waits for the server to die of its crash point; false if it lived on.
    bool wait_for_death(int milliseconds);
    bool alive();

    std::uint64_t carried = 0;   // connections, over all restarts
    std::uint64_t executed = 0;  // commands executed again
    std::vector<std::string> refused;
    std::vector<std::string> closed;

  private:
    void accept_loop();
    void read_control();

    int listener_ = -1;
    std::uint16_t port_ = 0;
    int arena_ = -1, data_ = -1, ram_ = -1, slow_ = -1;
    const std::uint64_t data_bytes_;
    std::string directory_, file_;
    std::mutex mutex_;  // connections_, control_
    std::map<std::uint64_t, int> connections_;
    int control_ = -1;
    std::uint64_t next_id_ = 1;
    pid_t server_ = -1;
    int status_ = 0;
    std::atomic<bool> stopping_{false};
    std::thread acceptor_;
};

}  // namespace crash
