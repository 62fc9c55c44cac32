// Groups of flags that commands share. Thread: pure functions.
#ifndef QS_SERVICE_CLI_ARGUMENT_GROUPS_H_
#define QS_SERVICE_CLI_ARGUMENT_GROUPS_H_

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "service/cli/arguments.h"

namespace qs::cli {

// The checks' own descriptions would stand beside the type's name in --help.
inline CLI::Validator OneOf(const std::vector<std::string>& values) {
  CLI::Validator check = CLI::IsMember(values);
  return check.description("");
}

// The parser puts the flag before what it says.
inline CLI::Validator NotEmpty(const std::string& allowed) {
  return CLI::Validator(
      [allowed](const std::string& text) {
        return text.empty() ? "got \"\", allowed " + allowed : std::string();
      },
      "");
}

void AddServer(CLI::App* app, ServerArguments* server);
void AddMethod(CLI::App* app, ConfigArguments* config);
void AddGlobs(CLI::App* app, ConfigArguments* config, const std::string& group);
void AddSelection(CLI::App* app, ConfigArguments* config);
void AddCalibration(CLI::App* app, std::string* path);
void AddStreams(CLI::App* app, RunArguments* run);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_ARGUMENT_GROUPS_H_
