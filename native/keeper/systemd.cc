#include "keeper/systemd.h"

#include <fcntl.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdlib>
#include <cstring>

#include "durable/keeper_protocol.h"

namespace keeper {

namespace {

constexpr int first_passed_descriptor = 3;
constexpr long passed_descriptors_max = 1 << 20;

const char* const variables[] = {"NOTIFY_SOCKET",  "LISTEN_PID",   "LISTEN_FDS",
                                 "LISTEN_FDNAMES", "WATCHDOG_PID", "WATCHDOG_USEC"};

std::string environment(const char* name) {
    const char* value = std::getenv(name);
    return value != nullptr ? value : "";
}

bool is_this_process(const std::string& pid) {
    return !pid.empty() && std::strtol(pid.c_str(), nullptr, 10) == getpid();
}

int connect_to(const std::string& path) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    if (path.size() < 2 || path.size() >= sizeof address.sun_path || (path[0] != '/' && path[0] != '@')) {
        return -1;
    }
    std::memcpy(address.sun_path, path.data(), path.size());
    if (path[0] == '@') {
        address.sun_path[0] = '\0';
    }
    const int socket = ::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    const auto length = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + path.size());
    if (socket >= 0 && connect(socket, reinterpret_cast<const sockaddr*>(&address), length) != 0) {
        close(socket);
        return -1;
    }
    return socket;
}

}  // namespace

Systemd::Systemd() {
    path_ = environment("NOTIFY_SOCKET");
    socket_ = connect_to(path_);
    if (is_this_process(environment("LISTEN_PID"))) {
        const long count = std::strtol(environment("LISTEN_FDS").c_str(), nullptr, 10);
        const std::string names = environment("LISTEN_FDNAMES");
        std::size_t begin = 0;
        for (long i = 0; i < count && i < passed_descriptors_max; ++i) {
            const std::size_t end = std::min(names.find(':', begin), names.size());
            const int descriptor = first_passed_descriptor + static_cast<int>(i);
            if (fcntl(descriptor, F_SETFD, FD_CLOEXEC) == 0) {
                descriptors_.emplace_back(descriptor, names.substr(begin, end - begin));
            }
            begin = end < names.size() ? end + 1 : end;
        }
    }
    const std::string watchdog_pid = environment("WATCHDOG_PID");
    if (watchdog_pid.empty() || is_this_process(watchdog_pid)) {
        const unsigned long long microseconds =
            std::strtoull(environment("WATCHDOG_USEC").c_str(), nullptr, 10);
        watchdog_interval_ = microseconds / 2 * base::microsecond;
    }
    for (const char* name : variables) {
        unsetenv(name);
    }
}

Systemd::~Systemd() {
    if (socket_ >= 0) {
        close(socket_);
    }
}

std::vector<std::pair<int, std::string>> Systemd::take_descriptors() { return std::move(descriptors_); }

bool Systemd::notify(std::string_view text, int descriptor) {
    if (socket_ < 0) {
        return true;
    }
    using durable::KeeperSend;
    KeeperSend outcome = durable::send_packet(socket_, text, descriptor);
    const bool manager_was_replaced = errno == ECONNREFUSED || errno == ENOTCONN;
    if (outcome != KeeperSend::sent && manager_was_replaced) {
        const int socket = connect_to(path_);
        if (socket >= 0) {
            close(socket_);
            socket_ = socket;
            outcome = durable::send_packet(socket_, text, descriptor);
        } else {
            errno = ECONNREFUSED;
        }
    }
    if (outcome == KeeperSend::closed || outcome == KeeperSend::failed) {
        ++errors_;
        last_errno_ = errno;
    }
    return outcome != KeeperSend::again;
}

std::string Systemd::store_text(std::string_view name) {
    // Without FDPOLL=0 the manager drops a connection as soon as its peer hangs up.
    return "FDSTORE=1\nFDNAME=" + std::string(name) + "\nFDPOLL=0";
}

bool Systemd::store(std::string_view name, int descriptor) { return notify(store_text(name), descriptor); }

bool Systemd::forget(std::string_view name) { return notify("FDSTOREREMOVE=1\nFDNAME=" + std::string(name)); }

}  // namespace keeper
