// Whether what a plan makes of a shard has a header that a file can have.
#ifndef QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_
#define QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_

#include <cstdint>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "quant/quant_spec.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/shard_source.h"

namespace qs {

// A packed tensor is several in the file, each with its name and place in the
// header: a shard of many thousands may be read and yet not be written, which
// is to be known before the work, not after it. Counts the least that they
// take: their names and the file's metadata in full, shapes and places without
// their digits. `specs`: as SpecsByRule gives them, of the plan's overrides.
// Errors: kInput — a shard has too many.
// Thread: pure function.
absl::Status CheckHeaders(const ShardSource& source, const PlanAnswer& plan,
                          std::span<const QuantSpec> specs);

// What one tensor that is quantized takes of a header in any format, at most.
int64_t MostHeaderBytes(const std::string& name);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_
