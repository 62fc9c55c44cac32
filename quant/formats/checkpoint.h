// Checkpoint: a directory (or a single file) of safetensors shards with its
// config.json and side files, opened for reading; and the writing of one whose
// shards mirror the input's.
#ifndef QS_QUANT_FORMATS_CHECKPOINT_H_
#define QS_QUANT_FORMATS_CHECKPOINT_H_

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/safetensors.h"

namespace qs {

struct CheckpointTensor {
  SafetensorsEntry entry;
  int shard = 0;  // index into Checkpoint::shards()
};

struct CheckpointSideFile {
  std::string path;  // relative
  int64_t size_bytes = 0;
};

// What a directory holds beside files that can be read.
struct CheckpointLeftOut {
  std::string path;    // relative
  std::string reason;  // "a link to a directory, which is not followed"
};

class Checkpoint {
 public:
  // A directory: shards named by model.safetensors.index.json (which must agree
  // with the files in both directions), or model.safetensors, or the only
  // *.safetensors there. A single .safetensors file is a checkpoint without
  // config. Files reached through symbolic links are read like files.
  // Errors: NOT_FOUND — no weights; INVALID_ARGUMENT — malformed file or index,
  // a tensor in two shards, config.json that is no JSON object; `opener`'s,
  // which opens all files. Null: any.
  static absl::StatusOr<Checkpoint> Open(
      const std::string& path,
      std::shared_ptr<const FileOpener> opener = nullptr);

  const std::string& path() const { return path_; }
  // For who opens files of it again; may be null.
  const std::shared_ptr<const FileOpener>& opener() const { return opener_; }
  bool is_directory() const { return is_directory_; }
  const std::vector<SafetensorsFile>& shards() const { return shards_; }
  // Relative path of a shard ("model-00001-of-00002.safetensors").
  const std::string& shard_name(int i) const { return shard_names_[i]; }
  // In shard order, then in file order.
  const std::vector<CheckpointTensor>& tensors() const { return tensors_; }
  const std::string& config_json() const { return config_json_; }  // or empty
  bool has_index() const { return has_index_; }
  // Every regular file that is not a shard, the index or config.json, also in
  // the first to fourth folder below `path` (a/b/c/d/file), sorted.
  const std::vector<CheckpointSideFile>& side_files() const {
    return side_files_;
  }
  // Links to directories or to nothing, the fifth folder below `path`, devices
  // and pipes; sorted. With the above, everything in the directory is named.
  const std::vector<CheckpointLeftOut>& left_out() const { return left_out_; }

 private:
  std::string path_;
  std::shared_ptr<const FileOpener> opener_;
  bool is_directory_ = false;
  bool has_index_ = false;
  std::vector<SafetensorsFile> shards_;
  std::vector<std::string> shard_names_;
  std::vector<CheckpointTensor> tensors_;
  std::string config_json_;
  std::vector<CheckpointSideFile> side_files_;
  std::vector<CheckpointLeftOut> left_out_;
};

// model.safetensors.index.json for the given tensor -> shard name map, as
// transformers writes it (sorted keys, two spaces, total_size).
std::string SafetensorsIndexJson(
    const std::map<std::string, std::string>& weight_map, int64_t total_size);

// config.json with `quantization_config` replaced or added (last key), two
// spaces, key order kept, and NaN and Infinity as Python writes them.
// INVALID_ARGUMENT when not a JSON object.
absl::StatusOr<std::string> WithQuantizationConfig(
    std::string_view config_json, std::string_view quantization_config_json);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_CHECKPOINT_H_
