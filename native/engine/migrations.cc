// Live migration: how a device comes to be copied, and how one of the two takes its place.
//
// The names say who is who: NAME is what hosts use all the time; during the copy it is a device of kind
// `migration` over NAME@source and NAME@destination. Which one is in force is stored by the caller: before
// the commit it is still the migration, with both sides equal; after it the destination alone.

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/crash_point.h"
#include "block/migration/copy_map.h"
#include "engine/engine.h"

namespace engine {

namespace {

constexpr base::Nanoseconds ask_period = 1 * base::millisecond;
constexpr base::Nanoseconds size_limit = 15 * base::second;   // a destination that is far away
constexpr base::Nanoseconds drain_limit = 30 * base::second;  // what the device has must end
constexpr base::Nanoseconds commit_limit = 15 * base::second;

// Where users and what they submit are between two devices.
class Parked final : public block::Device {
  public:
    explicit Parked(const block::Device& like) : Device(like.name(), "parked") {
        description_ = like.describe();
        suspend(Hold::engine);
    }
    base::Result<std::uint64_t> resize(std::optional<std::uint64_t>) override {
        return description_.size_bytes;
    }

  protected:
    void submit_checked(block::Request&) override { EK_CHECK(false, "a parked device is suspended"); }
};

}  // namespace

void Engine::wait_until(base::Nanoseconds limit, std::function<bool()> condition,
                        std::function<void(bool)> then) {
    auto patience = std::make_unique<Patience>(*this);
    patience->condition = std::move(condition);
    patience->then = std::move(then);
    patience->limit = reactor_.now() + limit;
    patience->timer.start_after(0);
    patiences_.push_back(std::move(patience));
}

void Engine::ask_again(Patience& patience) {
    const bool met = patience.condition();
    if (!met && !stopped_ && reactor_.now() < patience.limit) {
        patience.timer.start_after(ask_period);
        return;
    }
    // Not from within the timer: it goes with its object.
    post([this, met, self = &patience] {
        const std::function<void(bool)> then = std::move(self->then);
        std::erase_if(patiences_, [&](const auto& other) { return other.get() == self; });
        then(met);
    });
}

void Engine::begin_migration(const std::string& name, block::DeviceSpec destination,
                             std::uint64_t bytes_per_second, Done done) {
    auto device = device_to_change(name);
    if (!device) {
        done(device.error());
        return;
    }
    if (device.value()->kind() == "migration") {
        done(base::Error{"E_BUSY", "device \"" + name + "\" is being migrated already"});
        return;
    }
    if (device.value()->closing() || device.value()->describe().size_bytes == 0) {
        done(base::Error{"E_NOT_READY", "the size of device \"" + name + "\" is not known yet"});
        return;
    }
    if (find_device(name + "@source") != nullptr) {
        done(base::Error{"E_EXISTS", "there is a device \"" + name + "@source\" already"});
        return;
    }
    for (const std::string& part : parts_named(destination)) {
        if (stands_on(part, name)) {
            done(base::Error{"E_INVALID", "device \"" + name + "\" cannot be copied to what stands on \"" +
                                              part + "\": that stands on it itself"});
            return;
        }
    }
    destination.name = name + "@destination";
    if (auto added = add_device(destination, -1); !added) {
        done(added.error());
        return;
    }
    begin_change(name);
    wait_until(
        size_limit,
        [this, to = destination.name] {
            const block::Device* const made = find_device(to);
            return made == nullptr || made->describe().size_bytes != 0;
        },
        [this, name, bytes_per_second, done](bool) {
            block::Device* const from = find_device(name);
            const block::Device* const to = find_device(name + "@destination");
            if (to == nullptr) {
                end_change(name);
                done(base::Error{"E_NOT_FOUND", "the destination was removed"});
                return;
            }
            const block::Description& has = to->describe();
            const block::Description& needs = from->describe();
            if (has.size_bytes == 0) {
                const block::Device::Health health = to->health();
                give_up(name,
                        {"E_NOT_READY", "the destination has not told its size: " + health.state +
                                            (health.reason.empty() ? "" : ", " + health.reason)},
                        done);
            } else if (has.size_bytes < needs.size_bytes || has.block_bytes != needs.block_bytes ||
                       has.read_only) {
                give_up(name,
                        {"E_INVALID", "device \"" + name + "\" cannot be copied there: the destination has " +
                                          std::to_string(has.size_bytes) + " bytes in blocks of " +
                                          std::to_string(has.block_bytes) +
                                          (has.read_only ? " and can only be read" : "") +
                                          ", the source has " + std::to_string(needs.size_bytes) +
                                          " in blocks of " + std::to_string(needs.block_bytes)},
                        done);
            } else {
                begin_copy(name, bytes_per_second, done);
            }
        });
}

void Engine::give_up(const std::string& name, const base::Error& why, const Done& done) {
    discard(name + "@destination", [done, why](const base::Result<void>&) { done(why); });
    end_change(name);
}

void Engine::begin_copy(const std::string& name, std::uint64_t bytes_per_second, const Done& done) {
    find_device(name)->suspend(block::Device::Hold::engine);
    wait_until(
        drain_limit, [this, name] { return find_device(name)->inside() == 0; },
        [this, name, bytes_per_second, done](bool drained) {
            block::Device& source = *find_device(name);
            if (!drained) {
                source.resume(block::Device::Hold::engine);
                give_up(name, {"E_BUSY", "device \"" + name + "\" does not end what it has begun"}, done);
                return;
            }
            block::DeviceSpec spec;
            spec.name = name;
            spec.kind = "migration";
            spec.block_bytes = source.describe().block_bytes;
            spec.migration = {name + "@source", name + "@destination", bytes_per_second, true};
            EK_CRASH_POINT("engine.migration.beginning");
            Parked parked(source);
            source.hand_over(parked);
            // The volume holds on to the operators' suspension, not its source.
            source.resume(block::Device::Hold::operators);
            source.resume(block::Device::Hold::engine);
            source.rename(spec.migration.source);
            block::DeviceSpec former = specs_[name];
            specs_.erase(name);
            auto made = make_device(spec);
            if (!made) {
                source.rename(name);
                specs_[name] = former;
                parked.hand_over(source);
                give_up(name, made.error(), done);
                return;
            }
            former.memory_name = block::memory_name(former);
            former.name = spec.migration.source;
            specs_[former.name] = former;
            spec.migration.fresh = false;
            specs_[name] = spec;
            devices_.push_back(made.take());
            parked.hand_over(*devices_.back());
            EK_CRASH_POINT("engine.migration.begun");
            end_change(name);
            done({});
        });
}

base::Result<block::Device*> Engine::migrating_device(const std::string& name) {
    block::Device* const device = find_device(name);
    if (device == nullptr) {
        return base::Error{"E_NOT_FOUND", "there is no device \"" + name + "\""};
    }
    if (device->kind() != "migration") {
        return base::Error{"E_UNSUPPORTED", "device \"" + name + "\" is not being migrated"};
    }
    if (stopped_ || (changing_.contains(name) && !prepared_.contains(name))) {
        return base::Error{"E_BUSY", "device \"" + name + "\" is being exchanged"};
    }
    return device;
}

void Engine::prepare_migration(const std::string& name, Done done) {
    auto device = migrating_device(name);
    if (!device || prepared_.contains(name)) {
        done(device ? base::Result<void>() : device.error());
        return;
    }
    begin_change(name);
    device.value()->suspend(block::Device::Hold::engine);
    const auto go_on = [this, name] {
        find_device(name)->resume(block::Device::Hold::engine);
        end_change(name);
    };
    wait_until(
        drain_limit, [this, name] { return find_device(name)->inside() == 0; },
        [this, name, done, go_on](bool drained) {
            if (!drained) {
                go_on();
                done(base::Error{"E_BUSY", "device \"" + name + "\" does not end what it has begun"});
                return;
            }
            EK_CRASH_POINT("engine.migration.drained");
            find_device(name)->command(
                {"prepare", {}}, [this, name, done, go_on](const base::Result<void>& flushed) {
                    if (!flushed) {
                        go_on();
                        done(flushed);
                        return;
                    }
                    const std::uint64_t turn = ++preparations_;
                    prepared_[name] = turn;
                    const auto waits = [this, name, turn] {
                        const auto found = prepared_.find(name);
                        return found != prepared_.end() && found->second == turn;
                    };
                    wait_until(
                        commit_limit, [waits] { return !waits(); },
                        [this, name, go_on, waits](bool) {
                            if (waits()) {
                                prepared_.erase(name);
                                log("warn", "engine",
                                    "device \"" + name + "\": its migration was prepared and not committed");
                                go_on();
                            }
                        });
                    EK_CRASH_POINT("engine.migration.prepared");
                    done({});
                });
        });
}

void Engine::commit_migration(const std::string& name, Done done) {
    auto device = migrating_device(name);
    if (!device || !prepared_.contains(name)) {
        done(device ? base::Error{"E_NOT_READY", "the migration of \"" + name + "\" is not prepared"}
                    : device.error());
        return;
    }
    prepared_.erase(name);
    EK_CRASH_POINT("engine.migration.committing");
    end_migration(name, true, std::move(done));
}

void Engine::cancel_migration(const std::string& name, Done done) {
    auto device = migrating_device(name);
    if (!device) {
        done(device.error());
        return;
    }
    prepared_.erase(name);
    begin_change(name);
    end_migration(name, false, std::move(done));
}

void Engine::end_migration(const std::string& name, bool committed, Done done) {
    const auto switch_over = [this, name, committed, done = std::move(done)] {
        EK_CRASH_POINT("engine.migration.closed");
        const block::MigrationSpec sides = specs_[name].migration;
        const std::string& stays = committed ? sides.destination : sides.source;
        const std::string& goes = committed ? sides.source : sides.destination;
        const DevicePlace place = place_of(name);
        const std::unique_ptr<block::Device> migration = std::move(*place);
        devices_.erase(place);
        migration->watch(nullptr);
        block::DeviceSpec spec = specs_[stays];
        specs_.erase(stays);
        spec.memory_name = block::memory_name(spec);
        spec.name = name;
        block::Device& successor = *find_device(stays);
        successor.rename(name);
        specs_[name] = spec;
        device_states_.erase(stays);
        migration->hand_over(successor);
        EK_CRASH_POINT("engine.migration.switched");
        end_change(name);
        discard(goes, [this, name, done](const base::Result<void>&) {
            EK_CRASH_POINT("engine.migration.discarded");
            forget_memory(name + block::migration::map_suffix, done);
        });
    };
    find_device(name)->close_for_successor([this, switch_over] { post(switch_over); });
}

}  // namespace engine
