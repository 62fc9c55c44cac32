// Fold: how the inverse of a site's scales s gets into the model without
// changing it. The scales themselves multiply the columns of every reader.
#ifndef QS_QUANT_FOLD_H_
#define QS_QUANT_FOLD_H_

#include <cstdint>
#include <string>
#include <vector>

namespace qs {

enum class FoldKind {
  kNone,         // the site is not scaled
  kNorm,         // producer is a norm's weight: divided by s
  kNormPlusOne,  // the norm multiplies by 1 + weight: (1 + w) / s - 1
  kLinear,       // producer is a linear's weight: its rows are divided by s
};

struct Fold {
  FoldKind kind = FoldKind::kNone;
  std::string producer;       // tensor name
  std::string producer_bias;  // tensor name, or empty
  // kLinear: the first row of the producer that feeds the site.
  int64_t row_offset = 0;
  // kLinear through grouped attention: input h * head_dim + d comes from row
  // (h / repeat) * head_dim + d, so s is the same for `repeat` heads. Both 0:
  // input i comes from row i.
  int64_t head_dim = 0;
  int64_t repeat = 0;
  // Tensors that read the site but are not quantized: their columns are scaled.
  std::vector<std::string> scaled_only;
};

}  // namespace qs

#endif  // QS_QUANT_FOLD_H_
