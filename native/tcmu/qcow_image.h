// What has to be known of a qcow image before the packaged handler may open it. The handler wants the image's
// size and blocks told, takes what is no qcow image for a raw one, and does not look at what it does not
// support: such images are refused here, before anything is touched.
//
// It also counts a cluster only after it has begun to use it. A process that was killed in between leaves a
// cluster that is in use and counted as free, and the next one would give it away again: `mend_qcow` counts
// such clusters, which is what the killed process was about to do.
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

// Empty, or why the image cannot be mended. For an image that was examined, and that nobody else uses.
std::string mend_qcow(const std::string& path, std::uint64_t& mended);

}  // namespace tcmu
