// What a tensor may be, whatever quantizes it.
#ifndef QS_QUANT_TENSOR_LIMITS_H_
#define QS_QUANT_TENSOR_LIMITS_H_

namespace qs {

constexpr int kMaxDimensions = 8;

}  // namespace qs

#endif  // QS_QUANT_TENSOR_LIMITS_H_
