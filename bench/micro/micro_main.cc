// Costs of single steps in nanoseconds: checksums, commits of records, the buffer pool, copies to and from
// memory that is not in the cache.
//
//   micro [word]      runs those whose name contains the word

#include <sys/mman.h>

#include <cstdio>
#include <cstring>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "../measurement.h"
#include "base/check.h"
#include "base/crc32c.h"
#include "durable/commit.h"
#include "nvme/latency.h"
#include "reactor/buffer_pool.h"
#include "transport/tcp_records.h"

namespace {

constexpr std::size_t large_bytes = std::size_t{512} << 20;
constexpr std::size_t block_bytes = 4096;

std::span<std::byte> map_memory(std::size_t bytes) {
    void* const memory =
        mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    EK_CHECK(memory != MAP_FAILED, "no memory");
    return {static_cast<std::byte*>(memory), bytes};
}

// Best of five rounds of about 50 ms: what the step costs when nobody disturbs it.
template <typename Step>
void run(std::string_view name, std::string_view word, std::size_t bytes, Step step) {
    if (name.find(word) == std::string_view::npos) {
        return;
    }
    double best = 1e18;
    for (int round = 0; round < 5; ++round) {
        const base::Nanoseconds begun = base::monotonic_now();
        base::Nanoseconds now = begun;
        std::uint64_t count = 0;
        while (now < begun + 50 * base::millisecond) {
            for (int i = 0; i < 256; ++i) {
                step();
            }
            count += 256;
            now = base::monotonic_now();
        }
        const double each = static_cast<double>(now - begun) / static_cast<double>(count);
        best = each < best ? each : best;
    }
    std::printf("%-28.*s %8.1f ns", static_cast<int>(name.size()), name.data(), best);
    if (bytes != 0) {
        std::printf("  %6.1f GB/s", static_cast<double>(bytes) / best);
    }
    std::printf("\n");
}

}  // namespace

int main(int argc, char** argv) {
    const std::string_view word = argc > 1 ? argv[1] : "";
    bench::Random random;

    std::vector<std::byte> data(128 * 1024, std::byte{7});
    std::uint32_t sink = 0;
    for (const std::size_t bytes : {std::size_t{24}, std::size_t{72}, block_bytes, std::size_t{128} * 1024}) {
        const std::string name = "crc32c-" + std::to_string(bytes);
        run(name, word, bytes, [&] { sink += base::crc32c({data.data(), bytes}); });
    }

    durable::Pair<transport::ReceiveState> state{};
    transport::ReceiveState next{};
    run("commit-receive-state", word, 0, [&] {
        next.consumed += 72;
        state.store(next);
    });

    nvme::LatencyHistogram histogram;
    std::uint64_t latency = 0;
    run("latency-histogram", word, 0, [&] { histogram.add(latency += 997); });
    run("clock", word, 0, [&] { sink += static_cast<std::uint32_t>(base::monotonic_now()); });

    const std::span<std::byte> pool_memory = map_memory(128ull << 20);
    reactor::BufferPool pool(pool_memory);
    run("buffer-pool", word, 0, [&] {
        const auto buffer = pool.allocate(block_bytes);
        pool.release(*buffer, block_bytes);
    });

    const std::span<std::byte> large = map_memory(large_bytes);
    const auto place = [&] { return large.data() + random.below(large_bytes / block_bytes) * block_bytes; };
    run("copy-to-cold-4096", word, block_bytes, [&] { std::memcpy(place(), data.data(), block_bytes); });
    run("copy-from-cold-4096", word, block_bytes, [&] { std::memcpy(data.data(), place(), block_bytes); });
    run("copy-in-cache-4096", word, block_bytes,
        [&] { std::memcpy(data.data() + 2 * block_bytes, data.data(), block_bytes); });
    return sink == 1 ? 1 : 0;
}
