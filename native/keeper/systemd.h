// The service manager's side of the keeper: sd_notify(3) datagrams and the descriptors it gives back at
// start, written by hand because both are a few lines. Outside systemd everything here does nothing.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/clock.h"

namespace keeper {

class Systemd {
  public:
    // Reads and then removes the environment variables, so that no child believes them to be its own.
    Systemd();
    ~Systemd();
    Systemd(const Systemd&) = delete;
    Systemd& operator=(const Systemd&) = delete;

    bool present() const { return socket_ >= 0; }
    // How often the manager wants WATCHDOG=1; 0: not at all.
    base::Nanoseconds watchdog_interval() const { return watchdog_interval_; }
    // The descriptors and names that it gave back; now the caller's. Made close-on-exec.
    std::vector<std::pair<int, std::string>> take_descriptors();

    // False if the manager does not take it now: try again a little later. A message that can
    // never be sent counts as sent; `errors` counts it.
    bool notify(std::string_view text, int descriptor = -1);
    static std::string store_text(std::string_view name);
    bool store(std::string_view name, int descriptor);
    bool forget(std::string_view name);

    std::uint64_t errors() const { return errors_; }
    int last_errno() const { return last_errno_; }

  private:
    std::string path_;
    int socket_ = -1;
    base::Nanoseconds watchdog_interval_ = 0;
    std::vector<std::pair<int, std::string>> descriptors_;
    std::uint64_t errors_ = 0;
    int last_errno_ = 0;
};

}  // namespace keeper
