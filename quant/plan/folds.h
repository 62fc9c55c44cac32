// FoldFinder: which tensor before a site can absorb the inverse of its scales.
//
// The catalogue says where a site's values come from and who reads them; this
// looks whether the checkpoint at hand agrees: the tensors are there with the
// sizes that they must have, none is shared with another place, and no tensor
// of the block that the catalogue does not know could be a reader, too.
#ifndef QS_QUANT_PLAN_FOLDS_H_
#define QS_QUANT_PLAN_FOLDS_H_

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <vector>

#include "quant/plan/draft.h"

namespace qs {

// "model.layers.0" and "mlp.gate_up" of "model.layers.0/mlp.gate_up".
struct SitePath {
  std::string_view block;  // maybe empty
  std::string_view local;
};
SitePath SplitSite(std::string_view site);

// The module `local` of a block, and its weight.
std::string ModuleIn(std::string_view block, std::string_view local);
std::string WeightIn(std::string_view block, std::string_view local);

class FoldFinder {
 public:
  // `draft` must outlive it. Linear in the tensors.
  explicit FoldFinder(const Draft& draft);

  // `carried`: linears that read the site and are not quantized, by index.
  PlanFold Find(const PlanSite& site, const std::vector<size_t>& carried) const;

 private:
  // What the tensors of a block that the catalogue does not know could read:
  // the number of inputs, and one of them.
  using Strangers = std::unordered_map<int64_t, size_t>;

  const PlanTensor* Tensor(const std::string& name) const;
  bool IsTied(const std::string& name) const { return tied_.contains(name); }
  void AddStranger(size_t i);

  std::string FindNorm(const PlanSite& site, const FoldRule& rule,
                       PlanFold* fold) const;
  std::string FindLinear(const PlanSite& site, const FoldRule& rule,
                         PlanFold* fold) const;
  std::string FindRows(const PlanSite& site, const FoldRule& rule,
                       const PlanTensor& producer, PlanFold* fold) const;
  std::string FindBias(const std::string& module, int64_t size,
                       PlanFold* fold) const;
  std::string FindReaders(const PlanSite& site, const FoldRule& rule,
                          const std::vector<size_t>& carried,
                          PlanFold* fold) const;

  const Draft& draft_;
  std::unordered_set<std::string_view> tied_;  // either side of a tie
  std::unordered_map<std::string_view, Strangers> blocks_;
};

}  // namespace qs

#endif  // QS_QUANT_PLAN_FOLDS_H_
