// Tested by tests/service/plan_call_test.cc.
#include "service/server/plan_limits.h"

#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/plan/findings.h"
#include "quant/solve_group.h"
#include "quant/tensor_quantizer.h"
#include "service/server/options.h"
#include "service/stream/group_job.h"
#include "service/stream/tensor_job.h"

namespace qs {
namespace {

class LimitCheck {
 public:
  LimitCheck(const PlanRequest& request, const quant::v1::Limits& limits,
             bool prefer_large, const Plan& plan)
      : request_(request), limits_(limits), prefer_large_(prefer_large) {
    for (const PlanTensor& tensor : request.tensors) {
      tensors_.emplace(tensor.name, &tensor);
    }
    for (const PlanSite& site : plan.sites) sites_.emplace(site.name, &site);
  }

  void Check(const PlanEntry& entry) {
    if (entry.action != TensorAction::kQuantize) return;
    if (entry.name.size() > kMaxNameBytes) {
      Add("NAME_TOO_LONG", entry,
          absl::StrCat("got a name of ", entry.name.size(), " bytes, allowed ",
                       kMaxNameBytes));
    }
    if (entry.bytes_in > limits_.max_tensor_bytes()) {
      return Add("TENSOR_TOO_LARGE", entry,
                 absl::StrCat("got ", entry.bytes_in, " bytes, allowed ",
                              limits_.max_tensor_bytes(),
                              ", the server's --max-tensor-bytes"));
    }
    const absl::StatusOr<int64_t> bytes = BytesOf(entry);
    if (!bytes.ok() || *bytes <= limits_.memory_budget_bytes()) return;
    Add("MEMORY_BUDGET", entry,
        absl::StrCat("needs ", *bytes, " bytes of memory, allowed ",
                     limits_.memory_budget_bytes(),
                     ", the server's --memory-budget"));
  }

  const FindingList& findings() const { return findings_; }

 private:
  void Add(const char* rule, const PlanEntry& entry, std::string text) {
    findings_.Add(Severity::kError, rule, entry.name, std::move(text));
  }

  TensorInfo InfoOf(const PlanEntry& entry) const {
    const auto found =
        tensors_.find(entry.slice ? entry.slice->tensor : entry.name);
    if (found == tensors_.end()) return {};
    const PlanTensor& tensor = *found->second;
    if (!entry.slice) return {entry.name, tensor.dtype, tensor.shape};
    return {entry.name, tensor.dtype, {entry.rows, entry.cols}};
  }

  // The request's, or that of the override that the tensor has.
  const QuantSpec& SpecOf(const PlanEntry& entry) const {
    if (entry.rule == 0) return request_.spec;
    const auto rule = static_cast<size_t>(entry.rule) - 1;
    const auto& spec = request_.overrides[rule].spec;
    return spec ? *spec : request_.spec;
  }

  // As StreamInput reserves it.
  absl::StatusOr<int64_t> BytesOf(const PlanEntry& entry) const {
    QuantizeOptions options;
    options.error_report = false;
    options.tiled_input = true;
    options.streamed_output = true;
    const QuantSpec& spec = SpecOf(entry);
    options.large_tiles = prefer_large_;
    if (!NeedsCalibration(spec)) {
      QS_ASSIGN_OR_RETURN(const int64_t bytes,
                          EstimateMemoryBytes(spec, InfoOf(entry), options,
                                              TensorJob::kMaxTilesHeld));
      return bytes + TensorJob::kOverhead;
    }
    const auto site = sites_.find(entry.site);
    if (site == sites_.end()) return absl::NotFoundError("site");
    GroupInfo group;
    group.name = entry.name;
    group.sites.push_back(
        {site->second->name, site->second->inputs, Fold(), ""});
    group.tensors.push_back({InfoOf(entry), 0, GroupRole::kQuantize});
    QS_RETURN_IF_ERROR(ValidateGroup(spec, group));
    const int64_t capacity = limits_.memory_budget_bytes();
    return GroupRoom(spec, group, capacity, capacity / 2, &options);
  }

  const PlanRequest& request_;
  const quant::v1::Limits& limits_;
  const bool prefer_large_;
  std::unordered_map<std::string_view, const PlanTensor*> tensors_;
  std::unordered_map<std::string_view, const PlanSite*> sites_;
  FindingList findings_;
};

}  // namespace

absl::Status CheckLimits(const PlanRequest& request,
                         const quant::v1::Limits& limits, bool prefer_large,
                         Plan* plan) {
  LimitCheck check(request, limits, prefer_large, *plan);
  for (const PlanEntry& entry : plan->entries) {
    if (request.cancelled != nullptr && *request.cancelled) {
      return absl::CancelledError("cancelled");
    }
    check.Check(entry);
  }
  for (Finding& finding : check.findings().Findings()) {
    plan->findings.push_back(std::move(finding));
    plan->refused = true;
  }
  return absl::OkStatus();
}

}  // namespace qs
