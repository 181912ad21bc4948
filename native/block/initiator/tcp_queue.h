// One queue to an NVMe/TCP controller, seen from the host: connects, negotiates, sends capsules and data,
// receives data and responses.
//
// It believes nothing. Every field that the controller sends is checked against what was asked: known command
// identifier (with a generation, so that a second completion of an old command is noticed), direction, order
// and bounds of data, digests, flags, exactly one completion. Whatever is wrong fails the queue as a whole
// with a text that says what; nothing is retried and nothing reconnects, because this code also judges
// targets that restart.
//
// An answer may come before the socket has taken the data that it is about: only then is the command over, so
// that the data are not its owner's again while the kernel still reads them.
//
// Output is collected during an iteration of the reactor and sent with one system call; large data is
// received directly to its place. No memory is allocated after the constructor.
//
// NVMe/TCP Transport 1.0; NVM Express Base 2.0 §6 (Fabrics).
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "block/initiator/host_command.h"
#include "reactor/reactor.h"
#include "wire/nvme_fabrics.h"
#include "wire/nvme_tcp.h"

namespace block::initiator {

class TcpQueue;

// Who a queue reports to; all calls come from the reactor, none from within a call to the queue.
class QueueOwner {
  public:
    // The controller accepted Connect.
    virtual void queue_opened(TcpQueue& queue, std::uint16_t cntlid) = 0;
    // The queue cannot be used (any more). Its commands were completed unanswered before.
    virtual void queue_failed(TcpQueue& queue, const std::string& reason) = 0;
    // After close() or a failure: nothing refers to the queue, it may be destroyed.
    virtual void queue_closed(TcpQueue& queue) = 0;

  protected:
    ~QueueOwner() = default;
};

struct QueueOptions {
    sockaddr_storage address{};
    socklen_t address_bytes = 0;
    std::uint16_t qid = 0;
    std::uint16_t entries = 32;  // SQSIZE + 1; at most entries − 1 commands are outstanding
    bool header_digest = false;
    bool data_digest = false;
    bool flow_control = true;               // false: asks to disable it; then C2HData may carry SUCCESS
    std::uint8_t host_alignment = 0;        // HPDA
    std::uint32_t in_capsule_bytes = 8192;  // data that may go with a command capsule
    std::uint32_t transfer_bytes_max = 1u << 20;
    std::uint32_t kato_ms = 0;  // admin queue
    // However the connection ends, by us or with our process, what was not sent yet is never sent (RST).
    bool reset_on_close = false;
    std::uint16_t cntlid = wire::cntlid_dynamic;
    std::array<std::uint8_t, 16> hostid{};
    std::string hostnqn;
    std::string subnqn;
};

struct QueueStatistics {
    std::uint64_t sends = 0, receives = 0;
    std::uint64_t bytes_sent = 0, bytes_received = 0;
    std::uint64_t r2t = 0;
    std::uint64_t success_flags = 0;  // completions that needed no response capsule
};

class TcpQueue {
  public:
    TcpQueue(reactor::Reactor& reactor, QueueOptions options, QueueOwner& owner);
    ~TcpQueue();  // closed, or never opened
    TcpQueue(const TcpQueue&) = delete;
    TcpQueue& operator=(const TcpQueue&) = delete;

    void open();
    void close();
    bool ready() const { return phase_ == Phase::ready; }

    // False: as many commands are outstanding as the queue may have, or it is not ready.
    bool submit(HostCommand& command);
    std::uint32_t outstanding() const { return outstanding_; }
    std::uint32_t depth() const { return static_cast<std::uint32_t>(slots_.size()); }

    const QueueOptions& options() const { return options_; }
    const QueueStatistics& statistics() const { return statistics_; }
    const std::string& failure() const { return failure_; }

  private:
    enum class Phase : std::uint8_t {
        idle,         // not opened
        connecting,   // TCP
        negotiating,  // ICReq was sent
        joining,      // Connect was sent
        ready,
        closing,  // waits for the last operation on the socket
        closed,
    };
    enum class Expect : std::uint8_t {
        header,
        data,    // `remaining_` bytes of receiving_'s data
        digest,  // of the data
    };
    struct SocketOperation : reactor::Operation {
        TcpQueue* queue = nullptr;
        bool in_flight = false;
    };
    struct Slot {
        HostCommand* command = nullptr;
        std::uint16_t generation = 0;
    };
    // One batch of output: small parts lie in `bytes`, data where it is.
    struct Batch {
        std::vector<std::byte> bytes;
        std::vector<iovec> segments;
        std::size_t used = 0;
        std::size_t first = 0;  // segments that were sent completely

        bool empty() const { return first == segments.size(); }
        void clear();
        bool has_room() const;
        std::byte* take(std::size_t count);  // contiguous, zeroed
        void refer(std::byte* data, std::size_t count);
    };

    // tcp_queue.cc
    void fail(std::string reason);
    void violation(const std::string& what, wire::FatalErrorStatus fes);
    void end();
    void finish_closing();
    void connected(std::int32_t result);
    void send_connect();
    void join_answered(const Completion& completion);
    void answer(HostCommand& command, const Completion& completion);
    void complete(HostCommand& command, const Completion& completion);
    void complete_answered();
    HostCommand* find(std::uint16_t cid);
    bool enqueue(HostCommand& command);

    // tcp_queue_send.cc
    void flush();
    void fill(Batch& batch);
    void put_capsule(Batch& batch, HostCommand& command);
    bool put_data(Batch& batch, HostCommand& command);
    void put_header(Batch& batch, const wire::PduLayout& layout, void* pdu);
    void put_payload(Batch& batch, const wire::PduLayout& layout, std::byte* data);
    void start_send();
    void sent(std::int32_t result);

    // tcp_queue_receive.cc
    void start_receive();
    void received(std::int32_t result);
    bool parse();
    bool parse_header(bool& need_more);
    bool take_ic_resp(const std::byte* pdu);
    bool take_response(const std::byte* pdu);
    bool take_data_header(const std::byte* pdu, const wire::PduLayout& layout);
    bool take_r2t(const std::byte* pdu);
    bool take_term_req(const std::byte* pdu, const wire::PduLayout& layout);
    bool data_arrived();
    bool data_finished();
    bool refuse(const std::string& what, wire::FatalErrorStatus fes);

    reactor::Reactor& reactor_;
    QueueOptions options_;
    QueueOwner& owner_;
    Phase phase_ = Phase::idle;
    int socket_ = -1;
    std::string failure_;
    QueueStatistics statistics_;
    bool report_failure_ = false;

    wire::Digests digests_;
    std::uint8_t controller_alignment_ = 0;  // CPDA
    std::uint32_t h2c_data_max_ = 0;         // MAXH2CDATA

    std::vector<Slot> slots_;
    std::vector<std::uint16_t> free_slots_;
    std::uint32_t outstanding_ = 0;
    HostCommand* capsules_first_ = nullptr;  // queued, in order of submission
    HostCommand* capsules_last_ = nullptr;
    HostCommand* data_first_ = nullptr;  // asked for data by R2T
    HostCommand* data_last_ = nullptr;

    HostCommand join_;
    wire::ConnectData join_data_;

    Batch building_;
    Batch sending_;
    std::uint64_t batch_ = 1;  // the number of building_; the socket has taken all before sending_
    HostCommand* answered_first_ = nullptr;
    HostCommand* answered_last_ = nullptr;
    msghdr send_message_{};
    SocketOperation send_operation_;

    std::vector<std::byte> stream_;
    std::size_t stream_begin_ = 0;
    std::size_t stream_end_ = 0;
    msghdr receive_message_{};
    iovec receive_segments_[2]{};
    SocketOperation receive_operation_;
    Expect expect_ = Expect::header;
    HostCommand* receiving_ = nullptr;
    wire::PduLayout data_layout_;
    std::uint8_t data_flags_ = 0;
    std::uint32_t remaining_ = 0;

    reactor::MemberDeferred<&TcpQueue::flush> flush_;
    reactor::MemberDeferred<&TcpQueue::finish_closing> end_;
};

}  // namespace block::initiator
