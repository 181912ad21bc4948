// The engine as a JavaScript object. Every method hands its arguments to the reactor's thread and answers
// with a promise; names and order are those of NativeEngine in ts/native/addon.ts.
#pragma once

#include <napi.h>

#include <memory>

#include "binding/main_thread.h"
#include "engine/engine.h"

namespace binding {

class EngineObject : public Napi::ObjectWrap<EngineObject> {
  public:
    // `keeper`: where openKeeper() left the link for the engine that is made next.
    using Keeper = std::shared_ptr<std::unique_ptr<engine::KeeperLink>>;
    static Napi::Function define(Napi::Env env, const Keeper& keeper);
    explicit EngineObject(const Napi::CallbackInfo& info);
    ~EngineObject() override;

  private:
    using Call = const Napi::CallbackInfo&;
    Napi::Value start(Call info);
    Napi::Value stop(Call info);
    Napi::Value add_device(Call info);
    Napi::Value remove_device(Call info);
    Napi::Value resize_device(Call info);
    Napi::Value suspend_device(Call info);
    Napi::Value resume_device(Call info);
    Napi::Value replace_device(Call info);
    Napi::Value device_command(Call info);
    Napi::Value begin_migration(Call info);
    Napi::Value prepare_migration(Call info);
    Napi::Value commit_migration(Call info);
    Napi::Value cancel_migration(Call info);
    Napi::Value add_subsystem(Call info);
    Napi::Value remove_subsystem(Call info);
    Napi::Value set_hosts(Call info);
    Napi::Value set_in_flight(Call info);
    Napi::Value add_namespace(Call info);
    Napi::Value remove_namespace(Call info);
    Napi::Value set_namespace_read_only(Call info);
    Napi::Value add_listener(Call info);
    Napi::Value set_listener(Call info);
    Napi::Value remove_listener(Call info);
    Napi::Value set_referrals(Call info);
    Napi::Value set_loading(Call info);
    Napi::Value admit(Call info);
    Napi::Value disconnect_host(Call info);
    Napi::Value status(Call info);
    Napi::Value is_standby(Call info);
    Napi::Value take_over(Call info);
    Napi::Value be_warm(Call info);
    Napi::Value adopt(Call info);
    Napi::Value keeper_info(Call info);
    Napi::Value request_restart(Call info);
    Napi::Value alive(Call info);
    Napi::Value restarts(Call info);
    Napi::Value last_pdus(Call info);
    Napi::Value store_text(Call info);
    Napi::Value stored_text(Call info);
    Napi::Value set_discovery_generation(Call info);

    // Runs `work` on the reactor's thread with a promise to settle; rejects at once if the engine does not
    // run.
    Napi::Value on_reactor(Call info, std::function<void(engine::Engine&, const Settlement&)> work);

    std::unique_ptr<engine::Engine> engine_;
    std::shared_ptr<MainThread> main_;
    std::shared_ptr<Napi::FunctionReference> on_event_;
    bool running_ = false;
};

}  // namespace binding
