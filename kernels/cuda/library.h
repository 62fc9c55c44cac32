// A library that is loaded when a device is first used, so that one binary
// starts with and without it. It stays loaded.
// Thread-safe.
#ifndef QS_KERNELS_CUDA_LIBRARY_H_
#define QS_KERNELS_CUDA_LIBRARY_H_

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace qs::cuda {

class Library {
 public:
  // The first of `paths` that can be loaded. `name` is for messages.
  // Errors: UNAVAILABLE — why each of them could not.
  static absl::StatusOr<Library> Open(const std::string& name,
                                      const std::vector<std::string>& paths);

  // Errors: UNAVAILABLE — the library has no such function.
  template <class Function>
  absl::Status Find(const char* function, Function* found) const {
    void* const symbol = Symbol(function);
    if (symbol == nullptr) {
      return absl::UnavailableError(absl::StrCat(name_, " lacks ", function));
    }
    *found = reinterpret_cast<Function>(symbol);
    return absl::OkStatus();
  }

 private:
  Library(std::string name, void* handle)
      : name_(std::move(name)), handle_(handle) {}
  void* Symbol(const char* function) const;

  std::string name_;
  void* handle_;
};

// Where a library of CUDA's is looked for, in this order: `directory` if not
// empty, the loader's own search, the usual place of a toolkit.
std::vector<std::string> LibraryPaths(const std::string& file,
                                      const std::string& directory);

// For arguments that the library `name` takes as 32-bit integers.
inline absl::Status CheckSizes(const char* name,
                               std::initializer_list<int64_t> sizes) {
  for (int64_t size : sizes) {
    if (size >= 0 && size <= std::numeric_limits<int>::max()) continue;
    return absl::InvalidArgumentError(
        absl::StrCat(name, ": size ", size, ", allowed 0 to ",
                     std::numeric_limits<int>::max()));
  }
  return absl::OkStatus();
}

}  // namespace qs::cuda

#endif  // QS_KERNELS_CUDA_LIBRARY_H_
