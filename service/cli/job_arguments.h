// The flags of the jobs commands.
#ifndef QS_SERVICE_CLI_JOB_ARGUMENTS_H_
#define QS_SERVICE_CLI_JOB_ARGUMENTS_H_

#include <CLI/CLI.hpp>
#include <string>

#include "quant/v1/jobs.pb.h"
#include "service/cli/arguments.h"

namespace qs::cli {

// Adds "jobs" and its commands to `root`.
void AddJobs(CLI::App* root, Arguments* arguments, const char* exit_codes);

// What --priority takes.
std::vector<std::string> PriorityWords();
quant::v1::Job::Priority PriorityOf(const std::string& word);

// "file:///a%20b" of "/a b"; what is a URI already stays.
std::string UriOf(const std::string& text);
// "projects/-/jobs/ID" of "ID"; what is a name already stays.
std::string JobNameOf(const std::string& text);
std::string CalibrationNameOf(const std::string& text);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_JOB_ARGUMENTS_H_
