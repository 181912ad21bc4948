// Lines on standard error, for people and the journal. Never blocks: a line that a full pipe does not take
// is lost, because the keeper must go on.
#pragma once

namespace keeper {

enum class Level : char { error = '3', warning = '4', notice = '5', info = '6' };  // as in syslog

class Log {
  public:
    // With `journal`, lines begin with "<level>", which the journal takes as priority. What is less urgent
    // than `least` is not written.
    Log(bool journal, Level least) : journal_(journal), least_(least) {}

    void write(Level level, const char* format, ...) __attribute__((format(printf, 3, 4)));

  private:
    bool journal_;
    Level least_;
};

}  // namespace keeper
