#include "block/file_lock.h"

#include <sys/file.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdio>

namespace block {

namespace {

constexpr base::Nanoseconds pause_first = base::millisecond;
constexpr base::Nanoseconds pause_longest = 50 * base::millisecond;

}  // namespace

FileLock::FileLock(reactor::Reactor& reactor, std::function<void(int)> settled)
    : settled_(std::move(settled)), timer_(reactor, *this) {}

int FileLock::try_now(int descriptor) {
    int result = 0;
    do {
        result = flock(descriptor, LOCK_EX | LOCK_NB) == 0 ? 0 : errno;
    } while (result == EINTR);
    held_ = result == 0;
    return result;
}

void FileLock::wait(int descriptor) {
    descriptor_ = descriptor;
    pause_ = pause_first;
    timer_.start_after(pause_);
}

void FileLock::retry() {
    const int result = try_now(descriptor_);
    if (result == EWOULDBLOCK) {
        pause_ = std::min(pause_ * 2, pause_longest);
        timer_.start_after(pause_);
        return;
    }
    settled_(result);
}

void FileLock::release(int descriptor) {
    stop();
    if (held_) {
        flock(descriptor, LOCK_UN);
        held_ = false;
    }
}

LockHolder find_lock_holder(int descriptor) {
    LockHolder holder{0, "a process that has ended and whose last I/O is still under way"};
    struct stat status {};
    std::FILE* locks = fstat(descriptor, &status) == 0 ? std::fopen("/proc/locks", "re") : nullptr;
    if (locks == nullptr) {
        return holder;
    }
    char line[256];
    while (std::fgets(line, sizeof(line), locks) != nullptr) {
        char type[16];
        long process = 0;
        unsigned device_major = 0;
        unsigned device_minor = 0;
        std::uint64_t inode = 0;
        const int fields = std::sscanf(line, "%*d: %15s %*s %*s %ld %x:%x:%" SCNu64, type, &process,
                                       &device_major, &device_minor, &inode);
        if (fields == 5 && std::string(type) == "FLOCK" && process > 0 && inode == status.st_ino &&
            device_major == major(status.st_dev) && device_minor == minor(status.st_dev)) {
            holder.process = process;
            break;
        }
    }
    std::fclose(locks);
    if (holder.process != 0) {
        holder.text = "process " + std::to_string(holder.process);
        char name[64] = {};
        const std::string path = "/proc/" + std::to_string(holder.process) + "/comm";
        if (std::FILE* command = std::fopen(path.c_str(), "re"); command != nullptr) {
            if (std::fgets(name, sizeof(name), command) != nullptr) {
                holder.text += " (" + std::string(name).substr(0, std::string(name).find('\n')) + ")";
            }
            std::fclose(command);
        }
    }
    return holder;
}

}  // namespace block
