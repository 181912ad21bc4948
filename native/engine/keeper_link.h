// What a kept engine does with its keeper: takes memory, listeners and connections over, hands new ones to it
// to hold, and forgets there what has ended. An engine without a keeper has no link.
//
// Before `go` the process is a standby: everything is mapped and registered, nothing is touched.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/result.h"
#include "engine/keeper_client.h"
#include "engine/memories.h"
#include "reactor/reactor.h"

namespace engine {

class KeeperLink final : private KeeperEvents {
  public:
    // A connection that the keeper accepted; `listener` may be gone.
    struct Connection {
        int socket;
        std::uint64_t id;
        std::string listener;
    };

    // Blocks until the keeper has said the role and sent the memory files. Null without a keeper.
    static base::Result<std::unique_ptr<KeeperLink>> open(const std::string& version);
    ~KeeperLink();

    bool standby() const { return standby_; }
    base::Nanoseconds opened_at() const { return opened_at_; }
    // The memory file of this name that a predecessor stored, or -1. Stays the link's.
    int memory(const std::string& name) const;
    // The keeper shall hold them no longer. Reactor thread.
    void forget_memories(const std::function<bool(const std::string& name)>& which);
    static std::string device_memory_name(const std::string& device) { return "ram:" + device; }

    // A text that outlives the process, such as the configuration that is in force: the last one stored,
    // empty if there is none. Main thread before the engine starts, then the reactor's.
    std::string stored_text(const std::string& name) const;
    base::Result<void> store_text(const std::string& name, const std::string& text);

    // --- reactor thread ------------------------------------------------------------------------------------
    // `memories` gets the device memories, now and as they come.
    void attach(reactor::Reactor& reactor, Memories& memories);
    void stop(std::function<void()> stopped);

    // Called once, when this process is to serve and all items are there.
    std::function<void(const KeeperGo& go)> on_go;
    std::function<void(const Connection& connection)> on_connection;
    std::function<void(const std::string& reason)> on_restart_failed;
    std::function<void()> on_lost;
    // Answered by KeeperClient::quiesced before `deadline`, on the monotonic clock.
    std::function<void(base::Nanoseconds deadline, bool describe)> on_quiesce;

    // The listening socket stored under this name, or -1; the caller duplicates it.
    int listener(const std::string& name) const;
    // Nobody listens there any more: the socket is closed here and in the keeper.
    void forget_listener(const std::string& name);
    // The same for all that a predecessor had and this server has not.
    void forget_listeners_but(const std::set<std::string>& used);
    std::vector<Connection> take_connections();
    const std::vector<Connection>& connections() const { return connections_; }

    KeeperClient& client() { return client_; }
    void ask_info(std::function<void(const KeeperInfo& info)> answer);

  private:
    explicit KeeperLink(int channel) : client_(channel) {}
    void keeper_go(const KeeperGo& go) override;
    void keeper_item(const KeeperItem& item) override;
    void keeper_items_complete() override;
    void keeper_connection(const KeeperItem& connection) override;
    void keeper_forgotten(const std::string& kind, const std::string& name) override;
    void keeper_refused(const std::string& what, const std::string& reason) override;
    void keeper_quiesce(base::Nanoseconds deadline, bool describe) override;
    void keeper_restart_failed(const std::string& reason) override;
    void keeper_info(const KeeperInfo& info) override;
    void keeper_lost() override;
    void hold_memory(const KeeperItem& item);

    KeeperClient client_;
    bool standby_ = false;
    base::Nanoseconds opened_at_ = base::monotonic_now();
    bool gone_ = false;  // GO was said
    KeeperGo go_;
    Memories* memories_ = nullptr;
    std::map<std::string, int> memory_;
    std::map<std::string, int> listeners_;
    std::vector<Connection> connections_;
    std::vector<std::function<void(const KeeperInfo&)>> info_waiters_;
};

}  // namespace engine
