// The keeper: holds what must outlive the server, accepts, watches, starts again. One thread, one loop.
//
// Invariant: at most one process may use the connections, and its successor gets GO only after it was
// reaped. A server that cannot be killed is therefore never replaced, only reported.
//
// At most two processes exist: the active one (it has got GO, or gets it at once) and a standby. A planned
// restart is: a fresh standby → warm → QUIESCE → kill → GO. Everything else that ends a server is a death,
// and every death takes the same way: drain its channel, then GO to the standby or start a server.
#pragma once

#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "keeper/child.h"
#include "keeper/log.h"
#include "keeper/options.h"
#include "keeper/restart_policy.h"
#include "keeper/store.h"
#include "keeper/systemd.h"

namespace keeper {

class Keeper {
  public:
    Keeper(const Options& options, Log& log);
    ~Keeper();
    Keeper(const Keeper&) = delete;
    Keeper& operator=(const Keeper&) = delete;

    // Until the service ends; the exit code.
    int run();

  private:
    static constexpr base::Nanoseconds never = ~base::Nanoseconds{0};

    enum class Upgrade : std::uint8_t {
        none,
        clearing,   // the old standby is ended, to make room
        warming,    // the new server has been started
        quiescing,  // it is warm; the active one comes to rest
    };

    // keeper.cc: set-up and loop
    bool set_up();
    void restore_from_systemd();
    void end_predecessor(pid_t pid, std::uint64_t start_ticks);
    bool watch(int descriptor, std::uint32_t events, std::uint64_t what);
    void handle(std::uint64_t what, std::uint32_t events);
    void handle_signal();
    Child* child_of(std::uint64_t generation);
    base::Nanoseconds next_deadline() const;
    void run_deadlines(base::Nanoseconds now);
    void watch_silence(Child& child, base::Nanoseconds now);
    void watch_priority(Child& child, base::Nanoseconds now);

    // keeper_service.cc: starting, deaths, planned restart, stop
    bool start_child(Role role);
    void activate();
    void begin(const std::string& reason);
    void process_ended(std::unique_ptr<Child>& slot);
    void active_ended(std::unique_ptr<Child> child, const Death& death);
    void standby_ended(std::unique_ptr<Child> child, const Death& death);
    void schedule_standby(base::Nanoseconds at);
    void start_standby();
    const char* begin_upgrade(const std::string& reason);
    void upgrade_to_standby();
    void start_candidate();
    void quiesce_active();
    void fail_upgrade(const std::string& reason);
    void stop_service(int signal_number);
    void finish_stop();
    void finish(int code);
    void report_status();
    void note_reason(const std::string& reason);

    // keeper_messages.cc: the channel of a server
    void channel_ready(Child& child, std::uint32_t events);
    void receive(Child& child, std::uint32_t messages_max);
    void drain(Child& child);
    void message(Child& child, const durable::KeeperMessage& message, int descriptor);
    void on_store(Child& child, const durable::KeeperMessage& message, int descriptor);
    void on_forget(Child& child, const durable::KeeperMessage& message);
    void on_ready(Child& child);
    void on_standby(Child& child, const durable::KeeperMessage& message);
    void on_alive(Child& child, const durable::KeeperMessage& message);
    void on_info(Child& child);
    void refuse(Child& child, const durable::KeeperMessage& about, const char* reason);
    void feed(Child& child);
    bool feed_kind(Child& child, Kind kind);
    void update_watch(Child& child);

    // keeper_store.cc: listeners, connections, systemd's copies
    bool watch_listener(std::uint64_t id, Item& item);
    void accept_some(std::uint64_t listener);
    bool accept_failed(const Item& listener, int error);
    void pause_listeners();
    void resume_listeners();
    void drop_ended_connections();
    void remove_item(std::uint64_t id);
    void push_to_systemd();
    void tell_systemd(const std::string& text);

    const Options& options_;
    Log& log_;
    Systemd systemd_;
    Store store_;
    int epoll_ = -1;
    int signals_ = -1;

    std::unique_ptr<Child> active_;
    std::unique_ptr<Child> standby_;
    RestartPolicy active_policy_;
    RestartPolicy standby_policy_;
    std::string next_reason_ = "start";  // of the GO to come
    Death last_death_;
    pid_t previous_pid_ = 0;
    bool previous_killed_ = false;
    bool was_ready_ = false;  // a server was, under this keeper

    Upgrade upgrade_ = Upgrade::none;
    std::string upgrade_reason_;
    bool stopping_ = false;
    bool keep_on_stop_ = false;    // systemd gives everything to the next keeper
    bool hangup_pending_ = false;  // SIGHUP for a server that is not ready yet
    bool ended_ = false;
    int exit_code_ = 0;

    // Deadlines; `never` if not set.
    base::Nanoseconds start_at_ = never;
    base::Nanoseconds standby_at_ = never;
    base::Nanoseconds upgrade_by_ = never;
    base::Nanoseconds stop_by_ = never;
    base::Nanoseconds resume_accept_at_ = never;
    base::Nanoseconds ended_check_at_ = never;
    base::Nanoseconds systemd_retry_at_ = never;
    base::Nanoseconds systemd_watchdog_at_ = never;
    base::Nanoseconds feed_retry_at_ = never;

    // Of systemd: what it shall forget, then what it shall store, then what it shall know.
    bool ledger_in_systemd_ = false;
    std::vector<std::string> systemd_forget_;
    std::set<std::uint64_t> systemd_store_;
    std::vector<std::string> systemd_texts_;
    std::uint64_t systemd_errors_reported_ = 0;
    std::size_t systemd_name_bytes_ = 0;

    std::string status_text_;  // from the server
    std::string parent_oom_score_;
    bool can_restore_priority_ = false;
};

}  // namespace keeper
