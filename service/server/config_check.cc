// Tested by tests/service/options_test.cc.
#include "service/server/config_check.h"

#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/access/file_access.h"
#include "service/access/uri_roots.h"
#include "service/server/tls.h"

namespace qs {
namespace {

namespace fs = std::filesystem;

absl::Status CheckWritable(const char* option, const fs::path& directory) {
  if (::access(directory.c_str(), W_OK | X_OK) == 0) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat(option, ": got the directory \"", directory.string(), "\" (",
                   std::strerror(errno), "), allowed one to write in"));
}

// It is made with those above it that are missing.
absl::Status CheckDataDir(const std::string& data_dir) {
  std::error_code error;
  fs::path path = fs::absolute(data_dir, error);
  while (!fs::exists(path, error) && path.has_relative_path()) {
    path = path.parent_path();
  }
  if (!fs::is_directory(path, error)) {
    return absl::InvalidArgumentError(
        absl::StrCat("data-dir: got \"", data_dir, "\", where ", path.string(),
                     " is a file, allowed a directory"));
  }
  return CheckWritable("data-dir", path);
}

// Those of --write-root are written in, too.
absl::Status CheckRoots(const ServerOptions& options) {
  QS_ASSIGN_OR_RETURN(
      const UriRoots roots,
      UriRoots::Open(options.read_roots, options.write_roots,
                     options.follow_links ? Links::kBeneath : Links::kRefused));
  for (const std::string& directory : roots.write_directories()) {
    QS_RETURN_IF_ERROR(CheckWritable("write-root", directory));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckConfigFiles(const ServerOptions& options) {
  if (options.tls()) QS_RETURN_IF_ERROR(TlsFiles::Open(options).status());
  if (!options.access_file.empty()) {
    QS_RETURN_IF_ERROR(
        FileAccess::Open(options.access_file, !options.tls_client_ca.empty())
            .status());
  }
  if (!options.data_dir.empty()) {
    QS_RETURN_IF_ERROR(CheckDataDir(options.data_dir));
  }
  QS_RETURN_IF_ERROR(CheckRoots(options));
  if (options.port_file.empty()) return absl::OkStatus();
  QS_RETURN_IF_ERROR(CheckPortFile(options.port_file));
  std::error_code error;
  return CheckWritable("port-file",
                       fs::absolute(options.port_file, error).parent_path());
}

absl::Status CheckPortFile(const std::string& path) {
  std::error_code error;
  const fs::file_status there = fs::symlink_status(path, error);
  if (!fs::exists(there) || fs::is_regular_file(there)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(
      "port-file: got \"", path,
      "\", which is no regular file, allowed one or a name that is new"));
}

}  // namespace qs
