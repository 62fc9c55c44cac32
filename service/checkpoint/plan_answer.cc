// Tested by tests/e2e/quantctl_test.py and tests/service/plan_call_test.cc.
#include "service/checkpoint/plan_answer.h"

#include <string>
#include <utility>

#include "quant/formats/file_opener.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

int64_t SizeOf(const std::string& path, const Checkpoint& checkpoint) {
  const auto info = StatFile(path, checkpoint.opener().get());
  return info.ok() ? int64_t{info->st_size} : 0;
}

template <typename Item>
void MoveAll(google::protobuf::RepeatedPtrField<Item>* from,
             std::vector<Item>* to) {
  for (Item& item : *from) to->push_back(std::move(item));
}

// Behind the pieces of its config that came before.
void AddSummary(v1::PlanSummary summary, PlanAnswer* answer) {
  std::string config =
      std::move(*answer->summary.mutable_quantization_config_json());
  config += summary.quantization_config_json();
  summary.set_quantization_config_json(std::move(config));
  answer->summary = std::move(summary);
}

}  // namespace

void AddTo(v1::PlanCheckpointResponse response, PlanAnswer* answer) {
  switch (response.message_case()) {
    case v1::PlanCheckpointResponse::kEntries:
      MoveAll(response.mutable_entries()->mutable_entries(), &answer->entries);
      break;
    case v1::PlanCheckpointResponse::kFiles:
      MoveAll(response.mutable_files()->mutable_files(), &answer->files);
      break;
    case v1::PlanCheckpointResponse::kFindings:
      MoveAll(response.mutable_findings()->mutable_findings(),
              &answer->findings);
      break;
    case v1::PlanCheckpointResponse::kSites:
      MoveAll(response.mutable_sites()->mutable_sites(), &answer->sites);
      break;
    case v1::PlanCheckpointResponse::kSummary:
      AddSummary(std::move(*response.mutable_summary()), answer);
      break;
    case v1::PlanCheckpointResponse::MESSAGE_NOT_SET:
      break;
  }
}

void AddLeftOut(const Checkpoint& checkpoint, PlanAnswer* answer) {
  for (const CheckpointLeftOut& path : checkpoint.left_out()) {
    v1::PlanFile& file = answer->files.emplace_back();
    file.set_path(path.path);
    file.set_action(v1::PlanFile::SKIP);
    file.set_reason(path.reason);
  }
}

std::vector<CheckpointSideFile> AllFiles(const Checkpoint& checkpoint) {
  std::vector<CheckpointSideFile> files;
  for (size_t i = 0; i < checkpoint.shards().size(); ++i) {
    files.push_back({checkpoint.shard_name(static_cast<int>(i)),
                     SizeOf(checkpoint.shards()[i].path(), checkpoint)});
  }
  if (checkpoint.has_index()) {
    const std::string name = "model.safetensors.index.json";
    files.push_back({name, SizeOf(checkpoint.path() + "/" + name, checkpoint)});
  }
  if (!checkpoint.config_json().empty()) {
    files.push_back(
        {"config.json", static_cast<int64_t>(checkpoint.config_json().size())});
  }
  files.insert(files.end(), checkpoint.side_files().begin(),
               checkpoint.side_files().end());
  return files;
}

}  // namespace qs
