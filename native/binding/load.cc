#include "binding/load.h"

#include <memory>
#include <thread>

#include "binding/main_thread.h"
#include "binding/values.h"
#include "block/initiator/load.h"

namespace binding {

namespace {

block::initiator::LoadOptions options_of(const Napi::Object& object) {
    block::initiator::LoadOptions options;
    options.target.address = text_of(object, "address");
    options.target.port = static_cast<std::uint16_t>(number_of(object, "port"));
    options.target.subnqn = text_of(object, "subsystem");
    options.target.hostnqn = text_of(object, "hostNqn");
    options.target.nsid = number_of(object, "nsid");
    options.target.header_digest = flag_of(object, "headerDigest");
    options.target.data_digest = flag_of(object, "dataDigest");
    options.target.io_queues = static_cast<std::uint16_t>(number_of(object, "connections"));
    options.target.depth = static_cast<std::uint16_t>(number_of(object, "depth"));
    options.io_bytes = number_of(object, "ioBytes");
    options.read_percent = number_of(object, "readPercent");
    options.sequential = flag_of(object, "sequential");
    options.verify = flag_of(object, "verify");
    options.count = wide_of(object, "count");
    const Napi::Value seconds = object.Get("seconds");
    options.seconds = seconds.IsNumber() ? seconds.As<Napi::Number>().DoubleValue() : 0;
    options.seed = wide_of(object, "seed");
    return options;
}

Napi::Value result_value(Napi::Env env, const block::initiator::LoadResult& result) {
    const auto real = [env](double value) { return Napi::Number::New(env, value); };
    Napi::Object object = Napi::Object::New(env);
    object.Set("commands", number(env, result.reads + result.writes + result.flushes));
    object.Set("reads", number(env, result.reads));
    object.Set("writes", number(env, result.writes));
    object.Set("verifiedBlocks", number(env, result.verified_blocks));
    object.Set("errors", array_of(env, result.error_texts));
    object.Set("seconds", real(result.seconds));
    object.Set("iops", real(result.iops));
    const double bytes = static_cast<double>(result.read_bytes + result.written_bytes);
    object.Set("bytesPerSecond", real(result.seconds > 0 ? bytes / result.seconds : 0));
    object.Set("meanUs", real(result.all.mean_us));
    object.Set("p50Us", real(result.all.p50_us));
    object.Set("p99Us", real(result.all.p99_us));
    object.Set("p9999Us", real(result.all.p9999_us));
    object.Set("maxUs", real(result.all.max_us));
    object.Set("longestGapMs", real(result.longest_gap_ms));
    return object;
}

}  // namespace

Napi::Value run_load(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    const auto options = options_of(info[0].IsObject() ? info[0].As<Napi::Object>() : Napi::Object::New(env));
    auto main = std::make_shared<MainThread>(env, "keel load");
    Settlement settlement(env, main);
    std::thread([options, settlement, main] {
        auto result =
            std::make_shared<base::Result<block::initiator::LoadResult>>(block::initiator::run_load(options));
        if (*result) {
            settlement.resolve(
                [result](Napi::Env value_env) { return result_value(value_env, result->value()); });
        } else {
            settlement.reject(result->error());
        }
        main->run([main](Napi::Env) { main->release(); });
    }).detach();
    return settlement.promise();
}

}  // namespace binding
