#include "keeper/child.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <utility>

#include "keeper/proc.h"

namespace keeper {

namespace {

constexpr int standby_nice = 10;  // more than the keeper
constexpr int nice_max = 19;

int open_process(pid_t pid) { return static_cast<int>(syscall(SYS_pidfd_open, pid, 0)); }

[[noreturn]] void become_server(const Child::Setup& setup, int channel, pid_t keeper) {
    setpgid(0, 0);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != keeper) {
        _exit(1);  // the keeper died meanwhile
    }
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, nullptr);
    signal(SIGPIPE, SIG_DFL);
    if (setup.in_background) {
        setpriority(PRIO_PROCESS, 0, std::min(getpriority(PRIO_PROCESS, 0) + standby_nice, nice_max));
        const sched_param none_of_its_own{};
        sched_setscheduler(0, SCHED_IDLE, &none_of_its_own);
    }
    if (!setup.oom_score_adj.empty()) {
        write_small_file("/proc/self/oom_score_adj", setup.oom_score_adj);
    }
    fcntl(channel, F_SETFD, 0);
    setenv("KEEL_KEEPER_FD", std::to_string(channel).c_str(), 1);
    setenv("KEEL_ROLE", setup.role == Role::active ? "active" : "standby", 1);
    execvp(setup.command[0], setup.command);
    std::fprintf(stderr, "keeper: cannot start %s: %s\n", setup.command[0], std::strerror(errno));
    _exit(errno == ENOENT ? 127 : 126);
}

}  // namespace

std::string Death::text() const { return (by_signal ? "signal:" : "code:") + std::to_string(code); }

std::unique_ptr<Child> Child::start(const Setup& setup) {
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) != 0) {
        return nullptr;
    }
    const pid_t keeper = getpid();
    const pid_t pid = fork();
    if (pid == 0) {
        become_server(setup, pair[1], keeper);
    }
    const int fork_error = errno;
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        errno = fork_error;
        return nullptr;
    }
    setpgid(pid, pid);  // also here, so that it holds before the next line
    const int process = open_process(pid);
    if (process < 0) {
        const int error = errno;
        ::kill(pid, SIGKILL);
        while (waitpid(pid, nullptr, 0) < 0 && errno == EINTR) {
        }
        close(pair[0]);
        errno = error;
        return nullptr;
    }
    std::unique_ptr<Child> child(new Child);
    child->pid_ = pid;
    child->process_ = process;
    child->channel_ = pair[0];
    child->generation_ = setup.generation;
    child->priority = setup.in_background ? Priority::idle : Priority::full;
    child->started_at = base::monotonic_now();
    return child;
}

Child::~Child() {
    close_channel();
    if (process_ >= 0) {
        close(process_);
    }
}

void Child::close_channel() {
    if (channel_ >= 0) {
        close(channel_);
        channel_ = -1;
    }
    outbox_.clear();
}

void Child::signal(int number) { syscall(SYS_pidfd_send_signal, process_, number, nullptr, 0); }

void Child::kill(KillReason reason, base::Nanoseconds now) {
    if (killed == KillReason::none) {
        killed = reason;
        ending_at = ending_at == 0 ? now : ending_at;
    }
    signal(SIGKILL);
}

bool Child::reap(Death& death) {
    // Its group first: the id cannot belong to anybody else before the process is reaped.
    siginfo_t info{};
    const auto wait = [&](int flags) {
        info = {};
        return waitid(static_cast<idtype_t>(P_PIDFD), static_cast<id_t>(process_), &info, flags);
    };
    if (wait(WEXITED | WNOHANG | WNOWAIT) != 0 || info.si_pid != pid_) {
        return false;
    }
    death.at = base::monotonic_now();
    ::kill(-pid_, SIGKILL);
    if (wait(WEXITED | WNOHANG) != 0 || info.si_pid != pid_) {
        return false;
    }
    death.by_signal = info.si_code != CLD_EXITED;
    death.code = info.si_status;
    return true;
}

void Child::end_unwatched() {
    signal(SIGKILL);
    while (waitpid(pid_, nullptr, 0) < 0 && errno == EINTR) {
    }
}

void Child::raise_priority(Priority wanted) {
    if (wanted >= priority) {
        return;
    }
    priority = wanted;
    const std::string folder = "/proc/" + std::to_string(pid_) + "/task";
    DIR* tasks = opendir(folder.c_str());
    if (tasks == nullptr) {
        return;
    }
    // The keeper's own, which a server inherits.
    const int nice = getpriority(PRIO_PROCESS, 0);
    const int policy = sched_getscheduler(0);
    sched_param parameter{};
    sched_getparam(0, &parameter);
    for (const dirent* entry = readdir(tasks); entry != nullptr; entry = readdir(tasks)) {
        const auto task = static_cast<pid_t>(std::strtol(entry->d_name, nullptr, 10));
        if (task <= 0) {
            continue;
        }
        if (wanted == Priority::full) {
            setpriority(PRIO_PROCESS, static_cast<id_t>(task), nice);
        }
        sched_setscheduler(task, policy, &parameter);
    }
    closedir(tasks);
}

void Child::send(durable::KeeperMessage message) {
    if (channel_ >= 0 && !outbox_full()) {
        outbox_.push_back(std::move(message));
        flush();
    }
}

bool Child::flush() {
    while (!outbox_.empty()) {
        const auto outcome = durable::send_keeper_message(channel_, outbox_.front());
        if (outcome == durable::KeeperSend::again) {
            return false;
        }
        if (outcome == durable::KeeperSend::closed) {
            outbox_.clear();
            return true;
        }
        outbox_.pop_front();
    }
    return true;
}

}  // namespace keeper
