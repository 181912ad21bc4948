// One process of a handler: how it is started, woken, heard and ended.
//
// It inherits six descriptors and no others, leads a process group of its own, and ends in order when the
// server closes its end of the lifeline or dies. `ended` is called once, when the process is reaped: then
// nothing that it had begun goes on, and no operation on its descriptors is under way any more.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/result.h"
#include "block/medium.h"
#include "reactor/reactor.h"

namespace block::tcmu {

class Process {
  public:
    struct Listener {
        virtual void noticed() = 0;                                  // look at the area
        virtual void said(char level, const std::string& line) = 0;  // level: '3' error … '7' debug
        // How it ended, for people. The process object may be destroyed from within.
        virtual void ended(const std::string& how) = 0;

      protected:
        ~Listener() = default;
    };

    // E_NOT_FOUND if there is no such program, E_IO. `area` stays the caller's.
    static base::Result<std::unique_ptr<Process>> start(reactor::Reactor& reactor, const std::string& program,
                                                        const std::vector<std::string>& arguments, int area,
                                                        Listener& listener);
    ~Process();
    Process(const Process&) = delete;
    Process& operator=(const Process&) = delete;

    pid_t pid() const { return pid_; }
    // There are new requests. Cheap; reaches the process with the reactor's next system call.
    void wake();
    void end_in_order() { lifeline_.reset(); }
    void kill();

  private:
    struct Part : reactor::Operation {
        Process* process = nullptr;
        bool under_way = false;
    };

    Process(reactor::Reactor& reactor, Listener& listener);
    base::Result<void> spawn(const std::string& program, const std::vector<std::string>& arguments, int area);
    void begin();
    void read_notices();
    void read_log();
    void stop_reading_log();
    void hear_log(std::size_t bytes);
    void reap();
    void finish_if_quiet();

    reactor::Reactor& reactor_;
    Listener& listener_;
    pid_t pid_ = -1;
    Descriptor process_;   // pidfd
    Descriptor lifeline_;  // our end
    Descriptor log_;       // our end
    Descriptor requests_;
    Descriptor completions_;
    Part death_;
    Part waking_;
    Part noticing_;
    Part logging_;
    reactor::MemberTimer<&Process::stop_reading_log> log_timer_;
    bool wake_again_ = false;
    bool dead_ = false;
    std::string how_;
    std::uint64_t one_ = 1;
    std::uint64_t notices_ = 0;
    std::string line_;
    std::byte log_buffer_[4096];
};

}  // namespace block::tcmu
