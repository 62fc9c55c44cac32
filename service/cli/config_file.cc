// Tested by tests/e2e/quantctl_test.py.
#include "service/cli/config_file.h"

#include <string>
#include <utility>

#include "kernels/base/status_macros.h"
#include "quant/formats/posix_file.h"
#include "service/cli/exit_code.h"

namespace qs::cli {
namespace {

namespace v1 = quant::v1;

constexpr int64_t kMaxConfigBytes = int64_t{1} << 20;

}  // namespace

absl::StatusOr<ConfigArguments> WithConfigFile(ConfigArguments config) {
  if (config.config_file.empty()) return config;
  absl::StatusOr<std::string> text =
      ReadSmallFile(config.config_file, kMaxConfigBytes);
  if (!text.ok()) return WithExitCode(text.status(), ExitCode::kUsage);
  absl::StatusOr<v1::QuantizationConfig> file =
      ParseConfigFile(*text, config.config_file);
  if (!file.ok()) return WithExitCode(file.status(), ExitCode::kUsage);
  config.file = *std::move(file);
  QS_RETURN_IF_ERROR(WithExitCode(CheckConfig(config), ExitCode::kUsage));
  return config;
}

}  // namespace qs::cli
