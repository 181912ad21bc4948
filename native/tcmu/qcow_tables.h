// The tables of a qcow2 image, read with suspicion: every offset and count comes from the file.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

namespace tcmu {

class QcowTables {
  public:
    static constexpr std::uint32_t magic = 0x5146'49fb;

    QcowTables(const std::string& path, bool for_writing);
    ~QcowTables();
    QcowTables(const QcowTables&) = delete;
    QcowTables& operator=(const QcowTables&) = delete;

    int error_number() const { return error_number_; }  // of opening
    // A field of the header; 0 beyond its end.
    std::uint64_t header(std::size_t offset, int bytes) const;
    bool is_qcow() const { return header_bytes_ >= 48 && header(0, 4) == magic; }

    std::uint64_t cluster_bytes() const { return std::uint64_t{1} << header(20, 4); }

    // Calls `visit` with every entry of the L1 table and of the L2 tables, until it says no. False: it said
    // no, or the file ends too early (`unreadable`).
    enum class Level { l1, l2 };
    bool walk(const std::function<bool(Level, std::uint64_t)>& visit);
    bool unreadable() const { return unreadable_; }

    // Reference counts of 16 bits, as all usual images have them.
    bool counts_are_usual() const { return header(4, 4) == 2 || header(96, 4) == 4; }
    enum class Count { used, unused, unknown };
    Count count_of(std::uint64_t cluster_offset);
    bool count_once(std::uint64_t cluster_offset);
    bool visit_count_blocks(const std::function<bool(std::uint64_t)>& visit);
    bool sync();

    static constexpr std::uint64_t offset_bits = 0x00ff'ffff'ffff'fe00;
    static constexpr std::uint64_t compressed_bit = std::uint64_t{1} << 62;
    static constexpr std::uint64_t zero_bit = 1;

  private:
    bool read(std::uint64_t offset, std::byte* data, std::size_t bytes);
    // Where the count of a cluster stands; 0: nowhere yet.
    std::uint64_t place_of_count(std::uint64_t cluster_offset);

    int file_ = -1;
    int error_number_ = 0;
    bool unreadable_ = false;
    std::array<std::byte, 104> header_{};
    std::size_t header_bytes_ = 0;
    std::vector<std::byte> count_table_;
    std::vector<std::byte> count_block_;
    std::uint64_t count_block_offset_ = 0;
};

}  // namespace tcmu
