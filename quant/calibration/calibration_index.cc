// Tested by tests/quant/calibration_index_test.cc.
#include "quant/calibration/calibration_index.h"

#include <algorithm>
#include <cstring>
#include <set>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/formats/json.h"
#include "quant/plan/catalogue.h"

namespace qs {
namespace {

constexpr size_t kNamesInError = 5;

// As transformers and checkpoints call the stacks of a layer's experts.
constexpr char kUpStack[] = ".gate_up_proj";
constexpr char kDownStack[] = ".down_proj";

const Architecture& ArchitectureNamed(const std::string& name) {
  const std::vector<Architecture>& all = TheCatalogue().architectures;
  const auto found = std::find_if(
      all.begin(), all.end(), [&](const auto& a) { return a.name == name; });
  return found == all.end() ? all.back() : *found;
}

std::string ModuleOf(const std::string& tensor) {
  return tensor.ends_with(".weight") ? tensor.substr(0, tensor.size() - 7)
                                     : tensor;
}

void AddToPool(const PlanSite& site, const SiteMatch& one, SiteMatch* pool) {
  pool->name = site.pool;
  pool->inputs = site.inputs;
  pool->tokens += one.tokens;
  pool->sources.insert(pool->sources.end(), one.sources.begin(),
                       one.sources.end());
}

void UsePool(const SiteMatch& pool, SiteMatch* one) {
  one->pool_weight = PoolWeight(one->tokens, pool.tokens, one->inputs);
  if (one->pool_weight > 0) one->pool = pool.name;
}

}  // namespace

CalibrationIndex::CalibrationIndex(
    std::shared_ptr<const CalibrationSource> source)
    : source_(std::move(source)), one_inputs_(std::make_shared<OneInputs>()) {
  auto by_module = std::make_shared<ByModule>();
  for (size_t i = 0; i < source_->sites().size(); ++i) {
    for (const std::string& module : source_->sites()[i].modules) {
      by_module->emplace(module, i);
    }
  }
  by_module_ = std::move(by_module);
}

CalibrationIndex::CalibrationIndex(
    std::shared_ptr<const CalibrationSource> source,
    std::shared_ptr<const ByModule> by_module,
    std::shared_ptr<OneInputs> one_inputs)
    : source_(std::move(source)),
      by_module_(std::move(by_module)),
      one_inputs_(std::move(one_inputs)) {}

CalibrationIndex CalibrationIndex::Renewed(
    std::shared_ptr<const CalibrationSource> source) const {
  return {std::move(source), by_module_, one_inputs_};
}

absl::StatusOr<CalibrationIndex> CalibrationIndex::Open(
    const std::string& path, std::shared_ptr<const FileOpener> opener) {
  QS_ASSIGN_OR_RETURN(CalibrationFile file,
                      CalibrationFile::Open(path, std::move(opener)));
  return CalibrationIndex(
      std::make_shared<const CalibrationFile>(std::move(file)));
}

std::optional<size_t> CalibrationIndex::Find(
    const std::string& module, const std::string& architecture) const {
  auto found = by_module_->find(module);
  if (found == by_module_->end()) {
    found = by_module_->find(
        TransformersName(ArchitectureNamed(architecture), module));
  }
  return found == by_module_->end() ? std::nullopt
                                    : std::optional(found->second);
}

std::optional<size_t> CalibrationIndex::FindStack(
    const PlanSite& site, const std::string& consumer,
    const std::string& architecture) const {
  const std::string module = ModuleOf(consumer);
  const std::string experts(ExpertsModule(module));
  if (experts.empty()) return std::nullopt;
  if (!site.pooled) return Find(experts + kDownStack, architecture);
  const std::optional<size_t> routed = Find(experts + kUpStack, architecture);
  return routed ? routed : Find(experts, architecture);
}

// In the order of the consumers. One that is not in the file reads what the
// others read, unless they read more than one: then it is `missing`.
std::vector<size_t> CalibrationIndex::SourcesOf(
    const PlanSite& site, const std::string& architecture,
    std::vector<std::string>* missing) const {
  std::vector<size_t> sources;
  std::set<size_t> seen;
  std::vector<std::string> absent;
  for (const std::string& consumer : site.consumers) {
    std::optional<size_t> found = Find(ModuleOf(consumer), architecture);
    // Another stack's sum is a pool's.
    if (!found && site.pool.empty()) {
      found = FindStack(site, consumer, architecture);
    }
    if (!found) {
      absent.push_back(consumer);
    } else if (seen.insert(*found).second) {
      sources.push_back(*found);
    }
  }
  if (sources.size() != 1) {
    missing->insert(missing->end(), absent.begin(), absent.end());
  }
  return sources;
}

// What the plan calls one input must be one in the file, too: recorded once a
// consumer it has the same sums. That can be seen when all of them are known.
absl::Status CalibrationIndex::KeepOneInput(
    const PlanSite& site, std::vector<size_t>* sources) const {
  const bool open =
      std::any_of(sources->begin(), sources->end(),
                  [this](size_t i) { return source_->sites()[i].open; });
  if (open) return absl::OkStatus();
  QS_RETURN_IF_ERROR(CheckOneInput(site, *sources));
  sources->resize(1);
  return absl::OkStatus();
}

absl::Status CalibrationIndex::CheckOneInput(
    const PlanSite& site, const std::vector<size_t>& sources) const {
  {
    absl::MutexLock lock(&one_inputs_->mutex);
    if (one_inputs_->sources.contains(sources)) return absl::OkStatus();
  }
  const CalibrationSite& first = source_->sites()[sources.front()];
  QS_ASSIGN_OR_RETURN(const SiteMoments kept, source_->Read(sources.front()));
  for (size_t i = 1; i < sources.size(); ++i) {
    const CalibrationSite& other = source_->sites()[sources[i]];
    bool same = other.inputs == first.inputs && other.tokens == first.tokens;
    if (same) {
      QS_ASSIGN_OR_RETURN(const SiteMoments sums, source_->Read(sources[i]));
      same =
          std::memcmp(sums.abs_sum(), kept.abs_sum(),
                      sizeof(float) * static_cast<size_t>(kept.inputs())) == 0;
    }
    if (same) continue;
    return source_->Error(absl::StrCat(
        "sites ", QuoteForError(first.name), " and ", QuoteForError(other.name),
        ": got different sums, allowed equal ones: their tensors read one "
        "input, ",
        QuoteForError(site.name)));
  }
  absl::MutexLock lock(&one_inputs_->mutex);
  one_inputs_->sources.insert(sources);
  return absl::OkStatus();
}

// Checks and counts the sources.
absl::Status CalibrationIndex::Count(const PlanSite& site,
                                     SiteMatch* match) const {
  for (const size_t source : match->sources) {
    const CalibrationSite& info = source_->sites()[source];
    if (info.inputs != site.inputs) {
      return source_->Error(
          absl::StrCat("site ", QuoteForError(info.name), ": got ", info.inputs,
                       " inputs, allowed ", site.inputs, ", the columns of ",
                       QuoteForError(site.consumers.front())));
    }
    match->tokens += info.tokens;
  }
  return absl::OkStatus();
}

absl::StatusOr<SiteMatch> CalibrationIndex::MatchSite(
    const PlanSite& site, const std::string& architecture,
    std::vector<std::string>* missing) const {
  SiteMatch match;
  match.name = site.name;
  match.inputs = site.inputs;
  match.sources = SourcesOf(site, architecture, missing);
  // Experts' own gate and up sites add up to the pooled one.
  if (match.sources.size() > 1 && !site.pooled) {
    QS_RETURN_IF_ERROR(KeepOneInput(site, &match.sources));
  }
  QS_RETURN_IF_ERROR(Count(site, &match));
  return match;
}

// An expert without moments of its own is `missing`, unless its layer's pool is
// there as the sum of all.
absl::StatusOr<SiteMatch> CalibrationIndex::MatchExpert(
    const PlanSite& site, const std::string& architecture, SiteMatch* pool,
    std::vector<std::string>* missing) const {
  std::vector<std::string> absent;
  QS_ASSIGN_OR_RETURN(SiteMatch one, MatchSite(site, architecture, &absent));
  const std::optional<size_t> stack =
      FindStack(site, site.consumers.front(), architecture);
  if (!stack) {
    missing->insert(missing->end(), absent.begin(), absent.end());
    AddToPool(site, one, pool);
    return one;
  }
  if (pool->sources.empty()) {
    pool->name = site.pool;
    pool->inputs = site.inputs;
    pool->sources = {*stack};
    QS_RETURN_IF_ERROR(Count(site, pool));
  }
  return one;
}

absl::StatusOr<CalibrationMatch> CalibrationIndex::Match(
    const std::vector<PlanSite>& sites, const std::string& architecture) const {
  CalibrationMatch match;
  std::vector<SiteMatch>
      all;  // as `sites`; without sources: missing, or pooled
  std::map<std::string, SiteMatch> pools;
  for (const PlanSite& site : sites) {
    QS_ASSIGN_OR_RETURN(all.emplace_back(),
                        site.pool.empty()
                            ? MatchSite(site, architecture, &match.missing)
                            : MatchExpert(site, architecture, &pools[site.pool],
                                          &match.missing));
  }
  const std::set<std::string> missing(match.missing.begin(),
                                      match.missing.end());
  std::set<size_t> used;
  for (size_t i = 0; i < sites.size(); ++i) {
    SiteMatch& one = all[i];
    const std::vector<std::string>& readers = sites[i].consumers;
    used.insert(one.sources.begin(), one.sources.end());
    if (one.sources.empty() && missing.contains(readers.front())) continue;
    if (!sites[i].pool.empty()) UsePool(pools.at(sites[i].pool), &one);
    if (one.tokens == 0 && one.pool_weight == 0) {
      match.missing.insert(match.missing.end(), readers.begin(), readers.end());
      continue;
    }
    if (!one.pool.empty()) {
      const SiteMatch& pool = pools.at(one.pool);
      used.insert(pool.sources.begin(), pool.sources.end());
      match.pools.emplace(one.pool, pool);
    }
    match.sites.push_back(std::move(one));
  }
  match.used.assign(used.begin(), used.end());
  for (size_t i = 0; i < source_->sites().size(); ++i) {
    if (!used.contains(i)) match.unused.push_back(source_->sites()[i].name);
  }
  return match;
}

absl::Status CalibrationIndex::RequireComplete(
    const CalibrationMatch& match) const {
  if (match.missing.empty()) return absl::OkStatus();
  const size_t shown = std::min(match.missing.size(), kNamesInError);
  std::vector<std::string> names;
  for (size_t i = 0; i < shown; ++i) {
    names.push_back(QuoteForError(match.missing[i]));
  }
  const size_t more = match.missing.size() - shown;
  return source_->Error(absl::StrCat(
      "got no moments for the input of ", absl::StrJoin(names, ", "),
      more > 0 ? absl::StrCat(" and ", more, " others") : "",
      ", allowed: every quantized tensor is MODULE.weight of a module that "
      "metadata inputs names, at a site with at least one token"));
}

absl::StatusOr<SiteMoments> CalibrationIndex::Load(
    const SiteMatch& match) const {
  if (match.sources.empty()) {
    return SiteMoments::Create(match.name, match.inputs);
  }
  QS_ASSIGN_OR_RETURN(SiteMoments sum,
                      source_->Load(match.sources.front(), match.name));
  for (size_t i = 1; i < match.sources.size(); ++i) {
    QS_ASSIGN_OR_RETURN(const SiteMoments more,
                        source_->Load(match.sources[i]));
    QS_RETURN_IF_ERROR(sum.Merge(more));
  }
  return sum;
}

}  // namespace qs
