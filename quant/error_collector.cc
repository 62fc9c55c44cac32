// Tested by tests/quant/tensor_quantizer_test.cc.
#include "quant/error_collector.h"

#include <algorithm>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"

namespace qs {
namespace {

// Keeps the kMaxWorstGroups worst, worst first; the lower index wins a tie, and
// groups are offered in ascending order.
void Offer(const WorstGroup& group, std::vector<WorstGroup>* worst) {
  if (worst->size() == kMaxWorstGroups &&
      !(group.mean_squared_error > worst->back().mean_squared_error)) {
    return;
  }
  if (worst->size() == kMaxWorstGroups) worst->pop_back();
  const auto at = std::find_if(
      worst->begin(), worst->end(), [&group](const WorstGroup& other) {
        return group.mean_squared_error > other.mean_squared_error;
      });
  worst->insert(at, group);
}

}  // namespace

absl::Status ErrorCollector::Measure(int64_t tile, const MeasuredPiece& piece,
                                     Backend& backend) {
  ErrorSums error;
  ErrorSumsArgs args;
  args.weight = piece.weight;
  args.decoded = piece.decoded;
  args.group_size = group_size_;
  args.steps = piece.steps;
  args.sums = &error;
  args.group_squared_error = piece.group_errors;
  ErrorSums rtn;
  if (bits_ > 1) args.rtn = &rtn;  // a grid of two codes is no yardstick
  args.rtn_bits = bits_;
  QS_RETURN_IF_ERROR(backend.stats().Errors(args, backend.stream()));

  std::unique_ptr<Slot>& slot = slots_[static_cast<size_t>(tile)];
  if (slot == nullptr) slot = std::make_unique<Slot>();
  slot->error.Add(error);
  slot->rtn.Add(rtn);
  AddGroups(piece, slot.get());
  return absl::OkStatus();
}

absl::Status ErrorCollector::MeasureUnits(int64_t first, int64_t rows,
                                          const MeasuredPiece& piece,
                                          Backend& backend) {
  const int64_t cols = piece.weight.cols;
  const auto part = [cols](const TensorView& all, int64_t row, int64_t count) {
    const int64_t at = row * cols * DTypeBytes(all.dtype);
    return TensorView{static_cast<const uint8_t*>(all.data) + at, all.dtype,
                      count, cols};
  };
  for (int64_t row = 0; row < piece.weight.rows; row += rows) {
    const int64_t count = std::min(rows, piece.weight.rows - row);
    const int64_t groups = row * cols / group_size_;
    MeasuredPiece unit = piece;
    unit.weight = part(piece.weight, row, count);
    unit.decoded = part(piece.decoded, row, count);
    unit.steps = piece.steps == nullptr ? nullptr : piece.steps + groups;
    unit.first_group = piece.first_group + groups;
    unit.group_errors = piece.group_errors + groups;
    QS_RETURN_IF_ERROR(Measure(first + row / rows, unit, backend));
  }
  return absl::OkStatus();
}

void ErrorCollector::AddGroups(const MeasuredPiece& piece, Slot* slot) const {
  const int64_t n = piece.weight.num_elements();
  const int64_t groups = CeilDiv(n, group_size_);
  for (int64_t g = 0; g < groups; ++g) {
    const int64_t count = std::min(group_size_, n - g * group_size_);
    Offer({piece.first_group + g,
           piece.group_errors[g] / static_cast<double>(count)},
          &slot->worst);
  }
}

void ErrorCollector::Fill(TensorReport* report) const {
  report->has_error = true;
  report->error = ErrorSums();
  report->rtn = ErrorSums();
  report->worst_groups.clear();
  for (const std::unique_ptr<Slot>& slot : slots_) {
    if (slot == nullptr) continue;
    report->error.Add(slot->error);
    report->rtn.Add(slot->rtn);
    for (const WorstGroup& group : slot->worst) {
      Offer(group, &report->worst_groups);
    }
  }
}

int64_t ErrorCollector::BytesPerTile() {
  return static_cast<int64_t>(sizeof(Slot) +
                              kMaxWorstGroups * sizeof(WorstGroup));
}

}  // namespace qs
