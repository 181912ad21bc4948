// Prints the values that C++ and TypeScript share as a TypeScript module: ts/native/values.generated.ts.
//
// The headers are the truth. Enumerations are walked byte by byte through their name_of(), so that a new
// enumerator needs no edit here; a limit is one row below. Keys are the identifiers of C++ in camel case. The
// order is stable: ascending by value, limits as in base/limits.h. The text is as the formatter of the
// TypeScript files leaves it.

#include <cctype>
#include <cstdint>
#include <cstdio>
#include <string>
#include <string_view>
#include <utility>

#include "base/limits.h"
#include "wire/nvme.h"
#include "wire/nvme_tcp.h"

namespace {

struct NamedValue {
    const char* name;
    std::uint64_t value;
};

#define LIMIT(name) \
    { #name, limits::name }

constexpr NamedValue limit_values[] = {
    LIMIT(connections_max),
    LIMIT(controllers_max),
    LIMIT(io_queues_per_controller_max),
    LIMIT(queue_entries_max),
    LIMIT(queue_entries_min),
    LIMIT(admin_queue_entries_min),
    LIMIT(subsystems_max),
    LIMIT(namespaces_per_subsystem_max),
    LIMIT(devices_max),
    LIMIT(cntlid_max),
    LIMIT(page_bytes),
    LIMIT(mdts_exponent),
    LIMIT(transfer_bytes_max),
    LIMIT(in_capsule_bytes_admin),
    LIMIT(in_capsule_bytes_io_max),
    LIMIT(in_capsule_bytes_io_default),
    LIMIT(max_h2c_data_bytes),
    LIMIT(receive_buffer_bytes),
    LIMIT(transmit_entries_max),
    LIMIT(transmit_segments_per_send),
    LIMIT(async_event_requests_max),
    LIMIT(abort_commands_max),
    LIMIT(error_log_entries),
    LIMIT(changed_namespaces_max),
    LIMIT(pending_events_max),
    LIMIT(dsm_ranges_max),
    LIMIT(copy_ranges_max),
    LIMIT(data_pool_bytes_default),
    LIMIT(data_block_bytes_min),
    LIMIT(data_block_bytes_max),
    LIMIT(nqn_bytes_max),
};

#undef LIMIT

struct StatusRow {
    const char* identifier;
    std::uint16_t value;
    const char* text;
};

// Codes of all commands but Fabrics commands, ascending; and those of Fabrics commands.
constexpr StatusRow status_rows[] = {
#define WIRE_GENERIC_STATUS(number, identifier, text) {#identifier, number, text},
#define WIRE_COMMAND_STATUS(number, identifier, text) {#identifier, number, text},
#define WIRE_MEDIA_STATUS(number, identifier, text) {#identifier, number, text},
#define WIRE_PATH_STATUS(number, identifier, text) {#identifier, number, text},
#include "wire/nvme_status.def"
};

constexpr StatusRow fabrics_status_rows[] = {
#define WIRE_FABRICS_STATUS(number, identifier, text) {#identifier, number, text},
#include "wire/nvme_status.def"
};

// "queue_entries_max" to "queueEntriesMax".
std::string camel_case(std::string_view name) {
    std::string key;
    bool word_starts = false;
    for (const char character : name) {
        if (character == '_') {
            word_starts = true;
            continue;
        }
        key +=
            word_starts ? static_cast<char>(std::toupper(static_cast<unsigned char>(character))) : character;
        word_starts = false;
    }
    return key;
}

// The identifier of an enumerator, from what the compiler calls this function: both g++ and clang++ write
// "… Value = wire::PduType::ic_req" followed by ";" or "]".
template <auto Value>
constexpr std::string_view identifier_of() {
    std::string_view text = __PRETTY_FUNCTION__;
    text.remove_prefix(text.find("Value = "));
    text = text.substr(0, text.find_first_of(";]"));
    return text.substr(text.rfind(':') + 1);
}
static_assert(identifier_of<wire::PduType::ic_req>() == "ic_req");

void print_codes_start(const char* comment, const char* name) {
    std::printf("\n/** %s */\nexport const %s = {\n", comment, name);
}

void print_codes_end() { std::printf("} as const;\n"); }

void print_names_start(const char* comment, const char* name) {
    std::printf("\n/** %s */\nexport const %s: Readonly<Record<number, string>> = {\n", comment, name);
}

void print_names_end() { std::printf("};\n"); }

void print_limits() {
    print_codes_start("Bounds of the server (base/limits.h).", "limits");
    for (const NamedValue& limit : limit_values) {
        std::printf("  %s: %llu,\n", camel_case(limit.name).c_str(),
                    static_cast<unsigned long long>(limit.value));
    }
    print_codes_end();
}

template <typename Enum, unsigned Value>
void print_code() {
    constexpr auto code = static_cast<Enum>(Value);
    if (wire::name_of(code) != nullptr) {
        std::printf("  %s: 0x%02x,\n", camel_case(identifier_of<code>()).c_str(), Value);
    }
}

template <typename Enum, unsigned Value>
void print_name() {
    if (const char* text = wire::name_of(static_cast<Enum>(Value))) {
        std::printf("  %u: \"%s\",\n", Value, text);
    }
}

// One object of codes by identifier, and one of texts by code. All these enumerations fit a byte.
template <typename Enum>
void print_enum(const char* comment, const char* codes, const char* names) {
    const auto walk = [&]<unsigned... Values>(std::integer_sequence<unsigned, Values...>) {
        print_codes_start(comment, codes);
        (print_code<Enum, Values>(), ...);
        print_codes_end();
        print_names_start("The standard's words for them.", names);
        (print_name<Enum, Values>(), ...);
        print_names_end();
    };
    walk(std::make_integer_sequence<unsigned, 256>());
}

template <std::size_t Count>
void print_statuses(const char* comment, const char* codes, const char* names,
                    const StatusRow (&rows)[Count]) {
    print_codes_start(comment, codes);
    for (const StatusRow& row : rows) {
        std::printf("  %s: 0x%03x,\n", camel_case(row.identifier).c_str(), row.value);
    }
    print_codes_end();
    print_names_start("The standard's words for them.", names);
    for (const StatusRow& row : rows) {
        std::printf("  %u: \"%s\",\n", row.value, row.text);
    }
    print_names_end();
}

}  // namespace

int main() {
    std::printf("// Generated by native/tools/print_values.cc; do not edit.\n");
    print_limits();
    print_enum<wire::AdminOpcode>("Opcodes of admin commands.", "adminOpcodes", "adminOpcodeNames");
    print_enum<wire::IoOpcode>("Opcodes of I/O commands.", "ioOpcodes", "ioOpcodeNames");
    print_enum<wire::FabricsType>("Types of Fabrics commands (FCTYPE).", "fabricsTypes", "fabricsTypeNames");
    print_statuses("Status codes: Status Code Type in bits 10:8, Status Code in bits 7:0.", "statusCodes",
                   "statusNames", status_rows);
    print_statuses("Status codes of Fabrics commands, which share their values with others.",
                   "fabricsStatusCodes", "fabricsStatusNames", fabrics_status_rows);
    print_enum<wire::LogPage>("Log page identifiers.", "logPages", "logPageNames");
    print_enum<wire::FeatureId>("Feature identifiers.", "featureIds", "featureNames");
    print_enum<wire::PduType>("PDU types of NVMe/TCP.", "pduTypes", "pduTypeNames");
    print_enum<wire::FatalErrorStatus>("Fatal Error Status (FES) of termination requests.", "fatalErrors",
                                       "fatalErrorNames");
    return std::fflush(stdout) == 0 && std::ferror(stdout) == 0 ? 0 : 1;
}
