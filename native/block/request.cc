#include "block/request.h"

#include <cerrno>

namespace block {

const char* name_of(Action action) {
    switch (action) {
        case Action::read: return "read";
        case Action::write: return "write";
        case Action::flush: return "flush";
        case Action::write_zeroes: return "write_zeroes";
        case Action::deallocate: return "deallocate";
    }
    return "?";
}

const char* name_of(Status status) {
    switch (status) {
        case Status::ok: return "ok";
        case Status::out_of_range: return "out_of_range";
        case Status::misaligned: return "misaligned";
        case Status::not_supported: return "not_supported";
        case Status::read_only: return "read_only";
        case Status::no_space: return "no_space";
        case Status::medium_error: return "medium_error";
        case Status::gone: return "gone";
        case Status::aborted: return "aborted";
        case Status::busy: return "busy";
        case Status::internal_error: return "internal_error";
    }
    return "?";
}

Status status_of_errno(int error_number) {
    struct Row {
        int error_number;
        Status status;
    };
    static constexpr Row rows[] = {
        {0, Status::ok},
        {ENOSPC, Status::no_space},
        {EDQUOT, Status::no_space},
        {EFBIG, Status::no_space},
        {ENXIO, Status::gone},
        {ENODEV, Status::gone},
        {EBADF, Status::gone},
        {ESTALE, Status::gone},
        {ENOMEDIUM, Status::gone},
        {ESHUTDOWN, Status::gone},
        {ECANCELED, Status::aborted},
        {EAGAIN, Status::busy},
        {EINTR, Status::busy},
        {EBUSY, Status::busy},
        {ENOMEM, Status::busy},
        {EROFS, Status::read_only},
        {EPERM, Status::read_only},
        {EACCES, Status::read_only},
        {EOPNOTSUPP, Status::not_supported},
        {ENOSYS, Status::not_supported},
        {EINVAL, Status::internal_error},
        {EFAULT, Status::internal_error},
    };
    for (const Row& row : rows) {
        if (row.error_number == error_number) {
            return row.status;
        }
    }
    return Status::medium_error;  // EIO, EREMOTEIO, EILSEQ, ENODATA, ETIMEDOUT, …: this range could not be
                                  // had
}

}  // namespace block
