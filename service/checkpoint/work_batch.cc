// Tested by tests/checkpoint/work_batch_test.cc.
#include "service/checkpoint/work_batch.h"

#include <algorithm>
#include <map>
#include <unordered_map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/checkpoint/fault.h"
#include "service/checkpoint/plan_schemes.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

// Whether what scales share must be solved together.
bool ScalesInputs(const v1::QuantizationConfig& config) {
  return config.has_awq() || (config.has_gptq() && config.gptq().awq_scaling());
}

PlanSite FromProto(const v1::PlanSite& site) {
  PlanSite out;
  out.name = site.name();
  out.inputs = site.inputs();
  out.consumers = {site.consumers().begin(), site.consumers().end()};
  out.group = site.group();
  out.pooled = site.pooled();
  out.pool = site.pool();
  return out;
}

// Makes the batches of one plan. What is solved together has one configuration:
// a plan with overrides is batched as if each scheme were a plan of its own.
class BatchMaker {
 public:
  BatchMaker(const PlanAnswer& plan, const Calibration* calibration)
      : plan_(plan),
        calibration_(calibration),
        schemes_(plan.summary),
        batched_(plan.entries.size()) {
    for (size_t i = 0; i < plan.entries.size(); ++i) {
      index_of_.emplace(plan.entries[i].name(), i);
    }
    if (calibration == nullptr) return;
    for (const SiteMatch& match : calibration->match.sites) {
      match_of_.emplace(match.name, &match);
    }
  }

  absl::StatusOr<std::vector<WorkBatch>> Make() {
    for (size_t s = 0; calibration_ != nullptr && s < schemes_.all().size();
         ++s) {
      const v1::QuantizationConfig& config = *schemes_.all()[s];
      const std::vector<v1::PlanSite> part = SitesOf(s);
      if (ScalesInputs(config)) {
        QS_RETURN_IF_ERROR(AddSolveGroups(part, config.has_awq()));
      }
      QS_RETURN_IF_ERROR(AddSites(part));
    }
    AddSingles();
    for (WorkBatch& batch : batches_) SetRule(&batch);
    std::stable_sort(batches_.begin(), batches_.end(),
                     [](const WorkBatch& a, const WorkBatch& b) {
                       return a.tensors[0].tensor < b.tensors[0].tensor;
                     });
    return std::move(batches_);
  }

 private:
  using Sites = std::vector<const v1::PlanSite*>;

  // The sites with those of their readers that have the scheme.
  std::vector<v1::PlanSite> SitesOf(size_t scheme) const;
  absl::Status AddSites(const std::vector<v1::PlanSite>& sites);
  absl::Status AddSolveGroups(const std::vector<v1::PlanSite>& sites,
                              bool is_awq);
  void SetRule(WorkBatch* batch) const;
  bool FitsWhole(const Sites& sites) const;
  absl::Status AddWhole(const std::string& name, const Sites& sites);
  absl::Status AddPairs(const Sites& sites);
  // A batch with the sites of `pairs` and their producers', which is `shared`.
  absl::Status AddPairBatch(const v1::PlanSite& shared, const Sites& pairs);
  void AddSingles();
  // The site after its pool, if it needs one; false: no moments serve it.
  bool AddSite(const v1::PlanSite& site, bool with_fold, WorkBatch* batch);
  absl::Status AddTensor(const std::string& name, const std::string& site,
                         bool fold_only, WorkBatch* batch);
  absl::Status AddFolds(const v1::PlanSite& site, WorkBatch* batch);
  // A batch that is complete, its tensors in order.
  void Keep(WorkBatch batch);

  const PlanAnswer& plan_;
  const Calibration* const calibration_;
  const PlanSchemes schemes_;
  std::unordered_map<std::string, size_t> index_of_;  // of entries
  std::unordered_map<std::string, const SiteMatch*> match_of_;
  std::vector<bool> batched_;
  std::vector<WorkBatch> batches_;
};

bool BatchMaker::AddSite(const v1::PlanSite& site, bool with_fold,
                         WorkBatch* batch) {
  const auto found = match_of_.find(site.name());
  if (found == match_of_.end()) return false;
  const SiteMatch& match = *found->second;
  const auto has = [&](const std::string& name) {
    return std::any_of(
        batch->sites.begin(), batch->sites.end(),
        [&](const BatchSite& s) { return s.declared.name() == name; });
  };
  const std::string pool = match.pool_weight > 0 ? match.pool : "";
  if (!pool.empty() && !has(pool)) {
    BatchSite added;
    added.match = calibration_->match.pools.at(pool);
    added.declared.set_name(pool);
    added.declared.set_inputs(added.match.inputs);
    batch->sites.push_back(std::move(added));
  }
  BatchSite added;
  added.match = match;
  added.declared.set_name(site.name());
  added.declared.set_inputs(site.inputs());
  added.declared.set_pool(pool);
  if (with_fold && site.fold().kind() != v1::Fold::KIND_UNSPECIFIED) {
    *added.declared.mutable_fold() = site.fold();
  }
  batch->sites.push_back(std::move(added));
  return true;
}

absl::Status BatchMaker::AddTensor(const std::string& name,
                                   const std::string& site, bool fold_only,
                                   WorkBatch* batch) {
  const auto found = index_of_.find(name);
  if (found == index_of_.end()) {
    return UnexpectedError(absl::StrCat("plan: got tensor ", name, " in group ",
                                        batch->name,
                                        ", allowed one of the checkpoint's"));
  }
  if (batched_[found->second]) return absl::OkStatus();
  batched_[found->second] = true;
  batch->tensors.push_back({found->second, site, fold_only});
  return absl::OkStatus();
}

std::vector<v1::PlanSite> BatchMaker::SitesOf(size_t scheme) const {
  if (schemes_.all().size() == 1) return plan_.sites;
  std::vector<v1::PlanSite> sites;
  for (const v1::PlanSite& site : plan_.sites) {
    v1::PlanSite part = site;
    part.clear_consumers();
    for (const std::string& consumer : site.consumers()) {
      const auto found = index_of_.find(consumer);
      if (found != index_of_.end() &&
          schemes_.Of(plan_.entries[found->second]) == scheme) {
        part.add_consumers(consumer);
      }
    }
    if (part.consumers_size() > 0) sites.push_back(std::move(part));
  }
  return sites;
}

void BatchMaker::SetRule(WorkBatch* batch) const {
  for (const BatchTensor& tensor : batch->tensors) {
    if (tensor.fold_only) continue;
    batch->rule = plan_.entries[tensor.tensor].rule();
    return;
  }
}

// The tensors of each site, few at a time.
absl::Status BatchMaker::AddSites(const std::vector<v1::PlanSite>& sites) {
  for (const v1::PlanSite& site : sites) {
    std::vector<std::string> left;
    for (const std::string& consumer : site.consumers()) {
      const auto found = index_of_.find(consumer);
      if (found == index_of_.end() || !batched_[found->second]) {
        left.push_back(consumer);
      }
    }
    for (size_t begin = 0; begin < left.size(); begin += kMaxGroupTensors) {
      WorkBatch batch;
      batch.name = site.name();
      if (!AddSite(site, /*with_fold=*/false, &batch)) break;
      const size_t end = std::min(begin + kMaxGroupTensors, left.size());
      for (size_t i = begin; i < end; ++i) {
        QS_RETURN_IF_ERROR(AddTensor(left[i], site.name(), false, &batch));
      }
      batches_.push_back(std::move(batch));
    }
  }
  return absl::OkStatus();
}

// What reads the site without being quantized, and what it folds into.
absl::Status BatchMaker::AddFolds(const v1::PlanSite& site, WorkBatch* batch) {
  const v1::Fold& fold = site.fold();
  if (fold.kind() == v1::Fold::KIND_UNSPECIFIED) return absl::OkStatus();
  for (const std::string& name : fold.scaled_only()) {
    QS_RETURN_IF_ERROR(AddTensor(name, site.name(), true, batch));
  }
  QS_RETURN_IF_ERROR(AddTensor(fold.producer(), "", true, batch));
  if (fold.producer_bias().empty()) return absl::OkStatus();
  return AddTensor(fold.producer_bias(), "", true, batch);
}

// GPTQ also does without scales: where nothing can be folded each site goes by
// itself. A group that would keep too much in memory, such as all experts of a
// layer, is none to it.
bool BatchMaker::FitsWhole(const Sites& sites) const {
  size_t tensors = 0;
  for (const v1::PlanSite* site : sites) {
    tensors += static_cast<size_t>(site->consumers_size());
  }
  return tensors <= kMaxGroupTensors;
}

absl::Status BatchMaker::AddWhole(const std::string& name, const Sites& sites) {
  WorkBatch batch;
  batch.name = name;
  for (const v1::PlanSite* site : sites) {
    if (!AddSite(*site, /*with_fold=*/true, &batch)) continue;
    for (const std::string& consumer : site->consumers()) {
      QS_RETURN_IF_ERROR(AddTensor(consumer, site->name(), false, &batch));
    }
  }
  // Only now: a producer may be another site's consumer.
  for (const v1::PlanSite* site : sites) {
    if (!match_of_.contains(site->name())) continue;
    QS_RETURN_IF_ERROR(AddFolds(*site, &batch));
  }
  if (!batch.tensors.empty()) Keep(std::move(batch));
  return absl::OkStatus();
}

// Of a group that is too large: what an expert's linear makes for its next one
// is scaled with those two tensors alone. The input that all experts share is
// not, since that takes all of them.
absl::Status BatchMaker::AddPairs(const Sites& sites) {
  std::unordered_map<std::string, const v1::PlanSite*> reads;
  for (const v1::PlanSite* site : sites) {
    for (const std::string& consumer : site->consumers()) {
      reads.emplace(consumer, site);
    }
  }
  std::map<std::string, Sites> pairs;  // by the producers' site
  for (const v1::PlanSite* site : sites) {
    const v1::Fold& fold = site->fold();
    const auto read = reads.find(fold.producer());
    if (fold.kind() != v1::Fold::LINEAR || read == reads.end() ||
        !match_of_.contains(site->name()) ||
        !match_of_.contains(read->second->name())) {
      continue;
    }
    Sites& open = pairs[read->second->name()];
    const auto squares = [&] {
      int64_t sum = site->inputs() * site->inputs();
      for (const auto* one : open) sum += one->inputs() * one->inputs();
      return sum;
    };
    const int64_t shared = read->second->inputs() * read->second->inputs();
    if (!open.empty() &&
        (2 * (open.size() + 1) > kMaxGroupTensors || squares() > shared)) {
      QS_RETURN_IF_ERROR(AddPairBatch(*read->second, open));
      open.clear();
    }
    open.push_back(site);
  }
  for (const auto& [shared, open] : pairs) {
    QS_RETURN_IF_ERROR(
        AddPairBatch(*reads.at(open.front()->fold().producer()), open));
  }
  return absl::OkStatus();
}

absl::Status BatchMaker::AddPairBatch(const v1::PlanSite& shared,
                                      const Sites& pairs) {
  WorkBatch batch;
  batch.name = pairs.front()->name();
  AddSite(shared, /*with_fold=*/false, &batch);
  for (const v1::PlanSite* site : pairs) {
    AddSite(*site, /*with_fold=*/true, &batch);
    QS_RETURN_IF_ERROR(
        AddTensor(site->fold().producer(), shared.name(), false, &batch));
    for (const std::string& consumer : site->consumers()) {
      QS_RETURN_IF_ERROR(AddTensor(consumer, site->name(), false, &batch));
    }
    QS_RETURN_IF_ERROR(AddFolds(*site, &batch));
  }
  Keep(std::move(batch));
  return absl::OkStatus();
}

void BatchMaker::Keep(WorkBatch batch) {
  std::sort(batch.tensors.begin(), batch.tensors.end(),
            [](const BatchTensor& a, const BatchTensor& b) {
              return a.tensor < b.tensor;
            });
  batches_.push_back(std::move(batch));
}

absl::Status BatchMaker::AddSolveGroups(const std::vector<v1::PlanSite>& all,
                                        bool is_awq) {
  std::map<std::string, Sites> groups;
  for (const v1::PlanSite& site : all) {
    groups[site.group()].push_back(&site);
  }
  for (const auto& [name, sites] : groups) {
    const bool folds =
        std::any_of(sites.begin(), sites.end(), [](const v1::PlanSite* site) {
          return site->fold().kind() != v1::Fold::KIND_UNSPECIFIED;
        });
    if (is_awq || (folds && FitsWhole(sites))) {
      QS_RETURN_IF_ERROR(AddWhole(name, sites));
    } else if (folds) {
      QS_RETURN_IF_ERROR(AddPairs(sites));
    }
  }
  return absl::OkStatus();
}

void BatchMaker::AddSingles() {
  for (size_t i = 0; i < plan_.entries.size(); ++i) {
    if (plan_.entries[i].action() != v1::PlanEntry::QUANTIZE || batched_[i]) {
      continue;
    }
    batches_.push_back({plan_.entries[i].name(), {}, {{i, "", false}}});
  }
}

}  // namespace

BatchTotals TotalsOf(const std::vector<WorkBatch>& batches,
                     const std::vector<PlannedTensor>& tensors) {
  BatchTotals totals;
  for (const WorkBatch& batch : batches) {
    for (const BatchTensor& tensor : batch.tensors) {
      const SafetensorsEntry& entry = tensors[tensor.tensor].entry;
      totals.bytes += entry.end - entry.begin;
      ++totals.tensors;
      if (tensor.fold_only) totals.fold_only.insert(tensor.tensor);
    }
  }
  return totals;
}

bool NeedsCalibration(const v1::PlanSummary& plan) {
  return !CalibratedMethod(plan).empty();
}

absl::Status CheckCalibrationGiven(const std::string& path,
                                   const PlanAnswer& plan) {
  if (!path.empty() || !NeedsCalibration(plan.summary)) {
    return absl::OkStatus();
  }
  return UsageError(absl::StrCat(
      "--calibration: got none with method ", CalibratedMethod(plan.summary),
      ", allowed a file with the second moments of its inputs"));
}

absl::Status MomentsFault(const absl::Status& status) {
  return absl::IsDataLoss(status) ? status : InputFault(status);
}

namespace {

// Of what is missing, what a method that cannot do without is to have.
CalibrationMatch NeededOf(const CalibrationMatch& match,
                          const PlanAnswer& plan) {
  CalibrationMatch needed;
  if (match.missing.empty() || !NeedsCalibration(plan.summary)) return needed;
  const PlanSchemes schemes(plan.summary);
  std::set<std::string_view> names;
  for (const v1::PlanEntry& entry : plan.entries) {
    if (schemes.NeedsMoments(schemes.Of(entry))) {
      names.insert(entry.name());
    }
  }
  for (const std::string& name : match.missing) {
    if (names.contains(name)) needed.missing.push_back(name);
  }
  return needed;
}

}  // namespace

absl::StatusOr<Calibration> OpenCalibration(
    const std::string& path, const PlanAnswer& plan,
    std::shared_ptr<const FileOpener> opener) {
  absl::StatusOr<CalibrationIndex> index =
      CalibrationIndex::Open(path, std::move(opener));
  if (!index.ok()) return InputFault(index.status());
  return MatchCalibration(*std::move(index), plan);
}

absl::StatusOr<Calibration> MatchCalibration(CalibrationIndex index,
                                             const PlanAnswer& plan) {
  std::vector<PlanSite> sites;
  for (const v1::PlanSite& site : plan.sites) sites.push_back(FromProto(site));
  absl::StatusOr<CalibrationMatch> match =
      index.Match(sites, plan.summary.architecture());
  if (!match.ok()) return MomentsFault(match.status());
  QS_RETURN_IF_ERROR(InputFault(index.RequireComplete(NeededOf(*match, plan))));
  if (match->sites.empty()) {
    return InputFault(index.source().Error(
        absl::StrCat("got ", index.source().sites().size(),
                     " sites, of which none is read by a tensor that is "
                     "quantized, allowed at least one")));
  }
  return Calibration{std::move(index), *std::move(match)};
}

absl::StatusOr<std::vector<WorkBatch>> MakeBatches(
    const PlanAnswer& plan, const Calibration* calibration) {
  return BatchMaker(plan, calibration).Make();
}

}  // namespace qs
