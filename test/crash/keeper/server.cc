// The server of the keeper's tests: answers lines over TCP, and misbehaves when told to.
//
//   keeper-server FOLDER
//
// FOLDER/mode says how it starts (read anew by each process, like a newly installed version): "ok", "exit N",
// "hang", "die-warm", "stubborn" (does not come to rest), "mute" (says nothing after HELLO), "slow" (reads
// nothing at first). FOLDER/port receives its port. Requests are lines "<number> <command> …", answers
// "<number> <text>".

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <poll.h>
#include <sched.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/ptrace.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "durable/keeper_protocol.h"

namespace {

using base::Nanoseconds;
using durable::KeeperMessage;
using durable::KeeperReceive;
using durable::KeeperSend;

constexpr Nanoseconds alive_interval = 100 * base::millisecond;

struct Connection {
    int socket = -1;
    std::string input;
};

class Server {
  public:
    Server(const char* folder, int channel) : folder_(folder), channel_(channel) {}

    int run();

  private:
    std::string read_mode() const;
    void say(const KeeperMessage& message, int descriptor = -1);
    void hear();
    void take_item(const KeeperMessage& message, int descriptor);
    void everything_is_here();
    void read_from(std::uint64_t id);
    void answer(std::uint64_t id, const std::string& line);
    std::string carry_out(std::uint64_t id, const std::string& command);
    std::string policies() const;
    std::string who() const;
    void make_listener();
    void close_connection(std::uint64_t id);

    std::string folder_;
    int channel_;
    const int first_policy_ = sched_getscheduler(0);
    std::string role_ = "none", mode_;
    std::uint64_t generation_ = 0;
    bool went_ = false, ready_ = false, warm_ = false, resting_ = false, silent_ = false;
    std::string go_, info_, refused_, forgotten_, restart_failed_;
    std::uint64_t went_at_ = 0;
    std::uint64_t* boots_ = nullptr;
    int listener_ = -1;
    std::map<std::string, int> memory_;
    std::map<std::uint64_t, Connection> connections_;
    std::uint64_t items_ = 0, items_said_ = 0, hangups_ = 0, given_new_ = 0;
    bool nonblocking_seen_ = false;
};

std::string Server::read_mode() const {
    FILE* file = std::fopen((folder_ + "/mode").c_str(), "re");
    char text[64] = "ok";
    if (file != nullptr) {
        if (std::fgets(text, sizeof text, file) == nullptr) {
            std::strcpy(text, "ok");
        }
        std::fclose(file);
    }
    return text;
}

void Server::say(const KeeperMessage& message, int descriptor) {
    for (;;) {
        if (durable::send_keeper_message(channel_, message, descriptor) != KeeperSend::again) {
            return;
        }
        pollfd state{channel_, POLLOUT, 0};
        poll(&state, 1, 10);
    }
}

void Server::take_item(const KeeperMessage& message, int descriptor) {
    const std::string kind = message.verb() == "CONNECTION" ? "connection" : message.value("kind");
    items_ += message.verb() == "ITEM" ? 1 : 0;
    given_new_ += message.verb() == "CONNECTION" ? 1 : 0;
    if (kind == "memory") {
        const auto old = memory_.find(message.value("name"));
        if (old != memory_.end()) {
            close(old->second);
        }
        memory_[message.value("name")] = descriptor;
    } else if (kind == "listener") {
        listener_ = descriptor;
    } else {
        nonblocking_seen_ = nonblocking_seen_ || (fcntl(descriptor, F_GETFL) & O_NONBLOCK) != 0;
        connections_[message.number("id").value()].socket = descriptor;
    }
}

void Server::make_listener() {
    listener_ = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t length = sizeof address;
    if (bind(listener_, reinterpret_cast<sockaddr*>(&address), length) != 0 || listen(listener_, 1024) != 0 ||
        getsockname(listener_, reinterpret_cast<sockaddr*>(&address), &length) != 0) {
        std::perror("listen");
        _exit(1);
    }
    say(KeeperMessage("STORE").add("kind", "listener").add("name", "echo [::]:1 %"), listener_);
    FILE* file = std::fopen((folder_ + "/port").c_str(), "we");
    std::fprintf(file, "%d\n", ntohs(address.sin_port));
    std::fclose(file);
}

void Server::everything_is_here() {
    if (!memory_.contains("arena")) {
        const int file = memfd_create("arena", MFD_CLOEXEC);
        if (file < 0 || ftruncate(file, 4096) != 0) {
            _exit(1);
        }
        memory_["arena"] = file;
        say(KeeperMessage("STORE").add("kind", "memory").add("name", "arena"), file);
    }
    boots_ = static_cast<std::uint64_t*>(
        mmap(nullptr, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, memory_["arena"], 0));
    ++*boots_;
    if (listener_ < 0) {
        make_listener();
    } else {
        // What is stored may be stored again.
        say(KeeperMessage("STORE").add("kind", "listener").add("name", "echo [::]:1 %"), listener_);
        say(KeeperMessage("STORE").add("kind", "memory").add("name", "arena"), memory_["arena"]);
    }
    ready_ = true;
    say(KeeperMessage("READY"));
    say(KeeperMessage("STATUS").add("text", "serves since boot " + std::to_string(*boots_)));
}

void Server::hear() {
    for (;;) {
        const KeeperReceive received = durable::receive_keeper_message(channel_);
        if (received.outcome == KeeperReceive::Outcome::closed) {
            _exit(9);
        }
        if (received.outcome != KeeperReceive::Outcome::message) {
            return;
        }
        const KeeperMessage& message = *received.message;
        const std::string_view verb = message.verb();
        if (verb == "ITEM" || verb == "CONNECTION") {
            take_item(message, received.descriptor);
        } else if (verb == "ROLE") {
            role_ = message.value("role");
            generation_ = message.number("generation").value_or(0);
        } else if (verb == "GO") {
            went_ = true;
            went_at_ = base::monotonic_now();
            go_ = message.packet();
        } else if (verb == "END" && message.value("of") == "memory") {
            if (role_ == "standby" && mode_ == "die-warm") {
                _exit(7);
            }
            if (role_ == "standby" && mode_ != "mute") {
                warm_ = true;
                say(KeeperMessage("STANDBY"));
            }
        } else if (verb == "END") {
            items_said_ = message.number("count").value_or(0);
            everything_is_here();
        } else if (verb == "QUIESCE") {
            resting_ = true;
            if (mode_ != "stubborn") {
                say(KeeperMessage("QUIESCED"));
            }
        } else if (verb == "KEEPER-INFO") {
            info_ = message.packet();
        } else if (verb == "REFUSED") {
            refused_ = message.packet();
        } else if (verb == "FORGOTTEN") {
            forgotten_ = message.packet();
        } else if (verb == "RESTART-FAILED") {
            restart_failed_ = message.value("reason");
            resting_ = false;
        }
    }
}

// When it was started, and now.
std::string Server::policies() const {
    return std::to_string(first_policy_) + "," + std::to_string(sched_getscheduler(0));
}

std::string Server::who() const {
    return "pid=" + std::to_string(getpid()) + " generation=" + std::to_string(generation_) +
           " role=" + role_ + " boots=" + std::to_string(*boots_) +
           " connections=" + std::to_string(connections_.size()) + " items=" + std::to_string(items_) +
           " items_said=" + std::to_string(items_said_) + " given_new=" + std::to_string(given_new_) +
           " hangups=" + std::to_string(hangups_) + " memory=" + std::to_string(memory_.size()) +
           " nonblocking=" + std::to_string(nonblocking_seen_ ? 1 : 0) +
           " nice=" + std::to_string(getpriority(PRIO_PROCESS, 0)) + " policies=" + policies() +
           " went_at=" + std::to_string(went_at_) + " go=" + durable::keeper_encode(go_) +
           " restart_failed=" + durable::keeper_encode(restart_failed_);
}

int descriptor_with_text(const std::string& text) {
    const int file = memfd_create("text", MFD_CLOEXEC);
    if (file < 0 || write(file, text.data(), text.size()) < 0) {
        _exit(1);
    }
    return file;
}

// Everything that no server should do to its keeper.
void misbehave(int channel) {
    const auto raw = [channel](const void* data, std::size_t bytes) {
        send(channel, data, bytes, MSG_NOSIGNAL);
    };
    raw("", 0);
    raw("\0\0\0", 3);
    raw("STORE", 5);
    raw("STORE kind=memory name=none", 27);
    raw("STORE kind=memory name=%", 24);
    raw("STORE kind=memory name=a name=b", 31);
    raw("ALIVE source=", 13);
    raw("FORGET kind=connection id=18446744073709551616", 46);
    raw("FORGET kind=connection id=1", 27);  // a listener or memory file has that id
    raw("FORGET kind=memory name=never", 29);
    raw("nothing like a message\n", 23);
    raw(" ", 1);
    const std::string large(60'000, 'A');
    raw(large.data(), large.size());
    int pipe_ends[2];
    if (pipe2(pipe_ends, O_CLOEXEC) != 0) {
        return;
    }
    durable::send_keeper_message(channel, KeeperMessage("STORE").add("kind", "memory").add("name", "pipe"),
                                 pipe_ends[0]);
    durable::send_keeper_message(channel, KeeperMessage("STORE").add("kind", "listener").add("name", "pipe"),
                                 pipe_ends[0]);
    durable::send_keeper_message(channel, KeeperMessage("ALIVE").add("source", "nobody"), pipe_ends[1]);
    // Several descriptors at once.
    char control[CMSG_SPACE(64 * sizeof(int))] = {};
    char text[] = "STORE kind=memory name=many";
    iovec part{text, sizeof text - 1};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    for (const std::size_t count : {std::size_t{2}, std::size_t{64}}) {
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        for (std::size_t i = 0; i < count; ++i) {
            std::memcpy(CMSG_DATA(rights) + i * sizeof(int), &pipe_ends[0], sizeof(int));
        }
        sendmsg(channel, &header, MSG_NOSIGNAL);
    }
    close(pipe_ends[0]);
    close(pipe_ends[1]);
}

std::string Server::carry_out(std::uint64_t id, const std::string& command) {
    const std::size_t space = command.find(' ');
    const std::string verb = command.substr(0, space);
    const std::string rest = space == std::string::npos ? "" : command.substr(space + 1);
    if (verb == "who") {
        return who();
    }
    if (verb == "exit") {
        _exit(std::atoi(rest.c_str()));
    }
    if (verb == "abort") {
        std::abort();
    }
    if (verb == "stop") {
        say(KeeperMessage("STOPPING"));
        _exit(0);
    }
    if (verb == "hang") {
        for (;;) {
            pause();
        }
    }
    if (verb == "silent") {
        silent_ = true;
    } else if (verb == "restart") {
        say(KeeperMessage("RESTART").add("reason", rest));
    } else if (verb == "info") {
        const std::string last = info_;
        say(KeeperMessage("INFO"));
        return last;
    } else if (verb == "id") {
        return std::to_string(id);
    } else if (verb == "said") {
        return refused_ + "|" + forgotten_;
    } else if (verb == "misbehave") {
        misbehave(channel_);
    } else if (verb == "flood") {
        const KeeperMessage message = KeeperMessage("FORGET").add("kind", "memory").add("name", "never");
        for (int i = 0; i < 20'000; ++i) {
            durable::send_keeper_message(channel_, message);
        }
    } else if (verb == "close-channel") {
        int silent[2];
        if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, silent) == 0) {
            close(channel_);
            channel_ = silent[0];
        }
    } else if (verb == "fork") {
        // Grandchildren with all descriptors, one of which leaves the process group.
        for (const bool leaves : {false, true}) {
            if (fork() == 0) {
                if (leaves) {
                    setsid();
                    alarm(3);
                }
                for (;;) {
                    say(KeeperMessage("ALIVE").add("source", "reactor"));
                    poll(nullptr, 0, 20);
                }
            }
        }
    } else if (verb == "trace") {
        // A debugger that does not look at what it debugs: this process cannot be reaped when it is dead.
        prctl(PR_SET_PTRACER, PR_SET_PTRACER_ANY);
        int ready[2];
        if (pipe2(ready, O_CLOEXEC) != 0) {
            return "failed";
        }
        const pid_t traced = getpid();
        if (fork() == 0) {
            setsid();
            close(channel_);
            const bool seized = ptrace(PTRACE_SEIZE, traced, nullptr, nullptr) == 0;
            [[maybe_unused]] const ssize_t told = write(ready[1], seized ? "y" : "n", 1);
            while (access((folder_ + "/release").c_str(), F_OK) != 0 && access(folder_.c_str(), F_OK) == 0) {
                poll(nullptr, 0, 5);
            }
            _exit(0);
        }
        char answer = 'n';
        [[maybe_unused]] const ssize_t bytes = read(ready[0], &answer, 1);
        close(ready[0]);
        close(ready[1]);
        return answer == 'y' ? "done" : "failed";
    } else if (verb == "store" || verb == "replace") {
        const int file = descriptor_with_text(rest);
        say(KeeperMessage("STORE")
                .add("kind", "memory")
                .add("name", "note")
                .add("replace", verb == "replace" ? 1 : 0),
            file);
        memory_["note"] = file;
    } else if (verb == "forget") {
        say(KeeperMessage("FORGET").add("kind", "memory").add("name", rest));
    } else if (verb == "note") {
        char text[64] = "none";
        const ssize_t bytes = memory_.contains("note") ? pread(memory_["note"], text, 63, 0) : 4;
        return std::string(text, bytes > 0 ? static_cast<std::size_t>(bytes) : 0);
    } else if (verb == "forget-listener") {
        close(listener_);
        say(KeeperMessage("FORGET").add("kind", "listener").add("name", "echo [::]:1 %"));
    } else {
        return "unknown";
    }
    return "done";
}

void Server::answer(std::uint64_t id, const std::string& line) {
    const std::size_t space = line.find(' ');
    if (space == std::string::npos) {
        return;
    }
    const int socket = connections_[id].socket;
    const std::string text = line.substr(0, space + 1) + carry_out(id, line.substr(space + 1)) + "\n";
    [[maybe_unused]] const ssize_t sent = send(socket, text.data(), text.size(), MSG_NOSIGNAL);
}

void Server::close_connection(std::uint64_t id) {
    const int socket = connections_[id].socket;
    shutdown(socket, SHUT_RDWR);
    say(KeeperMessage("FORGET").add("kind", "connection").add("id", id));
    close(socket);
    connections_.erase(id);
}

void Server::read_from(std::uint64_t id) {
    char data[4096];
    const ssize_t bytes = recv(connections_[id].socket, data, sizeof data, MSG_DONTWAIT);
    if (bytes < 0 && (errno == EAGAIN || errno == EINTR)) {
        return;
    }
    if (bytes <= 0) {
        close_connection(id);
        return;
    }
    connections_[id].input.append(data, static_cast<std::size_t>(bytes));
    for (;;) {
        std::string& input = connections_[id].input;
        const std::size_t end = input.find('\n');
        if (end == std::string::npos) {
            return;
        }
        const std::string line = input.substr(0, end);
        input.erase(0, end + 1);
        answer(id, line);
    }
}

int Server::run() {
    mode_ = read_mode();
    if (mode_.starts_with("exit ")) {
        return std::atoi(mode_.c_str() + 5);
    }
    if (mode_ == "hang") {
        for (;;) {
            pause();
        }
    }
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGHUP);
    sigprocmask(SIG_BLOCK, &signals, nullptr);
    const int signal_file = signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK);
    say(KeeperMessage("HELLO").add("pid", static_cast<std::uint64_t>(getpid())));
    if (mode_ == "slow") {
        poll(nullptr, 0, 20);
    }
    Nanoseconds alive_at = 0;
    for (;;) {
        const Nanoseconds now = base::monotonic_now();
        if (now >= alive_at && !silent_ && mode_ != "mute") {
            say(KeeperMessage("ALIVE").add("source", "reactor"));
            alive_at = now + alive_interval;
        }
        std::vector<pollfd> polled{{channel_, POLLIN, 0}, {signal_file, POLLIN, 0}};
        std::vector<std::uint64_t> ids;
        for (auto& [id, connection] : connections_) {
            if (ready_ && !resting_) {
                polled.push_back({connection.socket, POLLIN, 0});
                ids.push_back(id);
            }
        }
        poll(polled.data(), polled.size(), 20);
        signalfd_siginfo info{};
        if (read(signal_file, &info, sizeof info) == sizeof info) {
            if (info.ssi_signo == SIGTERM) {
                std::fprintf(stderr, "server: stopped in order\n");
                return 0;
            }
            ++hangups_;
        }
        if (polled[0].revents != 0) {
            hear();
        }
        for (std::size_t i = 0; i < ids.size(); ++i) {
            if (polled[i + 2].revents != 0 && connections_.contains(ids[i]) && !resting_) {
                read_from(ids[i]);
            }
        }
    }
}

}  // namespace

int main(int count, char** arguments) {
    const char* channel = std::getenv("KEEL_KEEPER_FD");
    if (count != 2 || channel == nullptr) {
        std::fprintf(stderr, "started by a keeper: keeper-server FOLDER\n");
        return 2;
    }
    const int descriptor = std::atoi(channel);
    fcntl(descriptor, F_SETFD, FD_CLOEXEC);
    Server server(arguments[1], descriptor);
    return server.run();
}
