// ShardSource: what the writer of a checkpoint must know of its input — which
// shards there are, and the bytes of the tensors that stay as they are.
#ifndef QS_SERVICE_CHECKPOINT_SHARD_SOURCE_H_
#define QS_SERVICE_CHECKPOINT_SHARD_SOURCE_H_

#include <cstddef>
#include <map>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/planned_checkpoint.h"

namespace qs {

// Thread: thread-safe.
class ShardSource {
 public:
  virtual ~ShardSource() = default;

  // As the plan's entries.
  virtual const std::vector<PlannedTensor>& tensors() const = 0;
  virtual int shards() const = 0;
  // Of the file in the output; and what metadata it has.
  virtual std::string shard_name(int shard) const = 0;
  virtual std::map<std::string, std::string> metadata(int shard) const = 0;
  // All bytes of a tensor, in pieces. Blocks. Errors: kInput; kUnexpected with
  // DATA_LOSS; those of `append`.
  virtual absl::Status Copy(size_t tensor, const AppendBytes& append) const = 0;
  // After the shard was copied. Errors: kInput — it changed meanwhile.
  virtual absl::Status CheckUnchanged(int shard) const = 0;

  // False: one file and nothing beside it.
  virtual bool is_directory() const = 0;
  virtual bool has_index() const = 0;
  virtual const std::string& config_json() const = 0;  // or empty
  // Whether a directory without config.json gets one with the quantization
  // alone.
  virtual bool makes_config() const = 0;
  // Other files.
  virtual const std::vector<CheckpointSideFile>& side_files() const = 0;
  // For reading. Errors: kInput.
  virtual absl::StatusOr<UniqueFd> OpenSideFile(
      const CheckpointSideFile& file) const = 0;
};

// The shards of a checkpoint.
class CheckpointShards final : public ShardSource {
 public:
  // The checkpoint outlives it.
  explicit CheckpointShards(const PlannedCheckpoint& planned)
      : planned_(planned) {}

  const std::vector<PlannedTensor>& tensors() const override {
    return planned_.tensors();
  }
  int shards() const override {
    return static_cast<int>(planned_.shards().size());
  }
  std::string shard_name(int shard) const override {
    return planned_.files().shard_name(shard);
  }
  std::map<std::string, std::string> metadata(int shard) const override {
    return FileOf(shard).header().metadata;
  }
  absl::Status Copy(size_t tensor, const AppendBytes& append) const override {
    const PlannedTensor& planned = planned_.tensors()[tensor];
    return append(FileOf(planned.shard).Data(planned.entry));
  }
  absl::Status CheckUnchanged(int shard) const override;

  bool is_directory() const override { return planned_.files().is_directory(); }
  bool has_index() const override { return planned_.files().has_index(); }
  const std::string& config_json() const override {
    return planned_.files().config_json();
  }
  bool makes_config() const override { return false; }
  const std::vector<CheckpointSideFile>& side_files() const override {
    return planned_.files().side_files();
  }
  absl::StatusOr<UniqueFd> OpenSideFile(
      const CheckpointSideFile& file) const override;

 private:
  const SafetensorsFile& FileOf(int shard) const {
    return planned_.shards()[static_cast<size_t>(shard)];
  }

  const PlannedCheckpoint& planned_;
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_SHARD_SOURCE_H_
