// Memory for the commands of queue pairs, touched ahead of time. The first touch of a page costs about a
// microsecond, and a queue pair has dozens of them; a standby has this behind it when it takes hundreds over.
#pragma once

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <vector>

namespace nvme {

class CommandMemory {
  public:
    static constexpr std::size_t ahead_bytes_max = std::size_t{64} << 20;

    CommandMemory() = default;
    ~CommandMemory() { clear(); }
    CommandMemory(const CommandMemory&) = delete;
    CommandMemory& operator=(const CommandMemory&) = delete;

    // Has so many blocks ready, of `bytes` each, the first `used` of which are there already; fewer if that
    // would be too much.
    void prepare(std::size_t blocks, std::size_t bytes, std::size_t used) {
        if (bytes != bytes_ || used > used_) {
            clear();
            bytes_ = bytes;
            used_ = used;
        }
        while (blocks_.size() < blocks && (blocks_.size() + 1) * used_ <= ahead_bytes_max) {
            void* const block = std::malloc(bytes);
            if (block == nullptr) {
                return;
            }
            std::memset(block, 0, used);
            blocks_.push_back(block);
        }
    }
    // To be given back by free(); null if there is no memory.
    void* take(std::size_t bytes) {
        if (blocks_.empty() || bytes != bytes_) {
            return std::malloc(bytes);
        }
        void* const block = blocks_.back();
        blocks_.pop_back();
        return block;
    }
    void clear() {
        for (void* const block : blocks_) {
            std::free(block);
        }
        blocks_.clear();
    }

  private:
    std::vector<void*> blocks_;
    std::size_t bytes_ = 0;
    std::size_t used_ = 0;
};

}  // namespace nvme
