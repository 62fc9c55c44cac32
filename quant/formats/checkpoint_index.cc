// Tested by tests/formats/checkpoint_test.cc and
// tests/fuzz/safetensors_fuzz.cc.
#include "quant/formats/checkpoint_index.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint.h"
#include "quant/formats/json.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kWhat[] = "model.safetensors.index.json";

absl::Status Invalid(const std::string& where, const std::string& got,
                     const std::string& allowed) {
  return absl::InvalidArgumentError(
      absl::StrCat(kWhat, ": ", where, ": got ", got, ", allowed: ", allowed));
}

bool IsShardName(std::string_view name) {
  return name.ends_with(".safetensors") && name[0] != '.' &&
         name.find('/') == name.npos && name.find('\0') == name.npos;
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> ParseSafetensorsIndex(
    std::string_view text) {
  QS_ASSIGN_OR_RETURN(const Json json, ParseJsonObject(text, kWhat));
  const auto found = json.find("weight_map");
  if (found == json.end() || !found->is_object()) {
    return Invalid("weight_map",
                   found == json.end() ? "nothing" : JsonForError(*found),
                   "an object");
  }
  std::map<std::string, std::string> index;
  for (const auto& [tensor, shard] : found->get_ref<const Json::object_t&>()) {
    if (!shard.is_string() ||
        !IsShardName(shard.get_ref<const std::string&>())) {
      return Invalid(absl::StrCat("weight_map[", QuoteForError(tensor), "]"),
                     JsonForError(shard),
                     "the name of a .safetensors file beside the index");
    }
    index.emplace(tensor, shard.get_ref<const std::string&>());
  }
  return index;
}

absl::Status CheckIndexAgrees(const std::map<std::string, std::string>& index,
                              const std::vector<SafetensorsFile>& shards,
                              const std::vector<std::string>& names) {
  std::map<std::string_view, size_t> shard_of;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const SafetensorsEntry& entry : shards[i].header().tensors) {
      const auto [at, added] = shard_of.emplace(entry.name, i);
      if (!added) {
        return Invalid("tensor " + QuoteForError(entry.name),
                       absl::StrCat(QuoteForError(names[at->second]), " and ",
                                    QuoteForError(names[i])),
                       "one file");
      }
      if (!index.contains(entry.name)) {
        return Invalid("weight_map",
                       absl::StrCat("no ", QuoteForError(entry.name)),
                       "every tensor of " + QuoteForError(names[i]));
      }
    }
  }
  for (const auto& [tensor, shard] : index) {
    const auto found = shard_of.find(tensor);
    if (found == shard_of.end() || names[found->second] != shard) {
      return Invalid(absl::StrCat("weight_map[", QuoteForError(tensor), "]"),
                     QuoteForError(shard),
                     found == shard_of.end()
                         ? "a file that holds the tensor; none does"
                         : QuoteForError(names[found->second]));
    }
  }
  return absl::OkStatus();
}

std::string SafetensorsIndexJson(
    const std::map<std::string, std::string>& weight_map, int64_t total_size) {
  Json names = Json::object();
  std::vector<Json::object_t::value_type>& members =
      names.get_ref<Json::object_t&>();
  for (const auto& [tensor, shard] : weight_map) {
    members.emplace_back(tensor, shard);
  }
  Json json;
  json["metadata"]["total_size"] = total_size;
  json["weight_map"] = std::move(names);
  return json.dump(2, ' ', true, Json::error_handler_t::replace) + "\n";
}

}  // namespace qs
