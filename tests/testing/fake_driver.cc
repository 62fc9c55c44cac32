// The NVIDIA driver as an old machine has it: libcuda.so.1 of CUDA 11.8, which
// tells its version and does nothing else. For cuda_old_driver_test.
#include <cstdint>
#include <cstring>

namespace {

enum : int { kSuccess = 0, kNotFound = 500 };

}  // namespace

extern "C" {

int cuInit(unsigned) { return kSuccess; }
int cuDriverGetVersion(int* version) {
  *version = 11080;
  return kSuccess;
}
int cuGetProcAddress_v2(const char* name, void** function, int, uint64_t,
                        void*) {
  *function = nullptr;
  if (std::strcmp(name, "cuInit") == 0) {
    *function = reinterpret_cast<void*>(cuInit);
  } else if (std::strcmp(name, "cuDriverGetVersion") == 0) {
    *function = reinterpret_cast<void*>(cuDriverGetVersion);
  } else if (std::strcmp(name, "cuGetProcAddress") == 0) {
    *function = reinterpret_cast<void*>(cuGetProcAddress_v2);
  }
  return *function != nullptr ? kSuccess : kNotFound;
}
int cuGetProcAddress(const char* name, void** function, int version,
                     uint64_t flags) {
  return cuGetProcAddress_v2(name, function, version, flags, nullptr);
}

}  // extern "C"
