// BlobInput: the tensors of a run that lie in blobs, in the order of their
// names; and BlobShards: the shards of the checkpoint that they become.
#ifndef QS_SERVICE_RUN_BLOB_INPUT_H_
#define QS_SERVICE_RUN_BLOB_INPUT_H_

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "service/checkpoint/shard_source.h"
#include "service/run/run_input.h"

namespace qs {

// A blob is open from its first read until all of it was read, so that no more
// are open than tensors are worked on. Thread: thread-safe.
class BlobInput final : public RunInput {
 public:
  // `tensors`: sorted by name; sizes fit 64 bits. A shard ends where the next
  // tensor would bring it above `shard_bytes`, or what becomes of it, in any
  // format, above what a file's header may have. The store outlives it.
  BlobInput(BlobStore& store, const std::vector<RunTensor>& tensors,
            int64_t shard_bytes);

  const std::vector<PlannedTensor>& tensors() const override {
    return tensors_;
  }
  absl::Status Read(size_t tensor, int64_t offset,
                    std::span<uint8_t> data) override;
  absl::StatusOr<std::string> Identity() const override;
  int shards() const {
    return tensors_.empty() ? 0 : tensors_.back().shard + 1;
  }

 private:
  struct Blob {
    std::string digest;
    absl::Mutex mutex;  // a reader has one user at a time
    std::unique_ptr<BlobReader> reader ABSL_GUARDED_BY(mutex);  // or null
    int64_t read ABSL_GUARDED_BY(mutex) = 0;                    // bytes
  };
  absl::Status Open(size_t tensor, Blob& blob)
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(blob.mutex);

  BlobStore& store_;
  std::vector<PlannedTensor> tensors_;
  std::vector<std::unique_ptr<Blob>> blobs_;  // as tensors_
};

// "model-00001-of-0000N.safetensors", with an index. Thread: thread-safe.
class BlobShards final : public ShardSource {
 public:
  // `config_json` may be empty. Both outlive it.
  BlobShards(BlobInput& input, const std::string& config_json)
      : input_(input), config_json_(config_json) {}

  const std::vector<PlannedTensor>& tensors() const override {
    return input_.tensors();
  }
  int shards() const override { return input_.shards(); }
  std::string shard_name(int shard) const override;
  std::map<std::string, std::string> metadata(int) const override { return {}; }
  absl::Status Copy(size_t tensor, const AppendBytes& append) const override;
  // Blobs have their digest or cannot be read.
  absl::Status CheckUnchanged(int) const override { return absl::OkStatus(); }

  bool is_directory() const override { return true; }
  bool has_index() const override { return true; }
  const std::string& config_json() const override { return config_json_; }
  bool makes_config() const override { return true; }
  const std::vector<CheckpointSideFile>& side_files() const override {
    return no_files_;
  }
  absl::StatusOr<UniqueFd> OpenSideFile(
      const CheckpointSideFile& file) const override;

 private:
  BlobInput& input_;
  const std::string& config_json_;
  const std::vector<CheckpointSideFile> no_files_;
};

}  // namespace qs

#endif  // QS_SERVICE_RUN_BLOB_INPUT_H_
