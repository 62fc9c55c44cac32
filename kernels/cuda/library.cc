// Tested by tests/kernels/cuda_blas_test.cc.
#include "kernels/cuda/library.h"

#include <dlfcn.h>

#include "absl/strings/str_join.h"

namespace qs::cuda {

absl::StatusOr<Library> Library::Open(const std::string& name,
                                      const std::vector<std::string>& paths) {
  std::vector<std::string> reasons;
  for (const std::string& path : paths) {
    if (void* handle = dlopen(path.c_str(), RTLD_NOW | RTLD_LOCAL)) {
      return Library(name, handle);
    }
    const char* const reason = dlerror();
    reasons.push_back(reason == nullptr ? path : reason);
  }
  return absl::UnavailableError(
      absl::StrCat(name, " not found: ", absl::StrJoin(reasons, "; ")));
}

void* Library::Symbol(const char* function) const {
  return dlsym(handle_, function);
}

std::vector<std::string> LibraryPaths(const std::string& file,
                                      const std::string& directory) {
  std::vector<std::string> paths;
  if (!directory.empty()) paths.push_back(absl::StrCat(directory, "/", file));
  paths.push_back(file);
  paths.push_back(absl::StrCat("/usr/local/cuda/lib64/", file));
  return paths;
}

}  // namespace qs::cuda
