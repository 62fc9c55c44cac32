// One operation of each family as a worker does it: through its backend, host
// memory in and out, with all copies on the way.
#include <cstdint>
#include <cstring>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_scales.h"
#include "tests/gpu/bench_problem.h"
#include "tests/gpu/bench_rows.h"

namespace qs::cuda {
namespace {

double Double(int64_t value) { return static_cast<double>(value); }

// Pageable host memory that the process has touched, as a server's is.
template <typename T>
std::vector<T> Touched(int64_t count) {
  return std::vector<T>(static_cast<size_t>(count));
}

class StagedRows {
 public:
  StagedRows(const BenchShapes& shapes, Backend& backend, BenchTable& table)
      : shapes_(shapes),
        backend_(backend),
        table_(table),
        weight_(NormalWeights(shapes.rows * shapes.wide, 0.02f, 1)),
        codes_(Touched<uint8_t>(shapes.rows * shapes.wide)),
        scales_(Touched<float>(shapes.rows * shapes.wide / kSmallest)),
        zeros_(scales_.size()),
        points_(scales_.size()) {}

  absl::Status Elementwise() {
    QS_RETURN_IF_ERROR(Nf4());
    QS_RETURN_IF_ERROR(Affine());
    QS_RETURN_IF_ERROR(ErrorSums());
    return Hqq();
  }
  absl::Status Solvers(const BenchMoment& moment) {
    QS_RETURN_IF_ERROR(Gram());
    QS_RETURN_IF_ERROR(Gptq(moment));
    return Awq(moment);
  }

 private:
  static constexpr int64_t kSmallest = 32;  // group that scales_ has room for
  static constexpr int64_t kBlock = 64;

  TensorView Weight(int64_t cols) const {
    return {weight_.data(), DType::kBF16, shapes_.rows, cols};
  }
  Stream& stream() { return backend_.stream(); }

  absl::Status Add(const std::string& kernel, int64_t cols, double in,
                   double out, const std::function<absl::Status()>& body) {
    const int64_t before = backend_.memory().host_calls;
    QS_RETURN_IF_ERROR(table_.Add({.kernel = absl::StrCat("staged: ", kernel),
                                   .shape = ShapeText(shapes_.rows, cols),
                                   .ceiling = Ceiling::kBus,
                                   .bytes_in = in,
                                   .bytes_out = out},
                                  [&](int64_t) { return body(); }));
    QS_RETURN_IF_ERROR(backend_.health());
    const int64_t calls = backend_.memory().host_calls - before;
    if (calls == 0) return absl::OkStatus();
    return absl::InternalError(
        absl::StrCat(kernel, ": the host did ", calls, " calls"));
  }

  absl::Status Nf4() {
    const double n = Double(shapes_.rows * shapes_.wide);
    return Add("NF4 encode", shapes_.wide, 2 * n, n / 2 + 4 * n / kBlock, [&] {
      Nf4EncodeArgs args;
      args.weight = Weight(shapes_.wide);
      args.packed = codes_.data();
      args.absmax = scales_.data();
      args.first_non_finite = &bad_;
      return backend_.nf4().Encode(args, stream());
    });
  }

  absl::Status Affine() {
    const double n = Double(shapes_.rows * shapes_.wide);
    return Add("affine encode", shapes_.wide, 2 * n,
               n + 2 * n / Double(shapes_.group), [&] {
                 AffineEncodeArgs args;
                 args.weight = Weight(shapes_.wide);
                 args.group_size = shapes_.group;
                 args.codes = codes_.data();
                 args.scales = scales_.data();
                 args.first_non_finite = &bad_;
                 return backend_.affine().Encode(args, stream());
               });
  }

  absl::Status ErrorSums() {
    const double n = Double(shapes_.rows * shapes_.wide);
    return Add("error sums", shapes_.wide, 4 * n, sizeof(qs::ErrorSums), [&] {
      qs::ErrorSums sums;
      ErrorSumsArgs args;
      args.weight = args.decoded = Weight(shapes_.wide);
      args.sums = &sums;
      return backend_.stats().Errors(args, stream());
    });
  }

  absl::Status Hqq() {
    const double n = Double(shapes_.rows * shapes_.cols);
    return Add("HQQ solver", shapes_.cols, 2 * n, n + 8 * n / kBlock, [&] {
      HqqEncodeArgs args;
      args.weight = Weight(shapes_.cols);
      args.codes = codes_.data();
      args.scales = scales_.data();
      args.zeros = zeros_.data();
      args.first_non_finite = &bad_;
      return backend_.hqq().Encode(args, stream());
    });
  }

  absl::Status Gram() {
    const int64_t tokens = shapes_.tokens_a_call;
    const int64_t cols = shapes_.cols;
    const Buffer x = LikeActivations(tokens, cols, 5);
    std::vector<double> sum = Touched<double>(cols * cols);
    std::vector<double> abs_sum = Touched<double>(cols);
    const double state = 8 * Double(cols * cols + cols);
    return Add(absl::StrCat("second moments, ", tokens, " tokens"), cols,
               2 * Double(tokens * cols) + state, state, [&] {
                 return backend_.gram().Accumulate(
                     {{x.data(), DType::kBF16, tokens, cols},
                      sum.data(),
                      abs_sum.data(),
                      &bad_},
                     stream());
               });
  }

  // The factor stays on the host in between, as in quant/, where others may
  // solve with it, too.
  absl::Status Gptq(const BenchMoment& moment) {
    const int64_t cols = shapes_.cols;
    const double h = 4 * Double(cols * cols);
    const double n = Double(shapes_.rows * cols);
    std::vector<float> factor = Touched<float>(cols * cols);
    return Add("GPTQ given H", cols, 2 * h + 2 * n + 8 * Double(cols),
               h + n + 2 * n / Double(shapes_.group), [&] {
                 GptqFactorFacts facts;
                 GptqFactorArgs made;
                 made.hessian = moment.host.data();
                 made.size = cols;
                 made.order = moment.order.data();
                 made.factor = factor.data();
                 made.facts = &facts;
                 QS_RETURN_IF_ERROR(backend_.gptq().Factor(made, stream()));
                 GptqSolveArgs args;
                 args.weight = Weight(cols);
                 args.factor = factor.data();
                 args.factor_id = NewContentId();
                 args.order = moment.order.data();
                 args.grid.group_size = shapes_.group;
                 args.grid.scale_dtype = DType::kBF16;
                 args.grid.decoded_dtype = DType::kBF16;
                 args.range = GptqRange::kCurvature;
                 args.codes = codes_.data();
                 args.scales = scales_.data();
                 args.first_non_finite = &bad_;
                 return backend_.gptq().Solve(args, stream());
               });
  }

  // The search as quant/ makes it, then the limits: both copy the weights and H
  // once.
  absl::Status Awq(const BenchMoment& moment) {
    const int64_t cols = shapes_.cols;
    const int64_t groups = shapes_.rows * (cols / shapes_.group);
    const TensorView weight = Weight(cols);
    std::vector<float> w_mean = Touched<float>(cols);
    QS_RETURN_IF_ERROR(backend_.awq().Statistics(
        {{&weight, 1}, shapes_.group, w_mean.data()}, stream()));
    const AwqGridSpec grid = {4, shapes_.group, false, AwqRule::kAutoAwq,
                              DType::kBF16};
    const double h = 4 * Double(cols * cols);
    const double n = Double(shapes_.rows * cols);
    return Add("AWQ scale search and clip", cols, 2 * (h + 2 * n),
               8 * Double(groups), [&] {
                 AwqSearchArgs args;
                 args.spec.group_size = shapes_.group;
                 args.profile = Profile::kReference;
                 args.grid = grid;
                 args.weights = {&weight, 1};
                 args.x_mean = moment.x_mean;
                 args.w_mean = w_mean;
                 args.second_moment = moment.host.data();
                 QS_ASSIGN_OR_RETURN(
                     const AwqScales found,
                     SearchAwqScales(std::move(args), backend_));
                 AwqClipArgs clip;
                 clip.weight = weight;
                 clip.grid = grid;
                 clip.scales = found.values.data();
                 clip.second_moment = moment.host.data();
                 clip.low = scales_.data();
                 clip.high = zeros_.data();
                 return backend_.awq().ClipSearch(clip, stream());
               });
  }

  const BenchShapes& shapes_;
  Backend& backend_;
  BenchTable& table_;
  const Buffer weight_;
  std::vector<uint8_t> codes_;
  std::vector<float> scales_;
  std::vector<float> zeros_;
  std::vector<uint8_t> points_;
  int64_t bad_ = -1;
};

}  // namespace

absl::Status BenchStaged(const BenchShapes& shapes, BenchMachine& machine,
                         BenchTable& table) {
  BenchMemory memory(machine);
  QS_ASSIGN_OR_RETURN(const BenchMoment moment,
                      MakeBenchMoment(machine, memory, shapes.cols));
  QS_ASSIGN_OR_RETURN(const auto backend, machine.NewBackend());
  StagedRows rows(shapes, *backend, table);
  QS_RETURN_IF_ERROR(rows.Elementwise());
  return rows.Solvers(moment);
}

}  // namespace qs::cuda
