// Tested by tests/service/jobs/job_tensors_test.cc.
#include "service/jobs/job_tensors.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/plan.h"
#include "service/access/access.h"
#include "service/server/error.h"
#include "service/tensors/store_error.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

constexpr char kCollection[] = "tensors";
constexpr char kNames[] = "job.source.tensors.names";
constexpr char kGlob[] = "job.source.tensors.glob";
constexpr int64_t kPage = 1000;

absl::StatusOr<std::string> IdOf(const std::string& project,
                                 const std::string& name) {
  return IdFromName(Caller{project, Role::kUser}, kNames, kCollection, name);
}

absl::Status NotFound(const std::string& text) {
  return RpcError(absl::StatusCode::kNotFound, "TENSOR_NOT_FOUND", text);
}

JobInput InputOf(const StoredTensor& tensor) {
  return {tensor.spec.name, tensor.spec.dtype, tensor.spec.shape,
          tensor.digest};
}

absl::StatusOr<std::vector<JobInput>> FindNamed(const JobsContext& context,
                                                const std::string& project,
                                                const v1::JobTensors& tensors) {
  std::vector<JobInput> inputs;
  for (const std::string& name : tensors.names()) {
    QS_ASSIGN_OR_RETURN(const std::string id, IdOf(project, name));
    const absl::StatusOr<StoredTensor> found =
        context.tensors->GetTensor(project, id);
    if (absl::IsNotFound(found.status())) {
      return NotFound(absl::StrCat(kNames, ": ", name, " is not there"));
    }
    if (!found.ok()) return StoreError(found.status());
    inputs.push_back(InputOf(*found));
  }
  return inputs;
}

absl::Status TooLarge(int64_t allowed) {
  return RpcError(absl::StatusCode::kResourceExhausted, "PLAN_TOO_LARGE",
                  absl::StrCat(kGlob, ": got more tensors than the ", allowed,
                               " that are allowed"),
                  {{"allowed", absl::StrCat(allowed)}});
}

absl::StatusOr<std::vector<JobInput>> FindMatching(const JobsContext& context,
                                                   const std::string& project,
                                                   const std::string& glob) {
  std::vector<JobInput> inputs;
  TensorPosition after;
  while (true) {
    const absl::StatusOr<std::vector<StoredTensor>> page =
        context.tensors->ListTensors(project, after, kPage);
    if (!page.ok()) return StoreError(page.status());
    for (const StoredTensor& tensor : *page) {
      if (!GlobMatch(glob, tensor.spec.name)) continue;
      if (static_cast<int64_t>(inputs.size()) == context.max_plan_tensors) {
        return TooLarge(context.max_plan_tensors);
      }
      inputs.push_back(InputOf(tensor));
    }
    if (static_cast<int64_t>(page->size()) < kPage) break;
    after = {page->back().spec.name, page->back().id};
  }
  if (!inputs.empty()) return inputs;
  return NotFound(absl::StrCat(kGlob, ": got \"", glob,
                               "\", which matches no tensor of the project"));
}

}  // namespace

absl::Status UseOwnTensors(const std::string& project,
                           v1::JobTensors* tensors) {
  for (std::string& name : *tensors->mutable_names()) {
    QS_ASSIGN_OR_RETURN(const std::string id, IdOf(project, name));
    name = NameFromId(project, kCollection, id);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<JobInput>> FindTensors(
    const JobsContext& context, const std::string& project,
    const v1::JobTensors& tensors) {
  if (context.tensors == nullptr) {
    return NotFound("job.source.tensors: this server keeps no tensors");
  }
  QS_ASSIGN_OR_RETURN(std::vector<JobInput> inputs,
                      tensors.names_size() > 0
                          ? FindNamed(context, project, tensors)
                          : FindMatching(context, project, tensors.glob()));
  std::sort(inputs.begin(), inputs.end(),
            [](const auto& a, const auto& b) { return a.name < b.name; });
  const auto twice = std::adjacent_find(
      inputs.begin(), inputs.end(),
      [](const auto& a, const auto& b) { return a.name == b.name; });
  if (twice == inputs.end()) return inputs;
  return BadFieldError("job.source.tensors",
                       absl::StrCat("got the tensor_name \"", twice->name,
                                    "\" twice, allowed once"));
}

void ReadInputs(const std::vector<JobInput>& inputs, CheckpointRunSpec* spec) {
  for (const JobInput& input : inputs) {
    spec->tensors.push_back(
        {input.name, input.dtype, input.shape, input.digest});
  }
}

}  // namespace qs
