// One NVMe/TCP connection: bytes from the socket become capsules and data, completed commands become bytes.
//
// The connection's state lies in the arena (transport/tcp_records.h); this object is what one process needs
// to work on it. One receive and at most one send are in flight. Where each received byte belongs follows
// from its stream offset; a PDU has its effect when ReceiveState is stored, and a response exists when
// transmit_tail is stored. Commands are executed after their PDU was consumed, and their slots are free once
// the socket has taken their response.
//
// tcp_receive.cc: the receiving half. tcp_transmit.cc: the sending half. tcp_recovery.cc: taking over from a
// dead process. tcp_carry.cc: being replaced. tcp_connection.cc: life, timeouts, end. NVMe/TCP Transport 1.0
// §3.
#pragma once

#include <sys/socket.h>
#include <sys/uio.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "nvme/io_commands.h"
#include "nvme/queue_pair.h"
#include "reactor/data_buffers.h"
#include "reactor/reactor.h"
#include "transport/memory_regions.h"
#include "transport/tcp_records.h"

namespace transport {

enum class DigestPolicy : std::uint8_t { off, optional, required };
struct DigestPolicies {
    DigestPolicy header = DigestPolicy::optional;
    DigestPolicy data = DigestPolicy::optional;
};

// What the operator set, the same for all connections.
struct TcpOptions {
    nvme::TransportTraits traits;
    DigestPolicies digests;                                 // of connections that no listener knows
    base::Nanoseconds connect_timeout = 10 * base::second;  // until the Connect command was accepted
    base::Nanoseconds transfer_timeout =
        30 * base::second;  // without progress while the host owes bytes, or takes none; see slow_transfers
    base::Nanoseconds close_timeout = 2 * base::second;  // for a termination request to be read
};

// A transfer that makes some progress all the time ends within this many times transfer_timeout.
inline constexpr base::Nanoseconds slow_transfers = 4;

// The connection's slots in the arena.
struct TcpSlots {
    std::uint32_t number = 0;
    ConnectionRecord* record = nullptr;
    std::span<nvme::CommandRecord> commands;  // limits::command_slots_max
    std::span<TransmitEntry> transmit;        // limits::transmit_entries_max
    std::span<std::byte> stream;              // limits::receive_buffer_bytes
};

struct TcpCounters {  // of one connection, this process
    std::uint64_t received_bytes = 0;
    std::uint64_t sent_bytes = 0;
    std::uint64_t commands = 0;
};

class TcpConnection final : public nvme::Connection, private reactor::BufferWaiter {
  public:
    // What it needs of its surroundings; all outlive it.
    struct Surroundings {
        reactor::Reactor& reactor;
        nvme::Target& target;
        reactor::DataBuffers& buffers;
        const MemoryRegions& regions;
        const TcpOptions& options;
        // The connection has ended, nothing refers to it any more; the owner closes the socket and destroys
        // it.
        std::function<void(TcpConnection&)> ended;
        base::Nanoseconds first_sent_at = 0;  // by any connection; 0: nothing was sent yet
        std::uint64_t unsent_bytes = 0;       // queued on all connections, as of their last flush
        bool reads = true;  // false: no receive is begun, because the process is to be replaced
    };

    // Takes `socket` (blocking mode) over; the owner closes it. `buffers`: of the host.
    TcpConnection(Surroundings& surroundings, int socket, const TcpSlots& slots, nvme::Endpoint endpoint,
                  DigestPolicies policies, std::shared_ptr<reactor::HostBuffers> buffers);
    ~TcpConnection() override;

    // A new connection: formats the record and begins to receive.
    void open(std::uint64_t id);

    // A connection of a dead predecessor. False: the records contradict the socket or themselves
    // (`reason()`), the connection must be closed. After that `resume` sends and receives, and
    // `execute_adopted` executes what was in flight, once the devices are free of the dead process.
    bool adopt();
    void resume();
    // For all connections in each turn before the next one.
    std::uint32_t execute_adopted(nvme::ReplayTurn turn);
    // After the turn of changes: a write that was executed from the stream, at whose PDU the predecessor was.
    void execute_interrupted();
    // After execute_adopted: reads again.
    void read_adopted();

    // nvme::Connection
    void respond(nvme::Command& command) override;
    void go_on_receiving(nvme::Command& command) override;
    void disconnect(bool drain, const char* reason) override;
    const nvme::Endpoint& endpoint() const override { return endpoint_; }
    const nvme::TransportTraits& traits() const override { return around_.options.traits; }
    void queue_sized(std::uint16_t entries) override;
    std::uint32_t connection_slot() const override { return slots_.number; }
    bool needs_stable_data() const override { return record_.data_digest != 0; }

    int socket() const { return socket_; }
    std::uint64_t id() const { return record_.id; }
    const ConnectionRecord& record() const { return record_; }
    const TcpCounters& counters() const { return counters_; }
    const std::string& reason() const { return reason_; }
    nvme::QueuePair& queue() { return queue_; }
    bool stalled() const { return stalled_; }
    // Whether bytes of this memory are still to be sent.
    bool sends_from(std::uint16_t region);
    bool ending() const { return ending_; }
    // For a planned replacement (tcp_carry.cc): while Surroundings::reads is false and `receives` is, nothing
    // is taken from the socket. What was received is parsed as ever.
    void stop_reading();
    void go_on_reading() { arm_receive(); }
    bool receives() const { return receive_armed_; }
    bool sends() const { return first_unsent_ != record_.transmit_tail || waiting_first_ != nullptr; }
    std::uint64_t received_position() const { return received_; }
    std::uint64_t first_unsent() const { return first_unsent_; }  // sequence number
    const TcpSlots& slots() const { return slots_; }
    std::span<const std::byte> kept_block() const { return {split_memory(), split_bytes_max}; }
    bool initialized() const { return record_.receive.current().phase != ReceivePhase::handshake; }

  private:
    enum class Step : std::uint8_t { again, need_more, stop };

    // tcp_receive.cc
    void arm_receive();
    void move_to_start(ReceiveState& state);
    void received(std::int32_t result);
    void parse();
    Step parse_one(ReceiveState& state);
    Step parse_header(ReceiveState& state);
    Step take_ic_req(ReceiveState& state, const std::byte* pdu);
    Step take_capsule(ReceiveState& state, const std::byte* pdu, const wire::PduLayout& layout,
                      std::uint64_t available);
    Step take_h2c_data(ReceiveState& state, const std::byte* pdu, const wire::PduLayout& layout);
    Step take_data(ReceiveState& state);
    Step take_skip(ReceiveState& state);
    void execute_from_stream(nvme::Command& command, const std::byte* data, const ReceiveState& state);
    void begin_data(ReceiveState& state);
    void capsule_data_complete(nvme::Command& command, bool digest_ok);
    void h2c_data_complete(nvme::Command& command, std::uint32_t received_bytes);
    void make_ready(nvme::Command& command);
    void start(nvme::Command& command);
    std::uint32_t r2t_bytes(const nvme::CommandRecord& command) const;
    Step fail_pdu(ReceiveState& state, wire::PduError error, const std::byte* pdu, std::size_t bytes);
    Step end_without_word(const char* reason);
    void record_flight(wire::PduType type, std::uint16_t cid, std::uint8_t opcode, std::uint32_t pdu_bytes,
                       std::uint64_t stream_offset, std::uint32_t detail);
    bool host_owes_bytes() const;
    const std::byte* stream_at(const ReceiveState& state, std::uint64_t position) const {
        return slots_.stream.data() + state.base_address + (position - state.base_stream);
    }
    std::byte* data_at(const nvme::CommandRecord& command) const {
        return around_.regions.at(command.data_region, command.data_offset);
    }
    void commit(const ReceiveState& state);
    void buffer_available() override;

    // tcp_transmit.cc
    wire::Digests digests() const { return {record_.header_digest != 0, record_.data_digest != 0}; }
    void request_data(nvme::Command& command);
    void append_waiting(nvme::Command& command);
    void serve_waiting();
    std::byte* split_memory() const { return reinterpret_cast<std::byte*>(&record_) + split_data_offset; }
    bool try_respond(nvme::Command& command);
    bool room_for(std::uint32_t entries) const {
        return record_.transmit_tail + entries - first_unsent_ <= record_.transmit_slots;
    }
    TransmitEntry& entry(std::uint64_t sequence) {
        return slots_.transmit[sequence & (record_.transmit_slots - 1)];
    }
    TransmitEntry& next_entry(std::uint32_t ahead, std::uint64_t stream_offset);
    template <typename Pdu>
    static Pdu& header_in(TransmitEntry& entry);
    void end_header(TransmitEntry& entry, std::size_t bytes);
    void queue_control(std::uint32_t control_offset, std::uint32_t bytes);
    void publish(std::uint64_t new_tail, std::uint64_t new_end);
    void flush();
    std::size_t gather(std::span<iovec> segments);
    void count_unsent(std::uint64_t bytes);
    bool sends_lent_memory(const TransmitEntry& entry) const;
    void fetch_lent_memory();
    void sent(std::int32_t result);
    void advance_sent(std::uint64_t position);
    void keep_split_block();
    const std::byte* entry_data(const TransmitEntry& entry) const;

    // tcp_connection.cc
    bool draining_after_error() const { return record_.receive.current().phase == ReceivePhase::closing; }
    void drained();
    base::Nanoseconds half_closed_deadline() const { return half_closed_at_ + around_.options.close_timeout; }
    void begin_ending(const char* reason);
    void keep_receiving_buffer();
    void finish_ending();
    void progress_check();
    base::Nanoseconds oldest_request();
    void watch_progress();

    // tcp_recovery.cc
    bool refuse(std::string why);
    bool adopt_transmit(std::uint64_t sent_position);
    bool adopt_commands(ReceiveState& state);
    void resume_receiving(nvme::Command& command, const ReceiveState& state);
    void ready_after_adoption(nvme::Command& command, bool in_capsule);

    struct SocketOperation : reactor::Operation {
        TcpConnection* connection = nullptr;
    };

    // Stands in the common pool's line while the connection itself stands in the reserve's.
    struct CommonWaiter final : reactor::BufferWaiter {
        void buffer_available() override { connection->buffer_available(); }
        TcpConnection* connection = nullptr;
    };

    Surroundings& around_;
    const int socket_;
    TcpSlots slots_;
    ConnectionRecord& record_;
    nvme::Endpoint endpoint_;
    const DigestPolicies policies_;
    nvme::QueuePair queue_;
    TcpCounters counters_;
    std::string reason_;

    // Receiving.
    SocketOperation receive_operation_;
    msghdr receive_message_{};
    iovec receive_segments_[2]{};
    std::uint64_t received_ = 0;  // stream offset up to which bytes are in place
    bool receive_armed_ = false;
    CommonWaiter common_waiter_;
    bool stalled_ = false;  // no buffer for the data in the capsule at `consumed`
    // While a command is executed whose capsule is not consumed yet: what makes it so.
    const ReceiveState* consuming_ = nullptr;
    std::uint32_t requests_open_ = 0;  // commands whose data was requested and is not complete

    // Sending.
    SocketOperation send_operation_;
    msghdr send_message_{};
    std::unique_ptr<iovec[]> send_segments_;
    std::uint64_t first_unsent_ = 0;    // sequence number
    std::uint64_t sent_position_ = 0;   // stream offset
    std::uint64_t queued_end_ = 0;      // stream offset behind the last entry
    std::uint64_t unsent_counted_ = 0;  // this connection's part of Surroundings::unsent_bytes
    std::uint64_t fetched_ = 0;         // sequence number; what lies before it was fetched or is sent
    bool send_armed_ = false;
    nvme::Command* waiting_first_ = nullptr;  // done, but the transmit queue has no room
    nvme::Command* waiting_last_ = nullptr;
    reactor::MemberDeferred<&TcpConnection::flush> flush_;

    // Life.
    reactor::MemberTimer<&TcpConnection::progress_check> progress_;
    base::Nanoseconds last_received_at_ = 0;
    base::Nanoseconds last_sent_at_ = 0;
    base::Nanoseconds reads_since_ = 0;  // it was stalled before
    std::uint64_t pdu_end_ = 0;          // of the PDU that was last seen incomplete: stream offset, and when
    base::Nanoseconds pdu_since_ = 0;
    std::uint64_t send_goal_ = 0;  // stream offset that was queued when a send began, and when
    base::Nanoseconds send_goal_since_ = 0;
    base::Nanoseconds opened_at_ = 0;
    bool draining_ = false;       // ends when the transmit queue is empty
    bool end_requested_ = false;  // ends at the end of this iteration
    base::Nanoseconds half_closed_at_ = 0;
    bool half_closed_ = false;  // the termination request was sent, the host may still talk
    bool ending_ = false;       // the socket is shut down
    bool queue_idle_ = false;
    std::uint64_t receiving_offset_ = 0;  // while ending: the buffer into which the receive in flight goes
    std::uint32_t receiving_bytes_ = 0;
    std::vector<std::uint16_t> adopted_live_;     // between adopt and resume
    std::vector<std::uint16_t> adopted_ready_;    // between resume and execute_adopted
    std::vector<std::uint16_t> adopted_waiting_;  // for a buffer, between resume and read_adopted
    bool reads_later_ = false;                    // between execute_adopted and read_adopted
};

}  // namespace transport
