#include "keeper/store.h"

#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstring>
#include <optional>
#include <utility>

#include "base/check.h"
#include "durable/keeper_protocol.h"

namespace keeper {

namespace {

constexpr std::uint64_t ledger_magic = 0x3152'4550'4545'4b45;  // "EKEEPER1"
constexpr char letters[] = {'m', 'l', 'c'};

std::optional<std::uint64_t> to_number(std::string_view text) {
    std::uint64_t number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    if (text.empty() || error != std::errc() || end != text.data() + text.size()) {
        return std::nullopt;
    }
    return number;
}

Ledger* map_ledger(int descriptor) {
    void* address = mmap(nullptr, sizeof(Ledger), PROT_READ | PROT_WRITE, MAP_SHARED, descriptor, 0);
    return address == MAP_FAILED ? nullptr : static_cast<Ledger*>(address);
}

// The boot's own clock goes on while a keeper is away, and no keeper ever gave a million ids a second.
std::uint64_t id_beyond_all_earlier() {
    timespec now{};
    clock_gettime(CLOCK_BOOTTIME, &now);
    return static_cast<std::uint64_t>(now.tv_sec) * 1'000'000 +
           static_cast<std::uint64_t>(now.tv_nsec) / 1000 + 1;
}

}  // namespace

const char* name_of(Kind kind) {
    switch (kind) {
        case Kind::memory: return "memory";
        case Kind::listener: return "listener";
        case Kind::connection: return "connection";
    }
    return "";
}

Store::Store() = default;

Store::~Store() {
    for (auto& [id, item] : items_) {
        close(item.descriptor);
    }
    if (ledger_ != nullptr) {
        munmap(ledger_, sizeof(Ledger));
    }
    if (ledger_descriptor_ >= 0) {
        close(ledger_descriptor_);
    }
}

bool Store::open_ledger() {
    if (ledger_ != nullptr) {
        return true;
    }
    ledger_descriptor_ = memfd_create("keel-keeper", MFD_CLOEXEC);
    if (ledger_descriptor_ < 0 || ftruncate(ledger_descriptor_, sizeof(Ledger)) != 0) {
        return false;
    }
    ledger_ = map_ledger(ledger_descriptor_);
    if (ledger_ == nullptr) {
        return false;
    }
    // Items without a ledger: it was lost, and ids start where no earlier keeper can have been.
    ledger_->next_id = items_.empty() ? 1 : std::max(id_beyond_all_earlier(), items_.rbegin()->first + 1);
    ledger_->next_generation = items_.empty() ? 1 : ledger_->next_id;
    ledger_->since_ms = base::realtime_now_ms();
    ledger_->bytes = sizeof(Ledger);
    ledger_->magic = ledger_magic;
    return true;
}

std::uint64_t Store::add(Item item) {
    const std::uint64_t id = ledger_->next_id++;
    ++counts_[static_cast<std::size_t>(item.kind)];
    items_.emplace_hint(items_.end(), id, std::move(item));
    return id;
}

std::uint64_t Store::find(Kind kind, std::string_view name) const {
    for (const auto& [id, item] : items_) {
        if (item.kind == kind && item.name == name) {
            return id;
        }
    }
    return 0;
}

Item* Store::at(std::uint64_t id) {
    const auto found = items_.find(id);
    return found == items_.end() ? nullptr : &found->second;
}

void Store::remove(std::uint64_t id) {
    const auto found = items_.find(id);
    EK_CHECK(found != items_.end(), "only what is there is removed");
    close(found->second.descriptor);
    --counts_[static_cast<std::size_t>(found->second.kind)];
    items_.erase(found);
}

std::string Store::systemd_name(std::uint64_t id, const Item& item) {
    std::string name(1, letters[static_cast<std::size_t>(item.kind)]);
    name += "." + std::to_string(id) + ".";
    name += item.kind == Kind::connection ? std::to_string(item.listener)
                                          : durable::keeper_encode(item.name, ":");
    return name;
}

bool Store::restore(std::string_view systemd_name, int descriptor) {
    if (systemd_name == systemd_ledger_name()) {
        struct stat file {};
        if (ledger_ != nullptr || fstat(descriptor, &file) != 0 || file.st_size != sizeof(Ledger)) {
            return false;
        }
        Ledger* ledger = map_ledger(descriptor);
        if (ledger == nullptr) {
            return false;
        }
        if (ledger->magic != ledger_magic || ledger->bytes != sizeof(Ledger)) {
            munmap(ledger, sizeof(Ledger));
            return false;
        }
        ledger_ = ledger;
        ledger_descriptor_ = descriptor;
        return true;
    }
    const std::size_t first = systemd_name.find('.');
    const std::size_t second = systemd_name.find('.', first + 1);
    if (first != 1 || second == std::string_view::npos) {
        return false;
    }
    const auto letter = std::find(std::begin(letters), std::end(letters), systemd_name[0]);
    const auto id = to_number(systemd_name.substr(2, second - 2));
    const auto name = durable::keeper_decode(systemd_name.substr(second + 1));
    if (letter == std::end(letters) || !id || *id == 0 || !name || items_.contains(*id)) {
        return false;
    }
    Item item{.kind = kinds[letter - letters], .descriptor = descriptor, .name = *name, .in_systemd = true};
    if (item.kind == Kind::connection) {
        const auto listener = to_number(*name);
        if (!listener) {
            return false;
        }
        item.listener = *listener;
        item.name.clear();
    } else if (!durable::keeper_name_valid(*name)) {
        return false;
    }
    ++counts_[static_cast<std::size_t>(item.kind)];
    ++restored_;
    items_.emplace(*id, std::move(item));
    return true;
}

std::vector<std::string> Store::finish_restore() {
    std::vector<std::uint64_t> replaced;
    for (auto& [id, item] : items_) {
        if (item.kind == Kind::connection) {
            const Item* listener = at(item.listener);
            item.name = listener != nullptr && listener->kind == Kind::listener ? listener->name : "";
            continue;
        }
        const bool has_newer =
            std::any_of(items_.upper_bound(id), items_.end(), [&item = item](const auto& other) {
                return other.second.kind == item.kind && other.second.name == item.name;
            });
        if (has_newer) {
            replaced.push_back(id);
        }
    }
    std::vector<std::string> forgotten;
    for (const std::uint64_t id : replaced) {
        forgotten.push_back(systemd_name(id, *at(id)));
        remove(id);
    }
    if (ledger_ != nullptr && !items_.empty()) {
        ledger_->next_id = std::max(ledger_->next_id, items_.rbegin()->first + 1);
    }
    return forgotten;
}

}  // namespace keeper
