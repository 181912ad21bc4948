// The handler "faulty": the blocks of a file, and faults on demand. A write whose data begin with one of the
// markers makes it crash, hang, complete twice, break the rules of the shared memory, or talk too much; the
// marker is taken for data once the file
// "<path>.cured" exists. Configuration: the file's path.

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <string>

#include "block/tcmu/area.h"
#include "tcmu/handler_abi.h"

namespace {

struct Faulty {
    int number;
    std::string path;
};

Faulty& faulty_of(tcmu_device* device) { return *static_cast<Faulty*>(tcmur_dev_get_private(device)); }

int faulty_open(tcmu_device* device, bool) {
    const std::string whole = tcmu_dev_get_cfgstring(device);
    const std::string path = whole.substr(whole.find('/') + 1);
    const int number = open(path.c_str(), O_RDWR | O_CLOEXEC);
    struct stat status {};
    if (number < 0 || fstat(number, &status) != 0) {
        tcmu_err_message(device, __func__, __LINE__, "%s: %m", path.c_str());
        return -errno;
    }
    tcmu_dev_set_num_lbas(device, static_cast<uint64_t>(status.st_size) / tcmu_dev_get_block_size(device));
    tcmur_dev_set_private(device, new Faulty{number, path});
    return 0;
}

void faulty_close(tcmu_device* device) {
    close(faulty_of(device).number);
    delete &faulty_of(device);
}

int faulty_read(tcmu_device* device, tcmur_cmd*, iovec* entries, size_t count, size_t, off_t offset) {
    const ssize_t moved = preadv(faulty_of(device).number, entries, static_cast<int>(count), offset);
    return moved < 0 ? TCMU_STS_RD_ERR : TCMU_STS_OK;
}

// Completes, in the memory shared with the server, a request that was never sent, and goes no further.
[[noreturn]] void scribble() {
    using block::tcmu::Area;
    auto* area = static_cast<Area*>(
        mmap(nullptr, sizeof(Area), PROT_READ | PROT_WRITE, MAP_SHARED, block::tcmu::area_descriptor, 0));
    const std::uint32_t tail = area->completions_tail.load();
    area->completions[tail % block::tcmu::ring_entries] = {77, 12345, 0, 0};
    area->completions_tail.store(tail + 1);
    const std::uint64_t one = 1;
    (void)!write(block::tcmu::completions_descriptor, &one, sizeof one);
    for (;;) {
        pause();
    }
}

int faulty_write(tcmu_device* device, tcmur_cmd* cmd, iovec* entries, size_t count, size_t length,
                 off_t offset) {
    const Faulty& faulty = faulty_of(device);
    const auto begins_with = [&](const char* marker) {
        return length >= 16 && std::strncmp(static_cast<const char*>(entries->iov_base), marker, 16) == 0 &&
               access((faulty.path + ".cured").c_str(), F_OK) != 0;
    };
    if (begins_with("crash now")) {
        tcmu_err_message(device, __func__, __LINE__, "this handler crashes now");
        std::abort();
    }
    if (begins_with("hang now")) {
        for (;;) {
            pause();
        }
    }
    if (begins_with("complete twice")) {
        tcmur_cmd_complete(device, cmd, TCMU_STS_OK);
    }
    if (begins_with("break the rules")) {
        scribble();
    }
    if (begins_with("fail now")) {
        return TCMU_STS_WR_ERR;
    }
    if (begins_with("talk now")) {
        for (int i = 0; i < 100'000; ++i) {
            tcmu_info_message(device, __func__, __LINE__, "line %d of very many", i);
        }
    }
    const ssize_t moved = pwritev(faulty.number, entries, static_cast<int>(count), offset);
    return moved < 0 ? TCMU_STS_WR_ERR : TCMU_STS_OK;
}

int faulty_flush(tcmu_device* device, tcmur_cmd*) {
    return fdatasync(faulty_of(device).number) == 0 ? TCMU_STS_OK : TCMU_STS_WR_ERR;
}

tcmur_handler handler_of_faults() {
    tcmur_handler handler{};
    handler.name = "Faults (for tests)";
    handler.subtype = "faulty";
    handler.cfg_desc = "The file's path.";
    handler.open = faulty_open;
    handler.close = faulty_close;
    handler.nr_threads = 4;
    handler.read = faulty_read;
    handler.write = faulty_write;
    handler.flush = faulty_flush;
    return handler;
}

}  // namespace

extern "C" TCMU_HOST_API int handler_init() {
    static tcmur_handler handler = handler_of_faults();
    return tcmur_register_handler(&handler);
}
