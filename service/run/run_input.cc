// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/run_input.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/file_opener.h"
#include "quant/formats/posix_file.h"
#include "service/checkpoint/fault.h"
#include "service/checkpoint/slice_reader.h"

namespace qs {
namespace {

class CheckpointInput final : public RunInput {
 public:
  CheckpointInput(const PlannedCheckpoint& planned, std::vector<UniqueFd> files)
      : planned_(planned), files_(std::move(files)) {}

  const std::vector<PlannedTensor>& tensors() const override {
    return planned_.tensors();
  }

  absl::Status Read(size_t tensor, int64_t offset,
                    std::span<uint8_t> data) override {
    const PlannedTensor& planned = planned_.tensors()[tensor];
    const auto shard = static_cast<size_t>(planned.shard);
    const auto bytes = static_cast<int64_t>(data.size());
    SliceReader reader(files_[shard].get(), planned_.shards()[shard], planned,
                       bytes);
    return reader.Read(offset, bytes, reinterpret_cast<char*>(data.data()));
  }

  void WillNeed(size_t tensor) override {
    const PlannedTensor& planned = planned_.tensors()[tensor];
    if (planned.slice) return;
    const auto shard = static_cast<size_t>(planned.shard);
    // That the system does not read ahead is no error.
    ::posix_fadvise(
        files_[shard].get(),
        planned_.shards()[shard].header().data_offset + planned.entry.begin,
        planned.entry.end - planned.entry.begin, POSIX_FADV_WILLNEED);
  }

  absl::StatusOr<std::string> Identity() const override {
    const FileOpener* const opener = planned_.files().opener().get();
    std::string text;
    for (const SafetensorsFile& shard : planned_.shards()) {
      QS_ASSIGN_OR_RETURN(const std::string file,
                          FileIdentity(shard.path(), opener));
      text += file;
    }
    for (const CheckpointSideFile& file : planned_.files().side_files()) {
      QS_ASSIGN_OR_RETURN(
          const std::string identity,
          FileIdentity(planned_.files().path() + "/" + file.path, opener));
      text += identity;
    }
    return text + planned_.files().config_json();
  }

 private:
  const PlannedCheckpoint& planned_;
  const std::vector<UniqueFd> files_;  // of the shards
};

}  // namespace

absl::StatusOr<std::string> FileIdentity(const std::string& path,
                                         const FileOpener* opener) {
  const absl::StatusOr<struct stat> info = StatFile(path, opener);
  if (!info.ok()) return InputFault(info.status());
  return absl::StrCat(path, " ", info->st_size, " ", info->st_ino, " ",
                      info->st_mtim.tv_sec, ".", info->st_mtim.tv_nsec, "\n");
}

absl::StatusOr<std::unique_ptr<RunInput>> NewCheckpointInput(
    const PlannedCheckpoint& planned) {
  std::vector<UniqueFd> files;
  for (const SafetensorsFile& shard : planned.shards()) {
    absl::StatusOr<UniqueFd> fd =
        OpenRegularFile(shard.path(), planned.files().opener().get());
    if (!fd.ok()) return InputFault(fd.status());
    files.push_back(*std::move(fd));
  }
  return std::make_unique<CheckpointInput>(planned, std::move(files));
}

}  // namespace qs
