// Tested by tests/formats/checkpoint_test.cc.
#include "quant/formats/checkpoint_files.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/json.h"
#include "quant/formats/utf8.h"

namespace qs {
namespace {

constexpr int kMaxDepth = 4;  // of folders below the checkpoint's
constexpr size_t kMaxSideFiles = 10000;

// That a link leads to nothing or in a circle makes it no file; that it may not
// be followed is an error.
absl::Status CheckFollowed(const FolderEntry& entry) {
  const absl::Status& status = entry.info.status();
  return absl::IsNotFound(status) || absl::IsInvalidArgument(status)
             ? absl::OkStatus()
             : status;
}

std::string FolderText(const std::string& path) {
  return absl::StrCat("directory ", QuoteForError(path));
}

// Null for a file, and for a directory to look into.
const char* WhyNotRead(const FolderEntry& entry, int depth) {
  if (entry.is_file()) return nullptr;
  if (!entry.info.ok()) return "a link to nothing";
  if (!entry.is_folder()) return "a device, a pipe or a socket";
  if (entry.is_link) return "a link to a directory, which is not followed";
  return depth >= kMaxDepth ? "a directory too deep to look into" : nullptr;
}

class SideFileWalk {
 public:
  SideFileWalk(const std::string& root, const std::set<std::string>& taken,
               const FileOpener* opener)
      : root_(root), taken_(taken), opener_(opener) {}

  // `below` is "" or begins with "/".
  absl::Status Visit(const std::string& below, int depth) {
    return VisitFolder(root_ + below, opener_, [&](const FolderEntry& entry) {
      return VisitEntry(entry, below, depth);
    });
  }

  std::vector<CheckpointSideFile> TakeFiles() { return Sorted(&files_); }
  std::vector<CheckpointLeftOut> TakeLeftOut() { return Sorted(&left_out_); }

 private:
  absl::Status VisitEntry(const FolderEntry& entry, const std::string& below,
                          int depth) {
    const std::string path = (below + "/" + entry.name).substr(1);
    if (taken_.contains(path)) return absl::OkStatus();
    if (files_.size() + left_out_.size() >= kMaxSideFiles) {
      return absl::InvalidArgumentError(absl::StrCat(
          FolderText(root_), ": got more files than allowed: ", kMaxSideFiles));
    }
    QS_RETURN_IF_ERROR(CheckFileName(path, FolderText(root_)));
    QS_RETURN_IF_ERROR(CheckFollowed(entry));
    const char* reason = WhyNotRead(entry, depth);
    if (reason != nullptr) {
      left_out_.push_back({path, reason});
      return absl::OkStatus();
    }
    if (entry.is_folder()) return Visit("/" + path, depth + 1);
    files_.push_back({path, static_cast<int64_t>(entry.info->st_size)});
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
  const FileOpener* const opener_;
  std::vector<CheckpointSideFile> files_;
  std::vector<CheckpointLeftOut> left_out_;
};

}  // namespace

absl::Status CheckFileName(const std::string& name, const std::string& what) {
  if (IsUtf8(name)) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(what, ": got the file name ", QuoteForError(name),
                   ", allowed: names in UTF-8; rename the file"));
}

absl::StatusOr<std::vector<std::string>> ListSafetensors(
    const std::string& directory, const FileOpener* opener) {
  std::vector<std::string> names;
  const auto visit = [&](const FolderEntry& entry) -> absl::Status {
    if (!entry.name.ends_with(".safetensors")) return absl::OkStatus();
    QS_RETURN_IF_ERROR(CheckFileName(entry.name, FolderText(directory)));
    if (entry.is_file()) names.push_back(entry.name);
    return CheckFollowed(entry);
  };
  QS_RETURN_IF_ERROR(VisitFolder(directory, opener, visit));
  std::sort(names.begin(), names.end());
  return names;
}

absl::StatusOr<std::vector<CheckpointSideFile>> ListSideFiles(
    const std::string& directory, const std::set<std::string>& taken,
    const FileOpener* opener, std::vector<CheckpointLeftOut>* left_out) {
  SideFileWalk walk(directory, taken, opener);
  QS_RETURN_IF_ERROR(walk.Visit("", 0));
  *left_out = walk.TakeLeftOut();
  return walk.TakeFiles();
}

}  // namespace qs
