// CheckpointWriter: the files of the output checkpoint, which mirror those of
// the input.
#ifndef QS_SERVICE_CHECKPOINT_CHECKPOINT_WRITER_H_
#define QS_SERVICE_CHECKPOINT_CHECKPOINT_WRITER_H_

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/shard_source.h"
#include "service/checkpoint/spill_file.h"

namespace qs {

// Thread: one caller at a time. Errors: kOutput; kInput — a file changed
// while it was read; kUnexpected — the plan leaves a file out, or DATA_LOSS of
// the source.
class CheckpointWriter {
 public:
  // `replaced`: tensors that the plan carries and that arrive changed.
  // `file_name`: of a single file, empty for a directory. `source` and `plan`
  // outlive it.
  CheckpointWriter(const ShardSource& source, const PlanAnswer& plan,
                   const std::set<size_t>& replaced,
                   const std::string& directory, const std::string& file_name);

  // The shard's carried tensors, byte for byte, and what arrived for it.
  absl::Status WriteShard(int shard, ArrivedShard arrived);
  // A shard that was written before, by a writer for the same plan. Errors:
  // kOutput — it is not there, or no longer whole.
  absl::Status AdoptShard(int shard);
  // Index, config.json and side files; after the last shard.
  absl::Status WriteRest() const;

  int64_t data_bytes() const { return data_bytes_; }

 private:
  std::map<std::string, std::string> MetadataOf(int shard) const;
  std::string NameOf(int shard) const;
  absl::Status Count(const std::string& tensor, int64_t bytes,
                     const std::string& file);
  absl::Status WriteSideFiles() const;
  // Their places in the source, by name.
  std::map<std::string, size_t> Carried(int shard) const;

  const ShardSource& source_;
  const PlanAnswer& plan_;
  const std::set<size_t> replaced_;
  const std::string directory_;
  const std::string file_name_;
  std::map<std::string, std::string> weight_map_;  // tensor to shard name
  int64_t data_bytes_ = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_CHECKPOINT_WRITER_H_
