// A namespace of an NVMe/TCP target elsewhere as a block device: connects, and connects again, and sends
// again what was not answered. Verbs: reconnect (ends the connection, at once begins the next).
//
// A request waits in line, is in pieces at the controller, or has ended. A piece that the controller did not
// answer, or asked to send again later, goes to the head of the line and to the next connection, until the
// request's deadline has passed; then the request fails, or waits for ever, by RemoteSpec::when_lost.
//
// Old commands. A controller whose connection was lost may still execute what it had received, later than the
// same command that was sent again, and so over data that was written after that. It stops when it notices
// the loss, at the latest after its keep alive timeout (NVM Express Base 2.1 §9.6.2; the time is
// NamespaceFacts::quiesce_ms). So the range of a change that was sent and not answered is in doubt for that
// long: sending the same change again is harmless, and is done at once; any other change of such a range
// waits. Of changes of the same blocks that are all to be sent again, which only a careless host has, the
// later ones wait until the earlier have ended.
// Connections are ended with a reset, so that nothing left in a socket arrives late. A server process that is
// killed takes its knowledge of doubts with it: there only the reset protects.
//
// A peer that lost power may have lost what it had acknowledged and not flushed; no host can see that in the
// protocol. So each loss of a connection counts as one (`losses`) if the peer has a volatile cache and there
// was something in it: a mirror then gives its leg anew what was not flushed. Others see what every host of
// such a peer sees: nothing.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "block/initiator/controller.h"
#include "block/kinds.h"
#include "wire/nvme_io.h"

namespace block::remote {

inline bool changes(Action action) { return action != Action::read && action != Action::flush; }

class Remote final : public Device, private initiator::ControllerOwner {
  public:
    Remote(const Environment& environment, const DeviceSpec& spec);
    ~Remote() override;
    // Begins to connect. E_INVALID: an address that is none, names or sizes out of range.
    base::Result<void> start();

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override;
    Health health() const override;
    std::string identity() const override { return identity_; }
    std::uint64_t losses() const override { return losses_; }
    void tell(Details& details) const override;
    void command(const Command& command, CommandDone done) override;

  protected:
    void submit_checked(Request& request) override;
    void cancel_checked(Request& request) override;
    void closing_checked() override;
    void close_checked(std::function<void()> closed) override;

  private:
    enum class State : std::uint8_t {
        connecting,  // a controller is being brought up
        serving,     // requests flow
        ending,      // the controller is being closed
        pausing,     // for the time to try again
        closed,
    };
    struct Transfer {
        Request* request;
        Transfer* next = nullptr;  // of all, in the order in which they came
        Transfer* previous = nullptr;
        Transfer* line_next = nullptr;
        Transfer* line_previous = nullptr;
        base::Nanoseconds begun = 0;
        std::uint64_t sequence = 0;  // counts the requests
        std::uint64_t issued_bytes = 0;
        std::uint32_t pieces = 0;  // that are at the controller or wait to be sent again
        Status status = Status::ok;
        bool in_line = false;
        bool issued = false;  // all of it
        bool overdue = false;
    };
    // A part of a request, and the command for it. A piece that was cut for another controller takes as many
    // commands, one after the other, as the present one wants.
    struct Piece : initiator::HostCommand {
        Remote* remote = nullptr;
        Transfer* transfer = nullptr;
        std::uint64_t begin = 0;  // of its range
        std::uint64_t bytes = 0;
        std::uint64_t sent_bytes = 0;  // of the command
        std::uint64_t changes = 0;     // flush: how many were acknowledged when it was sent
        base::Nanoseconds sent_at = 0;
        base::Nanoseconds not_before = 0;  // to be sent again
        bool at_controller = false;
        bool again = false;      // waits to be sent again
        bool rest = false;       // what comes next was never sent
        bool contested = false;  // another piece that was to be sent again changes the same blocks
        wire::DsmRange range{};
        Piece* next_again = nullptr;
    };
    // A change that the peer may or may not have executed yet.
    struct Doubt {
        std::uint64_t begin;
        std::uint64_t end;
        base::Nanoseconds until;
        std::uint64_t sequence;  // of the request; 0: of several
    };

    // remote.cc: the connection
    void controller_ready() override;
    void controller_failed(const std::string& reason) override;
    void controller_closed() override;
    void controller_event(std::uint32_t dword0) override;
    void controller_looked() override;
    void connect();
    void pause();
    void lose(std::string reason);
    bool accept_facts();
    void describe(const initiator::NamespaceFacts& facts);
    void look_around();
    void say(const char* level, const std::string& message);

    // remote_doubts.cc
    void doubt(const Piece& piece);
    bool in_doubt(const Transfer& transfer, std::uint64_t begin, std::uint64_t end);
    void find_contested();
    bool after_an_older(const Piece& piece) const;

    // remote_requests.cc
    static Transfer& transfer_of(Request& request);
    void pump();
    bool send_next_piece(Transfer& transfer);
    void prepare(Piece& piece);
    bool hand_out(Piece& piece);
    void answered(Piece& piece, const initiator::Completion& completion);
    void send_again(Piece& piece, base::Nanoseconds not_before);
    bool send_waiting_pieces();
    void drop_waiting_pieces(Transfer& transfer);
    void release(Piece& piece);
    void settle(Transfer& transfer);
    void finish(Transfer& transfer, Status status);
    void enter_line(Transfer& transfer);
    void leave_line(Transfer& transfer);
    void end_overdue();
    void shrink_ranges(const Piece& piece);
    std::uint64_t piece_bytes_max(const Request& request) const;

    Environment environment_;
    DeviceSpec spec_;
    State state_ = State::pausing;
    std::unique_ptr<initiator::Controller> controller_;
    initiator::NamespaceFacts facts_;
    std::string identity_;
    std::string reason_;  // why it does not serve
    bool foreign_ = false;
    bool served_ = false;
    bool reconnect_now_ = false;
    std::size_t address_ = 0;  // the one to try next
    std::string peer_;         // the one in use
    base::Nanoseconds back_off_ = 0;
    base::Nanoseconds quiesce_ = 0;
    base::Nanoseconds ready_at_ = 0;  // 0: it did not come up

    std::vector<Piece> pieces_;
    std::vector<Piece*> free_pieces_;
    Piece* again_first_ = nullptr;
    Piece* again_last_ = nullptr;
    std::uint32_t at_controller_ = 0;
    Transfer* first_ = nullptr;
    Transfer* last_ = nullptr;
    Transfer* line_first_ = nullptr;
    Transfer* line_last_ = nullptr;
    std::vector<Doubt> doubts_;
    std::vector<Piece*> sorted_;  // of find_contested
    std::uint64_t sequence_ = 0;
    std::uint64_t changes_ = 0;          // that were acknowledged
    std::uint64_t changes_flushed_ = 0;  // so many of them, at least, are on stable media
    std::uint64_t losses_ = 0;
    bool cache_behind_ = false;  // the peer of the last connection has a volatile cache
    // Of one command: what is likely to end within the timeout. Halved when it did not.
    std::uint64_t zeroes_bytes_max_;
    std::uint64_t deallocate_bytes_max_;
    std::uint16_t next_queue_ = 0;

    std::uint64_t generation_ = 0;
    std::uint64_t resent_ = 0;
    std::uint64_t retried_ = 0;
    std::uint64_t timeouts_ = 0;
    std::uint64_t answers_ = 0;
    base::Nanoseconds waited_ = 0;
    std::string last_error_;

    reactor::MemberTimer<&Remote::connect> pause_timer_;
    reactor::MemberTimer<&Remote::look_around> look_timer_;
    std::function<void()> closed_;
};

}  // namespace block::remote
