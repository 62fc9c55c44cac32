// Tested by tests/formats/checkpoint_test.cc.
#include "quant/formats/checkpoint_files.h"

#include <algorithm>
#include <filesystem>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

constexpr int kMaxDepth = 4;
constexpr size_t kMaxSideFiles = 10000;

absl::Status ListError(const std::error_code& error, const std::string& path) {
  return PosixError(error.value(), "list", path);
}

// Null for a file, and for a directory to look into.
const char* WhyNotRead(const fs::directory_entry& entry, int depth) {
  std::error_code ignored;
  if (entry.is_directory(ignored)) {
    if (entry.is_symlink(ignored)) {
      return "a link to a directory, which is not followed";
    }
    return depth >= kMaxDepth ? "a directory too deep to look into" : nullptr;
  }
  if (entry.is_regular_file(ignored)) return nullptr;
  return entry.is_symlink(ignored) && !entry.exists(ignored)
             ? "a link to nothing"
             : "a device, a pipe or a socket";
}

class SideFileWalk {
 public:
  SideFileWalk(const std::string& root, const std::set<std::string>& taken)
      : root_(root), taken_(taken) {}

  // `below` is "" or ends in "/".
  absl::Status Visit(const std::string& below, int depth) {
    std::error_code error;
    fs::directory_iterator it(root_ + "/" + below, error);
    for (; !error && it != fs::directory_iterator(); it.increment(error)) {
      QS_RETURN_IF_ERROR(VisitEntry(*it, below, depth));
    }
    return error ? ListError(error, root_ + "/" + below) : absl::OkStatus();
  }

  std::vector<CheckpointSideFile> TakeFiles() { return Sorted(&files_); }
  std::vector<CheckpointLeftOut> TakeLeftOut() { return Sorted(&left_out_); }

 private:
  absl::Status VisitEntry(const fs::directory_entry& entry,
                          const std::string& below, int depth) {
    const std::string path = below + entry.path().filename().string();
    std::error_code ignored;  // of a dangling link
    if (taken_.contains(path)) return absl::OkStatus();
    if (files_.size() + left_out_.size() >= kMaxSideFiles) {
      return absl::InvalidArgumentError(
          absl::StrCat("directory ", QuoteForError(root_),
                       ": got more files than allowed: ", kMaxSideFiles));
    }
    const char* reason = WhyNotRead(entry, depth);
    if (reason != nullptr) {
      left_out_.push_back({path, reason});
      return absl::OkStatus();
    }
    if (entry.is_directory(ignored)) return Visit(path + "/", depth + 1);
    std::error_code error;
    const auto size = static_cast<int64_t>(entry.file_size(error));
    if (error) return ListError(error, root_ + "/" + path);
    files_.push_back({path, size});
    return absl::OkStatus();
  }

  template <typename Item>
  static std::vector<Item> Sorted(std::vector<Item>* items) {
    std::sort(items->begin(), items->end(),
              [](const Item& a, const Item& b) { return a.path < b.path; });
    return std::move(*items);
  }

  const std::string root_;
  const std::set<std::string>& taken_;
  std::vector<CheckpointSideFile> files_;
  std::vector<CheckpointLeftOut> left_out_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> ListSafetensors(
    const std::string& directory) {
  std::vector<std::string> names;
  std::error_code error;
  fs::directory_iterator it(directory, error);
  for (; !error && it != fs::directory_iterator(); it.increment(error)) {
    std::error_code ignored;
    const std::string name = it->path().filename().string();
    if (name.ends_with(".safetensors") && it->is_regular_file(ignored)) {
      names.push_back(name);
    }
  }
  if (error) return ListError(error, directory);
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<CheckpointSideFile>> ListSideFiles(
    const std::string& directory, const std::set<std::string>& taken,
    std::vector<CheckpointLeftOut>* left_out) {
  SideFileWalk walk(directory, taken);
  QS_RETURN_IF_ERROR(walk.Visit("", 1));
  *left_out = walk.TakeLeftOut();
  return walk.TakeFiles();
}

}  // namespace qs
