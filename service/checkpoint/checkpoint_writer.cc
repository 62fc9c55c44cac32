// Tested by tests/e2e/quantctl_test.py.
#include "service/checkpoint/checkpoint_writer.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/safetensors.h"
#include "service/checkpoint/fault.h"
#include "service/checkpoint/text_file.h"

namespace qs {
namespace {

namespace fs = std::filesystem;
namespace v1 = quant::v1;

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kConfigName[] = "config.json";
constexpr char kQuantizeConfigName[] = "quantize_config.json";

// One that a run before this one left, whole or not, is replaced.
absl::Status CopySynced(const std::string& from, const std::string& to) {
  std::error_code error;
  fs::create_directories(fs::path(to).parent_path(), error);
  if (!error) fs::remove(to, error);
  if (!error) fs::copy_file(from, to, error);
  if (error) return OutputFault(PosixError(error.value(), "copy to", to));
  UniqueFd fd(open(to.c_str(), O_RDONLY | O_CLOEXEC));
  if (fd.get() < 0 || fsync(fd.get()) != 0) {
    return OutputFault(PosixError(errno, "sync", to));
  }
  return absl::OkStatus();
}

}  // namespace

CheckpointWriter::CheckpointWriter(const PlannedCheckpoint& checkpoint,
                                   const PlanAnswer& plan,
                                   const std::set<size_t>& replaced,
                                   const std::string& directory,
                                   const std::string& file_name)
    : checkpoint_(checkpoint),
      plan_(plan),
      replaced_(replaced),
      directory_(directory),
      file_name_(file_name) {}

std::map<std::string, std::string> CheckpointWriter::MetadataOf(
    int shard) const {
  std::map<std::string, std::string> metadata =
      checkpoint_.shards()[static_cast<size_t>(shard)].header().metadata;
  metadata.try_emplace("format", "pt");
  // Without config.json nothing else says how the codes are to be read.
  const std::string& config = plan_.summary.quantization_config_json();
  if (checkpoint_.files().config_json().empty() && !config.empty()) {
    metadata["quantization_config"] = config;
  }
  return metadata;
}

std::vector<SafetensorsItem> CheckpointWriter::Carried(int shard) const {
  const SafetensorsFile& input =
      checkpoint_.shards()[static_cast<size_t>(shard)];
  std::vector<SafetensorsItem> items;
  for (size_t i = 0; i < checkpoint_.tensors().size(); ++i) {
    const CheckpointTensor& tensor = checkpoint_.tensors()[i];
    if (tensor.shard != shard || replaced_.contains(i) ||
        plan_.entries[i].action() != v1::PlanEntry::CARRY) {
      continue;
    }
    items.push_back({tensor.entry.name, tensor.entry.dtype, tensor.entry.shape,
                     input.Data(tensor.entry)});
  }
  return items;
}

absl::Status CheckpointWriter::WriteShard(int shard, ArrivedShard arrived) {
  const SafetensorsFile& input =
      checkpoint_.shards()[static_cast<size_t>(shard)];
  std::vector<SafetensorsItem> items = Carried(shard);
  std::span<const uint8_t> spilled;
  if (arrived.spill != nullptr) {
    QS_ASSIGN_OR_RETURN(spilled, arrived.spill->Map());
  }
  for (SpilledTensor& output : arrived.outputs) {
    const auto bytes = static_cast<size_t>(output.bytes);
    items.push_back(
        {std::move(output.name), output.dtype, std::move(output.shape),
         output.held != nullptr
             ? std::span<const uint8_t>(output.held->data(), bytes)
             : spilled.subspan(static_cast<size_t>(output.offset), bytes)});
  }
  const std::string name = NameOf(shard);
  for (const SafetensorsItem& item : items) {
    QS_RETURN_IF_ERROR(
        Count(item.name, static_cast<int64_t>(item.data.size()), name));
  }
  QS_RETURN_IF_ERROR(OutputFault(WriteSafetensors(
      directory_ + "/" + name, std::move(items), MetadataOf(shard))));
  return InputFault(input.CheckUnchanged());
}

absl::Status CheckpointWriter::AdoptShard(int shard) {
  const std::string name = NameOf(shard);
  const auto file = SafetensorsFile::Open(directory_ + "/" + name);
  if (!file.ok()) return OutputFault(file.status());
  for (const SafetensorsEntry& entry : file->header().tensors) {
    QS_RETURN_IF_ERROR(Count(entry.name, entry.end - entry.begin, name));
  }
  return absl::OkStatus();
}

std::string CheckpointWriter::NameOf(int shard) const {
  return file_name_.empty() ? checkpoint_.files().shard_name(shard)
                            : file_name_;
}

absl::Status CheckpointWriter::Count(const std::string& tensor, int64_t bytes,
                                     const std::string& file) {
  data_bytes_ += bytes;
  if (weight_map_.emplace(tensor, file).second) return absl::OkStatus();
  return UnexpectedError(
      absl::StrCat("output tensor ", tensor, ": got it twice, allowed once"));
}

absl::Status CheckpointWriter::WriteRest() const {
  if (!checkpoint_.files().is_directory()) return absl::OkStatus();
  if (checkpoint_.files().has_index()) {
    QS_RETURN_IF_ERROR(
        WriteTextFile(directory_ + "/" + kIndexName,
                      SafetensorsIndexJson(weight_map_, data_bytes_)));
  }
  std::string config = checkpoint_.files().config_json();
  const std::string& added = plan_.summary.quantization_config_json();
  if (!config.empty() && !added.empty()) {
    absl::StatusOr<std::string> merged = WithQuantizationConfig(config, added);
    if (!merged.ok()) return InputFault(merged.status());
    config = *std::move(merged);
  }
  if (!config.empty()) {
    QS_RETURN_IF_ERROR(WriteTextFile(directory_ + "/" + kConfigName, config));
  }
  return WriteSideFiles();
}

// By the names that were found here: a path from the server is never opened.
absl::Status CheckpointWriter::WriteSideFiles() const {
  std::map<std::string, v1::PlanFile::Action> actions;
  for (const v1::PlanFile& file : plan_.files) {
    actions[file.path()] = file.action();
  }
  // Where loaders of some formats looked before config.json had it.
  if (actions[kQuantizeConfigName] == v1::PlanFile::REWRITE) {
    QS_RETURN_IF_ERROR(
        WriteTextFile(directory_ + "/" + kQuantizeConfigName,
                      plan_.summary.quantization_config_json() + "\n"));
    actions[kQuantizeConfigName] = v1::PlanFile::SKIP;
  }
  for (const CheckpointSideFile& file : checkpoint_.files().side_files()) {
    const v1::PlanFile::Action action = actions[file.path];
    if (action == v1::PlanFile::SKIP) continue;
    if (action != v1::PlanFile::COPY) {
      return UnexpectedError(absl::StrCat("plan: got no action for file ",
                                          file.path, ", allowed COPY or SKIP"));
    }
    QS_RETURN_IF_ERROR(CopySynced(checkpoint_.files().path() + "/" + file.path,
                                  directory_ + "/" + file.path));
  }
  return absl::OkStatus();
}

}  // namespace qs
