// Tested by tests/e2e/quantctl_calibrate_test.py.
#include <grpcpp/client_context.h>

#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/calibration/calibration_file.h"
#include "quant/formats/json.h"
#include "quant/formats/utf8.h"
#include "quant/v1/calibrations.grpc.pb.h"
#include "service/checkpoint/fault.h"
#include "service/cli/channel.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "service/cli/moments_sender.h"
#include "service/cli/output_staging.h"
#include "service/cli/signal_watcher.h"
#include "service/stream/crc32c.h"
#include "service/stream/digest.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;
using Stub = v1::CalibrationService::Stub;

std::string NameOf(const Arguments& arguments) {
  return "projects/-/calibrations/" + arguments.name;
}

class Client {
 public:
  Client(const Arguments& arguments, RunControl& control)
      : arguments_(arguments), control_(control) {}

  absl::Status Connect() {
    QS_ASSIGN_OR_RETURN(channel_, MakeChannel(arguments_.server));
    stub_ = v1::CalibrationService::NewStub(channel_);
    return absl::OkStatus();
  }
  Stub& stub() { return *stub_; }
  grpc::Channel& channel() { return *channel_; }

  // One that is safe to make again. NOT_FOUND stays that.
  template <typename Rpc>
  absl::Status Call(const Rpc& rpc) {
    for (int retries = 0;; ++retries) {
      const absl::Status status = Once(rpc);
      if (status.ok() || control_.failed() || !IsRetryable(status) ||
          retries == kMaxBusyRetries) {
        return control_.failed() ? control_.status() : status;
      }
      if (!WaitToRetry(*channel_, control_, RetryDelay(retries))) {
        return control_.status();
      }
    }
  }

  // With all sites.
  absl::Status Get(v1::Calibration* calibration) {
    v1::GetCalibrationRequest request;
    request.set_name(NameOf(arguments_));
    calibration->Clear();
    do {
      v1::Calibration page;
      QS_RETURN_IF_ERROR(Call([&](grpc::ClientContext* context) {
        return stub_->GetCalibration(context, request, &page);
      }));
      request.set_page_token(page.next_page_token());
      calibration->MergeFrom(page);
    } while (!request.page_token().empty());
    calibration->clear_next_page_token();
    return absl::OkStatus();
  }

  absl::Status Create(const CalibrationFile& file,
                      v1::Calibration* calibration) {
    v1::CreateCalibrationRequest request;
    request.set_calibration_id(arguments_.name);
    request.set_request_id("quantctl-" + arguments_.name);
    for (const CalibrationSite& site : file.sites()) {
      v1::CalibrationSite* one = request.add_sites();
      one->set_name(site.name);
      one->set_inputs(site.inputs);
      for (const std::string& module : site.modules) one->add_modules(module);
    }
    for (const auto& [key, value] : file.metadata()) {
      (*request.mutable_metadata())[key] = value;
    }
    return Call([&](grpc::ClientContext* context) {
      return stub_->CreateCalibration(context, request, calibration);
    });
  }

  absl::Status Seal(v1::Calibration* calibration) {
    v1::SealSitesRequest request;
    request.set_name(NameOf(arguments_));
    return Call([&](grpc::ClientContext* context) {
      return stub_->SealSites(context, request, calibration);
    });
  }

  // Bytes of the site from where `data` ends.
  absl::Status ReadSite(const std::string& site, std::string* data) {
    v1::ReadSiteRequest request;
    request.set_name(NameOf(arguments_));
    request.set_site(site);
    return Call([&](grpc::ClientContext* context) {
      request.set_offset(static_cast<int64_t>(data->size()));
      const auto stream = stub_->ReadSite(context, request);
      v1::ReadSiteResponse response;
      while (stream->Read(&response)) {
        const std::string& piece = response.data();
        if (Crc32c({reinterpret_cast<const uint8_t*>(piece.data()),
                    piece.size()}) != response.crc32c()) {
          context->TryCancel();
          continue;
        }
        data->append(piece);
      }
      return stream->Finish();
    });
  }

 private:
  template <typename Rpc>
  absl::Status Once(const Rpc& rpc) {
    grpc::ClientContext context;
    const RunControl::Call call(control_, context);
    return FromServer(rpc(&context), arguments_.server.address);
  }

  const Arguments& arguments_;
  RunControl& control_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<Stub> stub_;
};

int64_t BytesOf(const CalibrationFile& file) {
  int64_t bytes = 0;
  for (const CalibrationSite& site : file.sites()) {
    bytes += 4 * (SiteMoments::PackedElements(site.inputs) + site.inputs);
  }
  return bytes;
}

// The calibration, made if it is not there.
absl::Status Declare(Client& client, const CalibrationFile& file,
                     v1::Calibration* calibration) {
  const absl::Status found = client.Get(calibration);
  if (found.code() != absl::StatusCode::kNotFound) return found;
  return client.Create(file, calibration);
}

absl::StatusOr<SiteMoments> MomentsFrom(const v1::CalibrationSite& site,
                                        const std::string& data) {
  Sha256 hash;
  hash.Update({reinterpret_cast<const uint8_t*>(data.data()), data.size()});
  const int64_t tokens = site.token_count();
  hash.Update({reinterpret_cast<const uint8_t*>(&tokens), sizeof(tokens)});
  QS_ASSIGN_OR_RETURN(SiteMoments moments,
                      SiteMoments::Create(site.name(), site.inputs()));
  const int64_t packed = SiteMoments::PackedElements(site.inputs());
  if (static_cast<int64_t>(data.size()) != 4 * (packed + site.inputs()) ||
      (tokens > 0 && hash.Finish() != site.digest())) {
    return absl::DataLossError(absl::StrCat("site ", QuoteForError(site.name()),
                                            ": got numbers of another digest"));
  }
  const auto* values = reinterpret_cast<const float*>(data.data());
  moments.FillFromPacked(values);
  std::copy_n(values + packed, site.inputs(), moments.abs_sum());
  moments.set_tokens(tokens);
  return moments;
}

absl::Status CheckOutput(const Arguments& arguments) {
  std::error_code ignored;
  if (arguments.run.overwrite ||
      !std::filesystem::exists(arguments.output, ignored)) {
    return absl::OkStatus();
  }
  return OutputFault(absl::AlreadyExistsError(
      absl::StrCat(QuoteForError(arguments.output),
                   ": got a file that exists, allowed a new one (or "
                   "--overwrite)")));
}

absl::StatusOr<std::vector<CalibrationSite>> SealedSites(
    const v1::Calibration& calibration) {
  std::vector<CalibrationSite> sites;
  for (const v1::CalibrationSite& one : calibration.sites()) {
    if (!one.sealed()) {
      return InputFault(absl::FailedPreconditionError(
          absl::StrCat("site ", QuoteForError(one.name()),
                       ": got one that is open, allowed sealed ones")));
    }
    CalibrationSite& site = sites.emplace_back();
    site.name = one.name();
    site.inputs = one.inputs();
    site.tokens = one.token_count();
    site.packed = true;
    site.modules.assign(one.modules().begin(), one.modules().end());
  }
  return sites;
}

}  // namespace

absl::Status RunCalibrateUpload(const Arguments& arguments,
                                const Console& console) {
  RunControl control;
  const SignalWatcher signals(control);
  const absl::StatusOr<CalibrationFile> file =
      CalibrationFile::Open(arguments.input);
  if (!file.ok()) return InputFault(file.status());
  Client client(arguments, control);
  QS_RETURN_IF_ERROR(client.Connect());
  v1::Calibration calibration;
  QS_RETURN_IF_ERROR(Declare(client, *file, &calibration));
  const auto sites = static_cast<int64_t>(file->sites().size());
  Progress progress(console.error, console.columns, BytesOf(*file), sites);
  MomentsSender sender(arguments.server, client.channel(), client.stub(), *file,
                       calibration.name(), control, progress);
  const absl::Status sent = sender.SendAll();
  progress.Finish();
  if (!sent.ok()) {
    return WithText(sent, "; the same command goes on where it ended");
  }
  if (!arguments.keep_open) QS_RETURN_IF_ERROR(client.Seal(&calibration));
  console.error << absl::StrCat("sent ", sites - sender.already_added(),
                                " sites; ", sender.already_added(),
                                " were there\n");
  console.out << EscapeControls(calibration.name()) << "\n";
  return absl::OkStatus();
}

absl::Status RunCalibrateExport(const Arguments& arguments,
                                const Console& console) {
  QS_RETURN_IF_ERROR(CheckOutput(arguments));
  QS_ASSIGN_OR_RETURN(
      OutputTarget target,
      ResolveFile(arguments.output, FilesRead(arguments), OutputTarget()));
  target.overwrite = arguments.run.overwrite;
  RunControl control;
  const SignalWatcher signals(control);
  Client client(arguments, control);
  QS_RETURN_IF_ERROR(client.Connect());
  v1::Calibration calibration;
  QS_RETURN_IF_ERROR(client.Get(&calibration));
  QS_ASSIGN_OR_RETURN(const std::vector<CalibrationSite> sites,
                      SealedSites(calibration));
  absl::Status lost;  // what the server is to blame for
  const LoadSite load = [&](size_t i) -> absl::StatusOr<SiteMoments> {
    std::string data;
    lost = client.ReadSite(sites[i].name, &data);
    QS_RETURN_IF_ERROR(lost);
    auto moments = MomentsFrom(calibration.sites(static_cast<int>(i)), data);
    lost = moments.status();
    return moments;
  };
  QS_ASSIGN_OR_RETURN(const std::unique_ptr<OutputStaging> staging,
                      OutputStaging::Create(target));
  const absl::Status written = WriteCalibration(
      staging->file(), sites,
      {calibration.metadata().begin(), calibration.metadata().end()}, load);
  QS_RETURN_IF_ERROR(lost);
  if (!written.ok()) return OutputFault(written);
  // The last moment for a signal: what is published stays.
  QS_RETURN_IF_ERROR(control.status());
  QS_RETURN_IF_ERROR(staging->Publish());
  console.out << "wrote " << EscapeControls(arguments.output) << "\n";
  return absl::OkStatus();
}

}  // namespace qs::cli
