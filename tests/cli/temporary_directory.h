// A directory for one test, removed with it.
#ifndef QS_TESTS_CLI_TEMPORARY_DIRECTORY_H_
#define QS_TESTS_CLI_TEMPORARY_DIRECTORY_H_

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <string>
#include <vector>

namespace qs::cli {

class TemporaryDirectory {
 public:
  TemporaryDirectory()
      : path_((std::filesystem::canonical(
                   std::filesystem::temp_directory_path()) /
               "quantctl-test-XXXXXX")
                  .string()) {
    if (mkdtemp(path_.data()) == nullptr) path_.clear();
  }
  ~TemporaryDirectory() {
    std::error_code ignored;
    if (!path_.empty()) std::filesystem::remove_all(path_, ignored);
  }
  TemporaryDirectory(const TemporaryDirectory&) = delete;
  TemporaryDirectory& operator=(const TemporaryDirectory&) = delete;

  std::string operator/(const std::string& name) const {
    return path_ + "/" + name;
  }
  const std::string& path() const { return path_; }

  // Every name in it, hidden ones too, sorted by the caller if need be.
  std::vector<std::string> Names() const {
    std::vector<std::string> names;
    for (const auto& entry : std::filesystem::directory_iterator(path_)) {
      names.push_back(entry.path().filename().string());
    }
    return names;
  }

 private:
  std::string path_;
};

inline void WriteAll(const std::string& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

inline std::string ReadAll(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(in), {}};
}

}  // namespace qs::cli

#endif  // QS_TESTS_CLI_TEMPORARY_DIRECTORY_H_
