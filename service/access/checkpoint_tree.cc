// Tested by tests/service/uri_roots_test.cc.
#include <sys/stat.h>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/json.h"
#include "service/access/file_uri.h"
#include "service/access/uri_roots.h"
#include "service/server/error.h"

namespace qs {
namespace {

// As deep as Checkpoint looks; what lies deeper is not read.
constexpr int kMaxDepth = 4;  // of folders below the checkpoint's
// Checkpoint's own limit of side files, and as many shards.
constexpr int kMaxEntries = 20'000;

class TreeCheck {
 public:
  TreeCheck(const InputPath& source, const std::string& field)
      : source_(source), field_(field) {}

  // `below` is "" or begins with "/".
  absl::Status Visit(const std::string& below, int depth) {
    return VisitFolder(source_.path + below, source_.opener.get(),
                       [&](const FolderEntry& entry) {
                         return VisitEntry(entry, below + "/" + entry.name,
                                           depth);
                       });
  }

 private:
  absl::Status VisitEntry(const FolderEntry& entry, const std::string& path,
                          int depth) {
    if (++entries_ > kMaxEntries) {
      return RpcError(absl::StatusCode::kInvalidArgument, "BAD_CHECKPOINT",
                      absl::StrCat(field_, ": got more entries than allowed: ",
                                   kMaxEntries));
    }
    QS_RETURN_IF_ERROR(entry.info.status());
    if (entry.is_file()) return absl::OkStatus();
    if (!entry.is_folder()) {
      return UriNotAllowed(
          field_, absl::StrCat(QuoteForError(path.substr(1)),
                               ", which is a device, a pipe or a socket; "
                               "allowed: regular files and directories"));
    }
    // Behind a link Checkpoint does not look.
    if (entry.is_link || depth >= kMaxDepth) return absl::OkStatus();
    return Visit(path, depth + 1);
  }

  const InputPath& source_;
  const std::string& field_;
  int entries_ = 0;
};

}  // namespace

absl::Status CheckCheckpointTree(const InputPath& source,
                                 const std::string& field) {
  QS_ASSIGN_OR_RETURN(const struct stat info,
                      StatFile(source.path, source.opener.get()));
  if (S_ISREG(info.st_mode)) return absl::OkStatus();
  if (S_ISDIR(info.st_mode)) return TreeCheck(source, field).Visit("", 0);
  return UriNotAllowed(field, "a device, a pipe or a socket");
}

}  // namespace qs
