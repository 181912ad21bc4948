#include "tcmu/handler_library.h"

#include <dlfcn.h>

namespace tcmu {

std::vector<tcmur_handler*>& registered_handlers() {
    static std::vector<tcmur_handler*> handlers;
    return handlers;
}

tcmur_handler* load_handler(const std::string& library, const std::string& subtype, std::string& problem) {
    void* object = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (object == nullptr) {
        problem = dlerror();
        return nullptr;
    }
    auto* handler_init = reinterpret_cast<int (*)()>(dlsym(object, "handler_init"));
    if (handler_init == nullptr) {
        problem = library + " is not a tcmu handler: it has no function handler_init";
        return nullptr;
    }
    if (const int result = handler_init(); result != 0) {
        problem = library + ": handler_init failed (" + std::to_string(result) + ")";
        return nullptr;
    }
    std::string present;
    for (tcmur_handler* handler : registered_handlers()) {
        if (handler->subtype != nullptr && subtype == handler->subtype) {
            if (handler->read == nullptr || handler->open == nullptr) {
                problem = "the handler \"" + subtype +
                          "\" takes whole SCSI commands only (handle_cmd): it cannot be a block device here";
                return nullptr;
            }
            return handler;
        }
        present += present.empty() ? "" : ", ";
        present += handler->subtype != nullptr ? handler->subtype : "?";
    }
    problem = library + " has no handler \"" + subtype + "\"; it has: " + present;
    return nullptr;
}

}  // namespace tcmu
