// Chunks dealt to the parts in turn, as many rows as the smallest part has room for. It grows when all its
// parts have grown.

#include <algorithm>
#include <limits>

#include "block/spread.h"

namespace block {

namespace {

class Stripe final : public Spread {
  public:
    Stripe(const Environment& environment, const DeviceSpec& spec)
        : Spread(environment, spec), chunk_(spec.chunk_bytes) {}

    base::Result<void> open() {
        if (spec_.parts.size() < 2) {
            return base::Error{"E_INVALID", describe_device(spec_) + "it needs at least two parts"};
        }
        constexpr std::uint64_t chunk_max = 1u << 30;
        if (chunk_ == 0 || chunk_ % part_alignment != 0 || chunk_ > chunk_max) {
            return base::Error{"E_INVALID", describe_device(spec_) + "a chunk has a multiple of " +
                                                std::to_string(part_alignment) + " bytes, at most " +
                                                std::to_string(chunk_max) + "; not " +
                                                std::to_string(chunk_)};
        }
        parts_.reserve(spec_.parts.size());
        for (const PartSpec& part : spec_.parts) {
            if (part.start_bytes != 0 || part.size_bytes != 0) {
                return base::Error{
                    "E_INVALID", describe_device(spec_) +
                                     "it stands on whole devices; put a linear volume over \"" + part.device +
                                     "\" to use a range of it"};
            }
            const Device* const device = environment_.find(part.device);
            const std::uint64_t has = device == nullptr ? 0 : device->describe().size_bytes;
            if (has != 0 && has < chunk_) {
                return base::Error{"E_INVALID", describe_device(spec_) + "\"" + part.device + "\" has " +
                                                    std::to_string(has) + " bytes: less than a chunk"};
            }
            if (auto added = add_part(part); !added) {
                return added;
            }
        }
        describe_anew();
        return {};
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        if (bytes && *bytes != description_.size_bytes) {
            return base::Error{"E_UNSUPPORTED",
                               describe_device(spec_) + "it takes its size from its parts: resize those"};
        }
        for (std::size_t index = 0; index < parts_.size(); ++index) {
            if (const auto looked = parts_[index].device().resize(std::nullopt); !looked) {
                return looked;
            }
        }
        return description_.size_bytes;
    }

  protected:
    Run locate(std::uint64_t offset) const override {
        const std::uint64_t chunk = offset / chunk_;
        const std::uint64_t within = offset % chunk_;
        return {static_cast<std::size_t>(chunk % parts_.size()), chunk / parts_.size() * chunk_ + within,
                chunk_ - within};
    }

    std::uint64_t lay_out() override {
        std::uint64_t rows = std::numeric_limits<std::uint64_t>::max() / chunk_ / parts_.size();
        for (const Part& part : parts_) {
            rows = std::min(rows, part.device().describe().size_bytes / chunk_);
        }
        for (Part& part : parts_) {
            const std::uint64_t has = part.device().describe().size_bytes;
            part.size = rows * chunk_;
            part.trouble = has != 0 && has < chunk_
                               ? "its part \"" + part.device().name() + "\" has less than a chunk"
                               : "";
        }
        return rows * chunk_ * parts_.size();
    }

    std::uint32_t optimal_io() const override {
        return static_cast<std::uint32_t>(std::min<std::uint64_t>(chunk_ * parts_.size(), 1u << 30));
    }

  private:
    const std::uint64_t chunk_;
};

}  // namespace

MadeDevice make_stripe(Environment& environment, const DeviceSpec& spec) {
    auto stripe = std::make_unique<Stripe>(environment, spec);
    if (auto opened = stripe->open(); !opened) {
        return opened.error();
    }
    return std::unique_ptr<Device>(std::move(stripe));
}

}  // namespace block
