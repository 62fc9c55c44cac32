// GptqOps for host memory on the emulated device.
#ifndef QS_TESTS_TESTING_EMULATED_GPTQ_H_
#define QS_TESTS_TESTING_EMULATED_GPTQ_H_

#include <memory>
#include <utility>

#include "kernels/base/checked_math.h"
#include "kernels/cuda/gptq_cuda.h"
#include "tests/testing/emulated_solver.h"

namespace qs::cuda {

class EmulatedGptq final : public GptqOps {
 public:
  explicit EmulatedGptq(std::unique_ptr<Blas> blas = NewEmulatedBlas())
      : solver_(std::move(blas)),
        ops_(NewGptqCuda(solver_.workspace(), solver_.blas())) {}

  absl::Status Factor(const GptqFactorArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GptqFactorArgs args = host;
      args.hessian = call.In(host.hessian, host.size * host.size);
      args.order = call.In(host.order, host.size);
      args.factor = call.Out(host.factor, host.size * host.size);
      return call.RunSteps([&](Stream& s) { return ops_->Factor(args, s); });
    });
  }

  absl::Status Solve(const GptqSolveArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GptqSolveArgs args = host;
      const int64_t rows = host.weight.rows;
      const int64_t cols = host.weight.cols;
      const bool given = host.range == GptqRange::kGiven;
      const Grids grids(host.grid, rows, cols);
      args.weight = call.In(host.weight);
      args.factor = call.In(host.factor, cols * cols);
      args.order = call.In(host.order, cols);
      args.group_index = call.In(host.group_index, cols);
      args.zeroed = call.In(host.zeroed, cols);
      args.codes = call.Out(host.codes, rows * cols);
      args.scales = given ? call.InOutBytes(host.scales, grids.scale_bytes)
                          : call.OutBytes(host.scales, grids.scale_bytes);
      args.zero_points = given ? call.InOut(host.zero_points, grids.count)
                               : call.Out(host.zero_points, grids.count);
      args.row_loss = call.Out(host.row_loss, rows);
      args.first_non_finite = call.Out(host.first_non_finite, 1);
      return call.RunSteps([&](Stream& s) { return ops_->Solve(args, s); });
    });
  }

  absl::Status Refine(const GptqRefineArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GptqRefineArgs args = host;
      const int64_t rows = host.weight.rows;
      const int64_t cols = host.weight.cols;
      const Grids grids(host.grid, rows, cols);
      args.weight = call.In(host.weight);
      args.hessian = call.In(host.hessian, cols * cols);
      args.codes = call.InOut(host.codes, rows * cols);
      args.scales = call.InOutBytes(host.scales, grids.scale_bytes);
      args.zero_points = call.In(host.zero_points, grids.count);
      args.row_error = call.Out(host.row_error, rows);
      return call.RunSteps([&](Stream& s) { return ops_->Refine(args, s); });
    });
  }

  absl::Status Decode(const GptqDecodeArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GptqDecodeArgs args = host;
      const Grids grids(host.grid, host.weight.rows, host.weight.cols);
      args.codes = call.In(host.codes, host.weight.num_elements());
      args.scales = call.InBytes(host.scales, grids.scale_bytes);
      args.zero_points = call.In(host.zero_points, grids.count);
      args.group_index = call.In(host.group_index, host.weight.cols);
      args.weight = call.Out(host.weight);
      return call.RunSteps([&](Stream& s) { return ops_->Decode(args, s); });
    });
  }

  absl::Status OutputError(const GptqErrorArgs& host, Stream&) override {
    return solver_.Do([&](StagedCall& call) {
      GptqErrorArgs args = host;
      const int64_t cols = host.weight.cols;
      args.weight = call.In(host.weight);
      args.decoded = call.In(host.decoded);
      args.hessian = call.In(host.hessian, cols * cols);
      args.error = call.Out(host.error, host.weight.rows);
      args.signal = call.Out(host.signal, host.weight.rows);
      return call.RunSteps(
          [&](Stream& s) { return ops_->OutputError(args, s); });
    });
  }

 private:
  struct Grids {
    Grids(const GptqGrid& grid, int64_t rows, int64_t cols)
        : count(rows * CeilDiv(cols, grid.group_size)),
          scale_bytes(count * DTypeBytes(grid.scale_dtype)) {}
    const int64_t count;
    const int64_t scale_bytes;
  };

  EmulatedSolver solver_;
  const std::unique_ptr<GptqOps> ops_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_TESTING_EMULATED_GPTQ_H_
