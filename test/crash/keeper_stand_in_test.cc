#include "keeper_stand_in.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "base/check.h"
#include "base/clock.h"
#include "recovery_server.h"

namespace crash {

KeeperStandIn::KeeperStandIn(std::uint64_t data_bytes) : data_bytes_(data_bytes) {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    const int on = 1;
    setsockopt(listener_, SOL_SOCKET, SO_OOBINLINE, &on, sizeof on);
    setsockopt(listener_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    EK_CHECK(bind(listener_, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0, "bind");
    EK_CHECK(listen(listener_, 128) == 0, "listen");
    socklen_t length = sizeof address;
    getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length);
    port_ = ntohs(address.sin_port);
    arena_ = memfd_create("arena", MFD_CLOEXEC);
    data_ = memfd_create("data", MFD_CLOEXEC);
    ram_ = memfd_create("ram", MFD_CLOEXEC);
    slow_ = memfd_create("slow", MFD_CLOEXEC);
    char path[] = "/var/tmp/keel-crash-XXXXXX";
    EK_CHECK(mkdtemp(path) != nullptr, "a directory for the file device");
    directory_ = path;
    file_ = directory_ + "/device";
    acceptor_ = std::thread([this] { accept_loop(); });
}

KeeperStandIn::~KeeperStandIn() {
    stopping_ = true;
    ::shutdown(listener_, SHUT_RDWR);
    acceptor_.join();
    if (server_ > 0) {
        kill_and_reap();
    }
    for (const auto& [id, descriptor] : connections_) {
        close(descriptor);
    }
    for (const int descriptor : {listener_, arena_, data_, ram_, slow_, control_}) {
        close(descriptor);
    }
    unlink(file_.c_str());
    rmdir(directory_.c_str());
}

void KeeperStandIn::accept_loop() {
    while (!stopping_) {
        const int socket = accept4(listener_, nullptr, nullptr, SOCK_CLOEXEC);
        if (socket < 0) {
            continue;
        }
        const std::lock_guard lock(mutex_);
        std::uint64_t id = next_id_++;
        connections_[id] = socket;  // stored first, passed on then
        char space[CMSG_SPACE(sizeof(int))] = {};
        iovec vector{&id, sizeof id};
        msghdr message{};
        message.msg_iov = &vector;
        message.msg_iovlen = 1;
        message.msg_control = space;
        message.msg_controllen = sizeof space;
        cmsghdr* header = CMSG_FIRSTHDR(&message);
        header->cmsg_level = SOL_SOCKET;
        header->cmsg_type = SCM_RIGHTS;
        header->cmsg_len = CMSG_LEN(sizeof socket);
        std::memcpy(CMSG_DATA(header), &socket, sizeof socket);
        if (control_ >= 0) {
            (void)sendmsg(control_, &message, MSG_NOSIGNAL);
        }
    }
}

bool KeeperStandIn::start(const std::string& crash_point) {
    int pair[2];
    EK_CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) == 0, "socketpair");
    std::vector<int> inherited;
    std::string description;
    {
        const std::lock_guard lock(mutex_);
        if (control_ >= 0) {
            close(control_);
        }
        control_ = pair[0];
        Kept kept;
        kept.control = pair[1];
        kept.arena = arena_;
        kept.data = data_;
        kept.data_bytes = data_bytes_;
        kept.ram = ram_;
        kept.slow = slow_;
        kept.file = file_;
        for (const auto& [id, descriptor] : connections_) {
            kept.connections.push_back({descriptor, id});
            inherited.push_back(descriptor);
        }
        inherited.insert(inherited.end(), {pair[1], arena_, data_, ram_, slow_});
        description = "KEEL_TEST_SERVER=" + describe(kept);
        std::string point = "KEEL_CRASH_POINT=" + crash_point;
        std::string program = "/proc/self/exe";
        char path[4096];
        const ssize_t bytes = readlink(program.c_str(), path, sizeof path - 1);
        EK_CHECK(bytes > 0, "own path");
        path[bytes] = '\0';
        std::string no_skip = "--no-skip";
        std::string filter = "--test-case=(server process)";
        char* arguments[] = {path, no_skip.data(), filter.data(), nullptr};
        char* environment[] = {description.data(), crash_point.empty() ? nullptr : point.data(), nullptr};
        server_ = fork();
        if (server_ == 0) {
            for (const int descriptor : inherited) {
                fcntl(descriptor, F_SETFD, 0);
            }
            const int sink = open("/dev/null", O_WRONLY);
            dup2(sink, 1);
            execve(path, arguments, environment);
            _exit(127);
        }
        close(pair[1]);
    }
    const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
    while (base::monotonic_now() < deadline) {
        pollfd wait{control_, POLLIN, 0};
        if (poll(&wait, 1, 100) <= 0) {
            continue;
        }
        char text[512];
        const ssize_t got = recv(control_, text, sizeof text - 1, MSG_DONTWAIT);
        if (got <= 0) {
            return false;  // died on the way
        }
        text[got] = '\0';
        if (text[0] == says_ready) {
            std::uint64_t now_carried = 0;
            std::uint64_t now_executed = 0;
            std::sscanf(text + 1, "%lu %lu", &now_carried, &now_executed);
            carried += now_carried;
            executed += now_executed;
            return true;
        }
        if (text[0] == says_refused) {
            refused.emplace_back(text + 1);
        }
    }
    return false;
}

void KeeperStandIn::read_control() {
    const std::lock_guard lock(mutex_);
    char text[512];
    for (;;) {
        const ssize_t got = recv(control_, text, sizeof text - 1, MSG_DONTWAIT);
        if (got <= 0) {
            return;
        }
        text[got] = '\0';
        if (text[0] == 'C') {
            const std::uint64_t id = std::strtoull(text + 1, nullptr, 10);
            if (const auto found = connections_.find(id); found != connections_.end()) {
                close(found->second);
                connections_.erase(found);
            }
            closed.emplace_back(text + 1);
        }
    }
}

bool KeeperStandIn::kill_and_reap() {
    kill(server_, SIGKILL);
    int status = 0;
    if (waitpid(server_, &status, 0) == server_) {
        status_ = status;
    }
    server_ = -1;
    read_control();
    return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL;
}

bool KeeperStandIn::alive() { return server_ > 0 && waitpid(server_, &status_, WNOHANG) == 0; }

bool KeeperStandIn::wait_for_death(int milliseconds) {
    for (int waited = 0; waited < milliseconds; ++waited) {
        if (!alive()) {
            server_ = -1;
            read_control();
            return WIFSIGNALED(status_) && WTERMSIG(status_) == SIGKILL;
        }
        usleep(1000);
    }
    return false;
}

}  // namespace crash
