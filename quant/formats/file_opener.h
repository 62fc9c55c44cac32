// FileOpener: how files that are read are opened — by their path alone, or only
// where they may lie. Whoever opens the files of a checkpoint or a calibration
// by name does it here, each time, so that what is read is what was allowed,
// whatever is renamed meanwhile.
#ifndef QS_QUANT_FORMATS_FILE_OPENER_H_
#define QS_QUANT_FORMATS_FILE_OPENER_H_

#include <sys/stat.h>

#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/posix_file.h"

namespace qs {

// Thread: thread-safe.
class FileOpener {
 public:
  virtual ~FileOpener() = default;
  // `flags` as of open(2): to read, or O_PATH; O_CLOEXEC is added. Links are
  // followed as far as the opener allows. Errors: as PosixError; the opener's.
  virtual absl::StatusOr<UniqueFd> Open(const std::string& path,
                                        int flags) const = 0;
};

// A path and who may open it, and what lies below it. Null: anybody.
struct InputPath {
  std::string path;
  std::shared_ptr<const FileOpener> opener;
};

// As `opener` does; null: any path, and all links are followed. Errors: as
// PosixError; the opener's.
absl::StatusOr<UniqueFd> OpenFile(const std::string& path, int flags,
                                  const FileOpener* opener);

// Of what links lead to. Errors: as OpenFile.
absl::StatusOr<struct stat> StatFile(const std::string& path,
                                     const FileOpener* opener);

struct FolderEntry {
  std::string name;
  bool is_link = false;
  // Of what the link leads to, which may be anything; its error when it cannot
  // be opened.
  absl::StatusOr<struct stat> info;

  bool is_file() const { return info.ok() && S_ISREG(info->st_mode); }
  bool is_folder() const { return info.ok() && S_ISDIR(info->st_mode); }
};

// Calls `visit` for what is in a directory, "." and ".." left out, in no order,
// until it says no. What is removed meanwhile is left out. Errors: as OpenFile;
// those of `visit`.
absl::Status VisitFolder(
    const std::string& path, const FileOpener* opener,
    const std::function<absl::Status(const FolderEntry&)>& visit);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_FILE_OPENER_H_
