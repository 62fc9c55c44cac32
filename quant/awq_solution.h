// AwqSiteSolution: what a group found for one of its sites when it scaled them,
// and what the readers of the site need of it. Made by AwqGroup::Solve, then
// only read.
#ifndef QS_QUANT_AWQ_SOLUTION_H_
#define QS_QUANT_AWQ_SOLUTION_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/content_id.h"
#include "quant/gptq_factor.h"
#include "quant/site.h"

namespace qs {

// A point of the scale search.
struct AwqScales {
  std::vector<float> values;  // [inputs], > 0
  double exponent = 0;
  bool duo = false;
};

struct AwqSiteSolution {
  AwqScales scales;
  int64_t tokens = 0;

  // H of the scaled input, S^-1 H S^-1, F32 [inputs, inputs]. Of a site that is
  // not scaled it is the site's own, kept alive by `site`. Null: nothing
  // quantized reads the site.
  const float* moment = nullptr;
  ContentId moment_id = 0;
  Buffer scaled_moment;
  std::shared_ptr<Site> site;

  // Its factor, where codes are solved.
  std::shared_ptr<const GptqFactor> factor;
};

// What a tensor of the group becomes, to undo or to do the scaling:
//   w[r, k] * column_scales[k] / row_divisors[r], or the values themselves.
// Empty: not so.
struct AwqTransform {
  std::vector<float> column_scales;
  std::vector<float> row_divisors;
  std::vector<float> values;

  // Whether a weight is not as it came.
  bool scales() const {
    return !column_scales.empty() || !row_divisors.empty();
  }
};

}  // namespace qs

#endif  // QS_QUANT_AWQ_SOLUTION_H_
