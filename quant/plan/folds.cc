// Tested by tests/quant/plan_sites_test.cc.
#include "quant/plan/folds.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "quant/tensor_quantizer.h"

namespace qs {
namespace {

constexpr char kWeight[] = ".weight";

std::string ShapeText(const PlanTensor& tensor) {
  return absl::StrCat("[", absl::StrJoin(tensor.shape, ", "), "]");
}

// "mlp.experts.3.up_proj" from "mlp.experts.#.up_proj" and the numbers of
// "mlp.experts.3.down_proj".
std::string WithNumbersOf(std::string_view local, std::string_view pattern) {
  std::vector<std::string> numbers;
  for (const absl::string_view part :
       absl::StrSplit(absl::string_view(local.data(), local.size()), '.')) {
    const std::string text(part);
    if (WithoutNumbers(text) == "#") numbers.push_back(text);
  }
  std::string out;
  size_t used = 0;
  for (const char c : pattern) {
    if (c == '#' && used < numbers.size()) {
      out += numbers[used++];
    } else {
      out += c;
    }
  }
  return out;
}

// No linear, so no reader of what a block computes.
bool NeverReads(std::string_view module) {
  const std::string_view kind = KindOfModule(module);
  return kind == "norm" || kind == "embedding" || kind == "head";
}

// The sizes along which a tensor could be multiplied with an input: the columns
// of a weight, any dimension of what is none.
std::vector<int64_t> InputSizes(const PlanTensor& tensor) {
  if (tensor.shape.size() == 2 && tensor.name.ends_with(kWeight)) {
    return {tensor.shape[1]};
  }
  return tensor.shape;
}

}  // namespace

SitePath SplitSite(std::string_view site) {
  const size_t slash = site.rfind('/');
  if (slash == site.npos) return {"", site};
  return {site.substr(0, slash), site.substr(slash + 1)};
}

std::string ModuleIn(std::string_view block, std::string_view local) {
  std::string name(block);
  if (!name.empty()) name += '.';
  name += local;
  return name;
}

std::string WeightIn(std::string_view block, std::string_view local) {
  std::string name = ModuleIn(block, local);
  name += kWeight;
  return name;
}

FoldFinder::FoldFinder(const Draft& draft) : draft_(draft) {
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const PlanEntry& entry = draft.entry(i);
    if (entry.action == TensorAction::kTied) {
      tied_.insert(entry.name);
      tied_.insert(entry.tied_to);
    }
    if (draft.tensors[i].rule == nullptr) continue;
    const std::string_view block = SplitSite(draft.tensors[i].site).block;
    blocks_.try_emplace(block);
  }
  for (size_t i = 0; i < draft.tensors.size(); ++i) {
    const DraftTensor& item = draft.tensors[i];
    if (draft.entry(i).action == TensorAction::kSplit) continue;
    if (item.rule == nullptr && item.tensor->shape.size() >= 2 &&
        IsFloatWeight(item.tensor->dtype) && !NeverReads(item.module)) {
      AddStranger(i);
    }
  }
}

// To the innermost block around it.
void FoldFinder::AddStranger(size_t i) {
  const std::string_view name = draft_.tensors[i].module;
  for (size_t dot = name.rfind('.'); dot != name.npos && dot > 0;
       dot = name.rfind('.', dot - 1)) {
    const auto block = blocks_.find(name.substr(0, dot));
    if (block == blocks_.end()) continue;
    const std::string local(name.substr(dot + 1));
    if (draft_.architecture->readers.contains(local)) return;
    for (const int64_t size : InputSizes(*draft_.tensors[i].tensor)) {
      block->second.emplace(size, i);
    }
    return;
  }
}

const PlanTensor* FoldFinder::Tensor(const std::string& name) const {
  const auto found = draft_.by_name.find(name);
  return found == draft_.by_name.end() ? nullptr
                                       : draft_.tensors[found->second].tensor;
}

// The following return why there is no fold, or "".

std::string FoldFinder::FindBias(const std::string& module, int64_t size,
                                 PlanFold* fold) const {
  const std::string name = module + ".bias";
  const PlanTensor* bias = Tensor(name);
  if (bias == nullptr) return "";
  if (bias->shape != std::vector<int64_t>{size} || IsTied(name) ||
      !IsFloatWeight(bias->dtype)) {
    return absl::StrCat("its producer's bias is tied or no float [", size, "]");
  }
  fold->producer_bias = name;
  return "";
}

std::string FoldFinder::FindNorm(const PlanSite& site, const FoldRule& rule,
                                 PlanFold* fold) const {
  const std::string_view block = SplitSite(site.name).block;
  for (const std::string& norm : rule.norms) {
    const std::string module = ModuleIn(block, norm);
    const std::string name = WeightIn(block, norm);
    const PlanTensor* tensor = Tensor(name);
    if (tensor == nullptr) continue;
    if (tensor->shape != std::vector<int64_t>{site.inputs} || IsTied(name) ||
        !IsFloatWeight(tensor->dtype)) {
      return absl::StrCat(norm, ": tied, or no float [", site.inputs, "]");
    }
    fold->kind = draft_.architecture->norm_plus_one ? FoldKind::kNormPlusOne
                                                    : FoldKind::kNorm;
    fold->producer = name;
    return FindBias(module, site.inputs, fold);
  }
  return absl::StrCat("the block has no ", absl::StrJoin(rule.norms, " or "),
                      kWeight);
}

// Which rows of the producer are the site's values.
std::string FoldFinder::FindRows(const PlanSite& site, const FoldRule& rule,
                                 const PlanTensor& producer,
                                 PlanFold* fold) const {
  const int64_t rows = producer.shape[0];
  int64_t values = rows;
  if (rule.last_rows) {
    // [query, key, value] with as many query rows as the site has inputs, or
    // [gate, up].
    values = rule.heads ? (rows - site.inputs) / 2 : site.inputs;
    fold->row_offset = rows - values;
    const int64_t all = rule.heads ? site.inputs + 2 * values : 2 * values;
    if (all != rows) values = 0;
  }
  if (values == site.inputs) return "";
  if (!rule.heads || values < 1 || site.inputs % values != 0) {
    return absl::StrCat("the producer has ", rows, " rows for ", site.inputs,
                        " inputs");
  }
  const ConfigFacts& config = draft_.config;
  if (config.head_dim < 1 || values % config.head_dim != 0 ||
      (config.attention_heads > 0 &&
       config.attention_heads * config.head_dim != site.inputs)) {
    return absl::StrCat(
        "grouped attention: config.json states no head_dim that fits ",
        site.inputs, " inputs from ", values, " rows");
  }
  fold->head_dim = config.head_dim;
  fold->repeat = site.inputs / values;
  return "";
}

std::string FoldFinder::FindLinear(const PlanSite& site, const FoldRule& rule,
                                   PlanFold* fold) const {
  const auto [block, local] = SplitSite(site.name);
  const std::string module = ModuleIn(block, WithNumbersOf(local, rule.linear));
  const std::string name = module + kWeight;
  const PlanTensor* producer = Tensor(name);
  if (producer == nullptr) {
    return absl::StrCat("the block has no ", rule.linear, kWeight);
  }
  if (producer->shape.size() != 2 || IsTied(name) ||
      !IsFloatWeight(producer->dtype)) {
    return absl::StrCat(rule.linear, ": tied, or no float matrix");
  }
  fold->kind = FoldKind::kLinear;
  fold->producer = name;
  std::string reason = FindRows(site, rule, *producer, fold);
  if (!reason.empty()) return reason;
  return FindBias(module, producer->shape[0], fold);
}

std::string FoldFinder::FindReaders(const PlanSite& site, const FoldRule& rule,
                                    const std::vector<size_t>& carried,
                                    PlanFold* fold) const {
  const std::string_view block = SplitSite(site.name).block;
  std::vector<size_t> readers = carried;
  for (const std::string& reader : rule.readers) {
    const auto found = draft_.by_name.find(WeightIn(block, reader));
    if (found != draft_.by_name.end()) readers.push_back(found->second);
  }
  std::sort(readers.begin(), readers.end());
  for (const size_t i : readers) {
    const PlanTensor& tensor = *draft_.tensors[i].tensor;
    if (tensor.shape.size() != 2 || tensor.shape[1] != site.inputs ||
        IsTied(tensor.name) || !IsFloatWeight(tensor.dtype)) {
      return absl::StrCat("a reader ", ShapeText(tensor),
                          " is tied or no float matrix of ", site.inputs,
                          " columns");
    }
    fold->scaled_only.push_back(tensor.name);
  }
  const auto strangers = blocks_.find(block);
  if (strangers == blocks_.end()) return "";
  const auto found = strangers->second.find(site.inputs);
  if (found == strangers->second.end()) return "";
  const std::string_view name = draft_.entry(found->second).name;
  const size_t skip = block.empty() ? 0 : block.size() + 1;
  return absl::StrCat(std::string(name.substr(skip)),
                      " may read it, too: the catalogue does not know");
}

PlanFold FoldFinder::Find(const PlanSite& site,
                          const std::vector<size_t>& carried) const {
  PlanFold fold;
  const SitePath path = SplitSite(site.name);
  const FoldRule* rule = FindFold(*draft_.architecture, path.local);
  if (rule == nullptr) {
    fold.reason = absl::StrCat(draft_.architecture->name,
                               ": no operation before it is known to absorb "
                               "scales");
    return fold;
  }
  std::string reason = rule->linear.empty() ? FindNorm(site, *rule, &fold)
                                            : FindLinear(site, *rule, &fold);
  if (reason.empty()) reason = FindReaders(site, *rule, carried, &fold);
  if (reason.empty()) return fold;
  fold = PlanFold();
  fold.reason = std::move(reason);
  return fold;
}

}  // namespace qs
