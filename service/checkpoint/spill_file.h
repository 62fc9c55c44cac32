// SpillFile: where the packed tensors of one output shard wait, in the order in
// which they arrive, until all are there and the shard can be written in the
// order of its format. It has no name, so nothing of it is left behind.
#ifndef QS_SERVICE_CHECKPOINT_SPILL_FILE_H_
#define QS_SERVICE_CHECKPOINT_SPILL_FILE_H_

#include <atomic>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "quant/formats/posix_file.h"

namespace qs {

// A packed tensor in a spill file, or still in memory.
struct SpilledTensor {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  int64_t offset = 0;
  int64_t bytes = 0;
  std::shared_ptr<const Buffer> held{};  // all of it; null: in the file
};

// Thread: thread-safe but for Map.
class SpillFile {
 public:
  // Errors: kOutput.
  static absl::StatusOr<std::unique_ptr<SpillFile>> Create(
      const std::string& directory);
  ~SpillFile();
  SpillFile(const SpillFile&) = delete;
  SpillFile& operator=(const SpillFile&) = delete;

  // Where `bytes` of nobody else may be written.
  int64_t Reserve(int64_t bytes) { return size_.fetch_add(bytes); }
  // Errors: kOutput.
  absl::Status Write(int64_t offset, std::span<const uint8_t> data) const;
  // Everything, once it was written; lives as long as this. Errors: kOutput.
  absl::StatusOr<std::span<const uint8_t>> Map();

 private:
  SpillFile(UniqueFd fd, const std::string& directory)
      : fd_(std::move(fd)), directory_(directory) {}
  absl::Status Failed(int error, const std::string& what) const;

  UniqueFd fd_;
  const std::string directory_;
  std::atomic<int64_t> size_ = 0;
  void* mapping_ = nullptr;
  size_t mapped_bytes_ = 0;
};

// What arrived for one output shard.
struct ArrivedShard {
  std::unique_ptr<SpillFile> spill;    // null when nothing was to come
  std::vector<SpilledTensor> outputs;  // in the order of completion
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_SPILL_FILE_H_
