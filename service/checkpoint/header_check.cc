// Tested by tests/service/checkpoint_run_test.cc.
#include "service/checkpoint/header_check.h"

#include <cstddef>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/fault.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// ,"":{"dtype":"U8","shape":[],"data_offsets":[0,1]}
constexpr int64_t kLeastEntryBytes = 50;
// With a shape and places of a large file.
constexpr int64_t kMostEntryBytes = 130;

// The tensors of a packed weight, and by how much all their names together are
// longer than as many times the weight's.
struct Outputs {
  int64_t count;
  int64_t suffix_bytes;
};

constexpr Outputs kMostOutputs = {19, 72};  // HQQ_STATE_DICT

Outputs LeastOutputs(v1::OutputFormat format) {
  switch (format) {
    case v1::BITSANDBYTES:
      return {4, 47};
    case v1::COMPRESSED_TENSORS:
      return {3, 19};
    case v1::GPTQ_V1:
    case v1::GPTQ_V2:
      return {4, 0};
    case v1::AWQ_GEMM:
      return {3, 1};
    case v1::HQQ_STATE_DICT:
      return kMostOutputs;
    default:
      return {1, 0};
  }
}

int64_t LeastBytes(const v1::PlanEntry& entry, v1::OutputFormat format) {
  const auto name = static_cast<int64_t>(entry.name().size());
  switch (entry.action()) {
    case v1::PlanEntry::QUANTIZE: {
      const Outputs outputs = LeastOutputs(format);
      return outputs.count * (name + kLeastEntryBytes) + outputs.suffix_bytes;
    }
    case v1::PlanEntry::CARRY:
      return name + kLeastEntryBytes;
    default:
      return 0;
  }
}

}  // namespace

int64_t MostHeaderBytes(const std::string& name) {
  return kMostOutputs.count *
             (static_cast<int64_t>(name.size()) + kMostEntryBytes) +
         kMostOutputs.suffix_bytes;
}

absl::Status CheckHeaders(const ShardSource& source, const PlanAnswer& plan) {
  const v1::OutputFormat format = plan.summary.resolved().format();
  std::vector<int64_t> bytes(static_cast<size_t>(source.shards()));
  std::vector<int64_t> tensors(bytes.size());
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const int64_t least = LeastBytes(plan.entries[i], format);
    const auto shard = static_cast<size_t>(source.tensors()[i].shard);
    bytes[shard] += least;
    tensors[shard] += least > 0 ? 1 : 0;
  }
  for (size_t s = 0; s < bytes.size(); ++s) {
    if (bytes[s] <= kMaxHeaderBytes) continue;
    return InputFault(absl::InvalidArgumentError(
        absl::StrCat(source.shard_name(static_cast<int>(s)), ": got ",
                     tensors[s], " tensors, which become a header of at least ",
                     bytes[s], " bytes, allowed ", kMaxHeaderBytes,
                     "; in more files they can be written")));
  }
  return absl::OkStatus();
}

}  // namespace qs
