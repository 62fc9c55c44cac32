// Tested by tests/e2e/quantctl_test.py.
#include <chrono>
#include <memory>
#include <optional>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "quant/formats/utf8.h"
#include "quant/v1/quantization.grpc.pb.h"
#include "service/cli/channel.h"
#include "service/cli/commands.h"
#include "service/cli/exit_code.h"
#include "service/cli/proto_json.h"
#include "service/cli/run_control.h"
#include "service/cli/run_report.h"
#include "service/cli/signal_watcher.h"
#include "service/cli/text_output.h"
#include "service/cli/text_table.h"

namespace qs::cli {
namespace {

namespace health = grpc::health::v1;
namespace v1 = quant::v1;

constexpr auto kDeadline = std::chrono::seconds(10);
constexpr int64_t kMaxReportBytes = int64_t{1} << 30;

std::string MethodsText(const v1::Capabilities& capabilities) {
  TextTable table({{"method", Align::kLeft},
                   {"bits", Align::kLeft},
                   {"block sizes", Align::kLeft},
                   {"formats", Align::kLeft},
                   {"calibration", Align::kLeft}});
  for (const v1::MethodInfo& method : capabilities.methods()) {
    std::vector<std::string> formats;
    for (const int format : method.formats()) {
      formats.push_back(
          v1::OutputFormat_Name(static_cast<v1::OutputFormat>(format)));
    }
    table.AddRow({method.name(), absl::StrJoin(method.bits(), " "),
                  absl::StrJoin(method.block_sizes(), " "),
                  absl::StrJoin(formats, " "),
                  method.needs_calibration() ? "needed" : ""});
  }
  return table.Text();
}

std::string PresetsText(const v1::Capabilities& capabilities) {
  TextTable table({{"preset", Align::kLeft}, {"description", Align::kLeft}});
  for (const v1::PresetInfo& preset : capabilities.presets()) {
    table.AddRow({preset.name(), preset.description()});
  }
  return table.Text();
}

// Sentences, too long for a table.
std::string EnginesText(const v1::Capabilities& capabilities) {
  std::string text;
  for (const v1::EngineInfo& engine : capabilities.engines()) {
    absl::StrAppend(&text, engine.name(), " ", engine.version(),
                    ", as its rules were read on ", engine.read_on(), "\n");
    for (const std::string& what : engine.accepts()) {
      absl::StrAppend(&text, "  * ", what, "\n");
    }
  }
  return text;
}

std::string LimitsText(const v1::Capabilities& capabilities) {
  TextTable table({{"limit", Align::kLeft}, {"value"}});
  const auto add = [&table](const google::protobuf::Message& limits) {
    const auto json = MessageToJson(limits);
    for (const auto& [name, value] : json.items()) {
      table.AddRow({name, value.dump()});
    }
  };
  add(capabilities.limits());
  if (capabilities.has_kept()) add(capabilities.kept());
  return table.Text();
}

std::string DevicesText(const v1::Capabilities& capabilities) {
  TextTable table({{"device", Align::kLeft},
                   {"description", Align::kLeft},
                   {"threads"},
                   {"lanes"},
                   {"memory, estimate"},
                   {"most used"},
                   {"done by the host"},
                   {"state", Align::kLeft}});
  for (const v1::DeviceInfo& device : capabilities.devices()) {
    const bool has_memory = device.memory_cap_bytes() > 0;
    table.AddRow(
        {device.name(), device.description(), absl::StrCat(device.threads()),
         device.lanes() > 0 ? absl::StrCat(device.lanes()) : "-",
         has_memory ? FormatBytes(device.memory_estimate_bytes()) : "-",
         has_memory ? FormatBytes(device.memory_high_water_bytes()) : "-",
         has_memory ? absl::StrCat(device.host_calls()) : "-",
         device.lost().empty() ? "works" : device.lost()});
  }
  const std::string& verified_on = capabilities.verified_on();
  return absl::StrCat(table.Text(), "cuda: ", capabilities.cuda(),
                      "\nCUDA kernels verified on: ",
                      verified_on.empty() ? "no device" : verified_on, "\n");
}

}  // namespace

absl::Status RunCapabilities(const Arguments& arguments,
                             const Console& console) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                      MakeChannel(arguments.server));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  v1::Capabilities answer;
  const grpc::Status status =
      v1::QuantizeService::NewStub(channel)->GetCapabilities(
          &context, v1::GetCapabilitiesRequest(), &answer);
  if (!status.ok()) return FromServer(status, arguments.server.address);
  if (arguments.json) {
    console.out << MessageToJson(answer).dump(1) << "\n";
    return absl::OkStatus();
  }
  console.out << "quantd " << EscapeControls(answer.version()) << ", API "
              << EscapeControls(answer.api_version()) << "\n\n"
              << MethodsText(answer) << "\n"
              << PresetsText(answer) << "\n"
              << EscapeControlsInLines(EnginesText(answer)) << "\n"
              << EscapeControlsInLines(DevicesText(answer)) << "\n"
              << LimitsText(answer);
  return absl::OkStatus();
}

absl::Status RunHealth(const Arguments& arguments, const Console& console) {
  QS_ASSIGN_OR_RETURN(const std::shared_ptr<grpc::Channel> channel,
                      MakeChannel(arguments.server));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + kDeadline);
  health::HealthCheckRequest request;
  request.set_service("readiness");
  health::HealthCheckResponse answer;
  const grpc::Status status =
      health::Health::NewStub(channel)->Check(&context, request, &answer);
  if (!status.ok()) return FromServer(status, arguments.server.address);
  const std::string state =
      health::HealthCheckResponse::ServingStatus_Name(answer.status());
  console.out << arguments.server.address << " " << state << "\n";
  if (answer.status() == health::HealthCheckResponse::SERVING) {
    return absl::OkStatus();
  }
  return WithExitCode(absl::UnavailableError(
                          absl::StrCat("server ", arguments.server.address,
                                       ": got ", state, ", allowed SERVING")),
                      ExitCode::kServerLost);
}

absl::Status RunReportCommand(const Arguments& arguments,
                              const Console& console) {
  RunControl control;
  std::optional<SignalWatcher> signals;  // a table alone may end with its pipe
  if (!arguments.html_file.empty()) signals.emplace(control);
  QS_ASSIGN_OR_RETURN(TextOutput html,
                      TextOutput::Open(arguments.html_file,
                                       FilesRead(arguments), OutputTarget()));
  absl::StatusOr<std::string> text =
      ReadSmallFile(arguments.input, kMaxReportBytes);
  if (!text.ok()) return InputFault(text.status());
  QS_ASSIGN_OR_RETURN(const RunReport report, ReportFromJson(*text));
  console.out << ReportTable(report);
  console.out.flush();
  if (arguments.html_file.empty()) return absl::OkStatus();
  return html.Write(ReportHtml(report), &control);
}

}  // namespace qs::cli
