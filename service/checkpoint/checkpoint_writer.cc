// Tested by tests/e2e/quantctl_test.py.
#include "service/checkpoint/checkpoint_writer.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <span>
#include <system_error>
#include <utility>
#include <vector>

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

// A new file that may be used as `from` may. One that a run before this one
// left, whole or not, is replaced.
absl::StatusOr<UniqueFd> CreateLike(const UniqueFd& from,
                                    const std::string& to) {
  std::error_code error;
  fs::create_directories(fs::path(to).parent_path(), error);
  if (!error) fs::remove(to, error);
  if (error) return OutputFault(PosixError(error.value(), "copy to", to));
  struct stat info;
  UniqueFd fd(open(to.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600));
  if (fd.get() < 0 || fstat(from.get(), &info) != 0 ||
      fchmod(fd.get(), info.st_mode & 0777) != 0) {
    return OutputFault(PosixError(errno, "copy to", to));
  }
  return fd;
}

absl::Status WriteAll(const UniqueFd& fd, const std::string& path,
                      std::span<const char> data) {
  while (!data.empty()) {
    const ssize_t put = write(fd.get(), data.data(), data.size());
    if (put < 0 && errno == EINTR) continue;
    if (put < 0) return OutputFault(PosixError(errno, "copy to", path));
    data = data.subspan(static_cast<size_t>(put));
  }
  return absl::OkStatus();
}

// `name` is what was opened as `from`. A file, whatever led to it.
absl::Status CopySynced(const UniqueFd& from, const std::string& name,
                        const std::string& to) {
  QS_ASSIGN_OR_RETURN(const UniqueFd fd, CreateLike(from, to));
  std::vector<char> piece(size_t{1} << 20);
  while (true) {
    const ssize_t got = read(from.get(), piece.data(), piece.size());
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return InputFault(PosixError(errno, "read", name));
    if (got == 0) break;
    QS_RETURN_IF_ERROR(
        WriteAll(fd, to, {piece.data(), static_cast<size_t>(got)}));
  }
  return fsync(fd.get()) == 0 ? absl::OkStatus()
                              : OutputFault(PosixError(errno, "sync", to));
}

}  // namespace

CheckpointWriter::CheckpointWriter(const ShardSource& source,
                                   const PlanAnswer& plan,
                                   const std::set<size_t>& replaced,
                                   const std::string& directory,
                                   const std::string& file_name)
    : source_(source),
      plan_(plan),
      replaced_(replaced),
      directory_(directory),
      file_name_(file_name) {}

std::map<std::string, std::string> CheckpointWriter::MetadataOf(
    int shard) const {
  std::map<std::string, std::string> metadata = source_.metadata(shard);
  metadata.try_emplace("format", "pt");
  // Without config.json nothing else says how the codes are to be read.
  const std::string& config = plan_.summary.quantization_config_json();
  if (source_.config_json().empty() && !config.empty()) {
    metadata["quantization_config"] = config;
  }
  return metadata;
}

std::map<std::string, size_t> CheckpointWriter::Carried(int shard) const {
  std::map<std::string, size_t> carried;
  for (size_t i = 0; i < source_.tensors().size(); ++i) {
    const PlannedTensor& tensor = source_.tensors()[i];
    if (tensor.shard == shard && !replaced_.contains(i) &&
        plan_.entries[i].action() == v1::PlanEntry::CARRY) {
      carried.emplace(tensor.entry.name, i);
    }
  }
  return carried;
}

absl::Status CheckpointWriter::WriteShard(int shard, ArrivedShard arrived) {
  const std::map<std::string, size_t> carried = Carried(shard);
  const std::string name = NameOf(shard);
  std::vector<SafetensorsItem> items;
  for (const auto& [tensor, i] : carried) {
    const SafetensorsEntry& entry = source_.tensors()[i].entry;
    items.push_back({tensor, entry.dtype, entry.shape, {}});
    QS_RETURN_IF_ERROR(Count(tensor, entry.end - entry.begin, name));
  }
  std::span<const uint8_t> spilled;
  if (arrived.spill != nullptr) {
    QS_ASSIGN_OR_RETURN(spilled, arrived.spill->Map());
  }
  for (SpilledTensor& output : arrived.outputs) {
    const auto bytes = static_cast<size_t>(output.bytes);
    QS_RETURN_IF_ERROR(Count(output.name, output.bytes, name));
    items.push_back(
        {std::move(output.name), output.dtype, std::move(output.shape),
         output.held != nullptr
             ? std::span<const uint8_t>(output.held->data(), bytes)
             : spilled.subspan(static_cast<size_t>(output.offset), bytes)});
  }
  const auto source = [&](const SafetensorsItem& item,
                          const AppendBytes& append) {
    const auto found = carried.find(item.name);
    return found == carried.end() ? append(item.data)
                                  : source_.Copy(found->second, append);
  };
  QS_RETURN_IF_ERROR(OutputFault(StreamSafetensors(
      directory_ + "/" + name, std::move(items), MetadataOf(shard), source)));
  return source_.CheckUnchanged(shard);
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
  return file_name_.empty() ? source_.shard_name(shard) : file_name_;
}

absl::Status CheckpointWriter::Count(const std::string& tensor, int64_t bytes,
                                     const std::string& file) {
  data_bytes_ += bytes;
  if (weight_map_.emplace(tensor, file).second) return absl::OkStatus();
  return UnexpectedError(
      absl::StrCat("output tensor ", tensor, ": got it twice, allowed once"));
}

absl::Status CheckpointWriter::WriteRest() const {
  if (!source_.is_directory()) return absl::OkStatus();
  if (source_.has_index()) {
    QS_RETURN_IF_ERROR(
        WriteTextFile(directory_ + "/" + kIndexName,
                      SafetensorsIndexJson(weight_map_, data_bytes_)));
  }
  std::string config = source_.config_json();
  const std::string& added = plan_.summary.quantization_config_json();
  if (config.empty() && source_.makes_config() && !added.empty()) config = "{}";
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
  for (const CheckpointSideFile& file : source_.side_files()) {
    const v1::PlanFile::Action action = actions[file.path];
    if (action == v1::PlanFile::SKIP) continue;
    if (action != v1::PlanFile::COPY) {
      return UnexpectedError(absl::StrCat("plan: got no action for file ",
                                          file.path, ", allowed COPY or SKIP"));
    }
    QS_ASSIGN_OR_RETURN(const UniqueFd from, source_.OpenSideFile(file));
    QS_RETURN_IF_ERROR(
        CopySynced(from, file.path, directory_ + "/" + file.path));
  }
  return absl::OkStatus();
}

}  // namespace qs
