// The parts of a report's JSON that other reports share.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_REPORT_JSON_H_
#define QS_SERVICE_CLI_REPORT_JSON_H_

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "service/cli/proto_json.h"
#include "service/cli/run_report.h"

namespace qs::cli {

nlohmann::ordered_json TotalsToJson(const RunTotals& totals);

template <typename Message>
nlohmann::ordered_json MessagesToJson(const std::vector<Message>& messages) {
  nlohmann::ordered_json array = nlohmann::ordered_json::array();
  for (const Message& message : messages) {
    array.push_back(MessageToJson(message));
  }
  return array;
}

// As in a file; text that is no UTF-8 is replaced.
std::string DumpJson(const nlohmann::ordered_json& json);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_REPORT_JSON_H_
