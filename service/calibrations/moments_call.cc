// Tested by tests/service/calibrations/calibration_service_test.cc.
#include "service/calibrations/moments_call.h"

#include <cmath>
#include <cstring>
#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/v1/calibrations.pb.h"
#include "service/calibrations/calibration_errors.h"
#include "service/calibrations/calibration_messages.h"
#include "service/calibrations/serial_call.h"

namespace qs {
namespace {

namespace v1 = quant::v1;
using Request = v1::WriteSecondMomentsRequest;
using Response = v1::WriteSecondMomentsResponse;
using Part = CalibrationPart;

absl::Status BytesError(const char* reason, int64_t got, int64_t allowed) {
  return RpcError(absl::StatusCode::kInvalidArgument, reason,
                  absl::StrCat("chunk: got ", got,
                               " bytes of the site, allowed ", allowed));
}

class MomentsCall final : public SerialCall<Request, Response> {
 public:
  using SerialCall::SerialCall;

 protected:
  void Take(const Request& request) override { StepDone(TakeMessage(request)); }

  void Close() override {
    StepDone(writer_ == nullptr
                 ? absl::OkStatus()
                 : BytesError("TOO_FEW_BYTES", received_, expected_));
  }

  void Release(std::function<void()> done) override {
    writer_ = nullptr;
    done();
  }

 private:
  absl::Status TakeMessage(const Request& request) {
    if (request.has_begin()) return TakeBegin(request.begin());
    if (request.has_chunk()) return TakeChunk(request.chunk());
    return BadFieldError("message", "got none, allowed begin or chunk");
  }

  absl::Status TakeBegin(const v1::SecondMomentsBegin& begin) {
    if (writer_ != nullptr) {
      return BytesError("TOO_FEW_BYTES", received_, expected_);
    }
    skipping_ = false;
    QS_ASSIGN_OR_RETURN(const CalibrationRecord calibration,
                        Find(begin.calibration()));
    QS_ASSIGN_OR_RETURN(part_, PartFromBegin(begin));
    key_ = calibration.key;
    const CalibrationSiteRecord* site = FindSite(calibration, part_.site);
    if (site == nullptr) {
      return BadFieldError("begin.site",
                           absl::StrCat("got \"", part_.site,
                                        "\", allowed the sites that the "
                                        "calibration declares"));
    }
    const absl::StatusOr<bool> there =
        context().store.records().HasMoments(key_, part_);
    if (!there.ok()) return PartError(there.status());
    if (*there) {
      skipping_ = true;
      AnswerPart(/*already_added=*/true);
      return absl::OkStatus();
    }
    expected_ = CalibrationStore::MomentsBytes(site->inputs);
    received_ = 0;
    auto writer = context().store.NewWriter(expected_);
    if (!writer.ok()) return CalibrationError(writer.status());
    writer_ = *std::move(writer);
    return absl::OkStatus();
  }

  absl::StatusOr<CalibrationRecord> Find(const std::string& name) {
    QS_ASSIGN_OR_RETURN(
        const std::string id,
        IdFromName(caller(), "begin.calibration", kCalibrations, name));
    auto found = context().store.records().Get(caller().project, id);
    if (!found.ok()) return CalibrationError(found.status());
    return found;
  }

  absl::Status TakeChunk(const v1::SecondMomentsChunk& chunk) {
    if (skipping_) return absl::OkStatus();
    if (writer_ == nullptr) {
      return BadFieldError("message", "got a chunk, allowed a begin first");
    }
    QS_RETURN_IF_ERROR(CheckData(chunk));
    const absl::Status appended =
        writer_->Append({reinterpret_cast<const uint8_t*>(chunk.data().data()),
                         chunk.data().size()});
    if (!appended.ok()) return CalibrationError(appended);
    received_ += static_cast<int64_t>(chunk.data().size());
    if (!chunk.last()) return absl::OkStatus();
    if (received_ != expected_) {
      return BytesError("TOO_FEW_BYTES", received_, expected_);
    }
    return Add();
  }

  absl::Status CheckData(const v1::SecondMomentsChunk& chunk) const {
    if (chunk.offset() != received_) {
      return RpcError(absl::StatusCode::kFailedPrecondition, "OFFSET_GAP",
                      absl::StrCat("chunk.offset: got ", chunk.offset(),
                                   ", allowed ", received_),
                      {{"expected", absl::StrCat(received_)}});
    }
    const uint32_t crc = chunk.crc32c();
    QS_RETURN_IF_ERROR(
        CheckChunk(chunk.data(), chunk.has_crc32c() ? &crc : nullptr));
    const auto bytes = static_cast<int64_t>(chunk.data().size());
    if (bytes % 4 != 0) {
      return BadFieldError(
          "chunk.data",
          absl::StrCat("got ", bytes, " bytes, allowed whole values of 4"));
    }
    if (received_ + bytes > expected_) {
      return BytesError("TOO_MANY_BYTES", received_ + bytes, expected_);
    }
    return CheckFinite(chunk.data());
  }

  // Found here, it can be sent again right; found when the site is sealed, it
  // could not be taken out of it.
  absl::Status CheckFinite(const std::string& data) const {
    for (size_t i = 0; i < data.size(); i += 4) {
      float value = 0;
      std::memcpy(&value, data.data() + i, 4);
      if (std::isfinite(value)) continue;
      return RpcError(
          absl::StatusCode::kInvalidArgument, "NON_FINITE_INPUT",
          absl::StrCat("site \"", part_.site, "\": got ",
                       std::isnan(value) ? "NaN" : "Inf", " at value ",
                       (received_ + static_cast<int64_t>(i)) / 4));
    }
    return absl::OkStatus();
  }

  absl::Status Add() {
    absl::StatusOr<std::string> blob = writer_->Commit();
    writer_ = nullptr;
    if (!blob.ok()) return CalibrationError(blob.status());
    part_.blob = *std::move(blob);
    const absl::StatusOr<bool> added = context().store.records().AddMoments(
        key_, part_, context().limits.parts);
    const bool mine = added.ok() && *added;
    if (!mine && !absl::IsInternal(added.status())) {
      context().store.Free({part_.blob});
    }
    if (!added.ok()) return PartError(added.status());
    AnswerPart(/*already_added=*/!mine);
    return absl::OkStatus();
  }

  absl::Status PartError(const absl::Status& status) {
    const std::string text(status.message());
    if (absl::IsAlreadyExists(status)) {
      return RpcError(status.code(), "REQUEST_ID_REUSED",
                      "begin.request_id: got one of another site or token "
                      "count");
    }
    if (absl::IsOutOfRange(status)) {
      return RpcError(
          absl::StatusCode::kResourceExhausted, "TOO_MANY_PARTS",
          absl::StrCat("begin.site: got one with ", context().limits.parts,
                       " parts, allowed no more"));
    }
    return CalibrationError(status);
  }

  void AnswerPart(bool already_added) {
    Response response;
    response.set_request_id(part_.source);
    response.set_already_added(already_added);
    Answer(std::move(response), /*replaces=*/false);
  }

  // Of the steps alone.
  int64_t key_ = 0;
  Part part_;
  bool skipping_ = false;
  int64_t expected_ = 0;
  int64_t received_ = 0;
  std::unique_ptr<CalibrationStore::Writer> writer_;
};

}  // namespace

BytesReactor* NewMomentsCall(CalibrationContext& context,
                             grpc::CallbackServerContext* call) {
  return SerialCall<Request, Response>::Start<MomentsCall>(
      context, "WriteSecondMoments", call);
}

}  // namespace qs
