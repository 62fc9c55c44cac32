// Tested by tests/service/checkpoint_run_test.cc.
#include "service/checkpoint/header_check.h"

#include <cstddef>
#include <map>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "quant/formats/safetensors.h"
#include "quant/plan/output_names.h"
#include "service/checkpoint/fault.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// ,:{"dtype":"U8","shape":[],"data_offsets":[0,1]}, beside the quoted name.
constexpr int64_t kLeastEntryBytes = 48;
// With a shape and places of a large file.
constexpr int64_t kMostEntryBytes = 128;

// Escapes included: a name of control characters is six times as long.
int64_t QuotedBytes(std::string_view text) {
  return static_cast<int64_t>(
      nlohmann::json(text)
          .dump(-1, ' ', false, nlohmann::json::error_handler_t::replace)
          .size());
}

// Of the tensors that a weight becomes, each with `entry_bytes` beside its
// name. No ending has anything to escape.
int64_t EntriesBytes(const OutputNames& names, const std::string& weight,
                     int64_t entry_bytes) {
  const int64_t each = QuotedBytes(names.StemOf(weight)) + entry_bytes;
  int64_t bytes = 0;
  for (const std::string_view ending : names.endings) {
    bytes += each + static_cast<int64_t>(ending.size());
  }
  return bytes;
}

int64_t LeastBytes(const v1::PlanEntry& entry,
                   std::span<const OutputNames> by_rule) {
  switch (entry.action()) {
    case v1::PlanEntry::QUANTIZE: {
      const auto rule = static_cast<size_t>(entry.rule());
      return EntriesBytes(by_rule[rule < by_rule.size() ? rule : 0],
                          entry.name(), kLeastEntryBytes);
    }
    case v1::PlanEntry::CARRY:
      return QuotedBytes(entry.name()) + kLeastEntryBytes;
    default:
      return 0;
  }
}

int64_t MetadataBytes(const std::map<std::string, std::string>& metadata) {
  int64_t bytes = 0;
  for (const auto& [key, value] : metadata) {
    bytes += QuotedBytes(key) + QuotedBytes(value) + 2;  // : and ,
  }
  return bytes;
}

}  // namespace

int64_t MostHeaderBytes(const std::string& name) {
  return EntriesBytes(MostOutputNames(), name, kMostEntryBytes);
}

absl::Status CheckHeaders(const ShardSource& source, const PlanAnswer& plan,
                          std::span<const QuantSpec> specs) {
  std::vector<OutputNames> by_rule;
  for (const QuantSpec& spec : specs) by_rule.push_back(OutputNamesOf(spec));
  std::vector<int64_t> bytes;
  for (int s = 0; s < source.shards(); ++s) {
    bytes.push_back(MetadataBytes(source.metadata(s)));
  }
  std::vector<int64_t> tensors(bytes.size());
  for (size_t i = 0; i < source.tensors().size(); ++i) {
    const int64_t least = LeastBytes(plan.entries[i], by_rule);
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
