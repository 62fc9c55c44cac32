// Tested by tests/quant/solve_group_test.cc.
#include "quant/solve_group.h"

#include <algorithm>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_group.h"
#include "quant/group_base.h"
#include "quant/group_parts.h"
#include "quant/measured_quantizer.h"

namespace qs {
namespace {

absl::Status Invalid(const GroupInfo& info, const std::string& text) {
  return absl::InvalidArgumentError(
      absl::StrCat("group \"", info.name, "\": ", text));
}

class Names {
 public:
  // False: it was there.
  bool Add(const std::string& name) { return names_.insert(name).second; }
  bool Has(const std::string& name) const { return names_.count(name) > 0; }

 private:
  std::unordered_set<std::string> names_;
};

absl::Status ValidateFold(const GroupInfo& info, const GroupSite& site,
                          const Names& tensors) {
  const Fold& fold = site.fold;
  if (fold.kind == FoldKind::kNone) return absl::OkStatus();
  std::vector<std::string> named = fold.scaled_only;
  named.push_back(fold.producer);
  if (!fold.producer_bias.empty()) named.push_back(fold.producer_bias);
  for (const std::string& name : named) {
    if (tensors.Has(name)) continue;
    return Invalid(info,
                   absl::StrCat("site \"", site.name, "\": fold: got tensor \"",
                                name, "\", allowed one of the group's"));
  }
  if (fold.row_offset < 0 || fold.head_dim < 0 || fold.repeat < 0 ||
      (fold.head_dim == 0) != (fold.repeat == 0)) {
    return Invalid(
        info, absl::StrCat("site \"", site.name, "\": fold: got row_offset ",
                           fold.row_offset, ", head_dim ", fold.head_dim,
                           ", repeat ", fold.repeat,
                           ", allowed at least 0, the last two both "
                           "0 or neither"));
  }
  return absl::OkStatus();
}

absl::Status ValidateSites(const GroupInfo& info, const Names& tensors) {
  Names names;
  for (const GroupSite& site : info.sites) {
    if (!names.Add(site.name)) {
      return Invalid(info, absl::StrCat("site \"", site.name,
                                        "\": got it twice, allowed once"));
    }
    if (site.inputs < 1 || site.inputs > kMaxSiteInputs) {
      return Invalid(
          info, absl::StrCat("site \"", site.name, "\": inputs: got ",
                             site.inputs, ", allowed 1 to ", kMaxSiteInputs));
    }
    QS_RETURN_IF_ERROR(ValidateFold(info, site, tensors));
  }
  std::unordered_map<std::string_view, const GroupSite*> by_name;
  for (const GroupSite& site : info.sites) by_name.emplace(site.name, &site);
  for (const GroupSite& site : info.sites) {
    if (site.pool.empty()) continue;
    const auto pool = by_name.find(site.pool);
    if (pool == by_name.end() || pool->second->inputs != site.inputs ||
        !pool->second->pool.empty()) {
      return Invalid(
          info, absl::StrCat("site \"", site.name, "\": pool: got \"",
                             site.pool, "\", allowed a site of the group with ",
                             site.inputs, " inputs and no pool of its own"));
    }
  }
  return absl::OkStatus();
}

absl::Status ValidateTensor(const QuantSpec& spec, const GroupInfo& info,
                            const GroupTensor& tensor) {
  const std::string& name = tensor.info.name;
  const bool reads = tensor.site >= 0;
  if (tensor.role == GroupRole::kFoldOnly && !SolvesWhole(spec, info)) {
    return Invalid(
        info, absl::StrCat("tensor \"", name,
                           "\": role: got FOLD_ONLY, allowed QUANTIZE for ",
                           SpecMethodName(spec),
                           SolvesInGroups(spec)     ? " without a fold"
                           : spec.gptq() != nullptr ? " without awq_scaling"
                                                    : ""));
  }
  if (tensor.role == GroupRole::kQuantize && !reads) {
    return Invalid(info, absl::StrCat("tensor \"", name,
                                      "\": site: got none, allowed one of the "
                                      "group's"));
  }
  if (!reads) return absl::OkStatus();
  const GroupSite& site = info.sites[static_cast<size_t>(tensor.site)];
  const int64_t cols = AsMatrix(tensor.info.shape).cols;
  if (cols == site.inputs) return absl::OkStatus();
  return Invalid(
      info,
      absl::StrCat("tensor \"", name, "\": got ", cols, " columns, allowed ",
                   site.inputs, ", the inputs of site \"", site.name, "\""));
}

// Every tensor by itself; the group only hands out sites.
class IndependentTensors final : public GroupBase {
 public:
  IndependentTensors(const QuantSpec& spec, GroupInfo info,
                     const QuantizeOptions& options)
      : GroupBase(spec, std::move(info), options),
        left_(this->info().tensors.size()) {
    if (options.on_shared == nullptr) return;
    parts_ = std::make_shared<SiteParts>(this->info(), options.on_shared);
  }

  absl::StatusOr<std::unique_ptr<TensorQuantizer>> TakeTensor(
      size_t index) override {
    const GroupTensor& tensor = info().tensors[index];
    QuantizeOptions options = this->options();
    const auto read = static_cast<size_t>(tensor.site);
    options.site = site(read);
    if (parts_ != nullptr) {
      options.on_shared = [parts = parts_, read](double done) {
        parts->Set(read, done);
      };
    }
    if (--left_ == 0) ReleaseSites();
    return TensorQuantizer::Create(spec(), tensor.info, options);
  }
  bool solves_whole() const override { return false; }
  absl::Status Solve(Backend&) override { return absl::OkStatus(); }

 private:
  size_t left_;
  std::shared_ptr<SiteParts> parts_;  // null: nobody is told
};

}  // namespace

// GPTQ needs the whole group only to scale something.
bool SolvesWhole(const QuantSpec& spec, const GroupInfo& info) {
  if (!SolvesInGroups(spec)) return false;
  return spec.awq() != nullptr ||
         std::any_of(info.sites.begin(), info.sites.end(),
                     [](const GroupSite& site) {
                       return site.fold.kind != FoldKind::kNone;
                     });
}

absl::Status ValidateGroup(const QuantSpec& spec, const GroupInfo& info) {
  if (info.tensors.empty() || info.sites.empty()) {
    return Invalid(info, "got no tensor or no site, allowed at least one each");
  }
  if (info.sites.size() > kMostGroupSites ||
      info.tensors.size() > kMostGroupTensors) {
    return Invalid(
        info, absl::StrCat("got ", info.sites.size(), " sites and ",
                           info.tensors.size(), " tensors, allowed at most ",
                           kMostGroupSites, " and ", kMostGroupTensors));
  }
  Names tensors;
  for (const GroupTensor& tensor : info.tensors) {
    if (tensors.Add(tensor.info.name)) continue;
    return Invalid(info, absl::StrCat("tensor \"", tensor.info.name,
                                      "\": got it twice, allowed once"));
  }
  QS_RETURN_IF_ERROR(ValidateSites(info, tensors));
  for (const GroupTensor& tensor : info.tensors) {
    QS_RETURN_IF_ERROR(ValidateTensor(spec, info, tensor));
  }
  return absl::OkStatus();
}

int64_t GroupSiteBytes(const QuantSpec& spec, const GroupInfo& info) {
  const AwqSpec* awq = spec.awq();
  const bool keeps_factors =
      awq != nullptr ? awq->solve_codes : NeedsCalibration(spec);
  int64_t held = 0;
  int64_t most = 0;
  for (const GroupSite& site : info.sites) {
    const int64_t square = site.inputs * site.inputs;
    held += (keeps_factors ? 8 : 4) * square + 64 * site.inputs;
    most = std::max(most, site.inputs);
  }
  // Scales are searched through a factor.
  int64_t work = awq != nullptr && !keeps_factors ? 4 * most * most : 0;
  if (NeedsCalibration(spec)) work += GptqFactorScratchBytes(most);
  const int64_t transport = 4 * (SiteMoments::PackedElements(most) + most);
  return held + std::max(work, transport);
}

absl::StatusOr<int64_t> EstimateGroupBytes(const QuantSpec& spec,
                                           const GroupInfo& info,
                                           const QuantizeOptions& options,
                                           int64_t max_tiles) {
  if (SolvesWhole(spec, info)) {
    return EstimateAwqGroupBytes(spec, info, options, max_tiles);
  }
  int64_t bytes = GroupSiteBytes(spec, info);
  for (const GroupTensor& tensor : info.tensors) {
    QS_ASSIGN_OR_RETURN(
        const int64_t held,
        EstimateMemoryBytes(spec, tensor.info, options, max_tiles));
    bytes += held;
    if (options.error_report && !NeedsCalibration(spec)) {
      bytes += MeasuredExtraBytes(tensor.info);
    }
  }
  return bytes;
}

absl::StatusOr<std::unique_ptr<SolveGroup>> SolveGroup::Create(
    const QuantSpec& spec, GroupInfo info, const QuantizeOptions& options) {
  QS_RETURN_IF_ERROR(ValidateGroup(spec, info));
  if (SolvesWhole(spec, info)) {
    return NewAwqGroup(spec, std::move(info), options);
  }
  return std::unique_ptr<SolveGroup>(
      std::make_unique<IndependentTensors>(spec, std::move(info), options));
}

}  // namespace qs
