// MomentsSender: sends the sites of a calibration file to a calibration of a
// server as second moments; goes on by itself after a lost connection.
//
// A site's request id is made of its name and numbers, so that a second run
// adds nothing, and another file of the same sites adds to it.
// Thread: one caller.
#ifndef QS_SERVICE_CLI_MOMENTS_SENDER_H_
#define QS_SERVICE_CLI_MOMENTS_SENDER_H_

#include <grpcpp/channel.h>

#include <cstdint>
#include <string>

#include "absl/status/status.h"
#include "quant/calibration/calibration_file.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "service/cli/arguments.h"
#include "service/cli/progress.h"
#include "service/cli/run_control.h"

namespace qs::cli {

class MomentsSender {
 public:
  using Stub = quant::v1::CalibrationService::Stub;
  // All outlive it. `calibration`: its resource name.
  MomentsSender(const ServerArguments& server, grpc::Channel& channel,
                Stub& stub, const CalibrationFile& file,
                std::string calibration, RunControl& control,
                Progress& progress)
      : server_(server),
        channel_(channel),
        stub_(stub),
        file_(file),
        calibration_(std::move(calibration)),
        control_(control),
        progress_(progress) {}

  // Errors: kBadInput — the file; kServerLost — after retries; the server's.
  absl::Status SendAll();
  // Sites that the server had already.
  int64_t already_added() const { return already_added_; }

 private:
  using Stream =
      grpc::ClientReaderWriter<quant::v1::WriteSecondMomentsRequest,
                               quant::v1::WriteSecondMomentsResponse>;

  absl::Status Try();
  absl::Status SendSites(Stream& stream, size_t first);
  // False: the call has ended.
  absl::StatusOr<bool> SendSite(Stream& stream, size_t site);

  const ServerArguments& server_;
  grpc::Channel& channel_;
  Stub& stub_;
  const CalibrationFile& file_;
  const std::string calibration_;
  RunControl& control_;
  Progress& progress_;
  size_t answered_ = 0;  // sites, in the file's order
  int64_t already_added_ = 0;
};

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_MOMENTS_SENDER_H_
