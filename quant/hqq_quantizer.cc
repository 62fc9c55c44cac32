// Tested by tests/quant/hqq_quantizer_test.cc.
#include "quant/hqq_quantizer.h"

#include <utility>

#include "quant/formats/grid_writer.h"
#include "quant/formats/hqq_format.h"
#include "quant/hqq_base.h"

namespace qs {

TensorSizes HqqSizes(const QuantSpec& spec, const TensorInfo& info,
                     const QuantizeOptions& options) {
  const HqqSpec& method = *spec.hqq();
  const hqq::Cut cut = hqq::MakeCut(spec, info, options.large_tiles);
  TensorSizes sizes;
  if (hqq::IsGrid(spec)) {
    sizes.output =
        GridOutputBytes(spec, {info.name, info.dtype, cut.rows, cut.cols});
    // What packing a slice needs to look at it again.
    sizes.tile_scratch = cut.slice_elements();
  } else {
    sizes.output = HqqOutputBytes(
        HqqLayoutOf(method, info.name, info.dtype, cut.rows, cut.cols));
    sizes.extra = 2 * cut.elements();  // codes, and codes unpacked again
  }
  sizes.tile_input = cut.tile_elements() * DTypeBytes(info.dtype);
  sizes.tile_scratch +=
      Buffer::BytesTaken(hqq::ScratchBytes(spec, cut, info.dtype));
  if (cut.whole && spec.profile == Profile::kReference) {
    sizes.extra += HqqWorkspaceBytes(cut.elements(), cut.group_size,
                                     method.axis, HqqSolver::kReference);
  }
  return sizes;
}

absl::StatusOr<std::unique_ptr<TensorQuantizer>> NewHqqQuantizer(
    const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options) {
  return hqq::IsGrid(spec)
             ? hqq::NewGridQuantizer(spec, std::move(info), options)
             : hqq::NewDictQuantizer(spec, std::move(info), options);
}

}  // namespace qs
