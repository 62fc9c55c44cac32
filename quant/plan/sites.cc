// Tested by tests/quant/plan_sites_test.cc.
#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "quant/plan/draft.h"
#include "quant/plan/folds.h"

namespace qs {
namespace {

std::string SiteIn(std::string_view block, std::string_view local) {
  std::string site(block);
  if (!site.empty()) site += '/';
  site += local;
  return site;
}

// The site whose input `site` reads in this checkpoint: itself or another.
std::string SharedSite(const Draft& draft, const std::string& site) {
  const SitePath path = SplitSite(site);
  const FoldRule* rule = FindFold(*draft.architecture, path.local);
  if (rule == nullptr || rule->else_site.empty()) return site;
  for (const std::string& norm : rule->norms) {
    if (draft.by_name.contains(WeightIn(path.block, norm))) return site;
  }
  return SiteIn(path.block, rule->else_site);
}

bool SharesInputs(const Architecture& architecture) {
  return std::any_of(
      architecture.folds.begin(), architecture.folds.end(),
      [](const auto& entry) { return !entry.second.else_site.empty(); });
}

// A linear of an expert whose input is its own.
bool HasPool(const DraftTensor& item) {
  return item.rule != nullptr && item.rule->expert && item.rule->site.empty();
}

// A linear of an expert whose input is that of all experts of the layer.
bool ReadsPooledSite(const DraftTensor& item) {
  return item.rule != nullptr && item.rule->expert &&
         !item.rule->site.empty() && item.site.ends_with(item.rule->site);
}

// "block/mlp.experts.down_proj" of "block/mlp.experts.3.down_proj".
std::string PoolName(std::string_view site) {
  const SitePath path = SplitSite(site);
  std::string local = WithoutNumbers(path.local);
  for (size_t at = local.find("#."); at != local.npos; at = local.find("#.")) {
    local.erase(at, 2);
  }
  return SiteIn(path.block, local);
}

// Cuts `common` to the whole components that it shares with `site`.
void KeepCommonPath(std::string_view site, std::string* common) {
  const auto is_end = [](std::string_view text, size_t at) {
    return at == text.size() || text[at] == '.' || text[at] == '/';
  };
  size_t same = 0;
  for (size_t i = 0; i <= std::min(site.size(), common->size()); ++i) {
    if (is_end(site, i) && is_end(*common, i)) same = i;
    if (i < common->size() && i < site.size() && site[i] != (*common)[i]) break;
  }
  common->resize(same);
}

// Sites in the making: which linears read them, and who belongs together.
class SiteList {
 public:
  explicit SiteList(Draft* draft) : draft_(draft) { Collect(); }

  std::vector<PlanSite> Finish() {
    FindFolds();
    RefuseSharedProducers();
    SetGroups();
    SetPools();
    return std::move(sites_);
  }

 private:
  void Collect();
  void AddReader(size_t i);
  void FindFolds();
  const QuantSpec& SpecOf(const std::string& name) const;
  bool HasAwq(const PlanSite& site) const;
  void RefuseMixed(PlanSite* site) const;
  void RefuseSharedProducers();
  void TieByProducers();
  void SetGroups();
  void SetPools();
  size_t Root(size_t i);

  Draft* const draft_;
  std::vector<PlanSite> sites_;
  std::unordered_map<std::string_view, size_t> by_name_;  // of DraftTensors
  std::vector<std::vector<size_t>> carried_;
  std::vector<size_t> parents_;
};

void SiteList::Collect() {
  for (size_t i = 0; i < draft_->tensors.size(); ++i) {
    if (!draft_->Quantizes(i)) continue;
    const DraftTensor& item = draft_->tensors[i];
    const auto [found, is_new] = by_name_.emplace(item.site, sites_.size());
    if (is_new) {
      PlanSite& site = sites_.emplace_back();
      site.name = item.site;
      site.inputs = draft_->entry(i).cols;
      if (HasPool(item)) site.pool = PoolName(site.name);
    }
    PlanSite& site = sites_[found->second];
    site.consumers.push_back(draft_->entry(i).name);
    site.pooled |= ReadsPooledSite(item);
  }
  carried_.resize(sites_.size());
  for (size_t i = 0; i < draft_->tensors.size(); ++i) {
    const DraftTensor& item = draft_->tensors[i];
    if (draft_->Quantizes(i) || item.rule == nullptr) continue;
    const auto found = by_name_.find(item.site);
    if (found != by_name_.end()) carried_[found->second].push_back(i);
  }
}

void SiteList::FindFolds() {
  const FoldFinder finder(*draft_);
  for (size_t i = 0; i < sites_.size(); ++i) {
    PlanSite& site = sites_[i];
    site.fold = finder.Find(site, carried_[i]);
    RefuseMixed(&site);
    if (site.fold.kind != FoldKind::kNone || !HasAwq(site)) continue;
    draft_->findings.Add(
        Severity::kWarning, "NO_FOLD", site.consumers.front(),
        absl::StrCat("its input is not scaled: ", site.fold.reason));
  }
}

const QuantSpec& SiteList::SpecOf(const std::string& name) const {
  return draft_->SpecOf(draft_->by_name.at(name));
}

bool SiteList::HasAwq(const PlanSite& site) const {
  return std::any_of(
      site.consumers.begin(), site.consumers.end(),
      [&](const std::string& name) { return SpecOf(name).awq() != nullptr; });
}

// What a fold joins is solved by one configuration.
void SiteList::RefuseMixed(PlanSite* site) const {
  if (site->fold.kind == FoldKind::kNone || draft_->request.overrides.empty()) {
    return;
  }
  const QuantSpec& spec = SpecOf(site->consumers.front());
  std::string reason;
  for (const std::string& name : site->consumers) {
    if (SpecOf(name) == spec) continue;
    reason = "its readers are quantized in different ways";
  }
  const size_t producer = draft_->by_name.at(site->fold.producer);
  if (draft_->Quantizes(producer) && draft_->SpecOf(producer) != spec) {
    reason = absl::StrCat(site->fold.producer,
                          ", which makes it, is quantized in another way");
  }
  if (reason.empty()) return;
  site->fold = PlanFold();
  site->fold.reason = std::move(reason);
}

// One producer cannot be divided by the scales of two sites.
void SiteList::RefuseSharedProducers() {
  std::unordered_map<std::string, size_t> first;
  std::vector<size_t> refused;
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i].fold.kind == FoldKind::kNone) continue;
    const auto [found, is_new] = first.emplace(sites_[i].fold.producer, i);
    if (is_new) continue;
    refused.push_back(i);
    refused.push_back(found->second);
  }
  for (const size_t i : refused) {
    sites_[i].fold = PlanFold();
    sites_[i].fold.reason = "its producer feeds another site, too";
  }
}

size_t SiteList::Root(size_t i) {
  while (parents_[i] != i) i = parents_[i] = parents_[parents_[i]];
  return i;
}

// A producer that reads another site ties the two together.
void SiteList::TieByProducers() {
  parents_.resize(sites_.size());
  std::iota(parents_.begin(), parents_.end(), size_t{0});
  for (size_t i = 0; i < sites_.size(); ++i) {
    if (sites_[i].fold.kind != FoldKind::kLinear) continue;
    const size_t producer = draft_->by_name.at(sites_[i].fold.producer);
    const auto reads = by_name_.find(draft_->tensors[producer].site);
    if (reads == by_name_.end()) continue;
    const size_t a = Root(i);
    const size_t b = Root(reads->second);
    parents_[std::max(a, b)] = std::min(a, b);
  }
}

// A group is named by the path that its sites have in common.
void SiteList::SetGroups() {
  TieByProducers();
  std::unordered_map<size_t, std::string> names;
  for (size_t i = 0; i < sites_.size(); ++i) {
    const auto [found, is_new] = names.emplace(Root(i), sites_[i].name);
    if (!is_new) KeepCommonPath(sites_[i].name, &found->second);
  }
  std::unordered_map<std::string, size_t> owners;
  for (size_t i = 0; i < sites_.size(); ++i) {
    const std::string& name = names.at(Root(i));
    const size_t owner = owners.emplace(name, Root(i)).first->second;
    sites_[i].group =
        owner == Root(i) ? name : absl::StrCat(name, "#", Root(i));
  }
}

// A pool of one helps nobody, and sites of other sizes cannot be added.
void SiteList::SetPools() {
  struct Pool {
    int64_t inputs = 0;
    int64_t sites = 0;
  };
  std::unordered_map<std::string, Pool> pools;
  for (PlanSite& site : sites_) {
    if (site.pool.empty()) continue;
    Pool& pool = pools[site.pool];
    if (pool.sites == 0) pool.inputs = site.inputs;
    if (pool.inputs == site.inputs) ++pool.sites;
  }
  for (PlanSite& site : sites_) {
    if (site.pool.empty()) continue;
    const Pool& pool = pools.at(site.pool);
    if (pool.sites < 2 || pool.inputs != site.inputs) site.pool.clear();
  }
}

}  // namespace

void ShareInputs(Draft* draft) {
  if (SharesInputs(*draft->architecture)) {
    for (DraftTensor& item : draft->tensors) {
      if (item.rule != nullptr) item.site = SharedSite(*draft, item.site);
    }
  }
  std::unordered_map<std::string_view, int64_t> inputs;
  for (size_t i = 0; i < draft->tensors.size(); ++i) {
    DraftTensor& item = draft->tensors[i];
    if (item.rule == nullptr) continue;
    const int64_t cols = draft->entry(i).cols;
    const auto [found, is_new] = inputs.emplace(item.site, cols);
    if (is_new || found->second == cols) continue;
    item.site = std::string(item.module);
  }
}

std::vector<PlanSite> PlanSites(Draft* draft) {
  return SiteList(draft).Finish();
}

}  // namespace qs
