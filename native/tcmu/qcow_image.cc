#include "tcmu/qcow_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <vector>

namespace tcmu {

namespace {

constexpr std::uint32_t magic = 0x5146'49fb;
constexpr std::uint64_t offset_bits = 0x00ff'ffff'ffff'fe00;
constexpr std::uint64_t compressed_bit = std::uint64_t{1} << 62;
constexpr std::uint64_t zero_bit = 1;

struct File {
    explicit File(const std::string& path) : number(open(path.c_str(), O_RDONLY | O_CLOEXEC)) {}
    File(const File&) = delete;
    File& operator=(const File&) = delete;
    ~File() {
        if (number >= 0) {
            close(number);
        }
    }
    bool read(std::uint64_t offset, std::byte* data, std::size_t bytes) const {
        return pread(number, data, bytes, static_cast<off_t>(offset)) == static_cast<ssize_t>(bytes);
    }
    int number;
};

std::uint64_t number_at(const std::byte* bytes, std::size_t offset, int count) {
    std::uint64_t value = 0;
    for (int i = 0; i < count; ++i) {
        value = value << 8 | std::to_integer<std::uint64_t>(bytes[offset + static_cast<std::size_t>(i)]);
    }
    return value;
}

// Clusters that read as zeroes by a mark of their own: the handler reads them wrongly, and fills them with
// something else when they are written.
bool has_zero_clusters(const File& file, const std::byte* header, bool& readable) {
    const std::uint64_t cluster_bytes = std::uint64_t{1} << number_at(header, 20, 4);
    const std::uint64_t tables = number_at(header, 36, 4);
    const std::uint64_t first = number_at(header, 40, 8);
    std::vector<std::byte> table(cluster_bytes);
    std::byte entry[8];
    for (std::uint64_t i = 0; i < tables; ++i) {
        readable = file.read(first + i * 8, entry, sizeof entry);
        const std::uint64_t offset = number_at(entry, 0, 8) & offset_bits;
        if (!readable || offset == 0) {
            if (!readable) {
                return false;
            }
            continue;
        }
        readable = file.read(offset, table.data(), table.size());
        if (!readable) {
            return false;
        }
        for (std::size_t at = 0; at < table.size(); at += 8) {
            const std::uint64_t cluster = number_at(table.data(), at, 8);
            if ((cluster & compressed_bit) == 0 && (cluster & zero_bit) != 0) {
                return true;
            }
        }
    }
    return false;
}

}  // namespace

std::string examine_qcow(const std::string& path, QcowImage& image) {
    const File file(path);
    if (file.number < 0) {
        return path + ": " + std::strerror(errno);
    }
    std::byte header[104] = {};
    const ssize_t bytes = pread(file.number, header, sizeof header, 0);
    if (bytes < 48 || number_at(header, 0, 4) != magic) {
        return path + " is not a qcow image";
    }
    const std::uint64_t version = number_at(header, 4, 4);
    image.size_bytes = number_at(header, 24, 8);
    if (version < 1 || version > 3) {
        return path + " is a qcow image of version " + std::to_string(version) + "; the handler knows 1 to 3";
    }
    if (image.size_bytes == 0 || image.size_bytes % 512 != 0) {
        return path + " has " + std::to_string(image.size_bytes) + " bytes, not a multiple of 512";
    }
    if (number_at(header, 8, 8) != 0) {
        return path +
               " has a backing file: the handler would lose what lies beside a small write; "
               "remedy: qemu-img rebase -b \"\"";
    }
    if (version == 1) {
        return {};
    }
    const std::uint64_t cluster_bits = number_at(header, 20, 4);
    if (cluster_bits < 9 || cluster_bits > 16) {
        return path + " has clusters of 2^" + std::to_string(cluster_bits) +
               " bytes; the handler knows 2^9 to 2^16";
    }
    if (number_at(header, 60, 4) != 0) {
        return path +
               " has internal snapshots: the handler would write into them; "
               "remedy: qemu-img snapshot -d";
    }
    if (version == 3 && (number_at(header, 72, 8) != 0 || number_at(header, 88, 8) != 0)) {
        return path +
               " uses features that the handler does not know (an external data file, extended L2 "
               "entries, bitmaps), or was not closed; remedy: qemu-img check -r all, or convert it";
    }
    bool readable = true;
    if (version == 3 && has_zero_clusters(file, header, readable)) {
        return path +
               " has clusters marked as zeroes, which the handler misreads; remedy: qemu-img convert "
               "-O qcow2 -o compat=0.10";
    }
    return readable ? std::string() : path + " cannot be read, or ends too early";
}

}  // namespace tcmu
