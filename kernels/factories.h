// How each implementation of each operation family is made. Included by
// backends.cc and by tests; everyone else asks for a Backend.
#ifndef QS_KERNELS_FACTORIES_H_
#define QS_KERNELS_FACTORIES_H_

#include <memory>

#include "kernels/affine_ops.h"
#include "kernels/awq_ops.h"
#include "kernels/gptq_ops.h"
#include "kernels/gram_ops.h"
#include "kernels/hqq_ops.h"
#include "kernels/nf4_ops.h"
#include "kernels/stats_ops.h"

namespace qs {

std::unique_ptr<Nf4Ops> NewNf4Reference();
std::unique_ptr<AffineOps> NewAffineReference();
std::unique_ptr<StatsOps> NewStatsReference();
std::unique_ptr<HqqOps> NewHqqReference();
std::unique_ptr<GramOps> NewGramReference();
std::unique_ptr<GptqOps> NewGptqReference();
std::unique_ptr<AwqOps> NewAwqReference();

// `threads` as in NewCpuBackend.
std::unique_ptr<Nf4Ops> NewNf4Cpu(int threads);
std::unique_ptr<AffineOps> NewAffineCpu(int threads);
std::unique_ptr<StatsOps> NewStatsCpu(int threads);
std::unique_ptr<HqqOps> NewHqqCpu(int threads);
std::unique_ptr<GramOps> NewGramCpu(int threads);
std::unique_ptr<GptqOps> NewGptqCpu(int threads);
std::unique_ptr<AwqOps> NewAwqCpu(int threads);

}  // namespace qs

#endif  // QS_KERNELS_FACTORIES_H_
