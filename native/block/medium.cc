#include "block/medium.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include <algorithm>
#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstring>
#include <utility>

#include "block/kinds.h"

namespace block {

namespace {

// Kernels before 6.1 do not say what O_DIRECT needs; this is right for every disk there is.
constexpr std::uint32_t alignment_assumed = 4096;

const char* code_of_errno(int error_number) {
    switch (error_number) {
        case ENOENT:
        case ENOTDIR: return "E_NOT_FOUND";
        case EBUSY:
        case ETXTBSY: return "E_BUSY";
        case ENOSPC:
        case EDQUOT:
        case EFBIG: return "E_NO_SPACE";
        case EOPNOTSUPP: return "E_UNSUPPORTED";
        default: return "E_IO";
    }
}

std::string remedy_of_open(const DeviceSpec& spec, int error_number) {
    switch (error_number) {
        case ENOENT:
        case ENOTDIR: return spec.kind == "file" ? "create it, or set create and a size" : "check the path";
        case EROFS: return "it can only be read: set read_only";
        case EACCES:
        case EPERM:
            return "the server needs permission to " + std::string(spec.read_only ? "read" : "write") + " it";
        case EMFILE:
        case ENFILE: return "raise the limit of open files (LimitNOFILE=)";
        default: return {};
    }
}

base::Result<void> check_type(const DeviceSpec& spec, mode_t found, mode_t wanted) {
    if ((found & S_IFMT) == wanted) {
        return {};
    }
    std::string message = describe_device(spec) + spec.path;
    if (S_ISBLK(found)) {
        message += " is a block device; use kind \"blockdev\"";
    } else if (S_ISREG(found)) {
        message += " is a regular file; use kind \"file\"";
    } else {
        message += std::string(" is ") +
                   (S_ISDIR(found) ? "a directory" : "neither a file nor a block device") + "; name a " +
                   (wanted == S_IFREG ? "regular file" : "block device");
    }
    return base::Error{"E_INVALID", message};
}

// Decides between O_DIRECT and the page cache.
void settle_alignment(const DeviceSpec& spec, Medium& medium) {
    std::uint32_t offset_alignment = alignment_assumed;
    medium.memory_alignment = alignment_assumed;
    struct statx status {};
    if (medium.direct && statx(medium.descriptor.number(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
        (status.stx_mask & STATX_DIOALIGN) != 0) {
        offset_alignment = status.stx_dio_offset_align;
        medium.memory_alignment = std::bit_ceil(std::max(status.stx_dio_mem_align, 1u));
        if (offset_alignment == 0) {
            medium.direct = false;
            medium.note = "buffered: the file system has no direct I/O for this file";
        }
    }
    if (medium.direct && offset_alignment > spec.block_bytes) {
        medium.direct = false;
        medium.note = "buffered: direct I/O needs blocks of " + std::to_string(offset_alignment) +
                      " bytes here, the device has " + std::to_string(spec.block_bytes);
    }
    if (!medium.direct) {
        medium.memory_alignment = 1;
        const int flags = fcntl(medium.descriptor.number(), F_GETFL);
        fcntl(medium.descriptor.number(), F_SETFL, flags & ~O_DIRECT);
    }
}

// The first line of a file below the queue of a device; partitions have none and use their disk's.
std::string queue_attribute(dev_t device, const char* attribute) {
    for (const char* place : {"", "../"}) {
        char path[128];
        std::snprintf(path, sizeof(path), "/sys/dev/block/%u:%u/%squeue/%s", major(device), minor(device),
                      place, attribute);
        if (std::FILE* file = std::fopen(path, "re"); file != nullptr) {
            char line[64] = {};
            const bool read = std::fgets(line, sizeof(line), file) != nullptr;
            std::fclose(file);
            return read ? std::string(line).substr(0, std::string(line).find('\n')) : std::string();
        }
    }
    return {};
}

}  // namespace

Descriptor& Descriptor::operator=(Descriptor&& other) noexcept {
    if (this != &other) {
        reset();
        number_ = std::exchange(other.number_, -1);
    }
    return *this;
}

void Descriptor::reset() {
    if (open()) {
        close(std::exchange(number_, -1));
    }
}

base::Error system_error(const DeviceSpec& spec, const std::string& what, int error_number,
                         const std::string& remedy) {
    return {code_of_errno(error_number),
            describe_device(spec) + what + ": " + std::strerror(error_number) +
                (remedy.empty() ? "" : "; " + remedy),
            error_number};
}

base::Result<Medium> open_medium(const DeviceSpec& spec, mode_t type) {
    if (spec.path.empty() || spec.path.find('\0') != std::string::npos) {
        return base::Error{"E_INVALID", describe_device(spec) + "it needs a path"};
    }
    // Looked at before it is opened: opening a FIFO waits, opening a tape rewinds it.
    struct stat status {};
    const int missing = stat(spec.path.c_str(), &status) == 0 ? 0 : errno;
    const bool exists = missing == 0;
    if (!exists && (missing != ENOENT || !spec.create || type != S_IFREG)) {
        return system_error(spec, "cannot open " + spec.path, missing, remedy_of_open(spec, missing));
    }
    if (exists) {
        if (const auto right = check_type(spec, status.st_mode, type); !right.ok()) {
            return right.error();
        }
    }
    Medium medium;
    medium.created = !exists;
    const int flags =
        (spec.read_only ? O_RDONLY : O_RDWR) | O_CLOEXEC | O_NOCTTY | (exists ? 0 : O_CREAT | O_EXCL);
    medium.descriptor = Descriptor(open(spec.path.c_str(), flags | O_DIRECT, 0600));
    if (!medium.descriptor.open() && errno == EINVAL) {
        // Refused after the file was created, if it was.
        medium.descriptor = Descriptor(open(spec.path.c_str(), flags & ~O_EXCL, 0600));
        medium.direct = false;
        medium.note = "buffered: the file system refuses direct I/O";
    }
    if (!medium.descriptor.open()) {
        const int refused = errno;
        return system_error(spec, "cannot open " + spec.path, refused, remedy_of_open(spec, refused));
    }
    if (fstat(medium.descriptor.number(), &status) != 0) {
        return system_error(spec, "cannot examine " + spec.path, errno);
    }
    if (const auto right = check_type(spec, status.st_mode, type); !right.ok()) {
        return right.error();
    }
    settle_alignment(spec, medium);
    return medium;
}

QueueProperties queue_properties(dev_t device) {
    QueueProperties properties;
    properties.rotational = queue_attribute(device, "rotational") == "1";
    properties.volatile_cache = queue_attribute(device, "write_cache") != "write through";
    const std::string discard = queue_attribute(device, "discard_max_bytes");
    properties.can_discard = !discard.empty() && discard != "0";
    return properties;
}

}  // namespace block
