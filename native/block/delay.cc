// Adds a delay before each request goes on to the device below. For tests, and for people who want to see how
// a slow disk feels.

#include <algorithm>

#include "block/stacked.h"

namespace block {

namespace {

class Delay final : public Stacked {
  public:
    Delay(const Environment& environment, const DeviceSpec& spec, Claim base)
        : Stacked(environment, spec, std::move(base)) {}

  protected:
    void submit_checked(Request& request) override {
        Child& child = take_child(request);
        const base::Nanoseconds delay = delay_of(request.action);
        if (delay == 0) {
            pass_on(child);
            return;
        }
        child.previous_waiting = last_;
        child.next_waiting = nullptr;
        (last_ != nullptr ? last_->next_waiting : first_) = &child;
        last_ = &child;
        child.timer.start_after(delay);
    }

    void cancel_checked(Request& request) override {
        Child& child = child_of(request);
        if (child.timer.running()) {
            stop_waiting(child);
            answer(child, Status::aborted);
            return;
        }
        Stacked::cancel_checked(request);
    }

    void fired(Child& child) override { proceed(child); }

    void closing_checked() override {
        while (first_ != nullptr) {
            proceed(*first_);
        }
    }

  private:
    base::Nanoseconds delay_of(Action action) const {
        const std::uint64_t by_action[] = {spec_.read_delay_us, spec_.write_delay_us, spec_.flush_delay_us,
                                           spec_.write_delay_us, spec_.write_delay_us};
        constexpr std::uint64_t longest = 3600 * (base::second / base::microsecond);
        return std::min(by_action[static_cast<std::size_t>(action)], longest) * base::microsecond;
    }

    void stop_waiting(Child& child) {
        child.timer.stop();
        (child.previous_waiting != nullptr ? child.previous_waiting->next_waiting : first_) =
            child.next_waiting;
        (child.next_waiting != nullptr ? child.next_waiting->previous_waiting : last_) =
            child.previous_waiting;
    }

    void proceed(Child& child) {
        stop_waiting(child);
        pass_on(child);
    }

    Child* first_ = nullptr;
    Child* last_ = nullptr;
};

}  // namespace

MadeDevice make_delay(Environment& environment, const DeviceSpec& spec) {
    auto base = claim_base(environment, spec);
    if (!base.ok()) {
        return base.error();
    }
    return std::unique_ptr<Device>(new Delay(environment, spec, base.take()));
}

}  // namespace block
