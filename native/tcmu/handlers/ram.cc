// The handler "ram": blocks in memory. An example of a handler that completes within the callback, on one of
// two threads. Configuration: "SIZE_BYTES", whose content ends with the process, or "SIZE_BYTES;PATH", kept
// in a file that is mapped.

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "tcmu/handler_abi.h"

namespace {

struct Ram {
    char* memory;
    std::size_t bytes;
};

Ram& ram_of(tcmu_device* device) { return *static_cast<Ram*>(tcmur_dev_get_private(device)); }

const char* configuration_of(const char* whole) {
    const char* slash = std::strchr(whole, '/');
    return slash != nullptr ? slash + 1 : whole;
}

bool ram_check_config(const char* configuration, char** reason) {
    char* end = nullptr;
    const unsigned long long bytes = std::strtoull(configuration_of(configuration), &end, 10);
    const bool right = bytes != 0 && bytes % 4096 == 0 && (*end == 0 || *end == ';');
    if (!right) {
        *reason = strdup("it wants \"SIZE\" or \"SIZE;PATH\", SIZE in bytes, a multiple of 4096");
    }
    return right;
}

int ram_open(tcmu_device* device, bool) {
    char* end = nullptr;
    const std::size_t bytes = std::strtoull(configuration_of(tcmu_dev_get_cfgstring(device)), &end, 10);
    int file = -1;
    if (*end == ';') {
        file = open(end + 1, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
        if (file < 0 || ftruncate(file, static_cast<off_t>(bytes)) != 0) {
            tcmu_err_message(device, __func__, __LINE__, "%s: %m", end + 1);
            return -errno;
        }
    }
    void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE,
                        file >= 0 ? MAP_SHARED : MAP_PRIVATE | MAP_ANONYMOUS, file, 0);
    close(file);
    if (memory == MAP_FAILED) {
        return -ENOMEM;
    }
    tcmur_dev_set_private(device, new Ram{static_cast<char*>(memory), bytes});
    tcmu_dev_set_num_lbas(device, bytes / tcmu_dev_get_block_size(device));
    tcmu_dev_set_write_cache_enabled(device, false);
    return 0;
}

void ram_close(tcmu_device* device) {
    Ram* ram = &ram_of(device);
    munmap(ram->memory, ram->bytes);
    delete ram;
}

int ram_read(tcmu_device* device, tcmur_cmd*, iovec* entries, size_t count, size_t length, off_t offset) {
    tcmu_memcpy_into_iovec(entries, count, ram_of(device).memory + offset, length);
    return TCMU_STS_OK;
}

int ram_write(tcmu_device* device, tcmur_cmd*, iovec* entries, size_t count, size_t length, off_t offset) {
    tcmu_memcpy_from_iovec(ram_of(device).memory + offset, length, entries, count);
    return TCMU_STS_OK;
}

int ram_write_same(tcmu_device* device, tcmur_cmd*, uint64_t offset, uint64_t length, iovec* entries,
                   size_t count) {
    const std::size_t block = tcmu_iovec_length(entries, count);
    char* const place = ram_of(device).memory + offset;
    tcmu_memcpy_from_iovec(place, block, entries, count);
    for (std::size_t done = block; done < length; done += block) {
        std::memcpy(place + done, place, block);
    }
    return TCMU_STS_OK;
}

// The content may stay: here it becomes zeroes.
int ram_unmap(tcmu_device* device, tcmur_cmd*, uint64_t offset, uint64_t length) {
    std::memset(ram_of(device).memory + offset, 0, length);
    return TCMU_STS_OK;
}

tcmur_handler handler_of_ram() {
    tcmur_handler handler{};
    handler.name = "Memory (example)";
    handler.subtype = "ram";
    handler.cfg_desc = "SIZE in bytes, or SIZE;PATH of a file that keeps the content";
    handler.check_config = ram_check_config;
    handler.open = ram_open;
    handler.close = ram_close;
    handler.nr_threads = 2;
    handler.read = ram_read;
    handler.write = ram_write;
    handler.unmap = ram_unmap;
    handler.writesame = ram_write_same;
    return handler;
}

}  // namespace

extern "C" TCMU_HOST_API int handler_init() {
    static tcmur_handler handler = handler_of_ram();
    return tcmur_register_handler(&handler);
}
