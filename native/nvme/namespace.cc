#include "nvme/namespace.h"

#include <bit>
#include <utility>

#include "base/check.h"
#include "nvme/subsystem.h"
#include "nvme/target.h"

namespace nvme {

Namespace::Namespace(Subsystem& subsystem, const NamespaceSpec& spec, block::Claim claim)
    : subsystem_(subsystem), spec_(spec), claim_(std::move(claim)), write_protection_(spec.write_protection) {
    take_size();
    claim_.on_change([this] { device_changed(); });
}

Namespace::~Namespace() { EK_CHECK(holders_ == 0, "a namespace goes while commands use it"); }

void Namespace::take_size() {
    const block::Description& description = device().describe();
    block_shift_ = static_cast<std::uint32_t>(std::countr_zero(description.block_bytes));
    blocks_ = description.size_bytes >> block_shift_;
    device_read_only_ = description.read_only;
}

void Namespace::device_changed() {
    const std::uint64_t blocks_before = blocks_;
    const bool read_only_before = device_read_only_;
    take_size();
    if (blocks_ != blocks_before || device_read_only_ != read_only_before) {
        subsystem_.namespace_changed(nsid());
    }
}

bool Namespace::write_protected() const {
    return spec_.read_only || device_read_only_ || write_protection_ != 0 ||
           claim_.access() == block::Access::read_only;
}

base::Result<void> Namespace::set_read_only(bool read_only) {
    if (!read_only && claim_.access() == block::Access::read_only && !device_read_only_) {
        // A claim cannot be widened: it is given back and taken again, with nobody in between on this thread.
        block::Device& claimed = device();
        const std::string owner = claim_.owner();
        claim_.release();
        auto wider = block::Claim::take(claimed, block::Access::read_write, owner);
        base::Result<void> outcome;
        if (wider.ok()) {
            claim_ = wider.take();
        } else {
            outcome = wider.error();
            auto narrow = block::Claim::take(claimed, block::Access::read_only, owner);
            EK_CHECK(narrow.ok(), "a claim that was just given back cannot be taken again");
            claim_ = narrow.take();
        }
        claim_.on_change([this] { device_changed(); });
        if (!outcome.ok()) {
            return outcome;
        }
    }
    if (spec_.read_only != read_only) {
        spec_.read_only = read_only;
        subsystem_.namespace_changed(nsid());
    }
    return {};
}

void Namespace::release() {
    EK_CHECK(holders_ > 0, "a namespace is released more often than held");
    if (--holders_ == 0 && removing_) {
        leave();
    }
}

void Namespace::remove(std::function<void()> removed) {
    EK_CHECK(!removing_, "a namespace is removed twice");
    removing_ = true;
    removed_ = std::move(removed);
    if (holders_ == 0) {
        leave();
    }
}

// Whoever released it last is still on the stack.
void Namespace::leave() {
    std::function<void()> removed = std::move(removed_);
    removed_ = nullptr;
    if (removed) {
        subsystem_.target().post(std::move(removed));
    }
}

}  // namespace nvme
