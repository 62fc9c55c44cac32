// HqqOps on CPUs: cuts tensors into tiles, adds up hqq's errors and decides
// where its solver stops. Tested by tests/kernels/hqq_golden_test.cc and
// tests/kernels/hqq_differential_test.cc.
//
// Groups in chunks: all iterations at once, with the zero of the last one;
// when the errors of all tiles are known, so is where the tensor stopped, and
// the few groups that still moved after that are solved again.
#include <algorithm>
#include <atomic>
#include <cstring>
#include <limits>

#include "kernels/base/buffer.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/hqq_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"
#include "kernels/hqq_check.h"
#include "kernels/hqq_math.h"

namespace qs {
namespace {

using hqq::kSumQuad;
using hqq::Progress;
using hqq::TileErrors;

// Large against the cost of a task, small against the cache of a core; panels
// of columns are whole.
constexpr int64_t kTileElements = int64_t{1} << 17;
constexpr int64_t kGroupUnit = 32;
// Lanes that may be read after the last group.
constexpr int64_t kPadding = 16;

int64_t GroupsPerTile(int64_t group_size) {
  const int64_t groups = std::max<int64_t>(1, kTileElements / group_size);
  return CeilDiv(groups, kGroupUnit) * kGroupUnit;
}

// The mean |e| of torch from the parts of all tiles.
class ErrorSum {
 public:
  explicit ErrorSum(int64_t n)
      : n_(n),
        power_(hqq::CascadePower(n / kSumQuad)),
        tile_(hqq::TileElements(power_)),
        tiles_(CeilDiv(n, tile_)) {}

  int power() const { return power_; }
  int64_t tile() const { return tile_; }
  int64_t tiles() const { return tiles_; }

  // `parts` of the tiles, `stride` apart.
  float Mean(const TileErrors* parts, int64_t stride) const {
    const TileErrors& last = parts[(tiles_ - 1) * stride];
    float sum = 0;
    if (n_ < kSumQuad) {
      sum = hqq::ContiguousSum(n_, [&](int64_t i) { return last.rest[i]; });
    } else {
      sum = Total(parts, stride);
    }
    return sum / static_cast<float>(n_);
  }

 private:
  float Total(const TileErrors* parts, int64_t stride) const {
    float sums[kSumQuad] = {};
    const int64_t full = n_ / tile_;
    for (int64_t t = 0; t < full; ++t) {
      for (int64_t j = 0; j < kSumQuad; ++j) {
        sums[j] += parts[t * stride].level[2][j];
      }
    }
    const TileErrors empty;
    const TileErrors& last = full < tiles_ ? parts[full * stride] : empty;
    for (int64_t j = 0; j < kSumQuad; ++j) {
      sums[j] =
          last.level[0][j] + last.level[1][j] + last.level[2][j] + sums[j];
    }
    return Finish(sums, last.rest, n_ % kSumQuad);
  }

  // As hqq_sums.h: elements after the last row, the four accumulators, lanes.
  static float Finish(float* sums, const float* rest, int64_t count) {
    constexpr int64_t kLanes = hqq::kSumLanes;
    int64_t i = 0;
    for (; i + kLanes <= count; i += kLanes) {
      for (int64_t l = 0; l < kLanes; ++l) sums[l] += rest[i + l];
    }
    for (int64_t l = kLanes; l < kSumQuad; ++l) sums[l % kLanes] += sums[l];
    float sum = 0;
    for (; i < count; ++i) sum += rest[i];
    for (int64_t l = 0; l < kLanes; ++l) sum += sums[l];
    return sum;
  }

  const int64_t n_;
  const int power_;
  const int64_t tile_;
  const int64_t tiles_;
};

void AtomicMinIndex(std::atomic<int64_t>& lowest, int64_t index) {
  if (index < 0) return;
  int64_t seen = lowest.load();
  while ((seen < 0 || index < seen) &&
         !lowest.compare_exchange_weak(seen, index)) {
  }
}

int64_t FirstNonFinite(const TensorView& weight, int threads) {
  std::atomic<int64_t> first{-1};
  ParallelTiles(threads, weight.num_elements(), kTileElements,
                [&](int64_t begin, int64_t end) {
                  AtomicMinIndex(first, hqq::FindNonFinite(weight, begin, end));
                });
  return first.load();
}

// The state of one call of kReference.
class Solver {
 public:
  Solver(const HqqEncodeArgs& args, int threads)
      : args_(args),
        threads_(threads),
        n_(args.weight.num_elements()),
        groups_(n_ / args.group_size),
        sum_(n_) {}

  absl::Status Run(HqqFacts* facts) {
    QS_RETURN_IF_ERROR(Allocate());
    if (hqq::InChunks(args_)) {
      *args_.first_non_finite = SolveChunks(facts);
      if (*args_.first_non_finite >= 0) return absl::OkStatus();
    } else {
      SolveInSteps(facts);
    }
    for (int64_t g = 0; g < groups_; ++g) {
      facts->group_iterations +=
          std::min<int64_t>(progress_.still[g], facts->iterations);
    }
    ForGroups([&](int64_t first, int64_t last) { WriteGroups(first, last); });
    return absl::OkStatus();
  }

 private:
  absl::Status Allocate() {
    const auto f32 = static_cast<int64_t>(sizeof(float));
    const int64_t each = (groups_ + kPadding) * f32;
    QS_ASSIGN_OR_RETURN(inverse_, Buffer::Allocate(each));
    QS_ASSIGN_OR_RETURN(zero_, Buffer::Allocate(each));
    QS_ASSIGN_OR_RETURN(still_, Buffer::Allocate(groups_ * 2));
    const int64_t parts =
        sum_.tiles() * (hqq::InChunks(args_) ? args_.iterations : 1);
    const int64_t bytes = parts * static_cast<int64_t>(sizeof(TileErrors));
    QS_ASSIGN_OR_RETURN(errors_, Buffer::Allocate(bytes));
    if (bytes > 0) {
      std::memset(errors_.data(), 0, static_cast<size_t>(bytes));
    }
    progress_ = {inverse_.As<float>(), zero_.As<float>(),
                 still_.As<uint16_t>()};
    // Lanes after the last group are computed with, to no effect.
    std::fill_n(progress_.inverse + groups_, kPadding, 1.0f);
    std::fill_n(progress_.zero + groups_, kPadding, 0.0f);
    return absl::OkStatus();
  }

  template <class Body>
  void ForGroups(const Body& body) const {
    ParallelTiles(threads_, groups_, GroupsPerTile(args_.group_size), body);
  }

  // Whether iteration k, of this error, is the last one.
  bool Stops(int k, float error, HqqFacts* facts) {
    facts->iterations = k + 1;
    facts->error = error;
    if (!(error < best_)) return true;
    best_ = error;
    return false;
  }

  // The first non-finite element, or -1.
  int64_t SolveChunks(HqqFacts* facts) {
    TileErrors* errors = errors_.As<TileErrors>();
    const int iterations = args_.iterations;
    std::atomic<int64_t> bad{-1};
    ParallelTiles(threads_, n_, sum_.tile(), [&](int64_t begin, int64_t end) {
      AtomicMinIndex(bad,
                     hqq::SolveTile(args_, begin, end, sum_.power(), progress_,
                                    errors + begin / sum_.tile() * iterations));
    });
    if (bad.load() >= 0) return bad.load();
    for (int k = 0; k < iterations; ++k) {
      if (Stops(k, sum_.Mean(errors + k, iterations), facts)) break;
    }
    if (facts->iterations == iterations) return -1;
    ForGroups([&](int64_t first, int64_t last) {
      for (int64_t g = first; g < last; ++g) {
        if (progress_.still[g] <= facts->iterations) continue;
        hqq::SolveAgain(args_, g, facts->iterations, progress_);
      }
    });
    return -1;
  }

  void SolveInSteps(HqqFacts* facts) {
    TileErrors* errors = errors_.As<TileErrors>();
    ForGroups([&](int64_t first, int64_t last) {
      hqq::StartGroups(args_, first, last, progress_);
    });
    for (int k = 0; k < args_.iterations; ++k) {
      ParallelTiles(threads_, n_, sum_.tile(), [&](int64_t begin, int64_t end) {
        TileErrors& part = errors[begin / sum_.tile()];
        part = TileErrors();
        hqq::AddErrors(args_, begin, end, sum_.power(), progress_, &part);
      });
      ForGroups([&](int64_t first, int64_t last) {
        hqq::MoveZeros(args_, first, last, k, progress_);
      });
      if (Stops(k, sum_.Mean(errors, 1), facts)) break;
    }
    ParallelTiles(threads_, n_, kTileElements, [&](int64_t begin, int64_t end) {
      hqq::WriteCodes(args_, begin, end, progress_);
    });
  }

  void WriteGroups(int64_t first, int64_t last) const {
    if (args_.zero_points != nullptr) {
      return hqq::WriteIntegers(args_, first, last, progress_);
    }
    hqq::WriteFloats(args_, first, last, progress_);
  }

  const HqqEncodeArgs& args_;
  const int threads_;
  const int64_t n_;
  const int64_t groups_;
  const ErrorSum sum_;
  Buffer inverse_, zero_, still_, errors_;
  Progress progress_;
  float best_ = std::numeric_limits<float>::infinity();
};

class HqqCpu final : public HqqOps {
 public:
  explicit HqqCpu(int threads) : threads_(threads) {}

  absl::Status Encode(const HqqEncodeArgs& caller_args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckHqqEncode(caller_args));
    HqqEncodeArgs args = caller_args;
    const int64_t n = args.weight.num_elements();
    HqqFacts facts;
    facts.groups = n / args.group_size;
    if (facts.groups == 1) args.axis = 1;  // the same run
    *args.first_non_finite = -1;
    // The solver of chunks looks for itself.
    if (args.solver == HqqSolver::kBest || !hqq::InChunks(args)) {
      *args.first_non_finite = FirstNonFinite(args.weight, threads_);
    }
    if (n > 0 && *args.first_non_finite < 0) {
      if (args.solver == HqqSolver::kBest) {
        facts.group_iterations = Search(args);
      } else {
        QS_RETURN_IF_ERROR(Solver(args, threads_).Run(&facts));
      }
    }
    if (args.facts != nullptr) *args.facts = facts;
    return absl::OkStatus();
  }

  absl::Status Decode(const HqqDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckHqqGroups(args.weight, args.group_size, args.axis));
    ParallelTiles(threads_, args.weight.num_elements(), kTileElements,
                  [&](int64_t begin, int64_t end) {
                    hqq::DecodeElements(args, begin, end);
                  });
    return absl::OkStatus();
  }

 private:
  int64_t Search(const HqqEncodeArgs& args) const {
    std::atomic<int64_t> iterations{0};
    ParallelTiles(threads_, args.weight.num_elements() / args.group_size,
                  GroupsPerTile(args.group_size),
                  [&](int64_t first, int64_t last) {
                    iterations += hqq::SearchGroups(args, first, last);
                  });
    return iterations.load();
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<HqqOps> NewHqqCpu(int threads) {
  return std::make_unique<HqqCpu>(threads);
}

int64_t HqqWorkspaceBytes(int64_t num_elements, int64_t group_size, int axis,
                          HqqSolver solver) {
  (void)axis;
  if (solver == HqqSolver::kBest) return 0;
  const int64_t groups = num_elements / group_size + kPadding;
  const int64_t tiles = CeilDiv(num_elements, kTileElements);
  return groups * 10 + tiles * 20 * static_cast<int64_t>(sizeof(TileErrors));
}

}  // namespace qs
