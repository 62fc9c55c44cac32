// Tested by tests/cli/tensor_sink_test.cc.
#include "service/checkpoint/spill_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <utility>

#include "quant/formats/safetensors.h"
#include "service/checkpoint/fault.h"

namespace qs {

absl::StatusOr<std::unique_ptr<SpillFile>> SpillFile::Create(
    const std::string& directory) {
  std::string name = directory + "/.spill-XXXXXX";
  UniqueFd fd(mkostemp(name.data(), O_CLOEXEC));
  if (fd.get() < 0) return OutputFault(PosixError(errno, "create", name));
  if (unlink(name.c_str()) != 0) {
    return OutputFault(PosixError(errno, "unlink", name));
  }
  return std::unique_ptr<SpillFile>(new SpillFile(std::move(fd), directory));
}

SpillFile::~SpillFile() {
  if (mapping_ != nullptr) munmap(mapping_, mapped_bytes_);
}

absl::Status SpillFile::Failed(int error, const std::string& what) const {
  return OutputFault(
      PosixError(error, what + " a temporary file in", directory_));
}

absl::Status SpillFile::Write(int64_t offset,
                              std::span<const uint8_t> data) const {
  while (!data.empty()) {
    const ssize_t wrote = pwrite(fd_.get(), data.data(), data.size(), offset);
    if (wrote < 0 && errno == EINTR) continue;
    if (wrote <= 0) {
      return Failed(wrote < 0 ? errno : ENOSPC, "write");
    }
    data = data.subspan(static_cast<size_t>(wrote));
    offset += wrote;
  }
  return absl::OkStatus();
}

absl::StatusOr<std::span<const uint8_t>> SpillFile::Map() {
  const size_t bytes = static_cast<size_t>(size_.load());
  if (bytes == 0) return std::span<const uint8_t>();
  if (mapping_ == nullptr) {
    void* mapping = mmap(nullptr, bytes, PROT_READ, MAP_SHARED, fd_.get(), 0);
    if (mapping == MAP_FAILED) return Failed(errno, "map");
    mapping_ = mapping;
    mapped_bytes_ = bytes;
  }
  return std::span(static_cast<const uint8_t*>(mapping_), bytes);
}

}  // namespace qs
