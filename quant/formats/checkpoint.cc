// Tested by tests/formats/checkpoint_test.cc.
#include "quant/formats/checkpoint.h"

#include <sys/stat.h>

#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/checkpoint_files.h"
#include "quant/formats/checkpoint_index.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/json.h"
#include "quant/formats/posix_file.h"

namespace qs {
namespace {

using Json = nlohmann::ordered_json;

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";
constexpr char kConfigName[] = "config.json";
constexpr JsonLimits kConfigLimits = {.max_bytes = int64_t{4} << 20};
// Of what a plan adds to it: names of all linears that are not quantized.
constexpr JsonLimits kAddedLimits = {.max_bytes = int64_t{512} << 20};

// The shards of a directory, and what the index says when there is one.
struct ShardList {
  std::vector<std::string> names;
  bool has_index = false;
  std::map<std::string, std::string> index;
};

absl::StatusOr<ShardList> ListFromIndex(std::string_view text) {
  ShardList list;
  list.has_index = true;
  QS_ASSIGN_OR_RETURN(list.index, ParseSafetensorsIndex(text));
  if (list.index.empty()) {
    return absl::NotFoundError(absl::StrCat(
        kIndexName, ": got an empty weight_map, allowed: one tensor at least"));
  }
  std::set<std::string> names;
  for (const auto& [tensor, shard] : list.index) names.insert(shard);
  list.names.assign(names.begin(), names.end());
  return list;
}

absl::StatusOr<ShardList> ListShards(const std::string& directory,
                                     const FileOpener* opener) {
  absl::StatusOr<std::string> index = ReadSmallFile(
      directory + "/" + kIndexName, JsonLimits().max_bytes, opener);
  if (index.ok()) return ListFromIndex(*index);
  if (!absl::IsNotFound(index.status())) return index.status();
  ShardList list;
  QS_ASSIGN_OR_RETURN(list.names, ListSafetensors(directory, opener));
  for (const std::string& name : list.names) {
    if (name == kSingleName) {
      list.names = {kSingleName};
      return list;
    }
  }
  if (list.names.empty()) {
    return absl::NotFoundError(
        absl::StrCat("checkpoint ", QuoteForError(directory),
                     ": got no .safetensors file, allowed: one at least"));
  }
  if (list.names.size() > 1) {
    return absl::InvalidArgumentError(
        absl::StrCat("checkpoint ", QuoteForError(directory), ": got ",
                     list.names.size(), " .safetensors files without ",
                     kIndexName, ", allowed: one, or ", kSingleName));
  }
  return list;
}

absl::StatusOr<std::vector<SafetensorsFile>> OpenShards(
    const std::string& directory, const ShardList& list,
    const std::shared_ptr<const FileOpener>& opener) {
  std::vector<SafetensorsFile> shards;
  for (const std::string& name : list.names) {
    absl::StatusOr<SafetensorsFile> file =
        SafetensorsFile::Open(directory + "/" + name, opener);
    if (list.has_index && absl::IsNotFound(file.status())) {
      return absl::InvalidArgumentError(
          absl::StrCat(kIndexName, ": got ", QuoteForError(name),
                       ", allowed: files that exist beside the index"));
    }
    if (!file.ok()) return file.status();
    shards.push_back(*std::move(file));
  }
  if (list.has_index) {
    QS_RETURN_IF_ERROR(CheckIndexAgrees(list.index, shards, list.names));
  }
  return shards;
}

std::vector<CheckpointTensor> TensorsOf(
    const std::vector<SafetensorsFile>& shards) {
  std::vector<CheckpointTensor> tensors;
  for (size_t i = 0; i < shards.size(); ++i) {
    for (const SafetensorsEntry& entry : shards[i].header().tensors) {
      tensors.push_back({entry, static_cast<int>(i)});
    }
  }
  return tensors;
}

// Empty when there is none.
absl::StatusOr<std::string> ReadConfig(const std::string& directory,
                                       const FileOpener* opener) {
  absl::StatusOr<std::string> text = ReadSmallFile(
      directory + "/" + kConfigName, kConfigLimits.max_bytes, opener);
  if (absl::IsNotFound(text.status())) return std::string();
  QS_RETURN_IF_ERROR(text.status());
  QS_RETURN_IF_ERROR(
      ParseConfigJson(*text, kConfigName, kConfigLimits).status());
  return text;
}

}  // namespace

absl::StatusOr<Checkpoint> Checkpoint::Open(
    const std::string& path, std::shared_ptr<const FileOpener> opener) {
  QS_ASSIGN_OR_RETURN(const struct stat info, StatFile(path, opener.get()));
  Checkpoint checkpoint;
  checkpoint.path_ = path;
  checkpoint.opener_ = opener;
  checkpoint.is_directory_ = S_ISDIR(info.st_mode);
  if (!checkpoint.is_directory_) {
    const std::string name = path.substr(path.rfind('/') + 1);
    QS_RETURN_IF_ERROR(CheckFileName(name, "checkpoint"));
    QS_ASSIGN_OR_RETURN(SafetensorsFile file,
                        SafetensorsFile::Open(path, opener));
    checkpoint.shards_.push_back(std::move(file));
    checkpoint.shard_names_ = {name};
    checkpoint.tensors_ = TensorsOf(checkpoint.shards_);
    return checkpoint;
  }
  QS_ASSIGN_OR_RETURN(ShardList list, ListShards(path, opener.get()));
  QS_ASSIGN_OR_RETURN(checkpoint.shards_, OpenShards(path, list, opener));
  QS_ASSIGN_OR_RETURN(checkpoint.config_json_, ReadConfig(path, opener.get()));
  checkpoint.tensors_ = TensorsOf(checkpoint.shards_);
  checkpoint.has_index_ = list.has_index;
  checkpoint.shard_names_ = std::move(list.names);
  std::set<std::string> taken(checkpoint.shard_names_.begin(),
                              checkpoint.shard_names_.end());
  taken.insert(kConfigName);
  if (checkpoint.has_index_) taken.insert(kIndexName);
  QS_ASSIGN_OR_RETURN(
      checkpoint.side_files_,
      ListSideFiles(path, taken, opener.get(), &checkpoint.left_out_));
  return checkpoint;
}

absl::StatusOr<std::string> WithQuantizationConfig(
    std::string_view config_json, std::string_view quantization_config_json) {
  QS_ASSIGN_OR_RETURN(Json config,
                      ParseConfigJson(config_json, kConfigName, kConfigLimits));
  QS_ASSIGN_OR_RETURN(Json added,
                      ParseJsonObject(quantization_config_json,
                                      "quantization_config", kAddedLimits));
  config.erase("quantization_config");
  config["quantization_config"] = std::move(added);
  return DumpConfigJson(config) + "\n";
}

}  // namespace qs
