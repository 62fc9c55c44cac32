// AwqMember: what a tensor of a group with AWQ scaling is to the group.
//
// A member is filled like any TensorQuantizer; the group reads its input in
// Solve and then gives it what it found, before any tile runs.
#ifndef QS_QUANT_AWQ_MEMBER_H_
#define QS_QUANT_AWQ_MEMBER_H_

#include <memory>
#include <vector>

#include "kernels/base/tensor_view.h"
#include "quant/awq_solution.h"
#include "quant/phase_times.h"
#include "quant/tensor_quantizer.h"

namespace qs {

class AwqMember {
 public:
  virtual ~AwqMember() = default;
  // The input in pieces of whole rows. REQUIRES: all of it is there, and no
  // tile has run.
  virtual std::vector<TensorView> Pieces() const = 0;
  // `solution`: of the site that its columns read; null: none. `times`: of what
  // the group did that counts for this tensor.
  virtual void SetSolution(std::shared_ptr<const AwqSiteSolution> solution,
                           AwqTransform transform, const PhaseTimes& times) = 0;
};

struct AwqTensor {
  std::unique_ptr<TensorQuantizer> quantizer;
  AwqMember* member = nullptr;  // the same object
};

}  // namespace qs

#endif  // QS_QUANT_AWQ_MEMBER_H_
