// ErrorCollector: the error figures of one tensor from pieces that are measured
// in any order on any thread.
//
// A tile's slot takes the sums of its pieces in the order of its own calls;
// Fill adds the slots in tile order. Figures therefore depend on the partition
// only, not on who ran what when.
// Thread: Measure is thread-safe for distinct tiles.
#ifndef QS_QUANT_ERROR_COLLECTOR_H_
#define QS_QUANT_ERROR_COLLECTOR_H_

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/status.h"
#include "kernels/backend.h"
#include "quant/quantized_tensor.h"

namespace qs {

constexpr int kMaxWorstGroups = 8;

// Whole groups of consecutive elements of the tensor.
struct MeasuredPiece {
  TensorView weight;
  TensorView decoded;              // same dtype and shape
  const float* steps = nullptr;    // one a group: what a histogram bin divides
  int64_t first_group = 0;         // index in the tensor
  double* group_errors = nullptr;  // scratch, one a group
};

class ErrorCollector {
 public:
  // `bits` and `group_size` also define the round-to-nearest yardstick.
  ErrorCollector(int64_t group_size, int bits)
      : group_size_(group_size), bits_(bits) {}

  // Once, before Measure. May throw std::bad_alloc.
  void SetNumTiles(int64_t num_tiles) {
    slots_.resize(static_cast<size_t>(num_tiles));
  }

  // Adds a piece to the slot of `tile`; a tile's pieces come in element order.
  absl::Status Measure(int64_t tile, const MeasuredPiece& piece,
                       Backend& backend);

  // The same for rows of several tiles, `rows` each but for the last, from
  // `first` on. REQUIRES: these are whole groups.
  absl::Status MeasureUnits(int64_t first, int64_t rows,
                            const MeasuredPiece& piece, Backend& backend);

  // Sets error, rtn, worst_groups and has_error.
  void Fill(TensorReport* report) const;

  // What a collector holds for each tile.
  static int64_t BytesPerTile();

 private:
  struct Slot {
    ErrorSums error;
    ErrorSums rtn;
    std::vector<WorstGroup> worst;  // worst first
  };

  void AddGroups(const MeasuredPiece& piece, Slot* slot) const;

  const int64_t group_size_;
  const int bits_;
  std::vector<std::unique_ptr<Slot>> slots_;  // null: not measured yet
};

}  // namespace qs

#endif  // QS_QUANT_ERROR_COLLECTOR_H_
