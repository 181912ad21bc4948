// Requests that wait in the guard of a suspended device, ranges of claims, and the exchange of a device under
// its users.

#include <doctest/doctest.h>

#include <memory>

#include "testing/block_rig.h"

namespace {

using block::Access;
using block::Action;
using block::Claim;
using block::ClaimRange;
using block::Device;
using block::DeviceSpec;
using block::Status;
using Hold = Device::Hold;
using testing::BlockRig;
using testing::Pages;
using testing::TestRequest;

constexpr std::uint64_t size_bytes = 1 << 20;

DeviceSpec ram_named(const std::string& name, std::uint64_t bytes = size_bytes) {
    DeviceSpec spec;
    spec.name = name;
    spec.kind = "ram";
    spec.size_bytes = bytes;
    return spec;
}

TestRequest& prepare(TestRequest& request, Action action, std::uint64_t offset, std::byte* data) {
    request.action = action;
    request.offset = offset;
    request.length = 4096;
    request.data = data;
    return request;
}

// Ends requests when it is told to, in any order.
class Patient final : public Device {
  public:
    explicit Patient(const std::string& name) : Device(name, "patient") {
        description_.size_bytes = size_bytes;
        description_.can_deallocate = true;
    }
    base::Result<std::uint64_t> resize(std::optional<std::uint64_t>) override { return size_bytes; }
    Health health() const override { return health_; }
    void become(const std::string& state) {
        health_.state = state;
        tell_changed();
    }
    void end_next(Status status) {
        block::Request& request = *inside_.front();
        inside_.erase(inside_.begin());
        complete(request, status);
    }
    std::size_t held() const { return inside_.size(); }

  protected:
    void submit_checked(block::Request& request) override { inside_.push_back(&request); }
    void cancel_checked(block::Request& request) override {
        std::erase(inside_, &request);
        complete(request, Status::aborted);
    }
    void closing_checked() override {
        while (!inside_.empty()) {
            end_next(Status::gone);
        }
    }

  private:
    std::vector<block::Request*> inside_;
    Health health_;
};

TEST_CASE("what is submitted to a suspended device waits, and goes on in order when it is resumed") {
    BlockRig rig;
    Pages memory(16384);
    Device& device = *rig.make(ram_named("r")).value();
    std::memset(memory.data(), 1, 4096);
    std::memset(memory.data() + 4096, 2, 4096);
    device.suspend(Hold::operators);
    TestRequest first, second, third;
    device.submit(prepare(first, Action::write, 0, memory.data()));
    device.submit(prepare(second, Action::write, 0, memory.data() + 4096));
    device.submit(prepare(third, Action::read, 0, memory.data() + 8192));
    rig.reactor.run_once(0);
    CHECK(first.completed + second.completed + third.completed == 0);
    CHECK(device.counters().in_flight == 3);
    CHECK(device.inside() == 0);
    CHECK_FALSE(device.direct_read(0, 4096).has_value());
    CHECK_FALSE(device.writes_inline());
    device.resume(Hold::operators);
    CHECK(first.completed == 1);
    CHECK(second.completed == 1);
    CHECK(third.completed == 1);
    CHECK(third.status == Status::ok);
    CHECK(memory.data()[8192] == std::byte{2});
    CHECK(device.direct_read(0, 4096).has_value());
    CHECK(device.writes_inline());
}

TEST_CASE("two who suspend a device must both resume it") {
    BlockRig rig;
    Pages memory(4096);
    Device& device = *rig.make(ram_named("r")).value();
    device.suspend(Hold::operators);
    device.suspend(Hold::engine);
    TestRequest request;
    device.submit(prepare(request, Action::read, 0, memory.data()));
    device.resume(Hold::operators);
    device.resume(Hold::operators);
    CHECK(request.completed == 0);
    device.resume(Hold::engine);
    CHECK(request.completed == 1);
    CHECK_FALSE(device.suspended());
}

TEST_CASE("a request that waits can be cancelled, the others keep their order") {
    BlockRig rig;
    Pages memory(4096);
    Device& device = *rig.make(ram_named("r")).value();
    device.suspend(Hold::operators);
    TestRequest requests[4];
    for (TestRequest& request : requests) {
        device.submit(prepare(request, Action::read, 0, memory.data()));
    }
    for (const int index : {1, 0, 3}) {
        device.cancel(requests[index]);
        CHECK(requests[index].completed == 1);
        CHECK(requests[index].status == Status::aborted);
    }
    device.resume(Hold::operators);
    CHECK(requests[2].completed == 1);
    CHECK(requests[2].status == Status::ok);
    CHECK(device.counters().in_flight == 0);
}

TEST_CASE("closing a suspended device ends what waits") {
    BlockRig rig;
    Pages memory(4096);
    Device& device = *rig.make(ram_named("r")).value();
    device.suspend(Hold::operators);
    TestRequest request;
    device.submit(prepare(request, Action::write, 0, memory.data()));
    rig.close("r");
    CHECK(request.completed == 1);
    CHECK(request.status == Status::gone);
}

TEST_CASE("a device is drained when what it had before it was suspended has ended") {
    Pages memory(4096);
    auto patient = std::make_unique<Patient>("p");
    TestRequest inside, waiting;
    patient->submit(prepare(inside, Action::write, 0, memory.data()));
    patient->suspend(Hold::engine);
    patient->submit(prepare(waiting, Action::write, 0, memory.data()));
    int drained = 0;
    patient->drain([&] { ++drained; });
    CHECK(drained == 0);
    CHECK(patient->held() == 1);
    patient->end_next(Status::ok);
    CHECK(drained == 1);
    CHECK(waiting.completed == 0);
    patient->drain([&] { ++drained; });
    CHECK(drained == 2);
    patient->resume(Hold::engine);
    patient->end_next(Status::ok);
    CHECK(waiting.completed == 1);
    CHECK(drained == 2);
}

TEST_CASE("a device's users and what waits go to its successor, what the old one had is sent again") {
    BlockRig rig;
    Pages memory(8192);
    std::memset(memory.data(), 0x5a, 8192);
    Device& successor = *rig.make(ram_named("r", 2 * size_bytes)).value();
    auto patient = std::make_unique<Patient>("p");
    auto claim = Claim::take(*patient, Access::read_write, "user").take();
    int told = 0;
    claim.on_change([&] { ++told; });
    TestRequest inside, cancelled, waiting;
    patient->submit(prepare(inside, Action::write, 4096, memory.data()));
    patient->submit(prepare(cancelled, Action::write, 8192, memory.data()));
    patient->suspend(Hold::operators);
    patient->submit(prepare(waiting, Action::write, 12288, memory.data()));
    patient->cancel(cancelled);
    CHECK(cancelled.status == Status::aborted);
    bool closed = false;
    patient->close_for_successor([&] { closed = true; });
    CHECK(closed);
    CHECK(inside.completed == 0);
    patient->hand_over(successor);
    CHECK(claim.device() == &successor);
    CHECK(told == 1);
    CHECK(claim.device()->describe().size_bytes == 2 * size_bytes);
    CHECK(successor.suspended_by(Hold::operators));
    CHECK_FALSE(successor.suspended_by(Hold::engine));
    patient.reset();
    CHECK(inside.completed == 0);
    successor.resume(Hold::operators);
    CHECK(inside.completed == 1);
    CHECK(inside.status == Status::ok);
    CHECK(waiting.completed == 1);
    CHECK(cancelled.completed == 1);
    Pages back(4096);
    CHECK(rig.run(successor, Action::read, 4096, 4096, back.data()) == Status::ok);
    CHECK(std::memcmp(back.data(), memory.data(), 4096) == 0);
    claim.release();
}

TEST_CASE(
    "listeners and the watcher are told when the availability changes, and of suspensions the watcher") {
    Patient patient("p");
    auto claim = Claim::take(patient, Access::read_write, "user").take();
    int told = 0, watched = 0;
    claim.on_change([&] { ++told; });
    patient.watch([&] { ++watched; });
    patient.become("lost");
    CHECK(told == 1);
    CHECK(watched == 1);
    patient.suspend(Hold::operators);
    patient.resume(Hold::operators);
    CHECK(told == 1);
    CHECK(watched == 3);
    claim.release();
}

TEST_CASE("claims of ranges exclude each other where they overlap") {
    BlockRig rig;
    Device& device = *rig.make(ram_named("r")).value();
    auto low = Claim::take(device, Access::read_write, "low", {0, 4096}).take();
    auto high = Claim::take(device, Access::read_write, "high", {8192}).take();
    auto middle = Claim::take(device, Access::read_write, "middle", {4096, 8192}).take();
    const auto refused = Claim::take(device, Access::read_write, "other", {4096, 12288});
    REQUIRE_FALSE(refused.ok());
    CHECK(refused.error().code == "E_BUSY");
    CHECK(Claim::take(device, Access::read_only, "whole").error().code == "E_BUSY");
    middle.release();
    auto again = Claim::take(device, Access::read_write, "again", {4096, 8192}).take();
    Claim moved = std::move(again);
    CHECK_FALSE(Claim::take(device, Access::read_write, "other", {4096, 8192}).ok());
    CHECK_FALSE(Claim::take(device, Access::read_write, "other", {size_bytes * 2}).ok());
}

}  // namespace
