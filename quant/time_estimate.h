// How long a tensor will take: for plans, before any work.
//
// The figures behind it are those of tests/bench/RESULTS.md for one core of a
// CPU with AVX-512: time a weight for what looks at each weight by itself,
// time a multiplication for what solves against second moments. Another machine
// is another factor, the same for all tensors of a method; who has seen jobs
// run corrects for it (service/jobs/job_pace.h).
#ifndef QS_QUANT_TIME_ESTIMATE_H_
#define QS_QUANT_TIME_ESTIMATE_H_

#include <cstdint>

#include "quant/quant_spec.h"

namespace qs {

// Seconds of one core for a weight [rows, cols], its factor of second moments
// and, with `error_report`, its error statistics included. Above 0.
double EstimateCoreSeconds(const QuantSpec& spec, int64_t rows, int64_t cols,
                           bool error_report);

}  // namespace qs

#endif  // QS_QUANT_TIME_ESTIMATE_H_
