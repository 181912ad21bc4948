#include "binding/probe.h"

#include <sys/resource.h>
#include <sys/utsname.h>

#include <cstdio>
#include <string>

#include "base/crc32c.h"
#include "binding/values.h"
#include "reactor/uring_kernel.h"

namespace binding {

namespace {

// "always [madvise] never" → "madvise"
std::string selected(const char* path) {
    std::string text = "unknown";
    if (std::FILE* file = std::fopen(path, "re"); file != nullptr) {
        char line[256] = "";
        if (std::fgets(line, sizeof line, file) != nullptr) {
            const std::string all(line);
            const auto begin = all.find('[');
            const auto end = all.find(']');
            if (begin != std::string::npos && end != std::string::npos && begin < end) {
                text = all.substr(begin + 1, end - begin - 1);
            }
        }
        std::fclose(file);
    }
    return text;
}

}  // namespace

Napi::Value probe(const Napi::CallbackInfo& info) {
    Napi::Env env = info.Env();
    Napi::Object object = Napi::Object::New(env);
    utsname names{};
    object.Set("kernel", uname(&names) == 0 ? names.release : "unknown");
    const auto kernel = reactor::UringKernel::make();
    object.Set("ioUring", Napi::Boolean::New(env, kernel.ok()));
    object.Set("crc32c", base::crc32c_method());
    object.Set("hugePages", selected("/sys/kernel/mm/transparent_hugepage/shmem_enabled"));
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    object.Set("memlockBytes", big(env, limit.rlim_cur));
    object.Set("reason",
               kernel.ok() ? env.Null() : Napi::Value(Napi::String::New(env, kernel.error().message)));
    return object;
}

}  // namespace binding
