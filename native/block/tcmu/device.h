// A device behind a tcmu-runner handler, which runs in a process of its own (block/tcmu/process.h) and shares
// memory with this one (block/tcmu/channel.h).
//
// A request waits in line, is in flight in one slot, or has ended. Long ones go piece by piece. When the
// process dies, breaks the rules or does not answer in time, it is killed and awaited: from then on nothing
// of it goes on. What was in flight then fails, or goes back to the head of the line, in its old order, and
// to the next process. What was in flight three times when a process died is at fault and fails: after a
// death, what was in flight is sent alone, so that only the culprit gets that far.
#pragma once

#include <array>
#include <memory>
#include <string>

#include "block/kinds.h"
#include "block/tcmu/channel.h"
#include "block/tcmu/process.h"

namespace block::tcmu {

class Tcmu final : public Device, private Process::Listener {
  public:
    Tcmu(const Environment& environment, const DeviceSpec& spec, std::string program, std::string library);
    ~Tcmu() override;

    // The first process; E_NOT_FOUND if there is no program to start.
    base::Result<void> start();

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override;
    Health health() const override;
    void tell(Details& details) const override;

  protected:
    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void closing_checked() override;
    void close_checked(std::function<void()> closed) override;

  private:
    enum class State : std::uint8_t {
        opening,  // a process runs and has not opened the medium yet
        serving,  // requests flow
        ending,   // the process was killed, or asked to end
        waiting,  // for the time to start the next process
    };
    enum class Step : std::uint8_t { data, flush };
    struct Transfer {
        Request* request;
        Transfer* next = nullptr;
        Transfer* previous = nullptr;
        std::uint64_t done_bytes = 0;
        Step step = Step::data;
        std::uint8_t deaths = 0;  // of processes while it was in flight
        bool in_line = false;
    };
    struct Slot {
        Transfer* transfer = nullptr;  // null: free, or nobody wants the answer any more
        std::uint64_t order = 0;
        std::uint64_t data_offset = 0;
        std::uint32_t data_length = 0;
        std::uint64_t piece_bytes = 0;
        base::Nanoseconds deadline = 0;
        bool in_use = false;
    };

    void noticed() override;
    void said(char level, const std::string& line) override;
    void ended(const std::string& how) override;

    base::Result<void> start_process();
    void start_again();
    void look_at_stage();
    bool adopt(const Facts& facts);
    void lose(std::string reason);  // the process is killed; `ended` goes on
    void check_deadlines();
    void settle_in_flight();
    void fail_line(Status status);

    void pump();
    bool send(Transfer& transfer);
    void answered(std::uint32_t slot, std::int32_t status);
    void advance(Transfer& transfer, std::uint64_t piece_bytes);
    void finish(Transfer& transfer, Status status);
    void enter_line(Transfer& transfer, bool at_head);
    void leave_line(Transfer& transfer);
    bool fails_when_lost() const;
    void log(const char* level, const std::string& message);

    Environment environment_;
    DeviceSpec spec_;
    std::string program_;
    std::string library_;
    State state_ = State::waiting;
    std::unique_ptr<Channel> channel_;
    std::unique_ptr<Process> process_;
    Facts facts_{};
    bool served_ = false;  // in the life of this object
    bool failed_ = false;  // a process ended without being asked to
    bool foreign_ = false;
    std::string reason_;  // why it does not serve, or did not last
    std::string lost_reason_;
    std::string failure_;  // how the attempt before ended; empty: it serves, or is the first
    std::array<Slot, slots_max> slots_{};
    std::uint64_t next_order_ = 0;
    Transfer* first_ = nullptr;
    Transfer* last_ = nullptr;
    std::uint32_t suspects_ = 0;  // transfers with deaths
    base::Nanoseconds opening_deadline_ = 0;
    base::Nanoseconds ending_deadline_ = 0;
    base::Nanoseconds back_off_ = 0;
    base::Nanoseconds serving_since_ = 0;
    reactor::MemberTimer<&Tcmu::start_again> restart_timer_;
    reactor::MemberTimer<&Tcmu::check_deadlines> deadline_timer_;
    std::uint64_t starts_ = 0;
    std::uint64_t log_tokens_ = 0;
    std::uint64_t log_lines_left_out_ = 0;
    base::Nanoseconds log_refilled_ = 0;
    std::function<void()> closed_;
};

}  // namespace block::tcmu
