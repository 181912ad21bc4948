#include "binding/process.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <string>
#include <vector>

#include "binding/values.h"
#include "engine/version.h"

namespace binding {

Napi::Value open_keeper(const Napi::CallbackInfo& info, std::unique_ptr<engine::KeeperLink>& link) {
    Napi::Env env = info.Env();
    auto opened = engine::KeeperLink::open(engine::version);
    if (!opened) {
        Napi::Error error = Napi::Error::New(env, opened.error().message);
        error.Set("code", opened.error().code);
        error.Set("errorNumber", Napi::Number::New(env, opened.error().error_number));
        error.ThrowAsJavaScriptException();
        return env.Undefined();
    }
    link = opened.take();
    if (!link) {
        return env.Null();
    }
    Napi::Object object = Napi::Object::New(env);
    object.Set("standby", Napi::Boolean::New(env, link->standby()));
    const std::string text = link->stored_text("configuration");
    object.Set("configuration", text.empty() ? env.Null() : Napi::Value(Napi::String::New(env, text)));
    return object;
}

Napi::Value replace_process(const Napi::CallbackInfo& info) {
    const std::string path = info[0].IsString() ? info[0].As<Napi::String>().Utf8Value() : std::string();
    std::vector<std::string> texts = texts_of(info[1]);
    std::vector<char*> arguments;
    for (std::string& text : texts) {
        arguments.push_back(text.data());
    }
    arguments.push_back(nullptr);
    // The standard streams stay as they are, but blocking and inherited: Node changes both for itself.
    for (int descriptor = 0; descriptor <= 2; ++descriptor) {
        const int flags = fcntl(descriptor, F_GETFL);
        if (flags >= 0) {
            fcntl(descriptor, F_SETFL, flags & ~O_NONBLOCK);
            fcntl(descriptor, F_SETFD, 0);
        }
    }
    sigset_t none;
    sigemptyset(&none);
    pthread_sigmask(SIG_SETMASK, &none, nullptr);
    execv(path.c_str(), arguments.data());
    const int number = errno;
    return error_of(info.Env(),
                    base::Error{"E_IO", "cannot start " + path + ": " + std::strerror(number), number});
}

}  // namespace binding
