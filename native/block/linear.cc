// Parts one after the other: part, start and size of each; the last one may be "the rest of its device" and
// follows it when it grows or shrinks. Any other one without a size takes what its device has when it is
// first seen, for ever: what follows must not shift. That layout is the volume's identity, and comes back in
// `known`.
//
// Verbs: grow {device, start, size} appends a part; start and size in bytes, "0" or absent for the whole
// rest.

#include <algorithm>
#include <charconv>

#include "block/spread.h"

namespace block {

namespace {

constexpr const char* layout_prefix = "layout";

class Linear final : public Spread {
  public:
    Linear(const Environment& environment, const DeviceSpec& spec) : Spread(environment, spec) {}

    base::Result<void> open() {
        if (spec_.parts.empty()) {
            return base::Error{"E_INVALID", describe_device(spec_) + "it needs at least one part"};
        }
        parts_.reserve(spec_.parts.size());
        for (const PartSpec& part : spec_.parts) {
            if (auto added = add_part(part); !added) {
                return added;
            }
        }
        remember_layout();
        describe_anew();
        return {};
    }

    std::string identity() const override {
        if (description_.size_bytes == 0) {
            return {};
        }
        std::string text = layout_prefix;
        for (const Part& part : parts_) {
            text += "." + std::to_string(part.size);
        }
        return text;
    }

    base::Result<std::uint64_t> resize(std::optional<std::uint64_t> bytes) override {
        if (!bytes) {
            for (std::size_t index = 0; index < parts_.size(); ++index) {
                if (const auto looked = parts_[index].device().resize(std::nullopt); !looked) {
                    return looked;
                }
            }
            return description_.size_bytes;
        }
        if (*bytes == description_.size_bytes) {
            return *bytes;
        }
        const Part& last = parts_.back();
        const std::uint64_t before = description_.size_bytes - last.size;
        if (*bytes % part_alignment != 0 || *bytes <= before || description_.size_bytes == 0) {
            return base::Error{"E_INVALID", describe_device(spec_) + "its size can be a multiple of " +
                                                std::to_string(part_alignment) +
                                                " above that of all parts but the last, " +
                                                std::to_string(before) + "; not " + std::to_string(*bytes)};
        }
        if (last.wanted != 0) {
            return base::Error{"E_UNSUPPORTED", describe_device(spec_) +
                                                    "its last part has a fixed size; append one with grow"};
        }
        const auto resized = last.device().resize(last.start + (*bytes - before));
        return resized ? base::Result<std::uint64_t>(description_.size_bytes) : resized;
    }

    void command(const Command& command, CommandDone done) override {
        if (command.verb != "grow") {
            Device::command(command, std::move(done));
            return;
        }
        done(grow(command));
    }

  protected:
    Run locate(std::uint64_t offset) const override {
        const auto after = std::upper_bound(ends_.begin(), ends_.end(), offset);
        const auto index = static_cast<std::size_t>(after - ends_.begin());
        const Part& part = parts_[index];
        return {index, part.start + (offset - (*after - part.size)), *after - offset};
    }

    std::uint64_t lay_out() override {
        ends_.clear();
        std::uint64_t end = 0;
        bool known = true;
        for (Part& part : parts_) {
            const std::uint64_t has = part.device().describe().size_bytes;
            const std::uint64_t there =
                has > part.start ? (has - part.start) / part_alignment * part_alignment : 0;
            const bool follows = part.wanted == 0 && &part == &parts_.back();
            if (has != 0 && (part.size == 0 || follows)) {
                part.size = part.wanted != 0 ? part.wanted : there;
            }
            part.trouble.clear();
            if (has != 0 && (there < part.size || part.size == 0)) {
                part.trouble = "its part \"" + part.device().name() + "\" has " + std::to_string(has) +
                               " bytes: too few for " + std::to_string(part.size) + " from byte " +
                               std::to_string(part.start) + " on";
            }
            known = known && part.size != 0 && part.size <= ~std::uint64_t{0} - end;
            end += part.size;
            ends_.push_back(end);
        }
        return known ? end : 0;
    }

  private:
    // What a part without a size had when it was first seen.
    void remember_layout() {
        const std::string& text = spec_.known.identity;
        std::size_t at = text.starts_with(layout_prefix) ? std::string(layout_prefix).size() : text.size();
        for (Part& part : parts_) {
            std::uint64_t size = 0;
            if (at >= text.size() || text[at] != '.') {
                return;
            }
            const auto [end, error] = std::from_chars(text.data() + at + 1, text.data() + text.size(), size);
            if (error != std::errc() || size % part_alignment != 0) {
                return;
            }
            at = static_cast<std::size_t>(end - text.data());
            if (part.wanted == 0 && &part != &parts_.back()) {
                part.size = size;
            }
        }
    }

    base::Result<void> grow(const Command& command) {
        const auto text = [&](const char* key) {
            const auto found = command.arguments.find(key);
            return found == command.arguments.end() ? std::string() : found->second;
        };
        PartSpec part{text("device"), 0, 0};
        for (const auto& [key, value] : {std::pair{"start", &part.start_bytes}, {"size", &part.size_bytes}}) {
            const std::string digits = text(key);
            const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), *value);
            if (!digits.empty() && (error != std::errc() || end != digits.data() + digits.size())) {
                return base::Error{"E_INVALID", describe_device(spec_) + "grow: " + key + " \"" + digits +
                                                    "\" is not a number of bytes"};
            }
        }
        const Device* const device = environment_.find(part.device);
        if (description_.size_bytes == 0 || (device != nullptr && device->describe().size_bytes == 0)) {
            return base::Error{"E_NOT_READY", describe_device(spec_) +
                                                  "it can grow when the size of all its parts is known"};
        }
        if (device != nullptr && device->describe().block_bytes > description_.block_bytes) {
            return base::Error{"E_INVALID", describe_device(spec_) + "it has blocks of " +
                                                std::to_string(description_.block_bytes) + " bytes, \"" +
                                                part.device + "\" has " +
                                                std::to_string(device->describe().block_bytes)};
        }
        if (device != nullptr && device->describe().read_only && !description_.read_only) {
            return base::Error{"E_INVALID",
                               describe_device(spec_) + "\"" + part.device + "\" can only be read"};
        }
        if (auto added = add_part(part); !added) {
            return added;
        }
        describe_anew();
        return {};
    }

    std::vector<std::uint64_t> ends_;  // of each part, in the volume
};

}  // namespace

MadeDevice make_linear(Environment& environment, const DeviceSpec& spec) {
    auto linear = std::make_unique<Linear>(environment, spec);
    if (auto opened = linear->open(); !opened) {
        return opened.error();
    }
    return std::unique_ptr<Device>(std::move(linear));
}

}  // namespace block
