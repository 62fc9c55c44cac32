// UriRoots: which places of the file system a URI of a client may name.
//
// A root is a directory that the operator gave: below a read root clients may
// name what is read, below a write root what is made. A root is given as
//
//   /models          for every project
//   team-a=/data/a   for one project
//
// Read and write roots do not lie in each other, so that what a job writes is
// never what a job reads; only the very same path may be given as both.
//
// URIs are "file:///absolute/path". The part below the root is resolved by the
// kernel, from the root's own descriptor, over no link; what is read, if the
// operator wishes so, over symbolic links that stay beneath the root, as those
// of a download cache do. Its files are opened by the opener that comes with
// its path, which resolves them anew beneath the same root each time, so that
// nothing else is read, whatever is swapped meanwhile.
//
// Thread: thread-safe. Everything but CheckUriRoots makes file calls: not in a
// reaction.
#ifndef QS_SERVICE_ACCESS_URI_ROOTS_H_
#define QS_SERVICE_ACCESS_URI_ROOTS_H_

#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/posix_file.h"
#include "service/access/open_beneath.h"

namespace qs {

// Looks at the texts alone: PATH or PROJECT=PATH, absolute and plain, no read
// root in a write root or the other way round. Errors: INVALID_ARGUMENT
// "read-root: got, allowed".
absl::Status CheckUriRoots(const std::vector<std::string>& read_roots,
                           const std::vector<std::string>& write_roots);

class UriRoots {
 public:
  // No roots: every URI is refused.
  UriRoots() = default;
  // Opens the directories; links in the operator's own paths are followed
  // here, once. Errors: CheckUriRoots's, also for the places that the paths
  // lead to; as PosixError; UNIMPLEMENTED — the kernel has no openat2 (Linux
  // 5.6 has).
  static absl::StatusOr<UriRoots> Open(
      const std::vector<std::string>& read_roots,
      const std::vector<std::string>& write_roots,
      Links read_links = Links::kRefused);

  // The absolute path of a regular file or a directory at or below a read root
  // of the project, and what opens it and all below it (RootedOpener; it holds
  // the root, and may outlive this). `field` is the URI's place in the request.
  // Errors: INVALID_ARGUMENT BAD_FIELD — no such URI, in itself;
  // PERMISSION_DENIED URI_NOT_ALLOWED — outside the roots, also by a link; or a
  // device, pipe or socket, or not the server's to look at; the place is not
  // repeated; NOT_FOUND SOURCE_NOT_FOUND.
  absl::StatusOr<InputPath> ResolveExisting(
      const std::string& project, const std::string& uri,
      const std::string& field = "uri") const;

  // The absolute path of something to be made below a write root: its parent
  // is there and may be written to, and what has that name already, if
  // anything, is a regular file or a directory. Errors: as ResolveExisting, but
  // NOT_FOUND DESTINATION_NOT_FOUND and PERMISSION_DENIED
  // DESTINATION_NOT_WRITABLE — of the parent.
  absl::StatusOr<std::string> ResolveNew(
      const std::string& project, const std::string& uri,
      const std::string& field = "uri") const;

  bool has_read_roots() const { return !read_.empty(); }
  bool has_write_roots() const { return !write_.empty(); }
  // Where the write roots lead to.
  std::vector<std::string> write_directories() const;

 private:
  struct Root {
    std::string project;  // empty: every project
    std::string path;     // as the operator wrote it, which URIs name
    std::string real;     // where it leads to
    std::shared_ptr<const UniqueFd> fd;  // O_PATH
  };

  static absl::StatusOr<std::vector<Root>> OpenRoots(
      const std::string& option, const std::vector<std::string>& texts);

  std::vector<Root> read_;
  std::vector<Root> write_;
  Links read_links_ = Links::kRefused;
};

// Whether everything that is read of a checkpoint — `source` itself, a file or
// a directory, and what lies in it down to the depth that Checkpoint looks at —
// is a regular file or a directory that `source` may open. It is what
// ResolveExisting returned for `field`. Says early and by name what the opener
// would refuse later. Errors: RootedOpener's; PERMISSION_DENIED
// URI_NOT_ALLOWED — a device, pipe or socket; INVALID_ARGUMENT BAD_CHECKPOINT —
// too many entries.
absl::Status CheckCheckpointTree(const InputPath& source,
                                 const std::string& field = "uri");

}  // namespace qs

#endif  // QS_SERVICE_ACCESS_URI_ROOTS_H_
