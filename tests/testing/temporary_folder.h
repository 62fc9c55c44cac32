// A folder of its own for a test, gone afterwards.
#ifndef QS_TESTS_TESTING_TEMPORARY_FOLDER_H_
#define QS_TESTS_TESTING_TEMPORARY_FOLDER_H_

#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <string>

#include "tests/testing/catch_compat.h"

namespace qs::testing {

class TemporaryFolder {
 public:
  TemporaryFolder() {
    std::string name =
        (std::filesystem::temp_directory_path() / "quantd-XXXXXX").string();
    REQUIRE(::mkdtemp(name.data()) != nullptr);
    path_ = name;
  }
  ~TemporaryFolder() { std::filesystem::remove_all(path_); }
  // The path of something in it.
  std::string operator/(const std::string& name) const {
    return (path_ / name).string();
  }

 private:
  std::filesystem::path path_;
};

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_TEMPORARY_FOLDER_H_
