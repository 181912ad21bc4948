#include "engine/huge_pages.h"

#include <doctest/doctest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <span>
#include <string>
#include <thread>

#include "base/clock.h"
#include "durable/arena.h"

namespace engine {

namespace {

// Bytes of this process's mapping that huge pages hold.
std::size_t huge_bytes(std::span<const std::byte> memory) {
    char begin[32];
    std::snprintf(begin, sizeof begin, "%lx-", reinterpret_cast<unsigned long>(memory.data()));
    std::ifstream maps("/proc/self/smaps");
    std::string line;
    bool here = false;
    while (std::getline(maps, line)) {
        if (line.find("-") < 17 && line.find(" rw-s ") != std::string::npos) {
            here = line.starts_with(begin);
        } else if (here && line.starts_with("ShmemPmdMapped:")) {
            return static_cast<std::size_t>(std::stoul(line.substr(15))) * 1024;
        }
    }
    return 0;
}

durable::MemoryFile memory_of(std::uint64_t bytes) {
    auto made = durable::MemoryFile::open(-1, "test", bytes, 64 * HugePages::page_bytes);
    REQUIRE(made.ok());
    return made.take();
}

bool system_has_some() {
    const durable::MemoryFile probe = memory_of(HugePages::page_bytes);
    if (HugePages::fill(probe.descriptor(), HugePages::page_bytes) == 1) {
        return true;
    }
    MESSAGE("not run: this system gives no huge pages to memory files");
    return false;
}

}  // namespace

TEST_CASE("a memory file that was filled before it is mapped lies in huge pages") {
    if (!system_has_some()) {
        return;
    }
    constexpr std::uint64_t bytes = 3 * HugePages::page_bytes + 4096;
    const durable::MemoryFile file = memory_of(bytes);
    const std::size_t made = HugePages::fill(file.descriptor(), bytes);
    CHECK(made >= 1);  // of three: how many a system has left is its own affair
    CHECK(made <= 3);
    std::memset(file.memory().data(), 1, bytes);
    CHECK(huge_bytes(file.memory()) == made * HugePages::page_bytes);
}

TEST_CASE("written memory becomes huge pages while it is being written, and no byte is lost") {
    if (!system_has_some()) {
        return;
    }
    constexpr std::size_t pages = 6;
    const durable::MemoryFile file = memory_of(pages * HugePages::page_bytes);
    auto* const words = reinterpret_cast<std::uint64_t*>(file.memory().data());
    constexpr std::size_t words_per_page = HugePages::page_bytes / sizeof(std::uint64_t);
    // The last two hold little: one page of 4 KiB, and nothing.
    constexpr std::size_t count = (pages - 2) * words_per_page;
    words[count] = 1;
    for (std::size_t i = 0; i < count; ++i) {
        words[i] = i;
    }
    HugePages huge;
    huge.look_at("test", file.descriptor());
    const base::Nanoseconds deadline = base::monotonic_now() + 20 * base::second;
    std::uint64_t rounds = 0;
    while (huge_bytes(file.memory()) < (pages - 2) * HugePages::page_bytes &&
           base::monotonic_now() < deadline) {
        ++rounds;
        for (std::size_t i = 0; i < count; i += 61) {
            words[i] = i + rounds;
        }
        huge.look_at("test", file.descriptor());
    }
    CHECK(huge_bytes(file.memory()) >= HugePages::page_bytes);
    CHECK(huge_bytes(file.memory()) <= (pages - 2) * HugePages::page_bytes);
    bool right = words[count] == 1;
    for (std::size_t i = 0; i < count; ++i) {
        right = right && words[i] == (i % 61 == 0 ? i + rounds : i);
    }
    CHECK(right);
    huge.forget("test");
    huge.forget("unknown");
}

}  // namespace engine
