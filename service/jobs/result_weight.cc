// Tested by tests/service/jobs/read_result_test.cc.
#include "service/jobs/result_weight.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/dequantize.h"
#include "service/server/error.h"
#include "service/server/proto_convert.h"

namespace qs {
namespace {

namespace v1 = quant::v1;

struct Described {
  DType dtype;
  std::vector<int64_t> shape;
  int64_t elements;
};

absl::StatusOr<Described> Describe(const v1::TensorReport& report) {
  const std::optional<DType> dtype = DTypeFromProto(report.dtype());
  std::vector<int64_t> shape(report.shape().begin(), report.shape().end());
  const std::optional<int64_t> elements = CheckedNumElements(shape);
  if (dtype && elements) return Described{*dtype, shape, *elements};
  return RpcError(absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
                  absl::StrCat(report.name(), ": a damaged report"));
}

}  // namespace

absl::StatusOr<bool> ResultWeight::Reserve(const v1::TensorReport& report,
                                           int64_t packed_bytes) {
  if (room_ != nullptr) {
    absl::MutexLock lock(&room_->mutex);
    return room_->granted.has_value();
  }
  QS_ASSIGN_OR_RETURN(const Described tensor, Describe(report));
  // The floats beside the packed form and the codes that they come from.
  const int64_t bytes =
      packed_bytes + tensor.elements * (DTypeBytes(tensor.dtype) + 1);
  if (bytes > budget_.capacity()) {
    return RpcError(
        absl::StatusCode::kFailedPrecondition, "NO_WORKER_FITS",
        absl::StrCat("tensor ", report.name(), ": as floats it needs ", bytes,
                     " bytes, allowed the memory budget of ",
                     budget_.capacity()),
        {{"needed", absl::StrCat(bytes)},
         {"allowed", absl::StrCat(budget_.capacity())}});
  }
  room_ = std::make_shared<Room>();
  absl::MutexLock lock(&room_->mutex);
  room_->granted = budget_.ReserveOrWait(
      bytes,
      [room = room_, wake = wake_](Reservation granted) {
        {
          absl::MutexLock inner(&room->mutex);
          room->granted = std::move(granted);
        }
        wake();
      },
      &room_->ticket);
  return room_->granted.has_value();
}

absl::Status ResultWeight::Decode(const v1::TensorReport& report,
                                  std::vector<OutputTensor> outputs) {
  QS_ASSIGN_OR_RETURN(const Described tensor, Describe(report));
  const auto rule = static_cast<size_t>(report.rule());
  if (rule >= specs_.size()) {
    return RpcError(absl::StatusCode::kDataLoss, "RESULT_CORRUPT",
                    absl::StrCat(report.name(), ": a damaged report"));
  }
  QS_ASSIGN_OR_RETURN(weight_, Dequantize(specs_[rule], report.name(),
                                          tensor.dtype, tensor.shape, outputs));
  return absl::OkStatus();
}

void ResultWeight::Reset() {
  weight_.reset();
  const std::shared_ptr<Room> room = std::exchange(room_, nullptr);
  if (room == nullptr) return;
  std::optional<Reservation> granted;  // given back without the lock
  {
    absl::MutexLock lock(&room->mutex);
    granted = std::exchange(room->granted, std::nullopt);
  }
  // One that is granted just now goes with the callback, which has the room.
  if (!granted) budget_.Abandon(room->ticket);
}

}  // namespace qs
