// The base of kinds that stand on one other device: holds the claim on it, shows its description, and passes
// requests on as requests of its own. A kind decides in submit_checked when `pass_on` is called, or whether
// at all.
#pragma once

#include <deque>
#include <string>
#include <vector>

#include "block/kinds.h"

namespace block {

class Stacked : public Device {
  public:
    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override;
    Health health() const override { return base_.device()->health(); }
    std::vector<std::string> parts() const override { return {base_.device()->name()}; }

  protected:
    // The request below that stands for one above. Made on demand, kept for ever: as many as were in flight
    // at once.
    struct Child {
        explicit Child(Stacked& owner) : device(owner), timer(owner.environment_.reactor, *this) {
            below.child = this;
        }
        void fired() { device.fired(*this); }
        struct Below : Request {
            Child* child = nullptr;
        };
        Stacked& device;
        Below below;
        Request* above = nullptr;
        Child* next_waiting = nullptr;  // for kinds that hold requests back
        Child* previous_waiting = nullptr;
        reactor::MemberTimer<&Child::fired> timer;
    };

    Stacked(const Environment& environment, const DeviceSpec& spec, Claim base);

    Child& take_child(Request& request);
    static Child& child_of(Request& request);
    void pass_on(Child& child);
    // Ends the request above without asking the device below.
    void answer(Child& child, Status status);
    // The child's timer, which only the kind starts.
    virtual void fired(Child& child) { pass_on(child); }

    void cancel_checked(Request& request) override;
    void close_checked(std::function<void()> closed) override;

    Device& below() { return *base_.device(); }

    Environment environment_;
    DeviceSpec spec_;

  private:
    void describe_like_base();

    Claim base_;
    std::deque<Child> children_;
    std::vector<Child*> free_children_;
};

// A claim on the device that the specification names as its base.
base::Result<Claim> claim_base(Environment& environment, const DeviceSpec& spec);

}  // namespace block
