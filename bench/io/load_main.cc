// keel-load: puts load on an NVMe/TCP target, measures it, verifies it, and prints the result as JSON.
//
//   keel-load --address 127.0.0.1 --port 4420 --subnqn nqn.… [--verify] [--seconds 10] …     (--help lists
//   all)
//
// Exit status: 0 all is right, 1 the result holds errors, 2 the options make no sense.

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <charconv>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "block/initiator/load.h"

namespace {

using block::initiator::LatencySummary;
using block::initiator::LoadOptions;
using block::initiator::LoadProgress;
using block::initiator::LoadResult;

// The one thing that a signal handler can reach.
std::atomic<bool> interrupted{false};

struct Setting {
    LoadOptions options;
    bool progress = false;
};

bool parse(std::string_view text, std::uint64_t& value) {
    std::uint64_t factor = 1;
    if (!text.empty()) {
        switch (text.back()) {
            case 'k': factor = 1ull << 10; break;
            case 'm': factor = 1ull << 20; break;
            case 'g': factor = 1ull << 30; break;
            default: break;
        }
        text.remove_suffix(factor != 1 ? 1 : 0);
    }
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc{} || end != text.data() + text.size() || value > ~std::uint64_t{0} / factor) {
        return false;
    }
    value *= factor;
    return true;
}

// A flag with a number is stored by `number`, one with a text by `text`, one without a value by `set`.
struct Flag {
    const char* name;
    const char* value;  // what to call it in the help; null: none
    const char* help;
    std::uint64_t maximum;
    void (*number)(Setting&, std::uint64_t);
    void (*text)(Setting&, std::string);
    void (*set)(Setting&);
};

constexpr std::uint64_t max16 = 0xFFFF;
constexpr std::uint64_t max32 = 0xFFFFFFFF;
constexpr std::uint64_t max64 = ~std::uint64_t{0};

template <typename Int>
Int narrow(std::uint64_t value) {
    return static_cast<Int>(value);  // within the flag's maximum
}

constexpr Flag flags[] = {
    {"--address", "IP", "address of the target", 0, nullptr,
     [](Setting& s, std::string v) { s.options.target.address = std::move(v); }, nullptr},
    {"--port", "N", "its port (4420)", max16,
     [](Setting& s, std::uint64_t v) { s.options.target.port = narrow<std::uint16_t>(v); }, nullptr, nullptr},
    {"--subnqn", "NQN", "subsystem", 0, nullptr,
     [](Setting& s, std::string v) { s.options.target.subnqn = std::move(v); }, nullptr},
    {"--hostnqn", "NQN", "who we say we are", 0, nullptr,
     [](Setting& s, std::string v) { s.options.target.hostnqn = std::move(v); }, nullptr},
    {"--nsid", "N", "namespace (1)", max32,
     [](Setting& s, std::uint64_t v) { s.options.target.nsid = narrow<std::uint32_t>(v); }, nullptr, nullptr},
    {"--queues", "N", "connections for I/O (1)", 1024,
     [](Setting& s, std::uint64_t v) { s.options.target.io_queues = narrow<std::uint16_t>(v); }, nullptr,
     nullptr},
    {"--depth", "N", "commands outstanding on each (128)", 1023,
     [](Setting& s, std::uint64_t v) { s.options.target.depth = narrow<std::uint16_t>(v); }, nullptr,
     nullptr},
    {"--io-bytes", "BYTES", "size of an I/O (4k)", max32,
     [](Setting& s, std::uint64_t v) { s.options.io_bytes = narrow<std::uint32_t>(v); }, nullptr, nullptr},
    {"--read-percent", "N", "share of reads (100)", 100,
     [](Setting& s, std::uint64_t v) { s.options.read_percent = narrow<std::uint32_t>(v); }, nullptr,
     nullptr},
    {"--sequential", nullptr, "one I/O after the other instead of random places", 0, nullptr, nullptr,
     [](Setting& s) { s.options.sequential = true; }},
    {"--seconds", "N", "how long (10); 0: until --count", 86400 * 365,
     [](Setting& s, std::uint64_t v) { s.options.seconds = static_cast<double>(v); }, nullptr, nullptr},
    {"--warmup", "N", "seconds before that, not measured (0)", 86400,
     [](Setting& s, std::uint64_t v) { s.options.warmup_seconds = static_cast<double>(v); }, nullptr,
     nullptr},
    {"--count", "N", "I/Os; 0: until --seconds", max64,
     [](Setting& s, std::uint64_t v) { s.options.count = v; }, nullptr, nullptr},
    {"--rate", "N", "I/Os per second in all; 0: as fast as possible", 1'000'000'000,
     [](Setting& s, std::uint64_t v) { s.options.rate = v; }, nullptr, nullptr},
    {"--range-offset", "BYTES", "where the range begins (0)", max64,
     [](Setting& s, std::uint64_t v) { s.options.range_offset = v; }, nullptr, nullptr},
    {"--range-bytes", "BYTES", "its size; 0: to the end, with --verify at most 1g", max64,
     [](Setting& s, std::uint64_t v) { s.options.range_bytes = v; }, nullptr, nullptr},
    {"--verify", nullptr, "write patterns and check everything that is read", 0, nullptr, nullptr,
     [](Setting& s) { s.options.verify = true; }},
    {"--fill", nullptr, "write the whole range once before measuring", 0, nullptr, nullptr,
     [](Setting& s) { s.options.fill = true; }},
    {"--no-final-check", nullptr, "with --verify: do not read everything again at the end", 0, nullptr,
     nullptr, [](Setting& s) { s.options.final_check = false; }},
    {"--fua", nullptr, "writes with Force Unit Access", 0, nullptr, nullptr,
     [](Setting& s) { s.options.force_unit_access = true; }},
    {"--flush-every", "N", "a Flush after N writes; 0: none", max32,
     [](Setting& s, std::uint64_t v) { s.options.flush_every = narrow<std::uint32_t>(v); }, nullptr, nullptr},
    {"--seed", "N", "of places and patterns; 0: a random one", max64,
     [](Setting& s, std::uint64_t v) { s.options.seed = v; }, nullptr, nullptr},
    {"--shadow", "PATH", "keep the map of what was written in a file, to go on later", 0, nullptr,
     [](Setting& s, std::string v) { s.options.shadow_path = std::move(v); }, nullptr},
    {"--after-power-cut", nullptr, "with --shadow: what was not flushed may be lost", 0, nullptr, nullptr,
     [](Setting& s) { s.options.after_power_cut = true; }},
    {"--header-digest", nullptr, "CRC32C of headers", 0, nullptr, nullptr,
     [](Setting& s) { s.options.target.header_digest = true; }},
    {"--data-digest", nullptr, "CRC32C of data", 0, nullptr, nullptr,
     [](Setting& s) { s.options.target.data_digest = true; }},
    {"--flow-control", nullptr, "keep submission queue flow control on", 0, nullptr, nullptr,
     [](Setting& s) { s.options.target.flow_control = true; }},
    {"--host-alignment", "N", "HPDA (0)", 31,
     [](Setting& s, std::uint64_t v) { s.options.target.host_alignment = narrow<std::uint8_t>(v); }, nullptr,
     nullptr},
    {"--in-capsule", "BYTES", "most data in a command capsule (what the target takes)", max32,
     [](Setting& s, std::uint64_t v) { s.options.target.in_capsule_bytes = narrow<std::uint32_t>(v); },
     nullptr, nullptr},
    {"--kato-ms", "N", "keep alive timeout (5000)", max32,
     [](Setting& s, std::uint64_t v) { s.options.target.kato_ms = narrow<std::uint32_t>(v); }, nullptr,
     nullptr},
    {"--stall-timeout", "N", "seconds without a completion that are an error (60)", max32,
     [](Setting& s, std::uint64_t v) { s.options.stall_timeout_seconds = static_cast<double>(v); }, nullptr,
     nullptr},
    {"--pause-threshold-ms", "N", "gaps between completions that are listed (5)", max32,
     [](Setting& s, std::uint64_t v) { s.options.pause_threshold_ms = narrow<std::uint32_t>(v); }, nullptr,
     nullptr},
    {"--errors-max", "N", "the load ends after as many errors (16)", max32,
     [](Setting& s, std::uint64_t v) { s.options.errors_max = narrow<std::uint32_t>(v); }, nullptr, nullptr},
    {"--progress", nullptr, "a line of JSON on stderr five times a second", 0, nullptr, nullptr,
     [](Setting& s) { s.progress = true; }},
};

void print_help() {
    std::puts("keel-load: load and verification for NVMe/TCP targets; the result is JSON on stdout.\n");
    for (const Flag& flag : flags) {
        const std::string left =
            std::string(flag.name) + (flag.value != nullptr ? std::string(" ") + flag.value : "");
        std::printf("  %-26s %s\n", left.c_str(), flag.help);
    }
    std::puts("\nBYTES takes k, m and g. Exit status: 0 right, 1 errors in the result, 2 wrong options.");
}

int refuse(const std::string& message) {
    std::fprintf(stderr, "keel-load: %s\n", message.c_str());
    return 2;
}

std::string quoted(std::string_view text) {
    std::string result = "\"";
    for (const char character : text) {
        if (character == '"' || character == '\\') {
            result += '\\';
            result += character;
        } else if (static_cast<unsigned char>(character) < 0x20) {
            char escape[8];
            std::snprintf(escape, sizeof escape, "\\u%04x", static_cast<unsigned>(character));
            result += escape;
        } else {
            result += character;
        }
    }
    return result + '"';
}

void print_latency(const char* name, const LatencySummary& latency, const char* end) {
    std::printf(
        "  \"%s\": {\"count\": %llu, \"mean_us\": %.2f, \"p50_us\": %.2f, \"p99_us\": %.2f, "
        "\"p999_us\": %.2f, \"p9999_us\": %.2f, \"max_us\": %.2f}%s\n",
        name, static_cast<unsigned long long>(latency.count), latency.mean_us, latency.p50_us, latency.p99_us,
        latency.p999_us, latency.p9999_us, latency.max_us, end);
}

void print_count(const char* name, std::uint64_t value) {
    std::printf("  \"%s\": %llu,\n", name, static_cast<unsigned long long>(value));
}

void print_result(const LoadResult& result) {
    std::puts("{");
    std::printf("  \"ok\": %s,\n  \"seconds\": %.6f,\n  \"iops\": %.1f,\n", result.ok() ? "true" : "false",
                result.seconds, result.iops);
    print_count("reads", result.reads);
    print_count("writes", result.writes);
    print_count("flushes", result.flushes);
    print_count("read_bytes", result.read_bytes);
    print_count("written_bytes", result.written_bytes);
    print_latency("latency", result.all, ",");
    print_latency("read_latency", result.read, ",");
    print_latency("write_latency", result.write, ",");
    print_latency("flush_latency", result.flush, ",");
    std::printf("  \"longest_gap_ms\": %.3f,\n  \"pauses_ms\": [", result.longest_gap_ms);
    for (std::size_t i = 0; i < result.pauses_ms.size(); ++i) {
        std::printf("%s%.3f", i == 0 ? "" : ", ", result.pauses_ms[i]);
    }
    std::puts("],");
    print_count("errors", result.errors);
    std::fputs("  \"error_texts\": [", stdout);
    for (std::size_t i = 0; i < result.error_texts.size(); ++i) {
        std::printf("%s%s", i == 0 ? "" : ", ", quoted(result.error_texts[i]).c_str());
    }
    std::puts("],");
    print_count("verified_blocks", result.verified_blocks);
    print_count("unverifiable_blocks", result.unverifiable_blocks);
    print_count("keep_alives", result.keep_alives);
    print_count("events", result.events);
    print_count("sends", result.sends);
    print_count("receives", result.receives);
    print_count("r2t", result.r2t);
    print_count("success_flags", result.success_flags);
    std::printf("  \"cpu_user_seconds\": %.6f,\n  \"cpu_system_seconds\": %.6f,\n", result.cpu_user_seconds,
                result.cpu_system_seconds);
    print_count("seed", result.seed);
    print_count("namespace_bytes", result.namespace_bytes);
    std::printf("  \"block_bytes\": %u\n}\n", result.block_bytes);
}

void print_progress(const LoadProgress& progress) {
    std::fprintf(stderr,
                 "{\"seconds\": %.3f, \"completed\": %llu, \"errors\": %llu, \"phase\": \"%s\", "
                 "\"longest_latency_ms\": %.3f, \"longest_gap_ms\": %.3f}\n",
                 progress.seconds, static_cast<unsigned long long>(progress.completed),
                 static_cast<unsigned long long>(progress.errors), progress.phase,
                 progress.longest_latency_ms, progress.longest_gap_ms);
}

}  // namespace

int main(int argc, char** argv) {
    Setting setting;
    setting.options.target.address = "127.0.0.1";
    setting.options.target.hostnqn = "nqn.2014-08.org.nvmexpress:uuid:6b65656c-6c6f-4164-8000-000000000001";
    const unsigned char hostid[16] = {0x6b, 0x65, 0x65, 0x6c, 0x6c, 0x6f, 0x41, 0x64,
                                      0x80, 0,    0,    0,    0,    0,    0,    1};
    std::copy(std::begin(hostid), std::end(hostid), setting.options.target.hostid.begin());

    for (int i = 1; i < argc; ++i) {
        const std::string_view name = argv[i];
        if (name == "--help" || name == "-h") {
            print_help();
            return 0;
        }
        const auto flag = std::find_if(std::begin(flags), std::end(flags),
                                       [name](const Flag& f) { return name == f.name; });
        if (flag == std::end(flags)) {
            return refuse("unknown option " + std::string(name) + "; --help lists all");
        }
        if (flag->set != nullptr) {
            flag->set(setting);
            continue;
        }
        if (i + 1 == argc) {
            return refuse(std::string(name) + " needs a value");
        }
        const std::string value = argv[++i];
        std::uint64_t number = 0;
        if (flag->text != nullptr) {
            flag->text(setting, value);
        } else if (parse(value, number) && number <= flag->maximum) {
            flag->number(setting, number);
        } else {
            return refuse(std::string(name) + ": \"" + value + "\" is not a number from 0 to " +
                          std::to_string(flag->maximum));
        }
    }
    struct sigaction action {};
    action.sa_handler = [](int) { interrupted.store(true); };
    sigaction(SIGINT, &action, nullptr);
    sigaction(SIGTERM, &action, nullptr);
    setting.options.stop = &interrupted;
    if (setting.progress) {
        setting.options.progress = print_progress;
    }
    const auto result = block::initiator::run_load(setting.options);
    if (!result) {
        return refuse(result.error().message);
    }
    print_result(result.value());
    return result.value().ok() ? 0 : 1;
}
