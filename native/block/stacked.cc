#include "block/stacked.h"

#include <new>

#include "base/check.h"

namespace block {

base::Result<Claim> claim_base(Environment& environment, const DeviceSpec& spec) {
    Device* base = spec.base.empty() ? nullptr : environment.find(spec.base);
    if (base == nullptr) {
        return base::Error{"E_NOT_FOUND", describe_device(spec) + "there is no device \"" + spec.base +
                                              "\" to stand on; create it first and name it as base"};
    }
    return Claim::take(*base, spec.read_only ? Access::read_only : Access::read_write, "device " + spec.name);
}

Stacked::Stacked(const Environment& environment, const DeviceSpec& spec, Claim base)
    : Device(spec.name, spec.kind), environment_(environment), spec_(spec), base_(std::move(base)) {
    base_.on_change([this] { describe_like_base(); });
    describe_like_base();
}

void Stacked::describe_like_base() {
    Description description = base_.device()->describe();
    description.read_only = description.read_only || spec_.read_only;
    description.writes_inline = false;  // what stands on another device may take its time
    set_description(description);
}

base::Result<std::uint64_t> Stacked::resize(std::optional<std::uint64_t> bytes) {
    return base_.device()->resize(bytes);  // the claim's listener takes the new size over
}

Stacked::Child& Stacked::take_child(Request& request) {
    if (free_children_.empty()) {
        children_.emplace_back(*this);
        free_children_.push_back(&children_.back());
    }
    Child& child = *free_children_.back();
    free_children_.pop_back();
    child.above = &request;
    ::new (static_cast<void*>(request.scratch)) Child*(&child);
    return child;
}

Stacked::Child& Stacked::child_of(Request& request) {
    return **std::launder(reinterpret_cast<Child**>(request.scratch));
}

void Stacked::pass_on(Child& child) {
    Request& below = child.below;
    const Request& above = *child.above;
    below.action = above.action;
    below.force_unit_access = above.force_unit_access;
    below.may_deallocate = above.may_deallocate;
    below.offset = above.offset;
    below.length = above.length;
    below.data = above.data;
    below.done = [](Request& request, Status status) {
        Child& self = *static_cast<Child::Below&>(request).child;
        self.device.answer(self, status);
    };
    base_.device()->submit(below);
}

void Stacked::answer(Child& child, Status status) {
    Request& above = *child.above;
    child.above = nullptr;
    free_children_.push_back(&child);
    complete(above, status);
}

void Stacked::cancel_checked(Request& request) {
    Child& child = child_of(request);
    if (child.below.phase == Request::Phase::submitted) {
        base_.device()->cancel(child.below);
    }
}

void Stacked::close_checked(std::function<void()> closed) {
    base_.release();
    environment_.reactor.post(std::move(closed));
}

}  // namespace block
