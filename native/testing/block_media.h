// Files, file systems and block devices for tests, made out of nothing and gone with their object. What needs
// root says so in `missing` instead of failing.
#pragma once

#include <fcntl.h>
#include <linux/loop.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

namespace testing {

// A directory below /var/tmp (on a disk, unlike /tmp on many machines), removed with all files in it.
class TemporaryFolder {
  public:
    TemporaryFolder() {
        char name[] = "/var/tmp/keel-test-XXXXXX";
        path_ = mkdtemp(name) != nullptr ? name : "";
    }
    TemporaryFolder(const TemporaryFolder&) = delete;
    TemporaryFolder& operator=(const TemporaryFolder&) = delete;
    ~TemporaryFolder() {
        if (!path_.empty()) {
            (void)!std::system(("rm -rf " + path_).c_str());
        }
    }
    std::string file(const std::string& name) const { return path_ + "/" + name; }

  private:
    std::string path_;
};

inline bool make_file(const std::string& path, std::uint64_t bytes) {
    const int descriptor = open(path.c_str(), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    const bool made = descriptor >= 0 && ftruncate(descriptor, static_cast<off_t>(bytes)) == 0;
    close(descriptor);
    return made;
}

// A qcow2 image, if the packaged handler is there to open it; empty or what is missing.
inline std::string make_qcow(const std::string& path, std::uint64_t bytes) {
    const char* handlers[] = {"/usr/lib/x86_64-linux-gnu/tcmu-runner/handler_qcow.so",
                              "/usr/lib/aarch64-linux-gnu/tcmu-runner/handler_qcow.so"};
    if (access(handlers[0], R_OK) != 0 && access(handlers[1], R_OK) != 0) {
        return "handler_qcow.so (Debian package tcmu-runner)";
    }
    const std::string command =
        "qemu-img create -q -f qcow2 " + path + " " + std::to_string(bytes) + " >/dev/null 2>&1";
    return std::system(command.c_str()) == 0 ? "" : "qemu-img (Debian package qemu-utils)";
}

// A loop device over a file.
class LoopDevice {
  public:
    LoopDevice(const std::string& file, std::uint32_t block_bytes) {
        const int control = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
        const int backing = open(file.c_str(), O_RDWR | O_CLOEXEC);
        // Another test may take the free one first: look again.
        for (int attempt = 0; attempt < 20 && control >= 0 && backing >= 0 && descriptor_ < 0; ++attempt) {
            const int number = ioctl(control, LOOP_CTL_GET_FREE);
            if (number < 0) {
                break;
            }
            path_ = "/dev/loop" + std::to_string(number);
            mknod(path_.c_str(), S_IFBLK | 0600, makedev(7, static_cast<unsigned>(number)));
            descriptor_ = open(path_.c_str(), O_RDWR | O_CLOEXEC);
            loop_config config{};
            config.fd = static_cast<unsigned>(backing);
            config.block_size = block_bytes;
            if (descriptor_ >= 0 && ioctl(descriptor_, LOOP_CONFIGURE, &config) != 0) {
                close(descriptor_);
                descriptor_ = -1;
            }
        }
        if (descriptor_ < 0) {
            missing_ = std::string("no loop device can be set up (root?): ") + std::strerror(errno);
        }
        close(control);
        close(backing);
    }
    LoopDevice(const LoopDevice&) = delete;
    LoopDevice& operator=(const LoopDevice&) = delete;
    ~LoopDevice() {
        if (descriptor_ >= 0) {
            ioctl(descriptor_, LOOP_CLR_FD);
            close(descriptor_);
        }
    }
    // The backing file has another size now.
    bool reread_size() { return ioctl(descriptor_, LOOP_SET_CAPACITY) == 0; }
    const std::string& path() const { return path_; }
    const std::string& missing() const { return missing_; }

  private:
    int descriptor_ = -1;
    std::string path_;
    std::string missing_;
};

// A file system mounted nowhere: reachable by the descriptor alone, and gone with it.
class DetachedMount {
  public:
    using Option = std::pair<const char*, std::string>;

    DetachedMount(const char* type, std::initializer_list<Option> options) {
        const int context = fsopen(type, FSOPEN_CLOEXEC);
        bool configured = context >= 0;
        for (const Option& option : options) {
            configured = configured &&
                         fsconfig(context, FSCONFIG_SET_STRING, option.first, option.second.c_str(), 0) == 0;
        }
        configured = configured && fsconfig(context, FSCONFIG_CMD_CREATE, nullptr, nullptr, 0) == 0;
        descriptor_ = configured ? fsmount(context, FSMOUNT_CLOEXEC, 0) : -1;
        if (descriptor_ < 0) {
            missing_ = std::string("cannot mount ") + type + " (root?): " + std::strerror(errno);
        }
        close(context);
    }
    DetachedMount(const DetachedMount&) = delete;
    DetachedMount& operator=(const DetachedMount&) = delete;
    ~DetachedMount() { close(descriptor_); }
    std::string file(const std::string& name) const {
        return "/proc/self/fd/" + std::to_string(descriptor_) + "/" + name;
    }
    const std::string& missing() const { return missing_; }

  private:
    int descriptor_ = -1;
    std::string missing_;
};

}  // namespace testing
