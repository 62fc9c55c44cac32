// StatsOps on CPUs: cuts tensors into tiles and calls the SIMD loops.
// Tested by tests/kernels/stats_test.cc.
#include <algorithm>
#include <numeric>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/parallel.h"
#include "kernels/cpu/stats_simd.h"
#include "kernels/factories.h"
#include "kernels/stats_check.h"

namespace qs {
namespace {

constexpr int64_t kTileElements = int64_t{1} << 18;

// A tile begins with a group and with a run. Groups that share few borders with
// runs make one tile of the whole.
int64_t TileElements(int64_t group_size, int64_t n) {
  if (group_size >= n) return std::max<int64_t>(1, n);
  const int64_t unit = std::lcm(group_size, kStatsRun);
  return unit * std::max<int64_t>(1, kTileElements / unit);
}

class StatsCpu final : public StatsOps {
 public:
  explicit StatsCpu(int threads) : threads_(threads) {}

  absl::Status Errors(const ErrorSumsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckErrorSums(args));
    const int64_t n = args.weight.num_elements();
    const int64_t tile = TileElements(args.group_size, n);
    struct Sums {
      ErrorSums error, rtn;
    };
    std::vector<Sums> tiles(static_cast<size_t>(CeilDiv(n, tile)));
    ParallelTiles(threads_, n, tile, [&](int64_t begin, int64_t end) {
      Sums& sums = tiles[static_cast<size_t>(begin / tile)];
      stats::AddErrors(args, begin, end, &sums.error,
                       args.rtn == nullptr ? nullptr : &sums.rtn);
    });
    *args.sums = ErrorSums();
    if (args.rtn != nullptr) *args.rtn = ErrorSums();
    for (const Sums& one : tiles) {
      args.sums->Add(one.error);
      if (args.rtn != nullptr) args.rtn->Add(one.rtn);
    }
    return absl::OkStatus();
  }

 private:
  const int threads_;
};

}  // namespace

std::unique_ptr<StatsOps> NewStatsCpu(int threads) {
  return std::make_unique<StatsCpu>(threads);
}

}  // namespace qs
