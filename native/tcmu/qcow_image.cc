#include "tcmu/qcow_image.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <vector>

#include "tcmu/qcow_tables.h"

namespace tcmu {

namespace {

using Level = QcowTables::Level;

std::string examine_second_version(const std::string& path, QcowTables& tables) {
    const std::uint64_t cluster_bits = tables.header(20, 4);
    if (cluster_bits < 9 || cluster_bits > 16) {
        return path + " has clusters of 2^" + std::to_string(cluster_bits) +
               " bytes; the handler knows 2^9 to 2^16";
    }
    if (tables.header(60, 4) != 0) {
        return path +
               " has internal snapshots: the handler would write into them; "
               "remedy: qemu-img snapshot -d";
    }
    if (tables.header(4, 4) == 3 && (tables.header(72, 8) != 0 || tables.header(88, 8) != 0)) {
        return path +
               " uses features that the handler does not know (an external data file, extended L2 "
               "entries, bitmaps), or was not closed; remedy: qemu-img check -r all, or convert it";
    }
    bool zeroes = false;
    tables.walk([&](Level level, std::uint64_t entry) {
        zeroes = level == Level::l2 && (entry & QcowTables::compressed_bit) == 0 &&
                 (entry & QcowTables::zero_bit) != 0;
        return !zeroes;
    });
    if (zeroes) {
        return path +
               " has clusters marked as zeroes, which the handler misreads; remedy: qemu-img convert "
               "-O qcow2 -o compat=0.10";
    }
    return tables.unreadable() ? path + " cannot be read, or ends too early" : std::string();
}

// The handler makes room for a new cluster with this call alone, and fails every write that needs one where
// the file system does not know it. Asked of a file without a name beside the image.
bool zeroes_ranges(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    const std::string folder = slash == std::string::npos ? "." : path.substr(0, slash + 1);
    const int file = open(folder.c_str(), O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
    if (file < 0) {
        return true;  // not known; the handler's own errors will tell
    }
    const bool known = fallocate(file, FALLOC_FL_ZERO_RANGE, 0, 4096) == 0 || errno != EOPNOTSUPP;
    close(file);
    return known;
}

}  // namespace

std::string examine_qcow(const std::string& path, QcowImage& image) {
    QcowTables tables(path, false);
    if (tables.error_number() != 0) {
        return path + ": " + std::strerror(tables.error_number());
    }
    if (!tables.is_qcow()) {
        return path + " is not a qcow image";
    }
    const std::uint64_t version = tables.header(4, 4);
    image.size_bytes = tables.header(24, 8);
    if (version < 1 || version > 3) {
        return path + " is a qcow image of version " + std::to_string(version) + "; the handler knows 1 to 3";
    }
    if (image.size_bytes == 0 || image.size_bytes % 512 != 0) {
        return path + " has " + std::to_string(image.size_bytes) + " bytes, not a multiple of 512";
    }
    if (tables.header(8, 8) != 0) {
        return path +
               " has a backing file: the handler would lose what lies beside a small write; "
               "remedy: qemu-img rebase -b \"\"";
    }
    if (!zeroes_ranges(path)) {
        return path +
               " lies on a file system without FALLOC_FL_ZERO_RANGE (such as tmpfs), which the handler "
               "needs; "
               "remedy: keep it on ext4 or xfs";
    }
    return version == 1 ? std::string() : examine_second_version(path, tables);
}

std::string mend_qcow(const std::string& path, std::uint64_t& mended) {
    mended = 0;
    QcowTables tables(path, true);
    if (tables.error_number() != 0) {
        return path + ": " + std::strerror(tables.error_number());
    }
    if (tables.header(4, 4) == 1) {
        return {};  // counts nothing
    }
    if (!tables.counts_are_usual()) {
        return path + " has reference counts of another width than 16 bits; remedy: qemu-img convert";
    }
    std::vector<std::uint64_t> uncounted;
    bool lost = false;
    const auto look_at = [&](std::uint64_t offset) {
        const QcowTables::Count count = tables.count_of(offset);
        lost = count == QcowTables::Count::unknown;
        if (count == QcowTables::Count::unused) {
            uncounted.push_back(offset);
        }
        return !lost;
    };
    tables.walk([&](Level, std::uint64_t entry) {
        return (entry & QcowTables::compressed_bit) != 0 || look_at(entry & QcowTables::offset_bits);
    });
    tables.visit_count_blocks(look_at);
    for (const std::uint64_t offset : uncounted) {
        lost = lost || !tables.count_once(offset);
    }
    mended = uncounted.size();
    if (lost || tables.unreadable() || (mended != 0 && !tables.sync())) {
        return path + " has clusters in use that are not counted; remedy: qemu-img check -r all";
    }
    return {};
}

}  // namespace tcmu
