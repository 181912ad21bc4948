// The devices of the engine: made, removed, suspended, and exchanged for others under their users.
//
// An exchange takes several turns of the reactor. Until it ends nobody else may begin one with the same
// device, and what users submit waits in its guard.

#include <algorithm>
#include <utility>

#include "base/crash_point.h"
#include "engine/engine.h"
#include "nvme/controller.h"

namespace engine {

namespace {

constexpr base::Nanoseconds forget_poll = 5 * base::millisecond;
constexpr base::Nanoseconds device_watch_period = 1 * base::second;

base::Error no_device(const std::string& name) {
    return {"E_NOT_FOUND", "there is no device \"" + name + "\""};
}

}  // namespace

// What the specification names, in its order.
std::vector<std::string> Engine::parts_named(const block::DeviceSpec& spec) {
    std::vector<std::string> names;
    const auto add = [&](const std::string& name) {
        if (!name.empty()) {
            names.push_back(name);
        }
    };
    add(spec.base);
    for (const block::PartSpec& part : spec.parts) {
        add(part.device);
    }
    add(spec.migration.source);
    add(spec.migration.destination);
    return names;
}

Engine::DevicePlace Engine::place_of(const std::string& name) {
    return std::find_if(devices_.begin(), devices_.end(),
                        [&](const auto& device) { return device->name() == name; });
}

bool Engine::memory_is_used(const std::string& memory) const {
    return std::any_of(specs_.begin(), specs_.end(), [&](const auto& entry) {
        return entry.second.kind == "ram" && block::memory_name(entry.second) == memory;
    });
}

std::vector<std::string> Engine::parts_of(const block::Device& device) const {
    std::vector<std::string> parts = device.parts();
    if (const auto spec = specs_.find(device.name()); parts.empty() && spec != specs_.end()) {
        parts = parts_named(spec->second);
    }
    return parts;
}

base::Result<std::unique_ptr<block::Device>> Engine::make_device(const block::DeviceSpec& spec) {
    if (devices_.size() >= limits::devices_max) {
        return base::Error{"E_LIMIT", "no more than " + std::to_string(limits::devices_max) + " devices"};
    }
    if (spec.kind == "ram" && memory_is_used(block::memory_name(spec))) {
        return base::Error{"E_EXISTS", "device \"" + spec.name + "\": the memory \"" +
                                           block::memory_name(spec) + "\" belongs to another device"};
    }
    auto made = block::make_device(*environment_, spec);
    if (!made) {
        return made.error();
    }
    made.value()->watch([this] { device_news_.schedule(); });
    if (spec.suspended) {
        made.value()->suspend(block::Device::Hold::operators);
    }
    return made;
}

block::Device* Engine::find_device(const std::string& name) {
    const auto found = place_of(name);
    return found == devices_.end() ? nullptr : found->get();
}

base::Result<DeviceStatus> Engine::add_device(const block::DeviceSpec& spec, int memory_descriptor) {
    if (find_device(spec.name) != nullptr) {
        return base::Error{"E_EXISTS", "a device \"" + spec.name + "\" is already there"};
    }
    if (memory_descriptor >= 0) {
        memories_->offer(block::memory_name(spec), memory_descriptor);
    }
    auto made = make_device(spec);
    if (!made) {
        return made.error();
    }
    devices_.push_back(made.take());
    specs_[spec.name] = spec;
    return status_of(*devices_.back());
}

void Engine::remove_device(const std::string& name, Done done) {
    const auto found = place_of(name);
    if (found == devices_.end()) {
        done(no_device(name));
        return;
    }
    if (changing_.contains(name)) {
        done(base::Error{"E_BUSY", "device \"" + name + "\" is being exchanged"});
        return;
    }
    if (const std::vector<std::string> users = (*found)->claimed_by(); !users.empty()) {
        done(base::Error{
            "E_BUSY", "device \"" + name + "\" is used by \"" + users.front() + "\"; remove it there first"});
        return;
    }
    discard(name, std::move(done));
}

// Nobody uses it.
void Engine::discard(const std::string& name, Done done) {
    const auto found = place_of(name);
    closing_devices_.push_back(std::move(*found));
    devices_.erase(found);
    const std::string memory = block::memory_name(specs_[name]);
    specs_.erase(name);
    failed_.erase(name);
    device_states_.erase(name);
    block::Device* const device = closing_devices_.back().get();
    device->watch(nullptr);
    const auto closed = [this, device, memory, done = std::move(done)]() {
        post([this, device, memory, done]() {
            std::erase_if(closing_devices_, [&](const auto& closing) { return closing.get() == device; });
            forget_memory(memory, done);
        });
    };
    if (device->closing()) {
        closed();  // it had failed
    } else {
        device->close(closed);
    }
}

// Responses may still be on their way from the device's memory.
void Engine::forget_memory(const std::string& name, Done done) {
    forgotten_.emplace_back(name, std::move(done));
    forget_memories();
}

void Engine::forget_memories() {
    for (auto& [name, done] : std::exchange(forgotten_, {})) {
        const std::uint16_t region = memories_->region_of(name);
        if (region != 0 && transport_ && transport_->sends_from(region)) {
            forgotten_.emplace_back(std::move(name), std::move(done));
            continue;
        }
        if (!memory_is_used(name)) {
            memories_->forget(name);
            written_bytes_.erase(name);
            if (huge_pages_) {
                huge_pages_->forget(name);
            }
        }
        done({});
    }
    if (!forgotten_.empty()) {
        forget_timer_.start_after(forget_poll);
    }
}

base::Result<std::uint64_t> Engine::resize_device(const std::string& name,
                                                  std::optional<std::uint64_t> bytes) {
    block::Device* device = find_device(name);
    if (device == nullptr) {
        return no_device(name);
    }
    if (changing_.contains(name) || device->closing()) {
        return base::Error{"E_BUSY", "device \"" + name + "\" is being exchanged"};
    }
    return device->resize(bytes);
}

block::Device::Health Engine::health_of(const block::Device& device) const {
    if (const auto failed = failed_.find(device.name()); failed != failed_.end()) {
        return {"failed", failed->second};
    }
    // What it stood on is not its own any more once it is closed.
    return device.closing() ? block::Device::Health{"exchanging", {}} : device.health();
}

DeviceStatus Engine::status_of(block::Device& device) {
    block::Device::Health health = health_of(device);
    DeviceStatus status;
    status.name = device.name();
    status.kind = device.kind();
    status.state = std::move(health.state);
    status.reason = std::move(health.reason);
    status.description = device.describe();
    status.counters = device.counters();
    status.claimed_by = device.claimed_by();
    status.suspended = device.suspended_by(block::Device::Hold::operators);
    if (!device.closing()) {
        status.identity = device.identity();
        device.tell(status.details);
        status.parts = parts_of(device);
    }
    return status;
}

// A successor waits until this process has let go of all that it has mapped.
void Engine::make_pages_huge(const block::Device& device) {
    const auto spec = specs_.find(device.name());
    if (!keeper_ || spec == specs_.end() || spec->second.kind != "ram") {
        return;
    }
    const std::string& memory = block::memory_name(spec->second);
    const int descriptor = memories_->descriptor_of(memory);
    const std::uint64_t written = device.counters().bytes[static_cast<std::size_t>(block::Action::write)];
    std::uint64_t& known = written_bytes_[memory];
    if (descriptor < 0 || known == written) {
        return;
    }
    known = written;
    if (!huge_pages_) {
        huge_pages_ = std::make_unique<HugePages>();
    }
    huge_pages_->look_at(memory, descriptor);
}

void Engine::watch_devices() {
    for (auto& device : devices_) {
        make_pages_huge(*device);
        if (device->closing() && !failed_.contains(device->name())) {
            continue;  // its successor is being made
        }
        const block::Device::Health health = health_of(*device);
        // What a device that is well has to say is news, too; reasons of trouble change all the time.
        const std::string state = health.state == "ok" ? health.reason : health.state;
        const auto [place, first] = device_states_.try_emplace(device->name());
        if (std::exchange(place->second, state) == state || (first && health.state == "ok")) {
            continue;
        }
        if (sink_) {
            Event event;
            event.kind = Event::Kind::device;
            event.device = device->name();
            event.state = health.state;
            event.reason = health.reason;
            sink_(std::move(event));
        }
    }
    device_watch_.start_after(device_watch_period);
}

// --- the end

// What stands on a device goes before it.
void Engine::close_devices() {
    if (!changing_.empty()) {
        stop_waits_ = true;
        return;
    }
    if (devices_.empty()) {
        forget_timer_.stop();
        quarantine_timer_.stop();
        device_watch_.stop();
        device_news_.cancel();
        finish_stop();
        return;
    }
    const auto last = std::find_if(devices_.rbegin(), devices_.rend(),
                                   [](const auto& device) { return device->claimed_by().empty(); });
    EK_CHECK(last != devices_.rend(), "every device stands on another");
    block::Device* const device = last->get();
    const auto closed = [this, device] {
        post([this, device] {
            std::erase_if(devices_, [&](const auto& other) { return other.get() == device; });
            close_devices();
        });
    };
    if (device->closing()) {
        closed();  // it had failed
    } else {
        device->close(closed);
    }
}

// --- suspension

base::Result<void> Engine::suspend_device(const std::string& name) {
    block::Device* const device = find_device(name);
    if (device == nullptr) {
        return no_device(name);
    }
    device->suspend(block::Device::Hold::operators);
    return {};
}

base::Result<void> Engine::resume_device(const std::string& name) {
    block::Device* const device = find_device(name);
    if (device == nullptr) {
        return no_device(name);
    }
    if (prepared_.erase(name) != 0) {
        device->resume(block::Device::Hold::engine);  // the migration goes on
        end_change(name);
    }
    device->resume(block::Device::Hold::operators);
    return {};
}

void Engine::device_command(const std::string& name, const block::Command& command, Done done) {
    auto device = device_to_change(name);
    if (!device) {
        done(device.error());
        return;
    }
    device.value()->command(command, std::move(done));
}

// --- exchanges

base::Result<block::Device*> Engine::device_to_change(const std::string& name) {
    block::Device* const device = find_device(name);
    if (device == nullptr) {
        return no_device(name);
    }
    if (changing_.contains(name) || stopped_) {
        return base::Error{"E_BUSY", "device \"" + name + "\" is being exchanged"};
    }
    return device;
}

void Engine::begin_change(const std::string& name) { changing_.insert(name); }

void Engine::end_change(const std::string& name) {
    changing_.erase(name);
    device_news_.schedule();
    if (changing_.empty() && std::exchange(stop_waits_, false)) {
        post([this] { close_devices(); });
    }
}

bool Engine::stands_on(const std::string& upper, const std::string& lower) const {
    if (upper == lower) {
        return true;
    }
    const auto found = std::find_if(devices_.begin(), devices_.end(),
                                    [&](const auto& device) { return device->name() == upper; });
    if (found == devices_.end()) {
        return false;
    }
    const std::vector<std::string> parts = parts_of(**found);
    return std::any_of(parts.begin(), parts.end(),
                       [&](const std::string& part) { return stands_on(part, lower); });
}

struct Engine::Exchange {
    block::DeviceSpec spec;
    block::DeviceSpec former;
    Done done;
};

void Engine::replace_device(const block::DeviceSpec& spec, Done done) {
    auto device = device_to_change(spec.name);
    if (!device) {
        done(device.error());
        return;
    }
    for (const std::string& part : parts_named(spec)) {
        if (stands_on(part, spec.name)) {
            done(base::Error{"E_INVALID", "device \"" + spec.name + "\" cannot stand on \"" + part +
                                              "\": that stands on it itself"});
            return;
        }
    }
    auto exchange = std::make_shared<Exchange>();
    exchange->spec = spec;
    exchange->former = specs_[spec.name];
    exchange->done = std::move(done);
    begin_change(spec.name);
    const auto closed = [this, exchange] { post([this, exchange] { make_successor(exchange); }); };
    if (device.value()->closing()) {
        closed();  // it had failed
    } else {
        device.value()->close_for_successor(closed);
    }
}

// The former device is closed.
void Engine::make_successor(const std::shared_ptr<Exchange>& exchange) {
    const std::string& name = exchange->spec.name;
    EK_CRASH_POINT("engine.device.closed");
    specs_.erase(name);
    auto made = make_device(exchange->spec);
    if (!made) {
        restore_former(exchange, made.error());
        return;
    }
    std::unique_ptr<block::Device> successor = made.take();
    const block::Device& former = **place_of(name);
    const block::Description& was = former.describe();
    const block::Description& is = successor->describe();
    const bool fits = is.block_bytes == was.block_bytes && is.size_bytes >= was.size_bytes;
    if (!fits && !former.claimed_by().empty()) {
        const base::Error why{
            is.size_bytes == 0 ? "E_NOT_READY" : "E_INVALID",
            "device \"" + name + "\" cannot be replaced: the new one has " + std::to_string(is.size_bytes) +
                " bytes in blocks of " + std::to_string(is.block_bytes) + ", its users need " +
                std::to_string(was.size_bytes) + " in blocks of " + std::to_string(was.block_bytes)};
        closing_devices_.push_back(std::move(successor));
        block::Device* const refused = closing_devices_.back().get();
        refused->watch(nullptr);
        refused->close([this, exchange, refused, why] {
            post([this, exchange, refused, why] {
                std::erase_if(closing_devices_,
                              [&](const auto& closing) { return closing.get() == refused; });
                if (exchange->spec.kind == "ram" &&
                    block::memory_name(exchange->spec) != block::memory_name(exchange->former)) {
                    forget_memory(block::memory_name(exchange->spec), [](const base::Result<void>&) {});
                }
                restore_former(exchange, why);
            });
        });
        return;
    }
    specs_[name] = exchange->spec;
    put_in_place(name, std::move(successor));
    EK_CRASH_POINT("engine.device.replaced");
    end_change(name);
    if (exchange->former.kind == "ram") {
        forget_memory(block::memory_name(exchange->former), exchange->done);
    } else {
        exchange->done({});
    }
}

void Engine::restore_former(const std::shared_ptr<Exchange>& exchange, const base::Error& why) {
    const std::string& name = exchange->spec.name;
    auto made = make_device(exchange->former);
    specs_[name] = exchange->former;
    if (made) {
        put_in_place(name, made.take());
        exchange->done(why);
    } else {
        failed_[name] = made.error().message;
        exchange->done(base::Error{
            why.code,
            why.message + "; and the former device could not be made again: " + made.error().message});
    }
    end_change(name);
}

// The present device of that name is closed or drained, and goes.
void Engine::put_in_place(const std::string& name, std::unique_ptr<block::Device> successor) {
    std::unique_ptr<block::Device>& place = *place_of(name);
    const std::unique_ptr<block::Device> former = std::exchange(place, std::move(successor));
    failed_.erase(name);
    former->watch(nullptr);
    former->hand_over(*place);
}

}  // namespace engine
