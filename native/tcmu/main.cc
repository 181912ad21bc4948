// keel-tcmu: one tcmu-runner handler with one open medium, in a process of its own, so that what it does
// wrong stays here. The server starts it and talks to it through shared memory: block/tcmu/area.h,
// docs/tcmu.md.
//
// It ends in order when the server closes its end of the lifeline or dies: what the handler has begun is
// finished first, because a handler that is cut off between two writes may leave its image inconsistent.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <thread>

#include "tcmu/handler_library.h"
#include "tcmu/host_device.h"
#include "tcmu/log.h"
#include "tcmu/medium_lock.h"
#include "tcmu/options.h"
#include "tcmu/qcow_image.h"
#include "tcmu/service.h"

namespace tcmu {

namespace {

using block::tcmu::Area;
using block::tcmu::Stage;

// From the wish to the end; then the process ends itself.
constexpr unsigned end_seconds_max = 10;

// For the signal handler, which has no other way to reach it.
std::atomic<Service*>& service_of_process() {
    static std::atomic<Service*> service{nullptr};
    return service;
}

std::atomic<bool>& end_is_wished() {
    static std::atomic<bool> wished{false};
    return wished;
}

void begin_end(int) {
    if (!end_is_wished().exchange(true)) {
        alarm(end_seconds_max);  // its default action ends the process
    }
    if (Service* service = service_of_process().load()) {
        service->stop();
    }
}

void watch_lifeline() {
    char byte;
    ssize_t got = 0;
    do {
        got = read(block::tcmu::lifeline_descriptor, &byte, 1);
    } while (got > 0 || (got < 0 && errno == EINTR));
    begin_end(0);
}

Area* map_area() {
    struct stat status {};
    if (fstat(block::tcmu::area_descriptor, &status) != 0 || status.st_size != sizeof(Area)) {
        return nullptr;
    }
    void* memory =
        mmap(nullptr, sizeof(Area), PROT_READ | PROT_WRITE, MAP_SHARED, block::tcmu::area_descriptor, 0);
    auto* area = memory == MAP_FAILED ? nullptr : static_cast<Area*>(memory);
    const bool known = area != nullptr && area->magic == block::tcmu::area_magic &&
                       area->version == block::tcmu::area_version;
    return known ? area : nullptr;
}

class Host {
  public:
    Host(const Options& options, Area* area) : options_(options), area_(area) {}

    int check() {
        if (!load()) {
            std::fprintf(stderr, "%s\n", problem_.c_str());
            return 1;
        }
        std::printf("%s: %s\n", handler_->subtype, handler_->name != nullptr ? handler_->name : "");
        return 0;
    }

    int serve() {
        const int result = load() && lock() && open() ? run() : refuse();
        if (handler_ != nullptr && handler_->destroy != nullptr && initialized_) {
            handler_->destroy();
        }
        return result;
    }

  private:
    bool load() {
        device_.configuration = options_.subtype + "/" + options_.configuration;
        device_.serial = options_.name;
        device_.block_bytes = options_.block_bytes;
        device_.blocks = options_.size_bytes / options_.block_bytes;
        handler_ = load_handler(options_.library, options_.subtype, problem_);
        if (handler_ == nullptr) {
            return false;
        }
        if (handler_->init != nullptr && handler_->init() != 0) {
            problem_ = "the handler's init failed" + because();
            return false;
        }
        initialized_ = true;
        char* reason = nullptr;
        if (handler_->check_config != nullptr &&
            !handler_->check_config(device_.configuration.c_str(), &reason)) {
            problem_ = "the handler refuses the configuration \"" + options_.configuration +
                       "\": " + (reason != nullptr ? reason : "it does not say why");
            std::free(reason);
            return false;
        }
        return true;
    }

    bool lock() {
        const auto waiting = [&](const std::string& holder) {
            tell(holder);
            set_stage(Stage::waiting_for_lock);
        };
        return medium_lock_.take(
            waiting, [] { return end_is_wished().load(); }, problem_);
    }

    bool open() {
        set_stage(Stage::opening);
        if (options_.subtype == "qcow") {
            QcowImage image;
            std::uint64_t mended = 0;
            problem_ = examine_qcow(options_.configuration, image);
            if (problem_.empty()) {
                problem_ = mend_qcow(options_.configuration, mended);
            }
            if (!problem_.empty()) {
                return false;
            }
            if (mended != 0) {
                log_line(Level::warning, "clusters in use that were not counted, and are now: %llu",
                         static_cast<unsigned long long>(mended));
            }
            device_.block_bytes = 512;
            device_.blocks = image.size_bytes / 512;
        }
        device_.transfer_blocks_max = block::tcmu::piece_bytes_max / device_.block_bytes;
        device_.write_cache = handler_->flush != nullptr;
        if (const int result = handler_->open(&device_, false); result != 0) {
            problem_ = "the handler cannot open \"" + options_.configuration + "\" (" +
                       std::to_string(result) + ")" + because();
            return false;
        }
        if (device_.blocks == 0) {
            problem_ = "the handler does not know the size of \"" + options_.configuration + "\"; set a size";
        } else if (!medium_lock_.take_image_now()) {
            problem_ = options_.configuration + " is in use by another process";
        }
        if (!problem_.empty()) {
            close();
            return false;
        }
        return true;
    }

    int run() {
        block::tcmu::Facts& facts = area_->facts;
        facts.block_bytes = device_.block_bytes;
        facts.size_bytes = device_.blocks * device_.block_bytes;
        const std::uint64_t unmap_bytes = std::uint64_t{device_.unmap_blocks_max} * device_.block_bytes;
        facts.unmap_bytes_max =
            static_cast<std::uint32_t>(std::min<std::uint64_t>(unmap_bytes, std::uint64_t{1} << 31));
        facts.can_flush = handler_->flush != nullptr;
        facts.can_unmap = handler_->unmap != nullptr;
        facts.can_write_same = handler_->writesame != nullptr;
        facts.write_cache = device_.write_cache;
        facts.rotational = 0;
        facts.read_only = handler_->write == nullptr;
        // Never destroyed: the wish to end may come twice, on two threads.
        auto* const service = new Service(*area_, *handler_, device_);
        service_of_process().store(service);
        if (end_is_wished().load()) {
            service->stop();
        }
        service->set_stage(Stage::serving);
        service->run();
        close();
        return 0;
    }

    int refuse() {
        if (end_is_wished().load()) {
            return 0;
        }
        tell(problem_);
        set_stage(Stage::refused);
        return 1;
    }

    void close() {
        if (handler_->close != nullptr) {
            handler_->close(&device_);
        }
    }

    void tell(const std::string& text) {
        const std::size_t length = std::min<std::size_t>(text.size(), block::tcmu::text_bytes - 1);
        std::memcpy(area_->text, text.data(), length);
        area_->text[length] = 0;
    }

    void set_stage(Stage stage) {
        area_->stage.store(stage, std::memory_order_release);
        const std::uint64_t one = 1;
        [[maybe_unused]] const ssize_t written = write(block::tcmu::completions_descriptor, &one, sizeof one);
    }

    static std::string because() {
        const std::string error = last_error();
        return error.empty() ? "" : ": " + error;
    }

    const Options& options_;
    Area* area_;
    tcmu_device device_;
    tcmur_handler* handler_ = nullptr;
    bool initialized_ = false;
    std::string problem_;
    MediumLock medium_lock_{options_.configuration};
};

int serve(const Options& options) {
    Area* area = map_area();
    if (area == nullptr) {
        log_line(Level::error, "the memory that was passed is not of this version");
        return 2;
    }
    for (const int descriptor : {block::tcmu::area_descriptor, block::tcmu::requests_descriptor,
                                 block::tcmu::completions_descriptor}) {
        fcntl(descriptor, F_SETFD, FD_CLOEXEC);  // not for what a handler starts
    }
    struct sigaction action {};
    action.sa_handler = begin_end;
    sigaction(SIGUSR2, &action, nullptr);
    signal(SIGTERM, SIG_IGN);  // a service manager means the server, which then ends us
    signal(SIGINT, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    prctl(PR_SET_PDEATHSIG, SIGUSR2);
    if (getppid() != options.parent) {
        return 0;
    }
    std::thread(watch_lifeline).detach();
    Host host(options, area);
    const int result = host.serve();
    // Threads of the handler may still run: what is destroyed at an orderly exit might be in use.
    std::fflush(nullptr);
    _exit(result);
}

}  // namespace

}  // namespace tcmu

int main(int count, char** arguments) {
    tcmu::Options options;
    if (!tcmu::parse_options(count, arguments, options)) {
        std::fputs(tcmu::usage, stderr);
        return 2;
    }
    return options.serve ? tcmu::serve(options) : tcmu::Host(options, nullptr).check();
}
