#include "tcmu/medium_lock.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cinttypes>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <ctime>

namespace tcmu {

namespace {

constexpr long pause_first_ns = 1'000'000;
constexpr long pause_longest_ns = 20'000'000;

// FNV-1a, 64 bits.
std::uint64_t hash_of(const std::string& text) {
    std::uint64_t hash = 0xcbf2'9ce4'8422'2325;
    for (const char c : text) {
        hash = (hash ^ static_cast<std::uint8_t>(c)) * 0x100'0000'01b3;
    }
    return hash;
}

bool is_image(const std::string& path) {
    struct stat status {};
    return stat(path.c_str(), &status) == 0 && (S_ISREG(status.st_mode) || S_ISBLK(status.st_mode));
}

int open_image(const std::string& path) {
    const int file = open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK);
    return file >= 0 ? file : open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
}

std::string holder_of(int file) {
    struct stat status {};
    std::FILE* locks = fstat(file, &status) == 0 ? std::fopen("/proc/locks", "re") : nullptr;
    std::string holder = "another process";
    if (locks == nullptr) {
        return holder;
    }
    char line[256];
    while (std::fgets(line, sizeof line, locks) != nullptr) {
        long process = 0;
        std::uint64_t inode = 0;
        if (std::sscanf(line, "%*d: %*s %*s %*s %ld %*x:%*x:%" SCNu64, &process, &inode) == 2 &&
            process > 0 && inode == status.st_ino) {
            holder = "process " + std::to_string(process);
            break;
        }
    }
    std::fclose(locks);
    return holder;
}

}  // namespace

MediumLock::MediumLock(const std::string& configuration)
    : image_(configuration.substr(0, configuration.find(';'))) {
    char name[64];
    std::snprintf(name, sizeof name, "/keel-tcmu-%016" PRIx64 ".lock", hash_of(configuration));
    stand_in_ = std::string(access("/run/lock", W_OK) == 0 ? "/run/lock" : "/tmp") + name;
}

MediumLock::Attempt MediumLock::attempt(int file, bool whole) {
    if (flock(file, LOCK_EX | LOCK_NB) != 0) {
        return errno == EWOULDBLOCK || errno == EINTR ? Attempt::held : Attempt::failed;
    }
    struct flock bytes {};
    bytes.l_type = F_WRLCK;
    bytes.l_whence = SEEK_SET;
    if (whole && fcntl(file, F_OFD_SETLK, &bytes) != 0 && (errno == EAGAIN || errno == EACCES)) {
        flock(file, LOCK_UN);  // who has the bytes may be waiting for the rest
        return Attempt::held;
    }
    return Attempt::taken;  // a file that is open for reading alone has no lock for writing: flock must do
}

bool MediumLock::take(const std::function<void(const std::string&)>& waiting,
                      const std::function<bool()>& stop, std::string& problem) {
    const bool image = is_image(image_);
    int& file = image ? image_file_ : stand_in_file_;
    const std::string& path = image ? image_ : stand_in_;
    file = image ? open_image(path) : open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (file < 0) {
        problem = "cannot open " + path + ": " + std::strerror(errno);
        return false;
    }
    bool told = false;
    timespec pause{0, pause_first_ns};
    for (;;) {
        const Attempt result = attempt(file, image);
        if (result == Attempt::taken) {
            return true;
        }
        if (result == Attempt::failed) {
            problem = "cannot lock " + path + ": " + std::strerror(errno);
            return false;
        }
        if (stop()) {
            problem.clear();
            return false;
        }
        if (!told && pause.tv_nsec == pause_longest_ns) {
            waiting(path + " is locked by " + holder_of(file));
            told = true;
        }
        nanosleep(&pause, nullptr);
        pause.tv_nsec = std::min(2 * pause.tv_nsec, pause_longest_ns);
    }
}

bool MediumLock::take_image_now() {
    if (image_file_ >= 0 || !is_image(image_)) {
        return true;
    }
    image_file_ = open_image(image_);
    return image_file_ >= 0 && attempt(image_file_, true) == Attempt::taken;
}

}  // namespace tcmu
