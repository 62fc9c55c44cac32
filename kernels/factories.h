// How each implementation of each operation family is made. Included by
// backends.cc and by tests; everyone else asks for a Backend.
#ifndef QS_KERNELS_FACTORIES_H_
#define QS_KERNELS_FACTORIES_H_

#include <memory>

#include "kernels/affine_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"

namespace qs {

std::unique_ptr<Nf4Ops> NewNf4Reference();
std::unique_ptr<AffineOps> NewAffineReference();
std::unique_ptr<StatsOps> NewStatsReference();

// `threads` as in NewCpuBackend.
std::unique_ptr<Nf4Ops> NewNf4Cpu(int threads);
std::unique_ptr<AffineOps> NewAffineCpu(int threads);
std::unique_ptr<StatsOps> NewStatsCpu(int threads);

}  // namespace qs

#endif  // QS_KERNELS_FACTORIES_H_
