#include "block/tcmu/find_handler.h"

#include <dirent.h>
#include <dlfcn.h>
#include <unistd.h>

#include <cerrno>
#include <climits>
#include <cstdlib>
#include <cstring>
#include <set>
#include <vector>

#include "block/kinds.h"

namespace block::tcmu {

namespace {

constexpr const char* prefix = "handler_";
constexpr const char* suffix = ".so";

std::string folder_of(const std::string& path) {
    const std::size_t slash = path.rfind('/');
    return slash == std::string::npos ? "." : path.substr(0, slash);
}

// Our own first, then where distributions put tcmu-runner's.
std::vector<std::string> folders(const std::string& program) {
    return {
        folder_of(program),
#if defined(__x86_64__)
            "/usr/lib/x86_64-linux-gnu/tcmu-runner",
#elif defined(__aarch64__)
            "/usr/lib/aarch64-linux-gnu/tcmu-runner",
#endif
            "/usr/lib64/tcmu-runner", "/usr/lib/tcmu-runner", "/usr/local/lib/tcmu-runner"
    };
}

void add_handlers_in(const std::string& folder, std::set<std::string>& names) {
    DIR* directory = opendir(folder.c_str());
    if (directory == nullptr) {
        return;
    }
    for (const dirent* entry = readdir(directory); entry != nullptr; entry = readdir(directory)) {
        const std::string name = entry->d_name;
        const std::size_t fixed = std::strlen(prefix) + std::strlen(suffix);
        if (name.size() > fixed && name.starts_with(prefix) && name.ends_with(suffix)) {
            names.insert(name.substr(std::strlen(prefix), name.size() - fixed));
        }
    }
    closedir(directory);
}

std::string list_of(const std::set<std::string>& names) {
    std::string list;
    for (const std::string& name : names) {
        list += list.empty() ? name : ", " + name;
    }
    return list.empty() ? "none" : list;
}

}  // namespace

base::Result<std::string> find_handler(const DeviceSpec& spec, const std::string& program) {
    std::set<std::string> present;
    if (!spec.tcmu.library.empty()) {
        if (access(spec.tcmu.library.c_str(), R_OK) == 0) {
            return spec.tcmu.library;
        }
        const int error = errno;
        add_handlers_in(folder_of(spec.tcmu.library), present);
        return base::Error{"E_NOT_FOUND",
                           describe_device(spec) + "cannot read the handler " + spec.tcmu.library + ": " +
                               std::strerror(error) + "; handlers in its folder: " + list_of(present),
                           error};
    }
    for (const std::string& folder : folders(program)) {
        const std::string path = folder + "/" + prefix + spec.tcmu.handler + suffix;
        if (access(path.c_str(), R_OK) == 0) {
            return path;
        }
        add_handlers_in(folder, present);
    }
    return base::Error{"E_NOT_FOUND", describe_device(spec) + "\"" + spec.tcmu.handler +
                                          "\" is not a handler here; found: " + list_of(present) +
                                          " (others need their library's path; Debian's are in the package "
                                          "tcmu-runner)"};
}

std::string default_program() {
    Dl_info where{};
    if (dladdr(reinterpret_cast<const void*>(&default_program), &where) == 0 || where.dli_fname == nullptr) {
        return "keel-tcmu";
    }
    char path[PATH_MAX];
    const bool itself = std::strchr(where.dli_fname, '/') == nullptr;  // a program found in PATH
    const char* resolved = realpath(itself ? "/proc/self/exe" : where.dli_fname, path);
    return folder_of(resolved != nullptr ? resolved : where.dli_fname) + "/keel-tcmu";
}

}  // namespace block::tcmu
