// Makes memory files lie in huge pages, so that a process that maps them can die, and its successor map them,
// without one step per 4 KiB: a dying process is known to be dead only after all its pages were unmapped, and
// hosts wait for that.
//
// The system grants huge pages to memory files only if it is set to, so pages are collapsed after they were
// written. That takes a millisecond or two for each 2 MiB, during which who touches them waits; so it happens
// once for each, on a thread of its own that rests most of the time. A huge page takes the place of those
// that are there only if they are at least half of it: a sparsely written file grows to at most twice its
// size.
//
// The thread works on mappings of its own. The result is in the file, for whoever maps it at an address that
// is aligned like the offset (durable::MemoryFile).
#pragma once

#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace engine {

class HugePages {
  public:
    static constexpr std::size_t page_bytes = 2u << 20;

    HugePages();
    ~HugePages();
    HugePages(const HugePages&) = delete;
    HugePages& operator=(const HugePages&) = delete;

    // The file of this name may have been written: it is looked through soon. The descriptor stays the
    // caller's. Any thread; returns at once.
    void look_at(const std::string& name, int descriptor);
    void forget(const std::string& name);

    // Fills the file and makes it huge pages, here and now, before anybody has mapped it. Returns how many
    // pages of `page_bytes` were made; a system that has none to give is no error.
    static std::size_t fill(int descriptor, std::uint64_t bytes);

  private:
    struct File;

    void run();
    void work(File& file);
    bool rest(std::uint64_t nanoseconds);  // false if the end is asked for

    std::mutex mutex_;
    std::condition_variable changed_;
    bool ending_ = false;
    std::map<std::string, std::shared_ptr<File>> files_;
    std::thread thread_;
};

}  // namespace engine
