// QuantizationConfig to QuantSpec and back.
// Thread: pure functions.
#ifndef QS_SERVICE_SERVER_SPEC_CONVERT_H_
#define QS_SERVICE_SERVER_SPEC_CONVERT_H_

#include <google/protobuf/repeated_ptr_field.h>

#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "quant/plan/plan.h"
#include "quant/quant_spec.h"
#include "quant/v1/quantization.pb.h"

namespace qs {

// Every default filled in, and legal (ValidateSpec). `field` is where the
// config lies in the request; errors are BAD_FIELD under it: neither preset
// nor method, both, an unknown preset, a value out of range.
absl::StatusOr<QuantSpec> SpecFromProto(
    const quant::v1::QuantizationConfig& config,
    std::string_view field = "config.quantization");
quant::v1::OutputFormat FormatToProto(OutputFormat format);

constexpr int kMaxOverrides = 100;
// Of one request, include and exclude together; of each, and of an override's.
constexpr int kMaxGlobs = 1000;
constexpr size_t kMaxGlobBytes = 1024;

// Errors: BAD_FIELD of `field` — more, or longer ones. Their time is the
// product of their length, the names' and how many there are of both.
using GlobsProto = google::protobuf::RepeatedPtrField<std::string>;
absl::Status CheckGlob(std::string_view field, std::string_view glob);
absl::Status CheckGlobs(std::string_view field, const GlobsProto& include,
                        const GlobsProto& exclude);

// Rules beside `base`, which has the profile and format that they leave out.
// `field` is where they lie; errors are BAD_FIELD under it: more than
// kMaxOverrides, no glob, neither or another than true to do, SpecFromProto's.
using OverridesProto = google::protobuf::RepeatedPtrField<quant::v1::Override>;
absl::StatusOr<std::vector<PlanOverride>> OverridesFromProto(
    const OverridesProto& overrides, const QuantSpec& base,
    std::string_view field);
// The configurations by the number of the rule; 0, and that of a rule which
// skips, is `base`.
std::vector<QuantSpec> SpecsByRule(const QuantSpec& base,
                                   const std::vector<PlanOverride>& overrides);
// Every field set.
OverridesProto OverridesToProto(const std::vector<PlanOverride>& overrides);

// Every field set; never a preset.
quant::v1::QuantizationConfig SpecToProto(const QuantSpec& spec);

}  // namespace qs

#endif  // QS_SERVICE_SERVER_SPEC_CONVERT_H_
