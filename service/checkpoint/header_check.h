// Whether what a plan makes of a shard has a header that a file can have.
#ifndef QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_
#define QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_

#include "absl/status/status.h"
#include "service/checkpoint/plan_answer.h"
#include "service/checkpoint/shard_source.h"

namespace qs {

// A packed tensor is several in the file, each with its name and place in the
// header: a shard of many thousands may be read and yet not be written, which
// is to be known before the work, not after it. Counts the least that they
// take, without the digits of places. Errors: kInput — a shard has too many.
// Thread: pure function.
absl::Status CheckHeaders(const ShardSource& source, const PlanAnswer& plan);

// What one tensor that is quantized takes of a header in any format, at most.
int64_t MostHeaderBytes(const std::string& name);

}  // namespace qs

#endif  // QS_SERVICE_CHECKPOINT_HEADER_CHECK_H_
