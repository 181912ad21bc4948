// Ends chosen requests with a chosen status, always or a number of times; passes the others on. For tests.

#include "block/stacked.h"

namespace block {

namespace {

class Error final : public Stacked {
  public:
    Error(const Environment& environment, const DeviceSpec& spec, Claim base, unsigned actions, Status status)
        : Stacked(environment, spec, std::move(base)),
          actions_(actions),
          status_(status),
          left_(spec.error_count) {}

  protected:
    void submit_checked(Request& request) override {
        Child& child = take_child(request);
        if (!matches(request)) {
            pass_on(child);
            return;
        }
        if (spec_.error_count != 0) {
            --left_;
        }
        answer(child, status_);
    }

  private:
    bool matches(const Request& request) const {
        if ((actions_ & 1u << static_cast<unsigned>(request.action)) == 0 ||
            (spec_.error_count != 0 && left_ == 0)) {
            return false;
        }
        if (request.action == Action::flush) {
            return true;
        }
        const bool ends_before = request.offset + request.length <= spec_.error_offset;
        const bool starts_after = spec_.error_length != 0 && request.offset >= spec_.error_offset &&
                                  request.offset - spec_.error_offset >= spec_.error_length;
        return !ends_before && !starts_after;
    }

    unsigned actions_;  // bit per Action
    Status status_;
    std::uint64_t left_;
};

// The value of an enumeration by its name, from 0 to `last`.
template <typename Enum>
base::Result<Enum> by_name(const DeviceSpec& spec, const char* field, const std::string& name, Enum first,
                           Enum last) {
    std::string names;
    for (auto value = static_cast<unsigned>(first); value <= static_cast<unsigned>(last); ++value) {
        const char* candidate = name_of(static_cast<Enum>(value));
        if (name == candidate) {
            return static_cast<Enum>(value);
        }
        names += names.empty() ? candidate : std::string(", ") + candidate;
    }
    return base::Error{"E_INVALID",
                       describe_device(spec) + field + " \"" + name + "\" is unknown; there are " + names};
}

}  // namespace

MadeDevice make_error(Environment& environment, const DeviceSpec& spec) {
    const auto status =
        by_name(spec, "error_status", spec.error_status, Status::out_of_range, Status::internal_error);
    if (!status.ok()) {
        return status.error();
    }
    unsigned actions = 0;
    for (const std::string& name : spec.error_actions) {
        const auto action = by_name(spec, "error_actions", name, Action::read, Action::deallocate);
        if (!action.ok()) {
            return action.error();
        }
        actions |= 1u << static_cast<unsigned>(action.value());
    }
    auto base = claim_base(environment, spec);
    if (!base.ok()) {
        return base.error();
    }
    return std::unique_ptr<Device>(new Error(environment, spec, base.take(), actions, status.value()));
}

}  // namespace block
