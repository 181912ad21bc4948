#include "durable/keeper_protocol.h"

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <random>
#include <string>

namespace {

using durable::KeeperMessage;
using durable::KeeperReceive;
using durable::KeeperSend;
using durable::receive_keeper_message;
using Outcome = KeeperReceive::Outcome;

struct Pair {
    Pair() { REQUIRE(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) == 0); }
    ~Pair() {
        close_end(0);
        close_end(1);
    }
    void close_end(int index) {
        if (ends[index] >= 0) {
            close(ends[index]);
            ends[index] = -1;
        }
    }
    int ends[2];
};

bool is_open(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

int lowest_free_descriptor() {
    const int descriptor = dup(0);
    close(descriptor);
    return descriptor;
}

TEST_CASE("a message is read back as it was written") {
    const std::string odd = "a name: 100% ~\n\x01\xFF=";
    const KeeperMessage message =
        KeeperMessage("STORE").add("kind", "memory").add("name", odd).add("empty", "").add("id", ~0ull);
    CHECK(message.packet() ==
          "STORE kind=memory name=a%20name:%20100%25%20~%0A%01%FF= empty= id=18446744073709551615");
    const auto parsed = KeeperMessage::parse(message.packet());
    REQUIRE(parsed);
    CHECK(parsed->verb() == "STORE");
    CHECK(parsed->value("name") == odd);
    CHECK(parsed->value("empty").empty());
    CHECK(parsed->value("absent").empty());
    CHECK(parsed->number("id") == ~0ull);
    CHECK_FALSE(parsed->number("kind"));
    CHECK_FALSE(parsed->number("empty"));
    CHECK_FALSE(parsed->number("absent"));
}

TEST_CASE("what is no message is refused as a whole") {
    using namespace std::string_literals;
    const std::string refused[] = {
        "",
        " ",
        "store",
        "STORE ",
        " STORE",
        "STORE  a=b",
        "STORE a=b ",
        "STORE a",
        "STORE =b",
        "STORE A=b",
        "STORE a=b a=c",
        "STORE a=%",
        "STORE a=%4",
        "STORE a=%4g",
        "STORE a=b\n",
        "STORE a=\xFF",
        "STORE\0"s,
        "STORE a=\0"s,
        std::string(33, 'A'),
        "STORE " + std::string(33, 'a') + "=b",
        "STORE a=" + std::string(durable::keeper_message_bytes_max, 'b'),
    };
    for (const std::string& packet : refused) {
        CAPTURE(packet);
        CHECK_FALSE(KeeperMessage::parse(packet));
    }
    std::string many = "STORE";
    for (std::size_t i = 0; i <= durable::keeper_fields_max; ++i) {
        many += " " + std::string(i + 1, 'k') + "=1";
    }
    CHECK_FALSE(KeeperMessage::parse(many));
    CHECK(KeeperMessage::parse("READY"));
    CHECK(KeeperMessage::parse("GO reason=crash unknown=x"));
    CHECK_FALSE(KeeperMessage::parse("GO restarts=18446744073709551616")->number("restarts"));
    CHECK_FALSE(KeeperMessage::parse("GO restarts=-1")->number("restarts"));
    CHECK_FALSE(KeeperMessage::parse("GO restarts=1x")->number("restarts"));
}

TEST_CASE("random bytes never make a message that differs from what they say") {
    const auto seed = std::random_device{}();
    CAPTURE(seed);
    std::mt19937_64 random(seed);
    const std::string alphabet = "AZaz=%% 09:_-\n\xFF";
    int messages = 0;
    for (int i = 0; i < 200'000; ++i) {
        std::string packet = random() % 2 == 0 ? "GO a=" : "";
        for (std::uint64_t left = random() % 12; left != 0; --left) {
            packet += alphabet[random() % alphabet.size()];
        }
        const auto message = KeeperMessage::parse(packet);
        if (message) {
            ++messages;
            CHECK(message->packet() == packet);
            CHECK(packet.starts_with(message->verb()));
        }
    }
    CHECK(messages > 100);
}

TEST_CASE("a value is cut and a field left out rather than a message growing beyond its bound") {
    KeeperMessage message("STATUS");
    message.add("text", std::string(10'000, 'x'));
    CHECK(message.value("text").size() == durable::keeper_value_bytes_max);
    const std::string binary(durable::keeper_value_bytes_max, '\n');
    message.add("more", binary).add("last", "here");
    CHECK(message.packet().size() <= durable::keeper_message_bytes_max);
    CHECK(message.value("more").empty());
    CHECK(message.value("last") == "here");
    CHECK(KeeperMessage::parse(message.packet()));
}

TEST_CASE("names that can be stored fit into systemd's names") {
    CHECK(durable::keeper_name_valid("ram:disk 1"));
    CHECK(durable::keeper_name_valid(std::string(111, 'x')));
    CHECK_FALSE(durable::keeper_name_valid(std::string(112, 'x')));
    CHECK_FALSE(durable::keeper_name_valid(std::string(111, ':')));
    CHECK_FALSE(durable::keeper_name_valid(""));
    CHECK_FALSE(durable::keeper_name_valid(std::string("a\0b", 3)));
}

TEST_CASE("a message arrives with its descriptor, close-on-exec") {
    Pair pair;
    const int file = memfd_create("test", 0);
    CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::nothing);
    CHECK(send_keeper_message(pair.ends[0], KeeperMessage("STORE").add("name", "a"), file) ==
          KeeperSend::sent);
    CHECK(send_keeper_message(pair.ends[0], KeeperMessage("READY")) == KeeperSend::sent);
    const KeeperReceive first = receive_keeper_message(pair.ends[1]);
    REQUIRE(first.outcome == Outcome::message);
    CHECK(first.message->value("name") == "a");
    CHECK(fcntl(first.descriptor, F_GETFD) == FD_CLOEXEC);
    close(first.descriptor);
    const KeeperReceive second = receive_keeper_message(pair.ends[1]);
    REQUIRE(second.outcome == Outcome::message);
    CHECK(second.message->verb() == "READY");
    CHECK(second.descriptor == -1);
    close(file);
    CHECK(send_keeper_message(pair.ends[0], KeeperMessage("STORE"), file) == KeeperSend::failed);
}

TEST_CASE("descriptors of a malformed message are closed") {
    Pair pair;
    const int before = lowest_free_descriptor();
    char text[] = "no message";
    iovec part{text, sizeof text};
    char control[CMSG_SPACE(100 * sizeof(int))] = {};
    for (const std::size_t count : {std::size_t{1}, std::size_t{2}, std::size_t{100}}) {
        msghdr header{};
        header.msg_iov = &part;
        header.msg_iovlen = 1;
        header.msg_control = control;
        header.msg_controllen = CMSG_SPACE(count * sizeof(int));
        cmsghdr* rights = CMSG_FIRSTHDR(&header);
        rights->cmsg_level = SOL_SOCKET;
        rights->cmsg_type = SCM_RIGHTS;
        rights->cmsg_len = CMSG_LEN(count * sizeof(int));
        REQUIRE(sendmsg(pair.ends[0], &header, 0) > 0);
        CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::malformed);
        CHECK(lowest_free_descriptor() == before);
    }
}

TEST_CASE("packets without bytes are not the end of the channel") {
    Pair pair;
    REQUIRE(send(pair.ends[0], "", 0, 0) == 0);
    REQUIRE(send_keeper_message(pair.ends[0], KeeperMessage("READY")) == KeeperSend::sent);
    CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::malformed);
    REQUIRE(send(pair.ends[0], "", 0, 0) == 0);
    REQUIRE(send_keeper_message(pair.ends[0], KeeperMessage("STOPPING")) == KeeperSend::sent);
    pair.close_end(0);
    CHECK(receive_keeper_message(pair.ends[1]).message->verb() == "READY");
    CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::malformed);
    CHECK(receive_keeper_message(pair.ends[1]).message->verb() == "STOPPING");
    CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::closed);
}

TEST_CASE("what a process sent before it died is received, also if it had not read everything") {
    Pair pair;
    const int file = memfd_create("test", MFD_CLOEXEC);
    REQUIRE(send_keeper_message(pair.ends[1], KeeperMessage("QUIESCE")) == KeeperSend::sent);
    REQUIRE(send_keeper_message(pair.ends[0], KeeperMessage("STORE"), file) == KeeperSend::sent);
    pair.close_end(0);
    close(file);
    const KeeperReceive received = receive_keeper_message(pair.ends[1]);
    REQUIRE(received.outcome == Outcome::message);
    CHECK(is_open(received.descriptor));
    close(received.descriptor);
    CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::closed);
    CHECK(send_keeper_message(pair.ends[1], KeeperMessage("QUIESCE")) == KeeperSend::closed);
}

TEST_CASE("a full channel says so and takes more once it was read") {
    Pair pair;
    int sent = 0;
    while (send_keeper_message(pair.ends[0], KeeperMessage("ALIVE").add("source", "main")) ==
           KeeperSend::sent) {
        ++sent;
    }
    CHECK(sent > 10);
    for (int i = 0; i < sent; ++i) {
        CHECK(receive_keeper_message(pair.ends[1]).outcome == Outcome::message);
    }
    CHECK(send_keeper_message(pair.ends[0], KeeperMessage("READY")) == KeeperSend::sent);
}

}  // namespace
