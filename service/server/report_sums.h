// ReportSums: what the reports of several tensors say together, one report
// after the other. Of a stream, a job, and of what quantctl keeps.
//
// Sums are of what the reports' means are made from, so a tensor counts by its
// weights. Memory does not grow with the reports.
// Thread: thread-compatible.
#ifndef QS_SERVICE_SERVER_REPORT_SUMS_H_
#define QS_SERVICE_SERVER_REPORT_SUMS_H_

#include <cstdint>
#include <optional>

#include "quant/quantized_tensor.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Of the weights in a tensor's shape.
int64_t WeightsOf(const quant::v1::TensorReport& report);

class ErrorStatsSums {
 public:
  void Add(const quant::v1::ErrorStats& stats);
  int64_t count() const { return sums_.count; }
  double squared_error() const { return sums_.squared_error; }
  // The cosine is 0 when one that was added does not tell its products. Such a
  // one has its energy from its relative error, and none where it has no error.
  quant::v1::ErrorStats Stats() const;

 private:
  ErrorSums sums_;
  bool has_products_ = true;
};

class ReportSums {
 public:
  void Add(const quant::v1::TensorReport& report);

  int64_t tensors() const { return tensors_; }
  int64_t bytes_in() const { return bytes_in_; }
  int64_t bytes_out() const { return bytes_out_; }
  // Of tensors with statistics.
  bool has_error() const { return has_error_; }
  const ErrorStatsSums& error() const { return error_; }
  const ErrorStatsSums& rtn() const { return rtn_; }
  // 1 when both are zero, 0 when nothing tells of rounding to nearest.
  double MseRatioToRtn() const;
  // Tensors that have output errors, and the means over those that have one.
  int64_t with_output_error() const { return with_output_error_; }
  std::optional<double> OutputError() const;
  std::optional<double> RtnOutputError() const;
  quant::v1::ReportTotals Totals() const;

 private:
  void AddSolver(const quant::v1::TensorReport& report);
  void AddWorstGroups(const quant::v1::TensorReport& report);

  int64_t tensors_ = 0;
  int64_t bytes_in_ = 0;
  int64_t bytes_out_ = 0;
  bool has_error_ = false;
  ErrorStatsSums error_;
  ErrorStatsSums rtn_;
  int64_t with_output_error_ = 0;
  double output_error_ = 0;
  double rtn_output_error_ = 0;
  int64_t with_rtn_output_error_ = 0;
  double iterations_ = 0;  // times weights
  int64_t iterated_weights_ = 0;
  quant::v1::ReportTotals totals_;  // but for what is divided at last
};

}  // namespace qs

#endif  // QS_SERVICE_SERVER_REPORT_SUMS_H_
