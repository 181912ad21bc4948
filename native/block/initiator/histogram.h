// Latencies in log-linear buckets, 32 per power of two: quantiles are right within about 3 %.
#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace block::initiator {

class Histogram {
  public:
    void add(std::uint64_t nanoseconds) {
        ++counts_[bucket_of(nanoseconds)];
        ++total_;
        sum_ += nanoseconds;
        maximum_ = std::max(maximum_, nanoseconds);
    }

    std::uint64_t total() const { return total_; }
    std::uint64_t maximum() const { return maximum_; }
    double mean() const { return total_ == 0 ? 0 : static_cast<double>(sum_) / static_cast<double>(total_); }

    // The value that `fraction` of all values do not exceed; the upper end of its bucket.
    std::uint64_t quantile(double fraction) const {
        const auto wanted = static_cast<std::uint64_t>(static_cast<double>(total_) * fraction);
        std::uint64_t seen = 0;
        for (std::uint32_t bucket = 0; bucket < bucket_count; ++bucket) {
            seen += counts_[bucket];
            if (seen > wanted || (seen == total_ && seen != 0)) {
                return std::min(upper_bound(bucket), maximum_);
            }
        }
        return 0;
    }

  private:
    static constexpr std::uint32_t mantissa_bits = 5;
    static constexpr std::uint32_t per_octave = 1u << mantissa_bits;
    static constexpr std::uint32_t bucket_count = (64 - mantissa_bits + 1) * per_octave;

    static std::uint32_t bucket_of(std::uint64_t value) {
        if (value < per_octave) {
            return static_cast<std::uint32_t>(value);
        }
        const auto shift = static_cast<std::uint32_t>(std::bit_width(value)) - mantissa_bits - 1;
        return (shift + 1) * per_octave + (static_cast<std::uint32_t>(value >> shift) - per_octave);
    }

    static std::uint64_t upper_bound(std::uint32_t bucket) {
        if (bucket < per_octave) {
            return bucket;
        }
        const std::uint32_t shift = bucket / per_octave - 1;
        return ((std::uint64_t{bucket % per_octave + per_octave} + 1) << shift) - 1;
    }

    std::array<std::uint64_t, bucket_count> counts_{};
    std::uint64_t total_ = 0;
    std::uint64_t sum_ = 0;
    std::uint64_t maximum_ = 0;
};

}  // namespace block::initiator
