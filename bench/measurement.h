// What the benchmark programs have in common: phases by time, latencies, and the result as JSON on stdout, in
// the words of keel-load, so that bench/run.mjs reads all of them alike.
#pragma once

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "block/initiator/histogram.h"

namespace bench {

// Counts from the end of the warm-up to the end of the measurement. With `progress` a line on stderr five
// times a second, so that an observer can relate I/Os to CPU time.
class Measurement {
  public:
    Measurement(double warmup_seconds, double seconds, bool progress)
        : progress_(progress),
          started_(base::monotonic_now()),
          begin_(started_ + static_cast<base::Nanoseconds>(warmup_seconds * 1e9)),
          end_(begin_ + static_cast<base::Nanoseconds>(seconds * 1e9)),
          next_line_(started_) {}

    // One I/O ended at `now`. False: the time is over.
    bool add(base::Nanoseconds issued_at, base::Nanoseconds now) {
        ++completed_;
        if (now >= begin_ && now < end_) {
            latencies_.add(now - issued_at);
        }
        if (progress_ && now >= next_line_) {
            next_line_ = now + 200 * base::millisecond;
            std::fprintf(stderr,
                         "{\"seconds\": %.3f, \"completed\": %llu, \"errors\": 0, \"phase\": \"%s\"}\n",
                         static_cast<double>(now - started_) / 1e9,
                         static_cast<unsigned long long>(completed_), now < begin_ ? "warming" : "measuring");
        }
        return now < end_;
    }

    void print() const {
        const double seconds = static_cast<double>(end_ - begin_) / 1e9;
        const auto us = [this](double fraction) {
            return static_cast<double>(latencies_.quantile(fraction)) / 1000;
        };
        std::printf(
            "{\"ok\": true, \"seconds\": %.3f, \"iops\": %.1f, \"errors\": 0,\n \"latency\": {\"count\": "
            "%llu, "
            "\"mean_us\": %.2f, \"p50_us\": %.2f, \"p99_us\": %.2f, \"p999_us\": %.2f, \"p9999_us\": %.2f, "
            "\"max_us\": %.2f}}\n",
            seconds, static_cast<double>(latencies_.total()) / seconds,
            static_cast<unsigned long long>(latencies_.total()), latencies_.mean() / 1000, us(0.5), us(0.99),
            us(0.999), us(0.9999), static_cast<double>(latencies_.maximum()) / 1000);
    }

  private:
    bool progress_;
    base::Nanoseconds started_, begin_, end_, next_line_;
    std::uint64_t completed_ = 0;
    block::initiator::Histogram latencies_;
};

// xorshift64*: places need no better chance.
class Random {
  public:
    std::uint64_t below(std::uint64_t bound) {
        state_ ^= state_ >> 12;
        state_ ^= state_ << 25;
        state_ ^= state_ >> 27;
        return static_cast<std::uint64_t>(
            (static_cast<unsigned __int128>(state_ * 0x2545F4914F6CDD1D) * bound) >> 64);
    }

  private:
    std::uint64_t state_ = 0x9E3779B97F4A7C15;
};

// Command lines of the form --name value; a name without a value is a switch.
class Arguments {
  public:
    Arguments(int count, char** values) : count_(count), values_(values) {}

    bool has(std::string_view name) const { return find(name) != 0; }
    std::string text(std::string_view name, const char* otherwise = nullptr) const {
        const int at = find(name);
        if (at != 0 && at + 1 < count_) {
            return values_[at + 1];
        }
        if (otherwise == nullptr) {
            std::fprintf(stderr, "%s is missing\n", std::string(name).c_str());
            std::exit(2);
        }
        return otherwise;
    }
    std::uint64_t number(std::string_view name, const char* otherwise = nullptr) const {
        return std::strtoull(text(name, otherwise).c_str(), nullptr, 10);
    }

  private:
    int find(std::string_view name) const {
        for (int i = 1; i < count_; ++i) {
            if (name == values_[i]) {
                return i;
            }
        }
        return 0;
    }

    int count_;
    char** values_;
};

}  // namespace bench
