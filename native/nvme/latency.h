// Latencies in log-linear buckets: 8 per power of two from 1 µs to 64 s, so quantiles are right within 12 %.
// One writer (the reactor); readers on other threads get a value that may miss the last few additions.
#pragma once

#include <array>
#include <bit>
#include <cstdint>

namespace nvme {

class LatencyHistogram {
  public:
    static constexpr std::uint32_t buckets_per_octave = 8;
    static constexpr std::uint32_t octaves = 27;
    static constexpr std::uint32_t bucket_count = buckets_per_octave * octaves;

    void add(std::uint64_t nanoseconds) {
        ++counts_[bucket_of(nanoseconds)];
        ++total_;
        sum_ += nanoseconds;
    }

    // Bucket i holds values below upper_bound_ns(i) that are not in bucket i − 1.
    static std::uint32_t bucket_of(std::uint64_t nanoseconds) {
        const std::uint64_t units = nanoseconds >> 10;  // about microseconds
        if (units < buckets_per_octave) {
            return static_cast<std::uint32_t>(units);
        }
        const auto octave = static_cast<std::uint32_t>(std::bit_width(units)) - 4;  // 8…15 → 0
        const auto within = static_cast<std::uint32_t>(units >> octave) - buckets_per_octave;
        const std::uint32_t bucket = (octave + 1) * buckets_per_octave + within;
        return bucket < bucket_count ? bucket : bucket_count - 1;
    }

    static std::uint64_t upper_bound_ns(std::uint32_t bucket) {
        if (bucket < buckets_per_octave) {
            return (std::uint64_t{bucket} + 1) << 10;
        }
        const std::uint32_t octave = bucket / buckets_per_octave - 1;
        const std::uint64_t within = bucket % buckets_per_octave + buckets_per_octave;
        return (within + 1) << (octave + 10);
    }

    std::uint64_t total() const { return total_; }
    std::uint64_t sum_ns() const { return sum_; }
    std::uint64_t count(std::uint32_t bucket) const { return counts_[bucket]; }

  private:
    std::array<std::uint64_t, bucket_count> counts_{};
    std::uint64_t total_ = 0;
    std::uint64_t sum_ = 0;
};

}  // namespace nvme
