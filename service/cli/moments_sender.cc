// Tested by tests/e2e/quantctl_calibrate_test.py.
#include "service/cli/moments_sender.h"

#include <grpcpp/client_context.h>

#include <algorithm>
#include <span>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "service/checkpoint/fault.h"
#include "service/cli/channel.h"
#include "service/cli/exit_code.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr size_t kPieceBytes = size_t{1} << 20;

// As the server takes them.
absl::StatusOr<std::vector<float>> LoadPacked(const CalibrationFile& file,
                                              size_t site) {
  QS_ASSIGN_OR_RETURN(const SiteMoments moments, file.Load(site));
  const int64_t packed = SiteMoments::PackedElements(moments.inputs());
  std::vector<float> values(static_cast<size_t>(packed + moments.inputs()));
  moments.CopyToPacked(values.data());
  std::copy_n(moments.abs_sum(), moments.inputs(), values.data() + packed);
  return values;
}

std::span<const uint8_t> BytesOf(const std::vector<float>& values) {
  return {reinterpret_cast<const uint8_t*>(values.data()),
          values.size() * sizeof(float)};
}

// 128 bytes at most.
std::string RequestId(const CalibrationSite& site,
                      std::span<const uint8_t> bytes) {
  const std::string head =
      absl::StrCat(site.name.size(), ":", site.name, ":", site.tokens, ":");
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(head.data()), head.size()});
  hash.Update(bytes);
  return "quantctl-" + hash.Finish();
}

}  // namespace

absl::Status MomentsSender::SendAll() {
  for (int retries = 0; answered_ < file_.sites().size();) {
    const size_t before = answered_;
    const absl::Status status = Try();
    if (status.ok()) continue;
    if (control_.failed()) return control_.status();
    if (answered_ > before) retries = 0;
    if (!IsRetryable(status)) return status;
    if (retries >= kMaxBusyRetries) {
      return WithText(status,
                      absl::StrCat("; tried again ", retries, " times"));
    }
    const absl::Duration delay = RetryDelay(retries++);
    progress_.Note(absl::StrCat(status.message(), "; trying again (", retries,
                                " of ", kMaxBusyRetries, ")"));
    if (!WaitToRetry(channel_, control_, delay)) return control_.status();
  }
  return absl::OkStatus();
}

absl::Status MomentsSender::Try() {
  grpc::ClientContext context;
  const RunControl::Call call(control_, context);
  const auto stream = stub_.WriteSecondMoments(&context);
  const size_t first = answered_;
  std::jthread reader([&] {
    v1::WriteSecondMomentsResponse response;
    while (stream->Read(&response)) {
      ++answered_;
      already_added_ += response.already_added() ? 1 : 0;
      progress_.AddTensor();
    }
  });
  const absl::Status sent = SendSites(*stream, first);
  if (!sent.ok()) context.TryCancel();
  stream->WritesDone();
  reader.join();
  const grpc::Status status = stream->Finish();
  QS_RETURN_IF_ERROR(sent);
  return FromServer(status, server_.address);
}

absl::Status MomentsSender::SendSites(Stream& stream, size_t first) {
  for (size_t site = first; site < file_.sites().size(); ++site) {
    QS_ASSIGN_OR_RETURN(const bool open, SendSite(stream, site));
    if (!open) break;
  }
  return absl::OkStatus();
}

absl::StatusOr<bool> MomentsSender::SendSite(Stream& stream, size_t site) {
  const absl::StatusOr<std::vector<float>> values = LoadPacked(file_, site);
  if (!values.ok()) return InputFault(values.status());
  const std::span<const uint8_t> bytes = BytesOf(*values);
  const CalibrationSite& info = file_.sites()[site];
  v1::WriteSecondMomentsRequest request;
  request.mutable_begin()->set_calibration(calibration_);
  request.mutable_begin()->set_site(info.name);
  request.mutable_begin()->set_token_count(info.tokens);
  request.mutable_begin()->set_request_id(RequestId(info, bytes));
  if (!stream.Write(request)) return false;
  for (size_t at = 0; at < bytes.size(); at += kPieceBytes) {
    const auto piece =
        bytes.subspan(at, std::min(kPieceBytes, bytes.size() - at));
    v1::SecondMomentsChunk& chunk = *request.mutable_chunk();
    chunk.set_offset(static_cast<int64_t>(at));
    chunk.set_data(piece.data(), piece.size());
    chunk.set_crc32c(Crc32c(piece));
    chunk.set_last(at + piece.size() == bytes.size());
    if (!stream.Write(request)) return false;
    progress_.AddBytes(static_cast<int64_t>(piece.size()));
  }
  return true;
}

}  // namespace qs::cli
