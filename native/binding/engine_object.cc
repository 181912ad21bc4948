#include "binding/engine_object.h"

#include <utility>

#include "binding/device_spec.h"
#include "binding/status.h"
#include "binding/values.h"

namespace binding {

namespace {

transport::DigestPolicy digests_of(const std::string& text) {
    using Policy = transport::DigestPolicy;
    return text == "off" ? Policy::off : text == "required" ? Policy::required : Policy::optional;
}

engine::Options options_of(const Napi::Object& object) {
    engine::Options options;
    options.arena_descriptor = descriptor_of(object, "arenaDescriptor");
    options.data_descriptor = descriptor_of(object, "dataDescriptor");
    options.data_pool_bytes = wide_of(object, "dataPoolBytes");
    options.connections_max = number_of(object, "connectionsMax");
    options.connections_per_host_max = number_of(object, "connectionsPerHostMax");
    options.controllers_max = number_of(object, "controllersMax");
    options.in_capsule_bytes_io = number_of(object, "inCapsuleBytesIo");
    options.max_queue_entries = number_of(object, "maxQueueEntries");
    options.io_queues_per_controller_max = number_of(object, "ioQueuesPerControllerMax");
    options.connect_timeout_ms = number_of(object, "connectTimeoutMs");
    options.transfer_timeout_ms = number_of(object, "transferTimeoutMs");
    options.admission_timeout_ms = number_of(object, "admissionTimeoutMs");
    options.server_name = text_of(object, "serverName");
    options.discovery_generation = wide_of(object, "discoveryGeneration");
    return options;
}

nvme::InFlight in_flight_of(const std::string& text) {
    return text == "abort"  ? nvme::InFlight::abort
           : text == "drop" ? nvme::InFlight::drop
                            : nvme::InFlight::replay;
}

nvme::SubsystemSpec subsystem_spec_of(const Napi::Object& object) {
    nvme::SubsystemSpec spec;
    spec.nqn = text_of(object, "nqn");
    spec.serial = text_of(object, "serial");
    spec.model = text_of(object, "model");
    spec.firmware = text_of(object, "firmware");
    spec.allow_any_host = flag_of(object, "allowAnyHost");
    spec.in_flight = in_flight_of(text_of(object, "inFlight"));
    spec.hosts = texts_of(object.Get("hosts"));
    spec.cntlid_min = static_cast<std::uint16_t>(number_of(object, "cntlidMin"));
    spec.cntlid_max = static_cast<std::uint16_t>(number_of(object, "cntlidMax"));
    return spec;
}

nvme::NamespaceSpec namespace_spec_of(const Napi::Object& object) {
    nvme::NamespaceSpec spec;
    spec.nsid = number_of(object, "nsid");
    spec.device = text_of(object, "device");
    spec.nguid = id_of(text_of(object, "nguid"));
    spec.uuid = id_of(text_of(object, "uuid"));
    spec.read_only = flag_of(object, "readOnly");
    spec.write_protection = number_of(object, "writeProtection");
    return spec;
}

transport::ListenerSpec listener_spec_of(const Napi::Object& object) {
    transport::ListenerSpec spec;
    spec.id = text_of(object, "id");
    spec.address = text_of(object, "address");
    spec.family = text_of(object, "family");
    spec.port = static_cast<std::uint16_t>(number_of(object, "port"));
    spec.discovery_only = flag_of(object, "discoveryOnly");
    spec.advertise = text_of(object, "advertise");
    spec.digests.header = digests_of(text_of(object, "digests"));
    spec.digests.data = spec.digests.header;
    spec.descriptor = descriptor_of(object, "descriptor");
    return spec;
}

std::string text_argument(const Napi::CallbackInfo& info, std::size_t index) {
    return info[index].IsString() ? info[index].As<Napi::String>().Utf8Value() : std::string();
}

Napi::Object object_argument(const Napi::CallbackInfo& info, std::size_t index) {
    return info[index].IsObject() ? info[index].As<Napi::Object>() : Napi::Object::New(info.Env());
}

bool flag_argument(const Napi::CallbackInfo& info, std::size_t index) {
    return info[index].IsBoolean() && info[index].As<Napi::Boolean>().Value();
}

std::uint32_t number_argument(const Napi::CallbackInfo& info, std::size_t index) {
    return static_cast<std::uint32_t>(whole_of(info[index]));
}

}  // namespace

Napi::Function EngineObject::define(Napi::Env env, const Keeper& keeper) {
    return DefineClass(env, "NativeEngine",
                       {
                           InstanceMethod<&EngineObject::start>("start"),
                           InstanceMethod<&EngineObject::stop>("stop"),
                           InstanceMethod<&EngineObject::add_device>("addDevice"),
                           InstanceMethod<&EngineObject::remove_device>("removeDevice"),
                           InstanceMethod<&EngineObject::resize_device>("resizeDevice"),
                           InstanceMethod<&EngineObject::suspend_device>("suspendDevice"),
                           InstanceMethod<&EngineObject::resume_device>("resumeDevice"),
                           InstanceMethod<&EngineObject::replace_device>("replaceDevice"),
                           InstanceMethod<&EngineObject::device_command>("deviceCommand"),
                           InstanceMethod<&EngineObject::begin_migration>("beginMigration"),
                           InstanceMethod<&EngineObject::prepare_migration>("prepareMigration"),
                           InstanceMethod<&EngineObject::commit_migration>("commitMigration"),
                           InstanceMethod<&EngineObject::cancel_migration>("cancelMigration"),
                           InstanceMethod<&EngineObject::add_subsystem>("addSubsystem"),
                           InstanceMethod<&EngineObject::remove_subsystem>("removeSubsystem"),
                           InstanceMethod<&EngineObject::set_hosts>("setHosts"),
                           InstanceMethod<&EngineObject::set_in_flight>("setInFlight"),
                           InstanceMethod<&EngineObject::add_namespace>("addNamespace"),
                           InstanceMethod<&EngineObject::remove_namespace>("removeNamespace"),
                           InstanceMethod<&EngineObject::set_namespace_read_only>("setNamespaceReadOnly"),
                           InstanceMethod<&EngineObject::add_listener>("addListener"),
                           InstanceMethod<&EngineObject::set_listener>("setListener"),
                           InstanceMethod<&EngineObject::remove_listener>("removeListener"),
                           InstanceMethod<&EngineObject::set_referrals>("setReferrals"),
                           InstanceMethod<&EngineObject::set_loading>("setLoading"),
                           InstanceMethod<&EngineObject::admit>("admit"),
                           InstanceMethod<&EngineObject::disconnect_host>("disconnectHost"),
                           InstanceMethod<&EngineObject::status>("status"),
                           InstanceMethod<&EngineObject::is_standby>("isStandby"),
                           InstanceMethod<&EngineObject::take_over>("takeOver"),
                           InstanceMethod<&EngineObject::be_warm>("beWarm"),
                           InstanceMethod<&EngineObject::adopt>("adopt"),
                           InstanceMethod<&EngineObject::keeper_info>("keeperInfo"),
                           InstanceMethod<&EngineObject::request_restart>("requestRestart"),
                           InstanceMethod<&EngineObject::alive>("alive"),
                           InstanceMethod<&EngineObject::restarts>("restarts"),
                           InstanceMethod<&EngineObject::last_pdus>("lastPdus"),
                           InstanceMethod<&EngineObject::store_text>("storeText"),
                           InstanceMethod<&EngineObject::stored_text>("storedText"),
                           InstanceMethod<&EngineObject::set_discovery_generation>("setDiscoveryGeneration"),
                       },
                       new Keeper(keeper));
}

EngineObject::EngineObject(const Napi::CallbackInfo& info) : Napi::ObjectWrap<EngineObject>(info) {
    const Keeper& keeper = *static_cast<const Keeper*>(info.Data());
    auto made = engine::Engine::make(options_of(object_argument(info, 0)), std::move(*keeper));
    if (!made) {
        Napi::Error error = Napi::Error::New(info.Env(), made.error().message);
        error.Set("code", made.error().code);
        error.Set("errorNumber", Napi::Number::New(info.Env(), made.error().error_number));
        error.ThrowAsJavaScriptException();
        return;
    }
    engine_ = made.take();
}

// The environment ends with the engine running only when the process is being torn down.
EngineObject::~EngineObject() {
    if (engine_ && running_) {
        engine_->stop([] {});
        engine_->join();
    }
}

Napi::Value EngineObject::start(Call info) {
    if (running_ || !engine_ || !info[0].IsFunction()) {
        Napi::Error::New(info.Env(), "the engine runs already, or there is no event function")
            .ThrowAsJavaScriptException();
        return info.Env().Undefined();
    }
    running_ = true;
    Ref();
    main_ = std::make_shared<MainThread>(info.Env(), "keel engine");
    on_event_ = std::make_shared<Napi::FunctionReference>(Napi::Persistent(info[0].As<Napi::Function>()));
    engine_->start([main = main_, listener = on_event_](engine::Event&& event) {
        main->run([listener, event = std::move(event)](Napi::Env env) {
            if (!listener->IsEmpty()) {
                listener->Call({event_value(env, event)});
            }
        });
    });
    return info.Env().Undefined();
}

Napi::Value EngineObject::stop(Call info) {
    if (!running_) {
        auto deferred = Napi::Promise::Deferred::New(info.Env());
        deferred.Resolve(info.Env().Undefined());
        return deferred.Promise();
    }
    running_ = false;
    auto deferred = std::make_shared<Napi::Promise::Deferred>(Napi::Promise::Deferred::New(info.Env()));
    engine_->stop([this, deferred, main = main_] {
        main->run([this, deferred, main](Napi::Env env) {
            engine_->join();
            engine_.reset();
            on_event_->Reset();
            deferred->Resolve(env.Undefined());
            main->release();
            Unref();
        });
    });
    return deferred->Promise();
}

Napi::Value EngineObject::on_reactor(Call info,
                                     std::function<void(engine::Engine&, const Settlement&)> work) {
    if (!running_) {
        auto deferred = Napi::Promise::Deferred::New(info.Env());
        deferred.Reject(error_of(info.Env(), base::Error{"E_STOPPED", "the engine does not run"}));
        return deferred.Promise();
    }
    Settlement settlement(info.Env(), main_);
    engine_->post(
        [engine = engine_.get(), settlement, work = std::move(work)] { work(*engine, settlement); });
    return settlement.promise();
}

Napi::Value EngineObject::add_device(Call info) {
    const Napi::Object object = object_argument(info, 0);
    return on_reactor(
        info, [spec = device_spec_of(object), memory = descriptor_of(object, "memoryDescriptor")](
                  engine::Engine& engine, const Settlement& settlement) {
            auto added = engine.add_device(spec, memory);
            if (!added) {
                settlement.reject(added.error());
                return;
            }
            settlement.resolve([device = added.take()](Napi::Env env) { return device_value(env, device); });
        });
}

Napi::Value EngineObject::remove_device(Call info) {
    return on_reactor(
        info, [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            engine.remove_device(
                name, [settlement](const base::Result<void>& result) { settlement.settle(result); });
        });
}

Napi::Value EngineObject::resize_device(Call info) {
    std::optional<std::uint64_t> bytes;
    if (info[1].IsBigInt() || info[1].IsNumber()) {
        bytes = whole_of(info[1]);
    }
    return on_reactor(
        info, [name = text_argument(info, 0), bytes](engine::Engine& engine, const Settlement& settlement) {
            const auto size = engine.resize_device(name, bytes);
            if (!size) {
                settlement.reject(size.error());
                return;
            }
            settlement.resolve([value = size.value()](Napi::Env env) { return big(env, value); });
        });
}

Napi::Value EngineObject::suspend_device(Call info) {
    return on_reactor(info,
                      [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
                          settlement.settle(engine.suspend_device(name));
                      });
}

Napi::Value EngineObject::resume_device(Call info) {
    return on_reactor(info,
                      [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
                          settlement.settle(engine.resume_device(name));
                      });
}

Napi::Value EngineObject::replace_device(Call info) {
    return on_reactor(info, [spec = device_spec_of(object_argument(info, 0))](engine::Engine& engine,
                                                                              const Settlement& settlement) {
        engine.replace_device(spec,
                              [settlement](const base::Result<void>& result) { settlement.settle(result); });
    });
}

Napi::Value EngineObject::device_command(Call info) {
    block::Command command;
    command.verb = text_argument(info, 1);
    const Napi::Object arguments = object_argument(info, 2);
    for (const std::string& key : texts_of(arguments.GetPropertyNames())) {
        command.arguments[key] = text_of(arguments, key.c_str());
    }
    return on_reactor(info, [name = text_argument(info, 0), command = std::move(command)](
                                engine::Engine& engine, const Settlement& settlement) {
        engine.device_command(name, command,
                              [settlement](const base::Result<void>& result) { settlement.settle(result); });
    });
}

Napi::Value EngineObject::begin_migration(Call info) {
    return on_reactor(info, [name = text_argument(info, 0), spec = device_spec_of(object_argument(info, 1)),
                             rate = whole_of(info[2])](engine::Engine& engine, const Settlement& settlement) {
        engine.begin_migration(name, spec, rate,
                               [settlement](const base::Result<void>& result) { settlement.settle(result); });
    });
}

Napi::Value EngineObject::prepare_migration(Call info) {
    return on_reactor(
        info, [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            engine.prepare_migration(
                name, [settlement](const base::Result<void>& result) { settlement.settle(result); });
        });
}

Napi::Value EngineObject::commit_migration(Call info) {
    return on_reactor(
        info, [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            engine.commit_migration(
                name, [settlement](const base::Result<void>& result) { settlement.settle(result); });
        });
}

Napi::Value EngineObject::cancel_migration(Call info) {
    return on_reactor(
        info, [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            engine.cancel_migration(
                name, [settlement](const base::Result<void>& result) { settlement.settle(result); });
        });
}

Napi::Value EngineObject::add_subsystem(Call info) {
    return on_reactor(info, [spec = subsystem_spec_of(object_argument(info, 0))](
                                engine::Engine& engine, const Settlement& settlement) {
        settlement.settle(engine.target().add_subsystem(spec));
    });
}

Napi::Value EngineObject::remove_subsystem(Call info) {
    return on_reactor(
        info, [nqn = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            const auto begun = engine.target().remove_subsystem(nqn, [settlement] { settlement.resolve(); });
            if (!begun) {
                settlement.reject(begun.error());
            }
        });
}

Napi::Value EngineObject::set_hosts(Call info) {
    return on_reactor(info,
                      [nqn = text_argument(info, 0), any = flag_argument(info, 1), hosts = texts_of(info[2])](
                          engine::Engine& engine, const Settlement& settlement) {
                          settlement.settle(engine.target().set_hosts(nqn, any, hosts));
                      });
}

Napi::Value EngineObject::set_in_flight(Call info) {
    return on_reactor(info, [nqn = text_argument(info, 0), policy = in_flight_of(text_argument(info, 1))](
                                engine::Engine& engine, const Settlement& settlement) {
        settlement.settle(engine.target().set_in_flight(nqn, policy));
    });
}

Napi::Value EngineObject::add_namespace(Call info) {
    return on_reactor(info,
                      [nqn = text_argument(info, 0), spec = namespace_spec_of(object_argument(info, 1))](
                          engine::Engine& engine, const Settlement& settlement) {
                          settlement.settle(engine.add_namespace(nqn, spec));
                      });
}

Napi::Value EngineObject::remove_namespace(Call info) {
    return on_reactor(info, [nqn = text_argument(info, 0), nsid = number_argument(info, 1)](
                                engine::Engine& engine, const Settlement& settlement) {
        const auto begun =
            engine.target().remove_namespace(nqn, nsid, [settlement] { settlement.resolve(); });
        if (!begun) {
            settlement.reject(begun.error());
        }
    });
}

Napi::Value EngineObject::set_namespace_read_only(Call info) {
    return on_reactor(
        info, [nqn = text_argument(info, 0), nsid = number_argument(info, 1), value = flag_argument(info, 2)](
                  engine::Engine& engine, const Settlement& settlement) {
            settlement.settle(engine.target().set_namespace_read_only(nqn, nsid, value));
        });
}

Napi::Value EngineObject::add_listener(Call info) {
    return on_reactor(info, [spec = listener_spec_of(object_argument(info, 0))](
                                engine::Engine& engine, const Settlement& settlement) {
        auto added = engine.add_listener(spec);
        if (!added) {
            settlement.reject(added.error());
            return;
        }
        settlement.resolve(
            [listener = added.take()](Napi::Env env) { return listener_value(env, listener); });
    });
}

Napi::Value EngineObject::set_listener(Call info) {
    return on_reactor(info, [spec = listener_spec_of(object_argument(info, 0))](
                                engine::Engine& engine, const Settlement& settlement) {
        settlement.settle(engine.transport().set_listener(spec));
    });
}

Napi::Value EngineObject::remove_listener(Call info) {
    return on_reactor(info,
                      [id = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
                          settlement.settle(engine.remove_listener(id));
                      });
}

Napi::Value EngineObject::set_referrals(Call info) {
    std::vector<nvme::Referral> referrals;
    if (info[0].IsArray()) {
        const auto array = info[0].As<Napi::Array>();
        for (std::uint32_t index = 0; index < array.Length(); ++index) {
            const Napi::Value entry = array.Get(index);
            if (entry.IsObject()) {
                const auto object = entry.As<Napi::Object>();
                referrals.push_back({"tcp", text_of(object, "family"), text_of(object, "address"),
                                     std::to_string(number_of(object, "port")),
                                     static_cast<std::uint16_t>(number_of(object, "portId")),
                                     text_of(object, "nqn")});
            }
        }
    }
    return on_reactor(
        info, [referrals = std::move(referrals)](engine::Engine& engine, const Settlement& settlement) {
            engine.target().set_referrals(referrals);
            settlement.resolve();
        });
}

Napi::Value EngineObject::set_loading(Call info) {
    return on_reactor(
        info, [loading = flag_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            engine.target().set_loading(loading);
            settlement.resolve();
        });
}

Napi::Value EngineObject::admit(Call info) {
    if (running_) {
        engine_->post([engine = engine_.get(), request = number_argument(info, 0),
                       allow = flag_argument(info, 1), reason = text_argument(info, 2)]() mutable {
            engine->admit(request, allow, std::move(reason));
        });
    }
    return info.Env().Undefined();
}

Napi::Value EngineObject::disconnect_host(Call info) {
    return on_reactor(info, [host = text_argument(info, 0), subsystem = text_argument(info, 1)](
                                engine::Engine& engine, const Settlement& settlement) {
        const std::uint32_t count = engine.disconnect_host(host, subsystem);
        settlement.resolve([count](Napi::Env env) { return number(env, count); });
    });
}

Napi::Value EngineObject::status(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        auto status = std::make_shared<engine::Status>(engine.status());
        settlement.resolve([status](Napi::Env env) { return status_value(env, *status); });
    });
}

Napi::Value EngineObject::is_standby(Call info) {
    return Napi::Boolean::New(info.Env(), engine_ && engine_->standby());
}

Napi::Value EngineObject::take_over(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        engine.take_over([settlement](const engine::Takeover& takeover) {
            settlement.resolve([takeover](Napi::Env env) { return takeover_value(env, takeover); });
        });
    });
}

Napi::Value EngineObject::be_warm(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        engine.be_warm();
        settlement.resolve();
    });
}

Napi::Value EngineObject::adopt(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        const engine::Adoption adoption = engine.adopt();
        settlement.resolve([adoption](Napi::Env env) { return adoption_value(env, adoption); });
    });
}

Napi::Value EngineObject::keeper_info(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        if (engine.keeper() == nullptr) {
            settlement.resolve([](Napi::Env env) { return env.Null(); });
            return;
        }
        engine.keeper()->ask_info([settlement](const engine::KeeperInfo& answer) {
            settlement.resolve([answer](Napi::Env env) { return keeper_value(env, answer); });
        });
    });
}

Napi::Value EngineObject::request_restart(Call info) {
    return on_reactor(
        info, [reason = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
            if (engine.keeper() == nullptr || !engine.keeper()->client().restart(reason)) {
                settlement.reject(
                    base::Error{"E_NO_KEEPER", "there is no keeper that could restart this server"});
                return;
            }
            settlement.resolve();
        });
}

Napi::Value EngineObject::alive(Call info) {
    if (running_) {
        engine_->post([engine = engine_.get()] {
            if (engine->keeper() != nullptr) {
                engine->keeper()->client().alive_main();
            }
        });
    }
    return info.Env().Undefined();
}

Napi::Value EngineObject::restarts(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        auto area = std::make_shared<engine::RestartArea>(engine.restart_area());
        settlement.resolve([area](Napi::Env env) { return restarts_value(env, *area); });
    });
}

Napi::Value EngineObject::last_pdus(Call info) {
    return on_reactor(info, [](engine::Engine& engine, const Settlement& settlement) {
        auto last = std::make_shared<std::vector<engine::LastPdus>>(engine.last_pdus());
        settlement.resolve([last](Napi::Env env) { return last_pdus_value(env, *last); });
    });
}

Napi::Value EngineObject::store_text(Call info) {
    return on_reactor(info, [name = text_argument(info, 0), text = text_argument(info, 1)](
                                engine::Engine& engine, const Settlement& settlement) {
        if (engine.keeper() == nullptr) {
            settlement.resolve();
            return;
        }
        settlement.settle(engine.keeper()->store_text(name, text));
    });
}

Napi::Value EngineObject::stored_text(Call info) {
    return on_reactor(info,
                      [name = text_argument(info, 0)](engine::Engine& engine, const Settlement& settlement) {
                          const std::string text =
                              engine.keeper() != nullptr ? engine.keeper()->stored_text(name) : std::string();
                          settlement.resolve([text](Napi::Env env) -> Napi::Value {
                              return text.empty() ? env.Null() : Napi::String::New(env, text);
                          });
                      });
}

Napi::Value EngineObject::set_discovery_generation(Call info) {
    return on_reactor(info,
                      [value = whole_of(info[0])](engine::Engine& engine, const Settlement& settlement) {
                          engine.target().set_discovery_generation(value);
                          settlement.resolve();
                      });
}

}  // namespace binding
