// Tested by tests/quant/awq_group_test.cc.
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_quantizer.h"
#include "quant/awq_transform.h"

namespace qs {
namespace {

// A tensor that is only scaled.
class AwqFoldedTensor final : public QuantizerBase, public AwqMember {
 public:
  AwqFoldedTensor(const QuantSpec& spec, const TensorInfo& info,
                  const QuantizeOptions& options)
      : QuantizerBase(spec, info, options, WholeTensor(info)) {}

  absl::Status AllocateAll() { return AllocateInput(); }

  std::vector<TensorView> Pieces() const override {
    const MatrixShape shape = AsMatrix(info().shape);
    return {InputView(0, shape.rows, shape.cols)};
  }
  void SetSolution(std::shared_ptr<const AwqSiteSolution>,
                   AwqTransform transform, const PhaseTimes& times) override {
    AddTime(times);
    transform_ = std::move(transform);
    solved_ = true;
  }

 private:
  static Partition WholeTensor(const TensorInfo& info) {
    const int64_t n = CheckedNumElements(info.shape).value_or(0);
    return {.num_elements = n, .tile_elements = n, .group_size = n};
  }

  absl::Status EncodeTile(int64_t, int64_t, int64_t, Backend&) override {
    if (!solved_) {
      return absl::FailedPreconditionError(absl::StrCat(
          "tensor \"", info().name, "\": its group is not solved"));
    }
    QS_ASSIGN_OR_RETURN(output_, Buffer::Allocate(input_bytes()));
    const TensorView in = Pieces().front();
    TransformRows(transform_, in, 0, true,
                  {output_.data(), info().dtype, in.rows, in.cols});
    return absl::OkStatus();
  }
  absl::StatusOr<std::vector<OutputTensor>> Assemble(Backend&) override {
    ReleaseInput();
    std::vector<OutputTensor> out(1);
    out[0] = {info().name, info().dtype, info().shape, std::move(output_)};
    return out;
  }

  AwqTransform transform_;
  bool solved_ = false;
  Buffer output_;
};

}  // namespace

absl::StatusOr<AwqTensor> NewAwqFoldedTensor(const QuantSpec& spec,
                                             const TensorInfo& info,
                                             const QuantizeOptions& options) {
  QuantizeOptions plain = options;
  plain.error_report = false;
  plain.streamed_output = false;
  auto folded = std::make_unique<AwqFoldedTensor>(spec, info, plain);
  QS_RETURN_IF_ERROR(folded->AllocateAll());
  AwqTensor tensor;
  tensor.member = folded.get();
  tensor.quantizer = std::move(folded);
  return tensor;
}

}  // namespace qs
