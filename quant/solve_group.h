// SolveGroup: the tensors and sites of one GroupInfo, whichever way the method
// solves them.
//
// Methods that solve tensors by themselves only take the site of each tensor
// from it: a tile runs as soon as its bytes are there, and waits for the site.
// AWQ, and GPTQ with AWQ scaling first where a site has a fold, solve the whole
// group at once: when every site is filled and every tensor has all its input,
// Solve, then the tiles.
//
//   auto group = SolveGroup::Create(spec, info, options);
//   group->site(i)->Fill(...); auto q = group->TakeTensor(j); fill q;
//   if (group->solves_whole()) group->Solve(backend);
//   q->RunTile ... q->Finish
//
// Thread: one caller at a time; sites and quantizers have their own rules.
#ifndef QS_QUANT_SOLVE_GROUP_H_
#define QS_QUANT_SOLVE_GROUP_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "quant/group_info.h"
#include "quant/quant_spec.h"
#include "quant/site.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// Of one group; a block with 1024 experts has 1028 sites and 3080 tensors.
constexpr size_t kMostGroupSites = 4096;
constexpr size_t kMostGroupTensors = 16'384;

// Time is linear in sites and tensors.
// Errors: INVALID_ARGUMENT — more than the two above; a name twice, a site,
// pool or fold's tensor that is not there, a tensor whose columns are not its
// site's inputs, a site's inputs out of range, FOLD_ONLY where nothing is
// scaled.
absl::Status ValidateGroup(const QuantSpec& spec, const GroupInfo& info);

// Whether the group is solved at once, by SolveGroup::Solve.
bool SolvesWhole(const QuantSpec& spec, const GroupInfo& info);

// Upper bound of what the group holds at once, when nobody else holds its
// sites: the moments of each (4 inputs^2 bytes) and, where codes are solved,
// its factor (4 inputs^2 more), for the largest what it takes to receive it or
// to factor it in F64 (about 4 inputs^2), and what each tensor's quantizer
// holds. REQUIRES: ValidateGroup is OK.
absl::StatusOr<int64_t> EstimateGroupBytes(const QuantSpec& spec,
                                           const GroupInfo& info,
                                           const QuantizeOptions& options,
                                           int64_t max_tiles);

class SolveGroup {
 public:
  virtual ~SolveGroup() = default;

  // Errors: ValidateGroup's; RESOURCE_EXHAUSTED.
  static absl::StatusOr<std::unique_ptr<SolveGroup>> Create(
      const QuantSpec& spec, GroupInfo info, const QuantizeOptions& options);

  virtual const GroupInfo& info() const = 0;
  // Null once every tensor was taken, so that it lives as long as its readers.
  virtual std::shared_ptr<Site> site(size_t index) const = 0;
  // Each once. Errors: TensorQuantizer::Create's.
  virtual absl::StatusOr<std::unique_ptr<TensorQuantizer>> TakeTensor(
      size_t index) = 0;

  virtual bool solves_whole() const = 0;
  // REQUIRES: solves_whole(); every site is filled or about to be; all input
  // is there. Errors: a site's; INVALID_ARGUMENT — non-finite weights;
  // CANCELLED; RESOURCE_EXHAUSTED.
  virtual absl::Status Solve(Backend& backend) = 0;
  // What the inputs of a site are divided by from now on; empty: nothing.
  // REQUIRES: solves_whole(), Solve returned OK.
  virtual std::vector<float> scales(size_t /*site*/) const { return {}; }
};

}  // namespace qs

#endif  // QS_QUANT_SOLVE_GROUP_H_
