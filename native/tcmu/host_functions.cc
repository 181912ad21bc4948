// The functions that handlers import from the program that loads them. They are exported by name
// (tcmu/exports.txt); handlers bind all of them when they are loaded.

#include <pthread.h>

#include <algorithm>
#include <cerrno>
#include <cstdarg>
#include <cstdlib>
#include <cstring>

#include "tcmu/handler_library.h"
#include "tcmu/host_device.h"
#include "tcmu/log.h"

// --- The handler and its device
// ---------------------------------------------------------------------------------

int tcmur_register_handler(tcmur_handler* handler) {
    tcmu::registered_handlers().push_back(handler);
    return 0;
}

void tcmur_cmd_complete(tcmu_device* device, void* cmd, int status) {
    auto* command = static_cast<tcmur_cmd*>(cmd);
    command->done(device, command, status);
}

void tcmur_dev_set_private(tcmu_device* device, void* own) { device->handler_private = own; }
void* tcmur_dev_get_private(tcmu_device* device) { return device->handler_private; }
void* tcmu_dev_get_private(tcmu_device* device) { return device->runner_private; }

// Locks between initiators' paths are for SCSI: nobody holds one here. A request that failed for it says so
// in its status.
void tcmu_notify_lock_lost(tcmu_device*) {
    tcmu::log_line(tcmu::Level::warning, "the medium's lock is lost");
}
void tcmu_notify_cmd_timed_out(tcmu_device*) {
    tcmu::log_line(tcmu::Level::warning, "the handler gave up on a request that took too long");
}

void tcmu_set_thread_name(const char* prefix, tcmu_device*) {
    if (prefix != nullptr) {
        char name[16] = {};
        std::strncpy(name, prefix, sizeof name - 1);
        pthread_setname_np(pthread_self(), name);
    }
}

// --- What is known of the device
// --------------------------------------------------------------------------------

char* tcmu_dev_get_cfgstring(tcmu_device* device) { return device->configuration.data(); }
void tcmu_dev_set_num_lbas(tcmu_device* device, std::uint64_t count) { device->blocks = count; }
std::uint64_t tcmu_dev_get_num_lbas(tcmu_device* device) { return device->blocks; }
void tcmu_dev_set_block_size(tcmu_device* device, std::uint32_t bytes) { device->block_bytes = bytes; }
std::uint32_t tcmu_dev_get_block_size(tcmu_device* device) { return device->block_bytes; }
std::uint32_t tcmu_dev_get_max_xfer_len(tcmu_device* device) { return device->transfer_blocks_max; }
void tcmu_dev_set_opt_xcopy_rw_len(tcmu_device*, std::uint32_t) {}
void tcmu_dev_set_max_unmap_len(tcmu_device* device, std::uint32_t length) {
    device->unmap_blocks_max = length;
}
std::uint32_t tcmu_dev_get_max_unmap_len(tcmu_device* device) { return device->unmap_blocks_max; }
void tcmu_dev_set_opt_unmap_gran(tcmu_device* device, std::uint32_t length, bool) {
    device->unmap_blocks = length;
}
std::uint32_t tcmu_dev_get_opt_unmap_gran(tcmu_device* device) { return device->unmap_blocks; }
void tcmu_dev_set_unmap_gran_align(tcmu_device* device, std::uint32_t length) {
    device->unmap_blocks_alignment = length;
}
std::uint32_t tcmu_dev_get_unmap_gran_align(tcmu_device* device) { return device->unmap_blocks_alignment; }
void tcmu_dev_set_write_cache_enabled(tcmu_device* device, bool enabled) { device->write_cache = enabled; }
bool tcmu_dev_get_write_cache_enabled(tcmu_device* device) { return device->write_cache; }
void tcmu_dev_set_solid_state_media(tcmu_device* device, bool solid_state) {
    device->solid_state = solid_state;
}
bool tcmu_dev_get_solid_state_media(tcmu_device* device) { return device->solid_state; }
bool tcmu_dev_get_unmap_enabled(tcmu_device*) { return true; }

std::uint64_t tcmu_cfgfs_dev_get_info_u64(tcmu_device* device, const char* name, int* result) {
    if (std::strcmp(name, "Size") == 0) {
        *result = 0;
        return device->blocks * device->block_bytes;
    }
    *result = -ENOENT;
    return 0;
}

int tcmu_cfgfs_dev_get_attr_int(tcmu_device* device, const char* name) {
    if (std::strcmp(name, "hw_block_size") == 0 || std::strcmp(name, "block_size") == 0) {
        return static_cast<int>(device->block_bytes);
    }
    if (std::strcmp(name, "hw_max_sectors") == 0) {
        return static_cast<int>(device->transfer_blocks_max);
    }
    return -ENOENT;
}

char* tcmu_cfgfs_dev_get_wwn(tcmu_device* device) { return strdup(device->serial.c_str()); }

// --- Commands, for handlers that take whole SCSI commands
// -------------------------------------------------------

namespace {

// SPC-4 §4.2.5.1: the group code, the top three bits, tells the length.
enum class CdbLength { six, ten, twelve, sixteen };

CdbLength length_of(const std::uint8_t* cdb) {
    switch (cdb[0] >> 5) {
        case 0: return CdbLength::six;
        case 4: return CdbLength::sixteen;
        case 5: return CdbLength::twelve;
        default: return CdbLength::ten;
    }
}

std::uint64_t big_endian(const std::uint8_t* bytes, int count) {
    std::uint64_t value = 0;
    for (int i = 0; i < count; ++i) {
        value = value << 8 | bytes[i];
    }
    return value;
}

}  // namespace

std::uint64_t tcmu_cdb_get_lba(std::uint8_t* cdb) {
    switch (length_of(cdb)) {
        case CdbLength::six: return big_endian(cdb + 1, 3) & 0x1f'ffff;
        case CdbLength::sixteen: return big_endian(cdb + 2, 8);
        case CdbLength::ten:
        case CdbLength::twelve: return big_endian(cdb + 2, 4);
    }
    return 0;
}

std::uint32_t tcmu_cdb_get_xfer_length(std::uint8_t* cdb) {
    switch (length_of(cdb)) {
        case CdbLength::six: return cdb[4];
        case CdbLength::ten: return static_cast<std::uint32_t>(big_endian(cdb + 7, 2));
        case CdbLength::twelve: return static_cast<std::uint32_t>(big_endian(cdb + 6, 4));
        case CdbLength::sixteen: return static_cast<std::uint32_t>(big_endian(cdb + 10, 4));
    }
    return 0;
}

// SPC-4 §4.5.3: fixed format.
int tcmu_sense_set_data(std::uint8_t* sense, std::uint8_t key, std::uint16_t code) {
    std::memset(sense, 0, 96);
    sense[0] = 0x70;
    sense[2] = key;
    sense[7] = 10;
    sense[12] = static_cast<std::uint8_t>(code >> 8);
    sense[13] = static_cast<std::uint8_t>(code);
    return TCMU_STS_PASSTHROUGH_ERR;
}

void tcmu_sense_set_info(std::uint8_t* sense, std::uint32_t information) {
    std::memset(sense, 0, 18);
    for (int i = 0; i < 4; ++i) {
        sense[3 + i] = static_cast<std::uint8_t>(information >> (24 - 8 * i));
    }
    sense[0] |= 0x80;
}

void tcmu_sense_set_key_specific_info(std::uint8_t* sense, std::uint16_t information) {
    std::memset(sense, 0, 18);
    sense[15] = 0x80;
    sense[16] = static_cast<std::uint8_t>(information >> 8);
    sense[17] = static_cast<std::uint8_t>(information);
}

// --- Vectors of memory
// ------------------------------------------------------------------------------------------

namespace {

std::byte* base_of(const iovec& entry) { return static_cast<std::byte*>(entry.iov_base); }

void use_up(iovec& entry, std::size_t bytes) {
    entry.iov_base = base_of(entry) + bytes;
    entry.iov_len -= bytes;
}

}  // namespace

off_t tcmu_iovec_compare(void* memory, iovec* entries, std::size_t size) {
    const auto* expected = static_cast<const std::byte*>(memory);
    for (std::size_t done = 0; done < size; ++entries) {
        const std::size_t part = std::min(size - done, entries->iov_len);
        const auto difference = std::mismatch(expected + done, expected + done + part, base_of(*entries));
        if (difference.first != expected + done + part) {
            return difference.first - expected;
        }
        done += part;
    }
    return -1;
}

std::size_t tcmu_iovec_seek(iovec* entries, std::size_t count) {
    std::size_t used_up = 0;
    while (count > 0) {
        const std::size_t part = std::min(count, entries->iov_len);
        use_up(*entries, part);
        count -= part;
        if (entries->iov_len == 0) {
            ++entries;
            ++used_up;
        }
    }
    return used_up;
}

std::size_t tcmu_iovec_length(iovec* entries, std::size_t count) {
    std::size_t length = 0;
    for (std::size_t i = 0; i < count; ++i) {
        length += entries[i].iov_len;
    }
    return length;
}

std::size_t tcmu_memcpy_into_iovec(iovec* entries, std::size_t count, void* source, std::size_t length) {
    std::size_t copied = 0;
    for (std::size_t i = 0; i < count && copied < length; ++i) {
        const std::size_t part = std::min(length - copied, entries[i].iov_len);
        std::memcpy(entries[i].iov_base, static_cast<std::byte*>(source) + copied, part);
        use_up(entries[i], part);
        copied += part;
    }
    return copied;
}

std::size_t tcmu_memcpy_from_iovec(void* destination, std::size_t length, iovec* entries, std::size_t count) {
    std::size_t copied = 0;
    for (std::size_t i = 0; i < count && copied < length; ++i) {
        const std::size_t part = std::min(length - copied, entries[i].iov_len);
        std::memcpy(static_cast<std::byte*>(destination) + copied, entries[i].iov_base, part);
        use_up(entries[i], part);
        copied += part;
    }
    return copied;
}

// --- Messages
// ---------------------------------------------------------------------------------------------------

#define KEEL_TCMU_MESSAGE(name, level)                                   \
    void name(tcmu_device*, const char*, int, const char* format, ...) { \
        std::va_list arguments;                                          \
        va_start(arguments, format);                                     \
        tcmu::log_line(level, format, arguments);                        \
        va_end(arguments);                                               \
    }

KEEL_TCMU_MESSAGE(tcmu_err_message, tcmu::Level::error)
KEEL_TCMU_MESSAGE(tcmu_warn_message, tcmu::Level::warning)
KEEL_TCMU_MESSAGE(tcmu_info_message, tcmu::Level::info)

// Several per request: nobody could read them.
void tcmu_dbg_message(tcmu_device*, const char*, int, const char*, ...) {}
