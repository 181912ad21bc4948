/* The interface between tcmu-runner and its loadable handlers, as version 1.5.4 and its successors up
 * to 1.6.2 have it on 64-bit machines: the layouts and numbers that a handler was compiled with. For C and
 * for C++.
 *
 * A handler is a shared object with a function `int handler_init(void)`, which calls
 * tcmur_register_handler with a table that stays in place.
 *
 * Two ways to complete a request (read, write, flush, unmap, writesame):
 *   nr_threads > 0   the callback is called on one of so many threads, may block, and returns the request's
 *                    TCMU_STS_… code.
 *   nr_threads == 0  the callback begins the request and returns TCMU_STS_OK; the handler later calls
 *                    tcmur_cmd_complete, once, from any thread, with the code. Any other return value ends
 * the request at once. Buffers and the command stay in place until then. Handlers may move the iovec's base
 * and length. */
#ifndef KEEL_TCMU_HANDLER_ABI_H
#define KEEL_TCMU_HANDLER_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif

enum {
    TCMU_STS_ASYNC_HANDLED = -2,
    TCMU_STS_NOT_HANDLED = -1,
    TCMU_STS_OK = 0,
    TCMU_STS_NO_RESOURCE = 1,
    TCMU_STS_PASSTHROUGH_ERR = 2,
    TCMU_STS_BUSY = 3,
    TCMU_STS_WR_ERR = 4,
    TCMU_STS_RD_ERR = 5,
    TCMU_STS_MISCOMPARE = 6,
    TCMU_STS_INVALID_CMD = 7,
    TCMU_STS_INVALID_CDB = 8,
    TCMU_STS_INVALID_PARAM_LIST = 9,
    TCMU_STS_INVALID_PARAM_LIST_LEN = 10,
    TCMU_STS_TIMEOUT = 11,
    TCMU_STS_FENCED = 12,
    TCMU_STS_HW_ERR = 13,
    TCMU_STS_RANGE = 14
};

struct tcmu_device; /* opaque to handlers */
struct tcmulib_cfg_info;

struct tcmulib_cmd {
    uint16_t cmd_id;
    uint8_t* cdb;
    struct iovec* iovec;
    size_t iov_cnt;
    uint8_t sense_buf[96];
    void* hm_private;
};

struct tcmur_cmd {
    struct tcmulib_cmd* lib_cmd;
    struct iovec* iovec;
    size_t iov_cnt;
    void* iov_base_copy;
    void* cmd_state;
    size_t requested;
    void* list_next;
    void* list_previous;
    struct timespec start_time;
    bool timed_out;
    void (*done)(struct tcmu_device* device, struct tcmur_cmd* cmd, int status);
};

struct tcmur_handler {
    const char* name;
    const char* subtype; /* what stands before the first slash of a configuration string */
    const char* cfg_desc;
    void* opaque; /* the handler's own */
    /* Optional. False: *reason is a malloc'ed text that says why. */
    bool (*check_config)(const char* cfgstring, char** reason);
    int (*reconfig)(struct tcmu_device* device, struct tcmulib_cfg_info* change);
    int (*open)(struct tcmu_device* device, bool reopen);
    void (*close)(struct tcmu_device* device);
    int nr_threads;
    /* Whole SCSI commands: for handlers that are not plain block devices. */
    int (*handle_cmd)(struct tcmu_device* device, struct tcmur_cmd* cmd);
    int (*read)(struct tcmu_device* device, struct tcmur_cmd* cmd, struct iovec* iovec, size_t count,
                size_t length, off_t offset);
    int (*write)(struct tcmu_device* device, struct tcmur_cmd* cmd, struct iovec* iovec, size_t count,
                 size_t length, off_t offset);
    int (*flush)(struct tcmu_device* device, struct tcmur_cmd* cmd);
    int (*unmap)(struct tcmu_device* device, struct tcmur_cmd* cmd, uint64_t offset, uint64_t length);
    int (*writesame)(struct tcmu_device* device, struct tcmur_cmd* cmd, uint64_t offset, uint64_t length,
                     struct iovec* iovec, size_t count);
    int (*caw)(struct tcmu_device* device, struct tcmur_cmd* cmd, uint64_t offset, uint64_t length,
               struct iovec* iovec, size_t count);
    int (*report_event)(struct tcmu_device* device);
    int (*lock)(struct tcmu_device* device, uint16_t tag);
    int (*unlock)(struct tcmu_device* device);
    int (*get_lock_tag)(struct tcmu_device* device, uint16_t* tag);
    int (*get_lock_state)(struct tcmu_device* device);
    bool is_dbus_handler; /* leave it alone */
    bool (*update_logdir)(void);
    int (*init)(void); /* around everything else, if there */
    void (*destroy)(void);
};

#define TCMU_HOST_API __attribute__((visibility("default")))

TCMU_HOST_API int tcmur_register_handler(struct tcmur_handler* handler);
TCMU_HOST_API void tcmur_cmd_complete(struct tcmu_device* device, void* cmd, int status);
TCMU_HOST_API void tcmur_dev_set_private(struct tcmu_device* device, void* own);
TCMU_HOST_API void* tcmur_dev_get_private(struct tcmu_device* device);
TCMU_HOST_API void* tcmu_dev_get_private(struct tcmu_device* device);
TCMU_HOST_API void tcmu_notify_lock_lost(struct tcmu_device* device);
TCMU_HOST_API void tcmu_notify_cmd_timed_out(struct tcmu_device* device);
TCMU_HOST_API void tcmu_set_thread_name(const char* prefix, struct tcmu_device* device);

/* "subtype/configuration" */
TCMU_HOST_API char* tcmu_dev_get_cfgstring(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_num_lbas(struct tcmu_device* device, uint64_t count);
TCMU_HOST_API uint64_t tcmu_dev_get_num_lbas(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_block_size(struct tcmu_device* device, uint32_t bytes);
TCMU_HOST_API uint32_t tcmu_dev_get_block_size(struct tcmu_device* device);
/* Lengths below are in blocks. */
TCMU_HOST_API uint32_t tcmu_dev_get_max_xfer_len(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_opt_xcopy_rw_len(struct tcmu_device* device, uint32_t length);
TCMU_HOST_API void tcmu_dev_set_max_unmap_len(struct tcmu_device* device, uint32_t length);
TCMU_HOST_API uint32_t tcmu_dev_get_max_unmap_len(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_opt_unmap_gran(struct tcmu_device* device, uint32_t length, bool split);
TCMU_HOST_API uint32_t tcmu_dev_get_opt_unmap_gran(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_unmap_gran_align(struct tcmu_device* device, uint32_t length);
TCMU_HOST_API uint32_t tcmu_dev_get_unmap_gran_align(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_write_cache_enabled(struct tcmu_device* device, bool enabled);
TCMU_HOST_API bool tcmu_dev_get_write_cache_enabled(struct tcmu_device* device);
TCMU_HOST_API void tcmu_dev_set_solid_state_media(struct tcmu_device* device, bool solid_state);
TCMU_HOST_API bool tcmu_dev_get_solid_state_media(struct tcmu_device* device);
TCMU_HOST_API bool tcmu_dev_get_unmap_enabled(struct tcmu_device* device);

/* What a kernel's configfs would say. info: "Size" in bytes; *result is 0 or a negative errno. */
TCMU_HOST_API uint64_t tcmu_cfgfs_dev_get_info_u64(struct tcmu_device* device, const char* name, int* result);
TCMU_HOST_API int tcmu_cfgfs_dev_get_attr_int(struct tcmu_device* device, const char* name);
TCMU_HOST_API char* tcmu_cfgfs_dev_get_wwn(struct tcmu_device* device); /* the caller frees it */

TCMU_HOST_API uint64_t tcmu_cdb_get_lba(uint8_t* cdb);
TCMU_HOST_API uint32_t tcmu_cdb_get_xfer_length(uint8_t* cdb);

/* Position of the first difference, or -1. */
TCMU_HOST_API off_t tcmu_iovec_compare(void* memory, struct iovec* iovec, size_t size);
/* Uses up `count` bytes; how many entries are used up. */
TCMU_HOST_API size_t tcmu_iovec_seek(struct iovec* iovec, size_t count);
TCMU_HOST_API size_t tcmu_iovec_length(struct iovec* iovec, size_t count);
/* Both use up what they copy, and stop where either side ends; how much was copied. */
TCMU_HOST_API size_t tcmu_memcpy_into_iovec(struct iovec* iovec, size_t count, void* source, size_t length);
TCMU_HOST_API size_t tcmu_memcpy_from_iovec(void* destination, size_t length, struct iovec* iovec,
                                            size_t count);

TCMU_HOST_API int tcmu_sense_set_data(uint8_t* sense, uint8_t key, uint16_t code);
TCMU_HOST_API void tcmu_sense_set_info(uint8_t* sense, uint32_t information);
TCMU_HOST_API void tcmu_sense_set_key_specific_info(uint8_t* sense, uint16_t information);

TCMU_HOST_API void tcmu_err_message(struct tcmu_device* device, const char* function, int line,
                                    const char* format, ...) __attribute__((format(printf, 4, 5)));
TCMU_HOST_API void tcmu_warn_message(struct tcmu_device* device, const char* function, int line,
                                     const char* format, ...) __attribute__((format(printf, 4, 5)));
TCMU_HOST_API void tcmu_info_message(struct tcmu_device* device, const char* function, int line,
                                     const char* format, ...) __attribute__((format(printf, 4, 5)));
TCMU_HOST_API void tcmu_dbg_message(struct tcmu_device* device, const char* function, int line,
                                    const char* format, ...) __attribute__((format(printf, 4, 5)));

#ifdef __cplusplus
}
#endif

#if UINTPTR_MAX == UINT64_MAX
#ifdef __cplusplus
#define KEEL_TCMU_ASSERT(condition) static_assert(condition, #condition)
#else
#define KEEL_TCMU_ASSERT(condition) _Static_assert(condition, #condition)
#endif
KEEL_TCMU_ASSERT(sizeof(struct tcmulib_cmd) == 136);
KEEL_TCMU_ASSERT(offsetof(struct tcmulib_cmd, sense_buf) == 32);
KEEL_TCMU_ASSERT(sizeof(struct tcmur_cmd) == 96);
KEEL_TCMU_ASSERT(offsetof(struct tcmur_cmd, done) == 88);
KEEL_TCMU_ASSERT(sizeof(struct tcmur_handler) == 200);
KEEL_TCMU_ASSERT(offsetof(struct tcmur_handler, nr_threads) == 64);
KEEL_TCMU_ASSERT(offsetof(struct tcmur_handler, read) == 80);
KEEL_TCMU_ASSERT(offsetof(struct tcmur_handler, destroy) == 192);
#endif

#endif
