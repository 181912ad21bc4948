// One server process and the channel to it. It is started in a process group of its own and dies with the
// keeper. Its death is complete only once `reap` has answered: before that its threads may still move bytes.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <string>

#include "base/clock.h"
#include "durable/keeper_protocol.h"
#include "keeper/store.h"

namespace keeper {

enum class Role : std::uint8_t { active, standby };

// Why the keeper itself killed a server.
enum class KillReason : std::uint8_t {
    none,
    watchdog,  // hangs, or cannot be talked to
    upgrade,   // replaced as planned
    failed,    // a standby that is not wanted as it is
    stop,      // the service ends
};

// A start costs a processor for half a second, and hosts are served meanwhile. What is idle gets only what
// nobody else wants, and even a task that is merely nice keeps others waiting for milliseconds before it
// gives way.
enum class Priority : std::uint8_t { full, nice, idle };

struct Death {
    base::Nanoseconds at = 0;
    bool by_signal = false;
    int code = 0;  // exit code or signal number

    std::string text() const;  // "code:1", "signal:9"
};

class Child {
  public:
    struct Setup {
        char** command = nullptr;
        Role role{};
        std::uint64_t generation = 0;
        bool in_background = false;  // start behind everything else that wants to run: see Priority
        std::string oom_score_adj;   // of the keeper's own parent; empty: leave it
    };
    // Null with errno if no process could be made.
    static std::unique_ptr<Child> start(const Setup& setup);
    // The process must have been reaped, or be left to die with the keeper.
    ~Child();
    Child(const Child&) = delete;
    Child& operator=(const Child&) = delete;

    pid_t pid() const { return pid_; }
    int process() const { return process_; }  // pidfd: readable when dead
    int channel() const { return channel_; }
    std::uint64_t generation() const { return generation_; }

    // Remembers the first reason.
    void kill(KillReason reason, base::Nanoseconds now);
    void signal(int number);
    // False while it is not dead. Also ends what is left of its process group.
    bool reap(Death& death);
    // Kills it and waits for its end: for one that cannot be watched.
    void end_unwatched();
    // Of all its threads; only ever upwards.
    void raise_priority(Priority priority);
    void close_channel();

    // Messages in order. A server that does not read is a server that hangs: messages beyond the bound are
    // lost, and the watchdog ends it.
    void send(durable::KeeperMessage message);
    bool flush();  // true if nothing waits
    bool outbox_waits() const { return !outbox_.empty(); }
    bool outbox_full() const { return outbox_.size() >= outbox_max; }

    // What the keeper knows of it.
    KillReason killed = KillReason::none;
    base::Nanoseconds started_at = 0;
    base::Nanoseconds ending_at = 0;        // since when its end is due: it was killed, or seems to be dead
    base::Nanoseconds quiesced_at = 0;      // it was asked to come to rest
    base::Nanoseconds rested_at = 0;        // it answered that it rests
    base::Nanoseconds ready_at = 0;         // 0: not yet
    base::Nanoseconds channel_lost_at = 0;  // it closed its end
    bool dead = false;                      // only what it had stored still counts
    bool hello = false;
    bool go_sent = false;
    bool warm = false;
    bool other_layout = false;  // a standby that cannot go on if the active one just dies
    Priority priority = Priority::full;
    bool stopping = false;  // it announced its orderly end
    bool memory_end_sent = false;
    bool end_sent = false;
    bool reap_later = false;  // dead, but somebody else, a debugger, must let go of it first
    bool reap_warned = false;
    bool output_blocked = false;
    std::uint32_t watched = 0;  // events of its channel in epoll
    std::uint64_t items_sent = 0;
    std::uint64_t malformed = 0;
    std::uint64_t refused = 0;
    std::array<std::uint64_t, 3> sent_up_to{};  // by kind: ids of items
    struct Source {
        bool armed = false;
        base::Nanoseconds last = 0;
    };
    std::array<Source, 2> sources{};  // reactor, main

  private:
    static constexpr std::size_t outbox_max = 256;

    Child() = default;

    pid_t pid_ = -1;
    int process_ = -1;
    int channel_ = -1;
    std::uint64_t generation_ = 0;
    std::deque<durable::KeeperMessage> outbox_;
};

}  // namespace keeper
