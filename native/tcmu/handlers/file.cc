// The handler "file": blocks in a regular file. An example of a handler that completes asynchronously: the
// callback only puts the request into a queue; a thread of the handler's own does it and says so.
// Configuration: the file's path. It must exist, with the device's size.

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <condition_variable>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <mutex>
#include <thread>

#include "tcmu/handler_abi.h"

namespace {

enum class What { read, write, flush, unmap };

struct Work {
    What what;
    tcmur_cmd* cmd;
    iovec* entries;
    size_t count;
    uint64_t length;
    uint64_t offset;
};

class File {
  public:
    File(tcmu_device* device, int number) : device_(device), number_(number), thread_([this] { run(); }) {}

    ~File() {
        {
            const std::lock_guard lock(mutex_);
            ending_ = true;
        }
        wake_.notify_all();
        thread_.join();
        close(number_);
    }

    int queue(const Work& work) {
        const std::lock_guard lock(mutex_);
        queue_.push_back(work);
        wake_.notify_one();
        return TCMU_STS_OK;
    }

  private:
    void run() {
        tcmu_set_thread_name("file", device_);
        for (;;) {
            std::unique_lock lock(mutex_);
            wake_.wait(lock, [&] { return ending_ || !queue_.empty(); });
            if (queue_.empty()) {
                return;
            }
            const Work work = queue_.front();
            queue_.pop_front();
            lock.unlock();
            tcmur_cmd_complete(device_, work.cmd, execute(work));
        }
    }

    int execute(const Work& work) const {
        if (work.what == What::flush) {
            return fdatasync(number_) == 0 ? TCMU_STS_OK : TCMU_STS_WR_ERR;
        }
        if (work.what == What::unmap) {
            return fallocate(number_, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                             static_cast<off_t>(work.offset), static_cast<off_t>(work.length)) == 0
                       ? TCMU_STS_OK
                       : TCMU_STS_WR_ERR;
        }
        return transfer(work);
    }

    int transfer(const Work& work) const {
        const bool reads = work.what == What::read;
        for (uint64_t done = 0; done < work.length;) {
            const auto at = static_cast<off_t>(work.offset + done);
            const auto count = static_cast<int>(work.count);
            const ssize_t moved =
                reads ? preadv(number_, work.entries, count, at) : pwritev(number_, work.entries, count, at);
            if (moved <= 0) {
                tcmu_err_message(device_, __func__, __LINE__, "%s: %m", reads ? "read" : "write");
                return reads ? TCMU_STS_RD_ERR : TCMU_STS_WR_ERR;
            }
            tcmu_iovec_seek(work.entries, static_cast<size_t>(moved));
            done += static_cast<uint64_t>(moved);
        }
        return TCMU_STS_OK;
    }

    tcmu_device* device_;
    int number_;
    std::mutex mutex_;
    std::condition_variable wake_;
    std::deque<Work> queue_;
    bool ending_ = false;
    std::thread thread_;
};

File& file_of(tcmu_device* device) { return *static_cast<File*>(tcmur_dev_get_private(device)); }

const char* path_of(const char* configuration) {
    const char* slash = std::strchr(configuration, '/');
    return slash != nullptr ? slash + 1 : "";
}

bool file_check_config(const char* configuration, char** reason) {
    struct stat status {};
    const char* path = path_of(configuration);
    if (stat(path, &status) != 0) {
        if (asprintf(reason, "%s: %m", path) < 0) {
            *reason = nullptr;
        }
        return false;
    }
    if (!S_ISREG(status.st_mode) || status.st_size < 4096) {
        *reason = strdup("it wants a regular file of at least 4096 bytes");
        return false;
    }
    return true;
}

int file_open(tcmu_device* device, bool) {
    const char* path = path_of(tcmu_dev_get_cfgstring(device));
    const int number = open(path, O_RDWR | O_CLOEXEC);
    struct stat status {};
    if (number < 0 || fstat(number, &status) != 0) {
        tcmu_err_message(device, __func__, __LINE__, "%s: %m", path);
        return -errno;
    }
    tcmu_dev_set_num_lbas(device, static_cast<uint64_t>(status.st_size) / tcmu_dev_get_block_size(device));
    tcmu_dev_set_write_cache_enabled(device, true);
    tcmur_dev_set_private(device, new File(device, number));
    return 0;
}

void file_close(tcmu_device* device) { delete &file_of(device); }

int file_read(tcmu_device* device, tcmur_cmd* cmd, iovec* entries, size_t count, size_t length,
              off_t offset) {
    return file_of(device).queue({What::read, cmd, entries, count, length, static_cast<uint64_t>(offset)});
}

int file_write(tcmu_device* device, tcmur_cmd* cmd, iovec* entries, size_t count, size_t length,
               off_t offset) {
    return file_of(device).queue({What::write, cmd, entries, count, length, static_cast<uint64_t>(offset)});
}

int file_flush(tcmu_device* device, tcmur_cmd* cmd) {
    return file_of(device).queue({What::flush, cmd, nullptr, 0, 0, 0});
}

int file_unmap(tcmu_device* device, tcmur_cmd* cmd, uint64_t offset, uint64_t length) {
    return file_of(device).queue({What::unmap, cmd, nullptr, 0, length, offset});
}

tcmur_handler handler_of_file() {
    tcmur_handler handler{};
    handler.name = "Regular file (example)";
    handler.subtype = "file";
    handler.cfg_desc = "The file's path.";
    handler.check_config = file_check_config;
    handler.open = file_open;
    handler.close = file_close;
    handler.nr_threads = 0;
    handler.read = file_read;
    handler.write = file_write;
    handler.flush = file_flush;
    handler.unmap = file_unmap;
    return handler;
}

}  // namespace

extern "C" TCMU_HOST_API int handler_init() {
    static tcmur_handler handler = handler_of_file();
    return tcmur_register_handler(&handler);
}
