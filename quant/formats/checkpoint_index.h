// model.safetensors.index.json: which shard holds which tensor.
#ifndef QS_QUANT_FORMATS_CHECKPOINT_INDEX_H_
#define QS_QUANT_FORMATS_CHECKPOINT_INDEX_H_

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/formats/safetensors.h"

namespace qs {

// Tensor name -> shard name. A shard name is a plain file name that ends in
// ".safetensors". Errors: INVALID_ARGUMENT — where, got, allowed.
absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(
    std::string_view text);

// Errors: INVALID_ARGUMENT — a tensor that only one of both knows, that is in
// another shard than the index says, or in two shards. `names[i]` is the name
// of `shards[i]`.
absl::Status CheckIndexAgrees(const std::map<std::string, std::string>& index,
                              const std::vector<SafetensorsFile>& shards,
                              const std::vector<std::string>& names);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_CHECKPOINT_INDEX_H_
