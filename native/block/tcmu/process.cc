#include "block/tcmu/process.h"

#include <fcntl.h>
#include <poll.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <csignal>
#include <cstring>
#include <utility>

#include "block/tcmu/area.h"
#include "block/tcmu/channel.h"

namespace block::tcmu {

namespace {

constexpr std::size_t line_bytes_max = 1024;
// A process that the handler left behind may hold the log open for ever.
constexpr base::Nanoseconds last_words = 100 * base::millisecond;

base::Error failed(const std::string& what, int error_number) {
    return {error_number == ENOENT ? "E_NOT_FOUND" : "E_IO", what + ": " + std::strerror(error_number),
            error_number};
}

}  // namespace

Process::Process(reactor::Reactor& reactor, Listener& listener)
    : reactor_(reactor), listener_(listener), log_timer_(reactor, *this) {
    for (Part* part : {&death_, &waking_, &noticing_, &logging_}) {
        part->process = this;
    }
}

Process::~Process() = default;

base::Result<std::unique_ptr<Process>> Process::start(reactor::Reactor& reactor, const std::string& program,
                                                      const std::vector<std::string>& arguments, int area,
                                                      Listener& listener) {
    std::unique_ptr<Process> process(new Process(reactor, listener));
    if (const auto spawned = process->spawn(program, arguments, area); !spawned.ok()) {
        return spawned.error();
    }
    process->begin();
    return process;
}

base::Result<void> Process::spawn(const std::string& program, const std::vector<std::string>& arguments,
                                  int area) {
    int lifeline[2];
    int log[2];
    if (pipe2(lifeline, O_CLOEXEC) != 0) {
        return failed("no pipe for " + program, errno);
    }
    const Descriptor lifeline_there(lifeline[0]);
    lifeline_ = Descriptor(lifeline[1]);
    if (pipe2(log, O_CLOEXEC) != 0) {
        return failed("no pipe for " + program, errno);
    }
    log_ = Descriptor(log[0]);
    const Descriptor log_there(log[1]);
    // Never non-blocking, and only ever read and written through the ring: it cannot hold the reactor up,
    // whatever the other side does to these descriptors.
    requests_ = Descriptor(eventfd(0, EFD_CLOEXEC));
    completions_ = Descriptor(eventfd(0, EFD_CLOEXEC));
    // Copies above the numbers that the child gets, so that none is overwritten before it is used.
    const std::pair<int, int> wanted[] = {
        {lifeline_there.number(), lifeline_descriptor}, {log_there.number(), STDOUT_FILENO},
        {log_there.number(), log_descriptor},           {area, area_descriptor},
        {requests_.number(), requests_descriptor},      {completions_.number(), completions_descriptor}};
    std::vector<Descriptor> copies;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    for (const auto& [from, to] : wanted) {
        copies.emplace_back(fcntl(from, F_DUPFD_CLOEXEC, descriptors_end));
        posix_spawn_file_actions_adddup2(&actions, copies.back().number(), to);
    }
    posix_spawn_file_actions_addclosefrom_np(&actions, descriptors_end);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes,
                             POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    posix_spawnattr_setpgroup(&attributes, 0);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    sigset_t all;
    sigfillset(&all);
    posix_spawnattr_setsigdefault(&attributes, &all);
    std::vector<char*> argv{const_cast<char*>(program.c_str())};
    for (const std::string& argument : arguments) {
        argv.push_back(const_cast<char*>(argument.c_str()));
    }
    argv.push_back(nullptr);
    const int error = posix_spawn(&pid_, program.c_str(), &actions, &attributes, argv.data(), environ);
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return failed("cannot start " + program, error);
    }
    process_ = Descriptor(static_cast<int>(syscall(SYS_pidfd_open, pid_, 0)));
    if (!process_.open()) {
        const int open_error = errno;
        ::kill(pid_, SIGKILL);
        while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
        }
        return failed("cannot watch " + program, open_error);
    }
    return {};
}

void Process::begin() {
    death_.complete = [](reactor::Operation& operation, std::int32_t) {
        auto& part = static_cast<Part&>(operation);
        part.under_way = false;
        part.process->reap();
    };
    death_.under_way = true;
    reactor_.kernel().poll(process_.number(), POLLIN, death_);
    read_notices();
    read_log();
}

// With whatever its handler has started. Before it is reaped its id belongs to nobody else.
void Process::kill() {
    if (!dead_) {
        ::kill(-pid_, SIGKILL);
        syscall(SYS_pidfd_send_signal, process_.number(), SIGKILL, nullptr, 0);
    }
}

void Process::reap() {
    siginfo_t info{};
    const int result = waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(process_.number()), &info,
                              WEXITED | WNOHANG);
    if (result == 0 && info.si_pid != pid_) {
        death_.under_way = true;
        reactor_.kernel().poll(process_.number(), POLLIN, death_);
        return;
    }
    if (result != 0) {
        how_ = "ended";  // somebody else waited for it: it is gone all the same
    } else if (info.si_code == CLD_EXITED) {
        how_ = "ended with code " + std::to_string(info.si_status);
    } else {
        how_ = std::string("died of ") + strsignal(info.si_status);
    }
    dead_ = true;
    if (noticing_.under_way) {
        reactor_.kernel().cancel(noticing_);
    }
    if (waking_.under_way) {
        reactor_.kernel().cancel(waking_);
    }
    log_timer_.start_after(last_words);
    finish_if_quiet();
}

void Process::finish_if_quiet() {
    if (dead_ && !noticing_.under_way && !waking_.under_way && !logging_.under_way && !death_.under_way) {
        dead_ = false;  // once
        log_timer_.stop();
        listener_.ended(how_);
    }
}

// --- Eventfds
// ----------------------------------------------------------------------------------------------------

void Process::wake() {
    if (waking_.under_way) {
        wake_again_ = true;
        return;
    }
    waking_.complete = [](reactor::Operation& operation, std::int32_t) {
        auto& part = static_cast<Part&>(operation);
        part.under_way = false;
        Process& self = *part.process;
        if (std::exchange(self.wake_again_, false) && !self.dead_) {
            self.wake();
        }
        self.finish_if_quiet();
    };
    waking_.under_way = true;
    reactor_.kernel().write(requests_.number(), std::as_bytes(std::span(&one_, 1)), 0, false, waking_);
}

void Process::read_notices() {
    noticing_.complete = [](reactor::Operation& operation, std::int32_t result) {
        auto& part = static_cast<Part&>(operation);
        part.under_way = false;
        Process& self = *part.process;
        if (self.dead_) {
            self.finish_if_quiet();
            return;
        }
        if (result < 0) {
            self.kill();  // it has spoilt the descriptor
            return;
        }
        self.read_notices();
        self.listener_.noticed();
    };
    noticing_.under_way = true;
    reactor_.kernel().read(completions_.number(), std::as_writable_bytes(std::span(&notices_, 1)), 0,
                           noticing_);
}

// --- Log
// ---------------------------------------------------------------------------------------------------------

void Process::stop_reading_log() {
    if (logging_.under_way) {
        reactor_.kernel().cancel(logging_);
    }
}

void Process::read_log() {
    logging_.complete = [](reactor::Operation& operation, std::int32_t result) {
        auto& part = static_cast<Part&>(operation);
        part.under_way = false;
        Process& self = *part.process;
        if (result > 0) {
            self.hear_log(static_cast<std::size_t>(result));
            self.read_log();
            return;
        }
        self.finish_if_quiet();
    };
    logging_.under_way = true;
    reactor_.kernel().read(log_.number(), log_buffer_, 0, logging_);
}

void Process::hear_log(std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
        const char c = static_cast<char>(log_buffer_[i]);
        if (c != '\n') {
            if (line_.size() < line_bytes_max) {
                line_ += c;
            }
            continue;
        }
        const bool marked =
            line_.size() > 3 && line_[0] == '<' && line_[2] == '>' && line_[1] >= '0' && line_[1] <= '7';
        const std::string text = marked ? line_.substr(3) : line_;
        if (!text.empty()) {
            listener_.said(marked ? line_[1] : '6', printable(text.c_str(), text.size()));
        }
        line_.clear();
    }
}

}  // namespace block::tcmu
