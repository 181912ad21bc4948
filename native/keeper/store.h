// What the keeper holds for its server: memory files, listeners, connections. Each item has an id that is
// never given twice, not even by the next keeper of the same systemd unit, and a name under which systemd
// holds its copy: "<kind letter>.<id>.<name>", for connections "c.<id>.<id of the listener>".
//
// The ids and what is told about restarts live in a memory file of their own, the ledger, which systemd holds
// too.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"

namespace keeper {

enum class Kind : std::uint8_t { memory, listener, connection };
inline constexpr Kind kinds[] = {Kind::memory, Kind::listener, Kind::connection};
const char* name_of(Kind kind);

struct Item {
    Kind kind{};
    int descriptor = -1;
    std::string name;            // a connection's: that of its listener
    std::uint64_t listener = 0;  // a connection's
    std::uint64_t origin = 0;    // generation of the server that stored it and so has it already
    bool in_systemd = false;
};

// Written in place. A keeper that takes it over trusts it after checking the first two fields.
struct Ledger {
    std::uint64_t magic;
    std::uint64_t bytes;
    std::uint64_t next_id;
    std::uint64_t next_generation;
    std::uint64_t restarts;
    std::uint64_t since_ms;  // of the first keeper, since the epoch
    std::uint64_t keeper_starts;
    std::uint64_t accepted;
    std::uint64_t refused;
    std::uint64_t server_pid;  // who may have the connections in use; 0: nobody
    std::uint64_t
        server_start_ticks;  // /proc/<pid>/stat, field 22: tells it from a later process of that pid
    char last_reason[64];
};

class Store {
  public:
    Store();
    ~Store();
    Store(const Store&) = delete;
    Store& operator=(const Store&) = delete;

    // Makes a ledger if none was restored. False if there is no memory (errno).
    bool open_ledger();
    Ledger& ledger() { return *ledger_; }
    int ledger_descriptor() const { return ledger_descriptor_; }

    std::map<std::uint64_t, Item>& items() { return items_; }
    std::uint32_t count(Kind kind) const { return counts_[static_cast<std::size_t>(kind)]; }

    std::uint64_t add(Item item);
    // 0 if there is none.
    std::uint64_t find(Kind kind, std::string_view name) const;
    Item* at(std::uint64_t id);
    // Closes its descriptor.
    void remove(std::uint64_t id);

    static std::string systemd_name(std::uint64_t id, const Item& item);
    static std::string systemd_ledger_name() { return "keeper"; }
    // Takes a descriptor that systemd gave back. False if it is none of ours: it is left to the caller.
    bool restore(std::string_view systemd_name, int descriptor);
    // After all were restored: gives connections the names of their listeners, and of two of one name keeps
    // the newer [the keeper died between storing the new one and forgetting the old]. Returns the names that
    // systemd shall forget.
    std::vector<std::string> finish_restore();
    std::uint32_t restored() const { return restored_; }

  private:
    std::map<std::uint64_t, Item> items_;
    std::uint32_t counts_[3] = {};
    std::uint32_t restored_ = 0;
    int ledger_descriptor_ = -1;
    Ledger* ledger_ = nullptr;
};

}  // namespace keeper
