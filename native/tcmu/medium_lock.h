// No two processes have the same medium open: a lock on the image where the configuration names a file or
// block device, else on a file that stands for the configuration. It ends with the process, after the last of
// its threads, and so after its I/O.
//
// An image is locked in the two ways that others look at: flock(2), as our own devices do, and a lock on all
// bytes of the open file, with which qemu's tools collide.
#pragma once

#include <functional>
#include <string>

namespace tcmu {

class MediumLock {
  public:
    // `configuration` without the subtype.
    explicit MediumLock(const std::string& configuration);

    // Waits until the lock is ours. `waiting` is called when it has to wait, with who is known to hold it;
    // `stop` is asked again and again. False with `problem` (empty: stopped).
    bool take(const std::function<void(const std::string&)>& waiting, const std::function<bool()>& stop,
              std::string& problem);
    // The handler may just have made the image: takes the lock on it too. False: somebody else has it.
    bool take_image_now();

  private:
    enum class Attempt { taken, held, failed };
    Attempt attempt(int file, bool whole);

    std::string image_;
    std::string stand_in_;
    int image_file_ = -1;
    int stand_in_file_ = -1;
};

}  // namespace tcmu
