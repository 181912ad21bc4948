#include "real_keeper.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <random>
#include <sstream>

#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"
#include "kept_server.h"

namespace crash {

namespace {

namespace fs = std::filesystem;

std::string own_path() {
    std::error_code error;
    return fs::read_symlink("/proc/self/exe", error).string();
}

// The folder build/.
fs::path build_folder() { return fs::path(own_path()).parent_path().parent_path().parent_path(); }

std::string from_environment_or(const char* name, const fs::path& otherwise) {
    const char* text = std::getenv(name);
    return text != nullptr ? text : otherwise.string();
}

std::string keeper_path() {
    return from_environment_or("KEEL_TEST_KEEPER", build_folder() / "Release/keel-keeper");
}

std::string program_of(int layout) {
    return layout == KEEL_TEST_LAYOUT
               ? own_path()
               : from_environment_or("KEEL_TEST_OTHER_LAYOUT", build_folder() / "layout2/suite/crash");
}

// Above the range that clients get theirs from.
std::uint16_t free_port() {
    std::mt19937 random(std::random_device{}());
    for (;;) {
        const auto port = static_cast<std::uint16_t>(61'000 + random() % 4'000);
        const int socket = ::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
        sockaddr_in address{};
        address.sin_family = AF_INET;
        address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
        address.sin_port = htons(port);
        const bool free = bind(socket, reinterpret_cast<sockaddr*>(&address), sizeof address) == 0;
        close(socket);
        if (free) {
            return port;
        }
    }
}

}  // namespace

std::string RealKeeper::missing() {
    for (const std::string& path : {keeper_path(), program_of(2)}) {
        if (access(path.c_str(), X_OK) != 0) {
            return path;
        }
    }
    return "";
}

RealKeeper::RealKeeper(const std::vector<std::string>& options) : options_(options), port_(free_port()) {
    char path[] = "/var/tmp/keel-upgrade-XXXXXX";
    EK_CHECK(mkdtemp(path) != nullptr, "a directory for the test");
    directory_ = path;
    log_ = directory_ + "/log";
}

RealKeeper::~RealKeeper() {
    if (keeper_ > 0) {
        kill(keeper_, SIGTERM);
        waitpid(keeper_, nullptr, 0);
    }
    std::error_code error;
    fs::remove_all(directory_, error);
}

void RealKeeper::install(int layout, const std::string& crash_point, bool fails) {
    const std::string script = directory_ + "/server";
    {
        std::ofstream out(script + ".new");
        out << "#!/bin/sh\n";
        if (fails) {
            out << "exit 1\n";
        }
        if (!crash_point.empty()) {
            fs::remove(directory_ + "/once");
            out << "mkdir " << directory_ << "/once 2>/dev/null && export KEEL_CRASH_POINT=" << crash_point
                << "\n";
        }
        out << "KEEL_TEST_KEPT='" << describe(KeptSetup{port_, directory_ + "/device", log_}) << "' exec "
            << program_of(layout) << " --no-skip '--test-case=(kept server process)' >/dev/null\n";
    }
    chmod((script + ".new").c_str(), 0700);
    fs::rename(script + ".new", script);
}

bool RealKeeper::start() {
    std::vector<std::string> words = {keeper_path()};
    words.insert(words.end(), options_.begin(), options_.end());
    words.insert(words.end(), {"--", directory_ + "/server"});
    std::vector<char*> arguments;
    for (std::string& word : words) {
        arguments.push_back(word.data());
    }
    arguments.push_back(nullptr);
    const std::string output = directory_ + "/keeper";
    const pid_t parent = getpid();
    keeper_ = fork();
    if (keeper_ == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        const char* shown = std::getenv("KEEL_TEST_OUTPUT");
        const int sink = open(shown != nullptr ? shown : "/dev/null", O_WRONLY | O_CREAT | O_APPEND, 0600);
        dup2(sink, 1);
        dup2(sink, 2);
        if (getppid() == parent) {
            execv(arguments[0], arguments.data());
        }
        _exit(127);
    }
    Ready ready;
    return wait_ready(ready);
}

void RealKeeper::ask_for_upgrade() { kill(keeper_, SIGUSR2); }

void RealKeeper::kill_server(int pid) { kill(pid, SIGKILL); }

// Takes one line; false if there is none.
bool RealKeeper::read_log(Ready* ready) {
    std::ifstream in(log_);
    in.seekg(static_cast<std::streamoff>(read_));
    std::string line;
    if (!std::getline(in, line) || in.eof()) {
        return false;
    }
    read_ += line.size() + 1;
    std::istringstream words(line);
    std::string what;
    words >> what;
    if (what == "refused" || what == "failed") {
        (what == "refused" ? refused : failed).push_back(line);
        *ready = {};
    } else if (what == "warm") {
        words >> warm_;
        *ready = {};
    } else {
        words >> ready->pid >> ready->layout >> ready->carried >> ready->begun >> ready->executed >>
            ready->pause_us >> ready->restarts;
        serving_ = ready->pid;
    }
    return true;
}

bool RealKeeper::wait_ready(Ready& ready, int milliseconds) {
    const base::Nanoseconds deadline =
        base::monotonic_now() + static_cast<base::Nanoseconds>(milliseconds) * base::millisecond;
    while (base::monotonic_now() < deadline) {
        if (!read_log(&ready)) {
            usleep(500);
        } else if (ready.pid != 0) {
            return true;
        }
    }
    return false;
}

bool RealKeeper::wait_standby(int milliseconds) {
    const base::Nanoseconds deadline =
        base::monotonic_now() + static_cast<base::Nanoseconds>(milliseconds) * base::millisecond;
    Ready ready;
    while ((warm_ == 0 || warm_ == serving_) && base::monotonic_now() < deadline) {
        if (!read_log(&ready)) {
            usleep(500);
        }
    }
    return warm_ != 0 && warm_ != serving_;
}

bool RealKeeper::wait_failed(int milliseconds) {
    const base::Nanoseconds deadline =
        base::monotonic_now() + static_cast<base::Nanoseconds>(milliseconds) * base::millisecond;
    const std::size_t before = failed.size();
    Ready ready;
    while (failed.size() == before && base::monotonic_now() < deadline) {
        if (!read_log(&ready)) {
            usleep(500);
        }
    }
    return failed.size() != before;
}

}  // namespace crash
