// What has to be known of a qcow image before the packaged handler may open it. The handler wants the image's
// size and blocks told, takes what is no qcow image for a raw one, and does not look at what it does not
// support: such images are refused here, before anything is touched.
//
// Format: docs/interop/qcow2.txt of QEMU.
#pragma once

#include <cstdint>
#include <string>

namespace tcmu {

struct QcowImage {
    std::uint64_t size_bytes = 0;
};

// Empty, or why the image cannot be served.
std::string examine_qcow(const std::string& path, QcowImage& image);

}  // namespace tcmu
