// OutputTensor, TensorReport: what quantizing one tensor gives.
#ifndef QS_QUANT_QUANTIZED_TENSOR_H_
#define QS_QUANT_QUANTIZED_TENSOR_H_

#include <cstdint>
#include <string>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "kernels/stats_ops.h"

namespace qs {

// One tensor of an output file.
struct OutputTensor {
  std::string name;  // "...up_proj.weight.absmax"
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  Buffer data;
};

struct WorstGroup {
  int64_t group = 0;  // index in storage order
  double mean_squared_error = 0;
};

struct TensorReport {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kBF16;
  bool has_error = false;  // error, rtn and worst_groups are filled in
  ErrorSums error;
  ErrorSums rtn;
  std::vector<WorstGroup> worst_groups;  // at most 8, worst first
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  double quantize_seconds = 0;  // worker time
  std::string device;
  std::string algorithm;
};

struct QuantizedTensor {
  std::vector<OutputTensor> tensors;  // in the format's order
  TensorReport report;
};

// Figures derived from sums; 0 for an empty tensor, infinite SQNR for no error.
double MeanSquaredError(const ErrorSums& s);
double MeanAbsoluteError(const ErrorSums& s);
double RelativeFrobeniusError(const ErrorSums& s);
double SqnrDb(const ErrorSums& s);
double CosineSimilarity(const ErrorSums& s);

}  // namespace qs

#endif  // QS_QUANT_QUANTIZED_TENSOR_H_
