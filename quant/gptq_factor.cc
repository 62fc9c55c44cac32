// Tested by tests/quant/gptq_quantizer_test.cc.
#include "quant/gptq_factor.h"

#include <algorithm>
#include <numeric>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

using Order = std::vector<int32_t>;

// Columns in descending order of their diagonal element.
class Sorter {
 public:
  Sorter(const float* hessian, int64_t inputs, double dead_diagonal)
      : hessian_(hessian), inputs_(inputs), dead_diagonal_(dead_diagonal) {}

  double Diagonal(int32_t column) const {
    const float value = hessian_[column * (inputs_ + 1)];
    return value == 0 ? dead_diagonal_ : value;
  }
  void Sort(Order::iterator begin, Order::iterator end) const {
    std::stable_sort(begin, end, [&](int32_t a, int32_t b) {
      return Diagonal(a) > Diagonal(b);
    });
  }

 private:
  const float* const hessian_;
  const int64_t inputs_;
  const double dead_diagonal_;
};

// Columns sorted inside whole groups, the groups by their greatest element; a
// shorter last group stays last, as stored.
Order GroupAware(const Sorter& sorter, int64_t group_size, Order stored) {
  const auto inputs = static_cast<int64_t>(stored.size());
  const int64_t whole = inputs / group_size;
  for (int64_t g = 0; g < whole; ++g) {
    sorter.Sort(stored.begin() + g * group_size,
                stored.begin() + (g + 1) * group_size);
  }
  const auto first = [&](int32_t group) {
    return sorter.Diagonal(stored[static_cast<size_t>(group * group_size)]);
  };
  Order groups(static_cast<size_t>(whole));
  std::iota(groups.begin(), groups.end(), 0);
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int32_t a, int32_t b) { return first(a) > first(b); });
  Order order;
  for (int32_t group : groups) {
    order.insert(order.end(), stored.begin() + group * group_size,
                 stored.begin() + (group + 1) * group_size);
  }
  order.insert(order.end(), stored.begin() + whole * group_size, stored.end());
  return order;
}

}  // namespace

std::vector<int32_t> GptqOrder(ColumnOrder order, int64_t group_size,
                               const float* hessian, int64_t inputs,
                               double dead_diagonal) {
  Order stored(static_cast<size_t>(inputs));
  std::iota(stored.begin(), stored.end(), 0);
  const Sorter sorter(hessian, inputs, dead_diagonal);
  switch (order) {
    case ColumnOrder::kNone:
      break;
    case ColumnOrder::kGroupAware:
      return GroupAware(sorter, group_size, std::move(stored));
    default:
      sorter.Sort(stored.begin(), stored.end());
  }
  return stored;
}

absl::StatusOr<std::shared_ptr<const GptqFactor>> MakeGptqFactor(
    const GptqSpec& spec, Profile profile, int64_t group_size,
    const MomentView& moment, const PanelCheck& checkpoint, Backend& backend) {
  const int64_t n = moment.inputs;
  const float* const hessian = moment.second_moment;
  const bool best = profile == Profile::kBest;
  auto factor = std::make_shared<GptqFactor>();
  GptqFactorArgs args;
  args.hessian = hessian;
  args.size = n;
  args.damping = spec.damping;
  if (best && moment.tokens < 4 * n) {
    args.damping = std::max(args.damping, kFewTokensDamping);
  }
  args.dead_diagonal = best ? 0 : static_cast<double>(moment.tokens) / 2;
  args.in_f64 = !best;  // the library's own codes, whatever the condition of H
  factor->order =
      GptqOrder(spec.order, group_size, hessian, n, args.dead_diagonal);
  factor->group_of.resize(static_cast<size_t>(n));
  factor->dead.resize(static_cast<size_t>(n));
  for (int64_t p = 0; p < n; ++p) {
    const int64_t column = factor->order[static_cast<size_t>(p)];
    const bool dynamic = spec.order == ColumnOrder::kActOrder;
    factor->group_of[static_cast<size_t>(column)] =
        static_cast<int32_t>((dynamic ? p : column) / group_size);
    factor->dead[static_cast<size_t>(column)] =
        hessian[column * (n + 1)] == 0 ? 1 : 0;
  }
  QS_ASSIGN_OR_RETURN(
      factor->r, Buffer::Allocate(n * n * static_cast<int64_t>(sizeof(float))));
  args.order = factor->order.data();
  args.checkpoint = checkpoint;
  args.factor = factor->r.As<float>();
  args.facts = &factor->facts;
  QS_RETURN_IF_ERROR(backend.gptq().Factor(args, backend.stream()));
  return factor;
}

absl::StatusOr<std::shared_ptr<const GptqFactor>> SharedGptqFactor(
    const GptqSpec& spec, Profile profile, int64_t group_size, Site& site,
    const PanelCheck& checkpoint, Backend& backend, PhaseClock* clock) {
  const bool grouped = spec.order == ColumnOrder::kGroupAware ||
                       spec.order == ColumnOrder::kActOrder;
  const std::string key = absl::StrCat(
      "gptq/", static_cast<int>(profile), "/", static_cast<int>(spec.order),
      "/", grouped ? group_size : 0, "/", spec.damping);
  Enter(clock, Phase::kWait);
  QS_ASSIGN_OR_RETURN(
      Site::Derived derived,
      site.Derive(
          key,
          [&](const SiteMoments& moments) -> absl::StatusOr<Site::Derived> {
            Enter(clock, Phase::kFactor);
            QS_RETURN_IF_ERROR(moments.Check());
            QS_ASSIGN_OR_RETURN(
                std::shared_ptr<const GptqFactor> made,
                MakeGptqFactor(spec, profile, group_size,
                               {moments.second_moment(), moments.inputs(),
                                moments.tokens()},
                               checkpoint, backend));
            return Site::Derived(std::move(made));
          }));
  return std::static_pointer_cast<const GptqFactor>(derived);
}

void AddFacts(const GptqFactor& factor, SolverFacts* facts) {
  facts->damping = factor.facts.damping;
  facts->damping_retries = factor.facts.damping_retries;
  facts->factor_in_f64 = factor.facts.in_f64;
  facts->diagonal_only = factor.facts.diagonal_only;
  facts->dead_columns = factor.facts.dead_columns;
}

}  // namespace qs
