// The methods' options as flags. One table says flag, field and help; which
// methods an option belongs to, its type and its words come from the messages
// of the .proto: an option is a method's when its config has the field.
// Thread: pure functions.
#ifndef QS_SERVICE_CLI_METHOD_OPTIONS_H_
#define QS_SERVICE_CLI_METHOD_OPTIONS_H_

#include <cstdint>
#include <map>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "quant/v1/quantization.pb.h"

namespace CLI {
class App;
}

namespace qs::cli {

// By field name ("group_size"). Integers, figures, bools, or a word.
using OptionValue = std::variant<int64_t, double, bool, std::string>;
using MethodOptions = std::map<std::string, OptionValue>;

// "nf4", "rtn", "gptq", "awq", "hqq": the fields of QuantizationConfig.method.
const std::vector<std::string>& MethodNames();
// Empty when none is set.
std::string MethodName(const quant::v1::QuantizationConfig& config);
// Makes `method` the one that is set, if it is not.
void SelectMethod(const std::string& method,
                  quant::v1::QuantizationConfig* config);

// Adds the flags; what is given goes to `options`.
void AddMethodOptions(CLI::App* app, MethodOptions* options,
                      const std::string& group);

// Whether all of `options` are `method`'s. Errors: INVALID_ARGUMENT, naming
// flag, got and allowed.
absl::Status CheckMethodOptions(const MethodOptions& options,
                                const std::string& method);

// Writes them into the method that is set in `config`. REQUIRES:
// CheckMethodOptions is OK for it.
void SetMethodOptions(const MethodOptions& options,
                      quant::v1::QuantizationConfig* config);

// Leaves only bits, groups and the like: what a preset means beside how hard
// to solve, which is the profile's.
void KeepGrid(quant::v1::QuantizationConfig* config);

// "act-order-static" of "ACT_ORDER_STATIC".
std::string WordOf(const std::string& enum_name);

}  // namespace qs::cli

#endif  // QS_SERVICE_CLI_METHOD_OPTIONS_H_
