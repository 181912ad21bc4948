#include "binding/device_spec.h"

#include "binding/values.h"

namespace binding {

namespace {

// null and what is no object: an empty one, so that every field becomes its type's zero.
Napi::Object object_of(const Napi::Object& object, const char* key) {
    const Napi::Value value = object.Get(key);
    return value.IsObject() ? value.As<Napi::Object>() : Napi::Object::New(object.Env());
}

bool has(const Napi::Object& object, const char* key) { return object.Get(key).IsObject(); }

std::uint16_t short_of(const Napi::Object& object, const char* key) {
    return static_cast<std::uint16_t>(number_of(object, key));
}

std::vector<block::PartSpec> parts_of(const Napi::Value& value) {
    std::vector<block::PartSpec> parts;
    if (!value.IsArray()) {
        return parts;
    }
    const auto array = value.As<Napi::Array>();
    for (std::uint32_t index = 0; index < array.Length(); ++index) {
        const Napi::Value entry = array.Get(index);
        if (entry.IsObject()) {
            const auto part = entry.As<Napi::Object>();
            parts.push_back(
                {text_of(part, "device"), wide_of(part, "startBytes"), wide_of(part, "sizeBytes")});
        }
    }
    return parts;
}

void read_mirror(const Napi::Object& object, block::MirrorSpec& mirror) {
    using WhenLost = block::MirrorSpec::WhenLost;
    mirror.volume = id_of(text_of(object, "volume"));
    mirror.region_bytes = number_of(object, "regionBytes");
    mirror.checksums = flag_of(object, "checksums");
    mirror.assume_clean = flag_of(object, "assumeClean");
    mirror.when_lost = text_of(object, "whenLost") == "fail" ? WhenLost::fail : WhenLost::freeze;
    mirror.resync_bytes_per_second = wide_of(object, "resyncBytesPerSecond");
}

void read_remote(const Napi::Object& object, block::RemoteSpec& remote) {
    using WhenLost = block::RemoteSpec::WhenLost;
    remote.addresses = texts_of(object.Get("addresses"));
    remote.subnqn = text_of(object, "subnqn");
    remote.hostnqn = text_of(object, "hostnqn");
    remote.hostid = id_of(text_of(object, "hostid"));
    remote.nsid = number_of(object, "nsid");
    remote.header_digest = flag_of(object, "headerDigest");
    remote.data_digest = flag_of(object, "dataDigest");
    remote.io_queues = short_of(object, "ioQueues");
    remote.depth = short_of(object, "depth");
    remote.kato_ms = number_of(object, "katoMs");
    remote.ping_ms = number_of(object, "pingMs");
    remote.timeout_ms = number_of(object, "timeoutMs");
    remote.deadline_ms = wide_of(object, "deadlineMs");
    remote.when_lost = text_of(object, "whenLost") == "freeze" ? WhenLost::freeze : WhenLost::fail;
}

void read_tcmu(const Napi::Object& object, block::TcmuSpec& tcmu) {
    using WhenLost = block::TcmuSpec::WhenLost;
    tcmu.handler = text_of(object, "handler");
    tcmu.library = text_of(object, "library");
    tcmu.configuration = text_of(object, "configuration");
    tcmu.timeout_ms = number_of(object, "timeoutMs");
    tcmu.when_lost = text_of(object, "whenLost") == "fail" ? WhenLost::fail : WhenLost::resend;
}

}  // namespace

block::DeviceSpec device_spec_of(const Napi::Object& object) {
    block::DeviceSpec spec;
    spec.name = text_of(object, "name");
    spec.kind = text_of(object, "kind");
    spec.size_bytes = wide_of(object, "sizeBytes");
    spec.block_bytes = number_of(object, "blockBytes");
    spec.read_only = flag_of(object, "readOnly");
    spec.path = text_of(object, "path");
    spec.create = flag_of(object, "create");
    spec.base = text_of(object, "base");
    spec.read_delay_us = wide_of(object, "readDelayUs");
    spec.write_delay_us = wide_of(object, "writeDelayUs");
    spec.flush_delay_us = wide_of(object, "flushDelayUs");
    spec.error_actions = texts_of(object.Get("errorActions"));
    if (const std::string status = text_of(object, "errorStatus"); !status.empty()) {
        spec.error_status = status;
    }
    spec.error_offset = wide_of(object, "errorOffset");
    spec.error_length = wide_of(object, "errorLength");
    spec.error_count = wide_of(object, "errorCount");
    spec.parts = parts_of(object.Get("parts"));
    spec.chunk_bytes = wide_of(object, "chunkBytes");
    if (has(object, "mirror")) {
        read_mirror(object_of(object, "mirror"), spec.mirror);
    }
    if (has(object, "remote")) {
        read_remote(object_of(object, "remote"), spec.remote);
    }
    if (has(object, "tcmu")) {
        read_tcmu(object_of(object, "tcmu"), spec.tcmu);
    }
    const Napi::Object migration = object_of(object, "migration");
    spec.migration.source = text_of(migration, "source");
    spec.migration.destination = text_of(migration, "destination");
    spec.migration.bytes_per_second = wide_of(migration, "bytesPerSecond");
    spec.memory_name = text_of(object, "memoryName");
    const Napi::Object known = object_of(object, "known");
    spec.known.size_bytes = wide_of(known, "sizeBytes");
    spec.known.block_bytes = number_of(known, "blockBytes");
    spec.known.identity = text_of(known, "identity");
    spec.suspended = flag_of(object, "suspended");
    return spec;
}

}  // namespace binding
