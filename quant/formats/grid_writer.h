// GridWriter: rows of integer codes in, the tensors of an output file out. One
// interface over the formats whose groups lie inside a row (compressed-tensors,
// GPTQ v1 and v2, AWQ GEMM), so that a method need not know which it writes.
// hqq's own format has float zero points and other groups: hqq_format.h.
//
//   w ~ scale * (code - zero_point),   code, zero_point in [0, 2^bits - 1]
#ifndef QS_QUANT_FORMATS_GRID_WRITER_H_
#define QS_QUANT_FORMATS_GRID_WRITER_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "quant/phase_times.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

class Backend;

// Rows are handed over in multiples of this: what a packed word holds whole, of
// every format and width.
constexpr int64_t kGridRowUnit = 32;

// The scales that a file can hold. A solver rounds each scale to `dtype` and
// raises it to `min` before it chooses codes against it.
struct StoredScale {
  DType dtype = DType::kF16;  // of GridRows::scales
  float min = 0;              // the least positive scale
};
// compressed-tensors and hqq: the model's dtype. GPTQ and AWQ files hold F16,
// but an engine that runs a BF16 model rounds them to BF16, so a BF16 model
// gets scales that are exact in both: BF16, at least 2^-17 (F16 has eight bits
// from there up). REQUIRES: IsFloatWeight(weight).
StoredScale StoredScaleOf(OutputFormat format, DType weight);

// A weight [rows, cols] as a grid format sees it.
struct GridShape {
  std::string name;  // of the weight, ends in ".weight"
  DType dtype = DType::kBF16;
  int64_t rows = 0;
  int64_t cols = 0;
};

// Some rows of it.
struct GridRows {
  int64_t first_row = 0;  // a multiple of kGridRowUnit
  int64_t rows = 0;       // a multiple of kGridRowUnit, or all that follow
  const uint8_t* codes =
      nullptr;                   // [rows, cols], columns as the model has them
  const void* scales = nullptr;  // [rows, groups], StoredScaleOf(...).dtype
  // [rows, groups]; null when symmetric: 2^(bits-1).
  const uint8_t* zero_points = nullptr;
  // Where the packed words of these rows go when they leave in pieces
  // (streams()), else null and the writer keeps them.
  uint32_t* words = nullptr;
  // Told when packing and when verifying begins; null: nobody.
  PhaseClock* clock = nullptr;
};

class GridWriter {
 public:
  virtual ~GridWriter() = default;

  // `streamed`: weight_packed of compressed-tensors goes to GridRows::words and
  // is empty in Finish's result; no effect on other formats.
  // Errors: INVALID_ARGUMENT — what the format cannot hold;
  // RESOURCE_EXHAUSTED — no memory.
  static absl::StatusOr<std::unique_ptr<GridWriter>> Create(
      const QuantSpec& spec, GridShape shape, bool streamed = false);

  // Groups of a row: ceil(cols / group_size), 1 for group_size -1.
  virtual int64_t groups() const = 0;
  // Whether GridRows::words is written.
  virtual bool streams() const = 0;
  // Bytes of GridRows::words for `rows` rows; 0 unless streams().
  virtual int64_t StreamedBytes(int64_t rows) const = 0;

  // Packs, unpacks again and compares. Thread: safe for distinct rows, with
  // happens-before to Finish that the caller provides. Needs up to 288 * cols
  // bytes for a moment, or 4 MiB where the backend prefers_large. Faster with
  // 128 rows or more at a time. Errors: INVALID_ARGUMENT — GPTQ v1 and a zero
  // point of 0 (tensor, row and group are named); INTERNAL, our bug — a scale
  // that is not positive or that the file cannot hold exactly, or the
  // comparison failed.
  virtual absl::Status AddRows(const GridRows& rows, Backend& backend) = 0;

  // GPTQ with dynamic act-order: the group of each column, [cols]. Without it
  // groups are consecutive columns. INVALID_ARGUMENT for other formats.
  virtual absl::Status SetGroupIndex(std::span<const int32_t> g_idx) = 0;

  // Once, after all rows: the tensors in the format's order.
  virtual absl::StatusOr<std::vector<OutputTensor>> Finish() = 0;
};

// Exact bytes of all output tensors of a grid format.
int64_t GridOutputBytes(const QuantSpec& spec, const GridShape& shape);

}  // namespace qs

#endif  // QS_QUANT_FORMATS_GRID_WRITER_H_
