#include "engine/huge_pages.h"

#include <fcntl.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <chrono>
#include <cstdint>
#include <ctime>
#include <utility>

#include "base/clock.h"

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25
#endif

namespace engine {

namespace {

constexpr std::size_t small_page = 4096;
constexpr std::size_t small_pages = HugePages::page_bytes / small_page;
constexpr std::uint64_t rest_factor = 2;  // rests so many times as long as it has used a processor
constexpr std::uint8_t attempts_max = 8;  // a page that somebody holds cannot be moved

// One huge page's worth of a file, at an address where it fits.
class Window {
  public:
    Window() {
        void* space = mmap(nullptr, 2 * HugePages::page_bytes, PROT_NONE,
                           MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (space != MAP_FAILED) {
            space_ = static_cast<std::byte*>(space);
            const std::uintptr_t at = reinterpret_cast<std::uintptr_t>(space_);
            place_ = space_ + (HugePages::page_bytes - at % HugePages::page_bytes) % HugePages::page_bytes;
        }
    }
    ~Window() {
        if (space_ != nullptr) {
            munmap(space_, 2 * HugePages::page_bytes);
        }
    }
    Window(const Window&) = delete;
    Window& operator=(const Window&) = delete;

    bool show(int descriptor, std::uint64_t offset) {
        return place_ != nullptr &&
               mmap(place_, HugePages::page_bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, descriptor,
                    static_cast<off_t>(offset)) != MAP_FAILED;
    }
    std::size_t resident() const {
        unsigned char present[small_pages];
        if (mincore(place_, HugePages::page_bytes, present) != 0) {
            return 0;
        }
        return static_cast<std::size_t>(std::count_if(present, present + small_pages,
                                                      [](unsigned char each) { return (each & 1) != 0; }));
    }
    bool populate() { return madvise(place_, HugePages::page_bytes, MADV_POPULATE_WRITE) == 0; }
    bool collapse() { return madvise(place_, HugePages::page_bytes, MADV_COLLAPSE) == 0; }

  private:
    std::byte* space_ = nullptr;
    std::byte* place_ = nullptr;
};

std::uint64_t processor_time() {
    timespec time{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time);
    return static_cast<std::uint64_t>(time.tv_sec) * base::second + static_cast<std::uint64_t>(time.tv_nsec);
}

// Only pages that lie in the file as a whole.
std::uint64_t whole_pages(int descriptor) {
    struct stat info {};
    return fstat(descriptor, &info) == 0 ? static_cast<std::uint64_t>(info.st_size) / HugePages::page_bytes
                                         : 0;
}

}  // namespace

struct HugePages::File {
    explicit File(int copy) : descriptor(copy) {}
    ~File() { close(descriptor); }
    File(const File&) = delete;
    File& operator=(const File&) = delete;

    const int descriptor;
    std::atomic<bool> wanted{true};
    std::atomic<bool> forgotten{false};
    // The thread's: by page, how often it was tried; attempts_max: nothing is left to do.
    std::vector<std::uint8_t> attempts;
};

HugePages::HugePages() : thread_([this] { run(); }) {}

HugePages::~HugePages() {
    {
        const std::lock_guard lock(mutex_);
        ending_ = true;
    }
    changed_.notify_all();
    thread_.join();
}

void HugePages::look_at(const std::string& name, int descriptor) {
    {
        const std::lock_guard lock(mutex_);
        auto& file = files_[name];
        if (!file) {
            const int copy = fcntl(descriptor, F_DUPFD_CLOEXEC, 3);
            if (copy < 0) {
                files_.erase(name);
                return;
            }
            file = std::make_shared<File>(copy);
        }
        file->wanted = true;
    }
    changed_.notify_all();
}

void HugePages::forget(const std::string& name) {
    const std::lock_guard lock(mutex_);
    if (const auto found = files_.find(name); found != files_.end()) {
        found->second->forgotten = true;
        files_.erase(found);
    }
}

void HugePages::run() {
    pthread_setname_np(pthread_self(), "keel-pages");
    for (;;) {
        std::shared_ptr<File> next;
        {
            std::unique_lock lock(mutex_);
            changed_.wait(lock, [&] {
                const auto found = std::find_if(files_.begin(), files_.end(), [](const auto& entry) {
                    return entry.second->wanted.load();
                });
                next = found != files_.end() ? found->second : nullptr;
                return ending_ || next != nullptr;
            });
            if (ending_) {
                return;
            }
        }
        next->wanted = false;
        work(*next);
    }
}

bool HugePages::rest(std::uint64_t nanoseconds) {
    std::unique_lock lock(mutex_);
    return !changed_.wait_for(lock, std::chrono::nanoseconds(nanoseconds), [&] { return ending_; });
}

void HugePages::work(File& file) {
    Window window;
    file.attempts.resize(whole_pages(file.descriptor), 0);
    std::size_t number = 0;
    while (!file.forgotten) {
        while (number < file.attempts.size() && file.attempts[number] >= attempts_max) {
            ++number;
        }
        const off_t data = lseek(file.descriptor, static_cast<off_t>(number * page_bytes), SEEK_DATA);
        if (data < 0) {
            return;
        }
        const std::size_t written = static_cast<std::size_t>(data) / page_bytes;
        if (written >= file.attempts.size()) {
            return;
        }
        if (written > number) {
            number = written;
            continue;  // that one may be done already
        }
        const std::uint64_t began = processor_time();
        if (!window.show(file.descriptor, number * page_bytes)) {
            return;
        }
        if (window.resident() >= small_pages / 2) {
            if (window.collapse()) {
                file.attempts[number] = attempts_max;
            } else {
                ++file.attempts[number];
            }
        }
        ++number;
        if (!rest((processor_time() - began) * rest_factor)) {
            return;
        }
    }
}

std::size_t HugePages::fill(int descriptor, std::uint64_t bytes) {
    Window window;
    std::size_t made = 0;
    for (std::uint64_t offset = 0; offset + page_bytes <= bytes; offset += page_bytes) {
        if (!window.show(descriptor, offset) || !window.populate()) {
            break;
        }
        if (!window.collapse()) {
            break;  // the next one would not be granted either
        }
        ++made;
    }
    return made;
}

}  // namespace engine
