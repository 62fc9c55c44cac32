// Tested by tests/checkpoint/planned_checkpoint_test.cc.
#include "service/checkpoint/planned_checkpoint.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "service/checkpoint/fault.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

absl::Status Unfit(const std::string& got, const std::string& allowed) {
  return UnexpectedError(
      absl::StrCat("plan: got ", got, ", allowed ", allowed));
}

// Whether all `rows` of `cols` values lie in the stack's matrix of the expert.
bool LiesIn(const StackSlice& slice, int64_t experts, int64_t rows,
            int64_t cols) {
  const int64_t lines =
      slice.transposed ? slice.matrix_cols : slice.matrix_rows;
  const int64_t length =
      slice.transposed ? slice.matrix_rows : slice.matrix_cols;
  return slice.expert >= 0 && slice.expert < experts && rows > 0 &&
         cols == length && slice.first >= 0 && slice.first < lines &&
         slice.step > 0 && (rows - 1) <= (lines - 1 - slice.first) / slice.step;
}

// The slice that `entry` is of `stack`.
absl::StatusOr<PlannedTensor> SliceOf(const v1::PlanEntry& entry,
                                      const CheckpointTensor& stack) {
  const std::string title =
      absl::StrCat("a slice ", entry.name(), " of ", stack.entry.name);
  const v1::TensorSlice& from = entry.slice();
  if (from.tensor() != stack.entry.name || stack.entry.shape.size() != 3 ||
      entry.action() != v1::PlanEntry::QUANTIZE) {
    return Unfit(title, "one to quantize of the 3-D tensor before it");
  }
  const std::vector<int64_t>& shape = stack.entry.shape;
  PlannedTensor tensor;
  tensor.slice =
      StackSlice{stack.entry.begin, from.expert(), shape[1],         shape[2],
                 from.first(),      from.step(),   from.transposed()};
  if (!LiesIn(*tensor.slice, shape[0], entry.rows(), entry.cols())) {
    return Unfit(title, "rows of one of its matrices");
  }
  tensor.shard = stack.shard;
  tensor.entry.name = entry.name();
  tensor.entry.dtype = stack.entry.dtype;
  tensor.entry.shape = {entry.rows(), entry.cols()};
  tensor.entry.begin = 0;
  tensor.entry.end =
      entry.rows() * entry.cols() * DTypeBytes(stack.entry.dtype);
  return tensor;
}

}  // namespace

PlannedCheckpoint::PlannedCheckpoint(const Checkpoint& checkpoint)
    : checkpoint_(&checkpoint) {
  for (const CheckpointTensor& tensor : checkpoint.tensors()) {
    tensors_.push_back({tensor, std::nullopt});
  }
}

absl::StatusOr<PlannedCheckpoint> PlannedCheckpoint::Make(
    const Checkpoint& checkpoint, const std::vector<v1::PlanEntry>& entries) {
  PlannedCheckpoint out(checkpoint, Empty());
  const std::vector<CheckpointTensor>& tensors = checkpoint.tensors();
  size_t next = 0;        // of `tensors`
  int64_t left_over = 0;  // bytes of a stack for which slices are to come
  for (const v1::PlanEntry& entry : entries) {
    if (entry.has_slice() && next > 0) {
      QS_ASSIGN_OR_RETURN(PlannedTensor slice,
                          SliceOf(entry, tensors[next - 1]));
      left_over -= slice.entry.end;
      if (left_over < 0) break;
      out.tensors_.push_back(std::move(slice));
      continue;
    }
    if (left_over != 0) break;
    if (next == tensors.size() || entry.name() != tensors[next].entry.name) {
      return Unfit(
          absl::StrCat("an entry for ", entry.name()),
          next == tensors.size() ? "no more" : tensors[next].entry.name);
    }
    const SafetensorsEntry& source = tensors[next].entry;
    if (entry.action() == v1::PlanEntry::SPLIT) {
      left_over = source.end - source.begin;
    }
    out.tensors_.push_back({tensors[next++], std::nullopt});
  }
  if (left_over != 0) {
    return Unfit("slices of " + tensors[next - 1].entry.name,
                 "such that have all of its values");
  }
  if (next == tensors.size()) return out;
  return Unfit(absl::StrCat("no entry for ", tensors[next].entry.name),
               "one for every tensor");
}

}  // namespace qs
