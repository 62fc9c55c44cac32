// OutputTensor, TensorReport: what quantizing one tensor gives.
#ifndef QS_QUANT_QUANTIZED_TENSOR_H_
#define QS_QUANT_QUANTIZED_TENSOR_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "kernels/base/buffer.h"
#include "kernels/base/dtype.h"
#include "kernels/stats_ops.h"
#include "quant/phase_times.h"

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

// What the solver did; what a method does not have stays at its default.
struct SolverFacts {
  double damping = 0;          // used, of the mean diagonal
  int damping_retries = 0;     // steps up the ladder
  bool factor_in_f64 = false;  // F32 did not suffice
  bool diagonal_only = false;  // no factorisation succeeded
  int64_t dead_columns = 0;
  std::array<int64_t, 10> clip_histogram{};  // limits in (0.1 i, 0.1 (i + 1)]
  double scale_exponent = 0;                 // AWQ's ratio
  bool scale_duo = false;
  double scale_min = 0;
  double scale_max = 0;
  double iterations = 0;  // HQQ's, mean over the groups
  // Codes that differ from rounding on the same grid; 0 with a calibration is
  // a warning: it changed nothing.
  int64_t codes_changed = 0;
};

// tr(dW H dW^T) and tr(W H W^T), H undamped: sums, so that they add over
// tensors.
struct OutputError {
  double error = 0;
  double signal = 0;
};

struct TensorReport {
  std::string name;
  std::vector<int64_t> shape;
  DType dtype = DType::kBF16;
  bool has_error = false;  // error, rtn and worst_groups are filled in
  ErrorSums error;
  ErrorSums rtn;
  std::vector<WorstGroup> worst_groups;  // at most 8, worst first
  bool has_output_error = false;  // the two below and tokens are filled in
  OutputError output_error;
  OutputError rtn_output_error;
  int64_t tokens = 0;  // seen by the tensor's site
  std::optional<SolverFacts> solver;
  std::vector<std::string> warnings;  // "RULE: text"
  int64_t bytes_in = 0;
  int64_t bytes_out = 0;
  int64_t memory_bytes = 0;  // reserved for it; whoever reserved says so
  // Of its tasks on their workers. What tensors share counts for one of them:
  // a factor for the one whose task made it; of a group that is solved at once,
  // what is done for a site for the first tensor that is quantized and reads
  // it.
  PhaseTimes phases;
  std::string device;
  std::string algorithm;
};

struct QuantizedTensor {
  std::vector<OutputTensor> tensors;  // in the format's order
  TensorReport report;
};

// Figures derived from sums; 0 for an empty tensor, infinite SQNR for no error.
// error / signal; 0 without either, infinite without a signal only.
double RelativeOutputError(const OutputError& e);
double MeanSquaredError(const ErrorSums& s);
double MeanAbsoluteError(const ErrorSums& s);
double RelativeFrobeniusError(const ErrorSums& s);
double SqnrDb(const ErrorSums& s);
double CosineSimilarity(const ErrorSums& s);

}  // namespace qs

#endif  // QS_QUANT_QUANTIZED_TENSOR_H_
