// How GPTQ and AWQ cut tensors for workers of either kind.
#include "quant/gptq_layout.h"

#include "quant/awq_cut.h"
#include "tests/testing/catch_compat.h"

namespace qs {
namespace {

TEST_CASE("GPTQ's large tiles fill a device's", "[gptq]") {
  struct Case {
    int64_t rows;
    int64_t cols;
    int64_t tile_rows;
  };
  for (const Case& c : {Case{4096, 4096, 4096}, Case{4096, 11008, 4224},
                        Case{11008, 4096, 11264}, Case{8192, 28672, 2048},
                        Case{28672, 8192, 8192}, Case{100, 64, 512}}) {
    INFO(c.rows << " x " << c.cols);
    const TensorInfo info = {"w.weight", DType::kBF16, {c.rows, c.cols}};
    const GptqLayout large = GptqLayoutOf(GptqSpec(), info, true);
    CHECK(large.tile_rows == c.tile_rows);
    CHECK(large.tile_rows % large.unit_rows == 0);
    CHECK(large.unit_rows == GptqLayoutOf(GptqSpec(), info, false).tile_rows);
  }
}

TEST_CASE("AWQ's large tiles are whole units", "[awq]") {
  struct Case {
    int64_t rows;
    int64_t cols;
    int64_t unit_rows;
    int64_t tile_rows;
  };
  for (const Case& c :
       {Case{4096, 4096, 128, 4096}, Case{4096, 11008, 32, 4096},
        Case{11008, 4096, 128, 11008}, Case{8192, 28672, 32, 2048},
        Case{28672, 8192, 64, 8192}, Case{100, 64, 8192, 8192}}) {
    INFO(c.rows << " x " << c.cols);
    const TensorInfo info = {"w.weight", DType::kBF16, {c.rows, c.cols}};
    const AwqCut small = AwqCutOf(info, false);
    CHECK(small.unit_rows == c.unit_rows);
    CHECK(small.tile_rows == c.unit_rows);
    const AwqCut large = AwqCutOf(info, true);
    CHECK(large.unit_rows == c.unit_rows);
    CHECK(large.tile_rows == c.tile_rows);
    CHECK(large.most_rows() == std::min(c.tile_rows, c.rows));
  }
}

}  // namespace
}  // namespace qs
