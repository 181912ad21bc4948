// The server's end of the channel to its keeper (durable/keeper_protocol.h).
//
// Its life: `begin` on the thread that starts the server, before there is an engine, because the arena comes
// with it; then `attach`, and from there on everything is called, and calls, on the reactor's thread.
// Messages that the keeper does not take at once wait in a bounded queue with copies of their descriptors.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/result.h"
#include "durable/keeper_protocol.h"
#include "reactor/reactor.h"

namespace engine {

struct KeeperItem {
    enum class Kind : std::uint8_t { memory, listener, connection } kind{};
    std::string name;  // a connection's: that of its listener, empty if that is gone
    std::uint64_t id = 0;
    int descriptor = -1;
};

// What the server learns at once.
struct KeeperStart {
    bool standby = false;
    std::uint64_t generation = 0;
    std::vector<KeeperItem> memory;  // descriptors are the receiver's
};

// From here on this process is the server.
struct KeeperGo {
    std::string reason;            // start, keeper, crash, watchdog, upgrade
    std::string exit;              // of the predecessor: "signal:9", "code:1"; empty if there was none
    std::uint64_t died_ns = 0;     // CLOCK_MONOTONIC; 0: unknown
    std::uint64_t started_ns = 0;  // this process was made
    bool killed = false;           // by the keeper
    std::uint64_t previous_pid = 0;
    std::uint64_t restarts = 0;
};

struct KeeperInfo {
    std::uint64_t pid = 0, since_ms = 0, keeper_starts = 0, restarts = 0;
    std::string last_reason;
    std::uint64_t memory = 0, listeners = 0, connections = 0, accepted = 0, refused = 0;
    std::string standby;  // none, starting, warm
    std::uint64_t standby_pid = 0;
    bool systemd = false;
};

class KeeperEvents {
  public:
    virtual void keeper_go(const KeeperGo& go) = 0;
    // Stored by a predecessor; the descriptor is the receiver's. A memory file of a name that was there
    // before replaces it.
    virtual void keeper_item(const KeeperItem& item) = 0;
    virtual void keeper_items_complete() = 0;
    virtual void keeper_connection(const KeeperItem& connection) = 0;  // newly accepted
    virtual void keeper_forgotten(const std::string& kind, const std::string& name) = 0;
    // `what`: "STORE memory arena", "FORGET listener main", "RESTART"
    virtual void keeper_refused(const std::string& what, const std::string& reason) = 0;
    // Answer by `quiesced`. `describe`: a successor may need the description (carry.h).
    virtual void keeper_quiesce(base::Nanoseconds deadline, bool describe) = 0;
    virtual void keeper_restart_failed(const std::string& reason) = 0;
    virtual void keeper_info(const KeeperInfo& info) = 0;
    virtual void keeper_lost() = 0;  // the keeper is gone; nothing more comes

  protected:
    ~KeeperEvents() = default;
};

class KeeperClient {
  public:
    // The channel from the environment, or -1. No child of this process will see it.
    static int channel_from_environment();

    explicit KeeperClient(int channel);  // takes it
    ~KeeperClient();
    KeeperClient(const KeeperClient&) = delete;
    KeeperClient& operator=(const KeeperClient&) = delete;

    // Says HELLO and waits for role and memory files. Blocks until `deadline`. E_IO, E_TIMEOUT
    base::Result<KeeperStart> begin(const std::string& version, base::Nanoseconds deadline);
    // On the reactor's thread, once. What came meanwhile is told from the next iteration on.
    void attach(reactor::Reactor& reactor, KeeperEvents& events);
    // Waits until the keeper says something, at most until `deadline`, and tells it, without the reactor: for
    // a thread that must do nothing else meanwhile.
    void converse(base::Nanoseconds deadline);
    // Before the reactor ends: `stopped` is called when nothing of it is in flight any more.
    void stop(std::function<void()> stopped);

    bool connected() const { return channel_ >= 0; }

    // Each returns false if the message was lost because the keeper reads nothing or is gone. The caller
    // keeps its descriptor.
    bool store_memory(std::string_view name, int descriptor, bool replace);
    bool store_listener(std::string_view name, int descriptor);
    bool forget_memory(std::string_view name);
    bool forget_listener(std::string_view name);
    bool forget_connection(std::uint64_t id);
    bool ready();
    // Warm, waits for GO. `other_layout`: it goes on only from a description (carry.h).
    bool standby(bool other_layout);
    bool alive_main();  // about once a second; the reactor's own is sent by a timer
    bool status(std::string_view text);
    bool restart(std::string_view reason);
    bool quiesced();
    bool stopping();
    bool request_info();

    std::uint64_t lost_messages() const { return lost_; }

  private:
    static constexpr std::size_t queue_max = 4096;
    static constexpr std::uint32_t receive_per_turn = 64;

    struct Waiting {
        durable::KeeperMessage message;
        int descriptor;
    };
    struct Poll : reactor::Operation {
        KeeperClient* client = nullptr;
        bool armed = false;
    };

    bool send(const durable::KeeperMessage& message, int descriptor = -1);
    void flush();
    void receive();
    void tell(const durable::KeeperMessage& message, int descriptor);
    void arm(Poll& poll, std::uint32_t events);
    void lose();
    void check_stopped();
    void alive();

    int channel_;
    reactor::Reactor* reactor_ = nullptr;
    KeeperEvents* events_ = nullptr;
    std::vector<std::pair<durable::KeeperMessage, int>> early_;  // came during `begin`
    std::deque<Waiting> queue_;
    std::uint64_t lost_ = 0;
    bool lost_told_ = false;
    Poll input_;
    Poll output_;
    std::unique_ptr<reactor::MemberTimer<&KeeperClient::alive>> alive_;
    std::unique_ptr<reactor::MemberTimer<&KeeperClient::flush>> retry_;
    bool start_posted_ = false;
    bool stopping_ = false;
    std::function<void()> stopped_;
};

}  // namespace engine
