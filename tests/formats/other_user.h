// Root may open everything, so tests of permissions act as another user.
#ifndef QS_TESTS_FORMATS_OTHER_USER_H_
#define QS_TESTS_FORMATS_OTHER_USER_H_

#include <sys/stat.h>
#include <unistd.h>

#include <string>

#include "tests/testing/catch_compat.h"

namespace qs::testing {

// While it lives the process acts as a user without rights, who may enter
// `directory`. Nothing to do where the tests do not run as root.
class OtherUser {
 public:
  explicit OtherUser(const std::string& directory) : root_(geteuid() == 0) {
    if (!root_) return;
    REQUIRE(chmod(directory.c_str(), 0755) == 0);
    REQUIRE(seteuid(65534) == 0);
  }
  ~OtherUser() {
    if (root_ && seteuid(0) != 0) abort();
  }
  OtherUser(const OtherUser&) = delete;
  OtherUser& operator=(const OtherUser&) = delete;

 private:
  const bool root_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_FORMATS_OTHER_USER_H_
