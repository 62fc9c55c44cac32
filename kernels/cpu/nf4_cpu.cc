// Nf4Ops on CPUs: cuts tensors into tiles and calls the SIMD loops.
// Tested by tests/kernels/nf4_differential_test.cc.
#include <algorithm>
#include <atomic>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/nested_simd.h"
#include "kernels/cpu/nf4_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"
#include "kernels/nested_absmax.h"
#include "kernels/nf4_check.h"

namespace qs {
namespace nf4 {

SearchTable::SearchTable(Codebook codebook) {
  const RankTable table = MakeRankTable(codebook, Nf4Rule::kCpu);
  for (int q = -kSearchSteps; q <= kSearchSteps; ++q) {
    int16_t* row = rows[q + kFirstRow];
    for (int k = 0; k < kCandidates; ++k) {
      const SearchTerms terms = MakeSearchTerms(table, q, k);
      row[k] = terms.cross;
      row[kCandidates + k] = terms.square;
    }
  }
}

}  // namespace nf4

namespace {

// A quarter of a million elements: large against the cost of a task, small
// against the cache of a core. A multiple of every block size.
constexpr int64_t kTileElements = int64_t{1} << 18;
constexpr int64_t kNestedTile = kNestedBlockSize * 64;

const nf4::SearchTable& GetSearchTable(Codebook codebook) {
  static const nf4::SearchTable nf4(Codebook::kNf4);
  static const nf4::SearchTable fp4(Codebook::kFp4);
  return codebook == Codebook::kNf4 ? nf4 : fp4;
}

nf4::SimdTables MakeTables(Codebook codebook, Nf4Rule rule) {
  nf4::SimdTables tables{MakeRankTable(codebook, rule),
                         MakeRankTable(codebook, Nf4Rule::kCpu),
                         {},
                         &GetSearchTable(codebook)};
  std::copy_n(CodebookLevels(codebook), 16, tables.levels_by_code);
  return tables;
}

void AtomicMinIndex(std::atomic<int64_t>& lowest, int64_t index) {
  if (index < 0) return;
  int64_t seen = lowest.load();
  while ((seen < 0 || index < seen) &&
         !lowest.compare_exchange_weak(seen, index)) {
  }
}

class Nf4Cpu final : public Nf4Ops {
 public:
  explicit Nf4Cpu(int threads) : threads_(threads) {}

  absl::Status Encode(const Nf4EncodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckNf4Encode(args));
    const nf4::SimdTables tables = MakeTables(args.codebook, args.rule);
    std::atomic<int64_t> non_finite{-1};
    ForBlocks(args.weight, args.block_size, [&](int64_t begin, int64_t end) {
      AtomicMinIndex(non_finite, EncodeBlocks(args, tables, begin, end));
    });
    *args.first_non_finite = non_finite.load();
    return absl::OkStatus();
  }

  absl::Status Decode(const Nf4DecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckNf4Block(args.weight.dtype, args.block_size));
    const nf4::SimdTables tables = MakeTables(args.codebook, Nf4Rule::kCpu);
    ForBlocks(args.weight, args.block_size, [&](int64_t begin, int64_t end) {
      DecodeBlocks(args, tables, begin, end);
    });
    return absl::OkStatus();
  }

  absl::Status NestedEncode(const NestedEncodeArgs& args, Stream&) override {
    *args.offset = nf4::TorchMean(args.absmax, args.num_blocks);
    ParallelTiles(threads_, args.num_blocks, kNestedTile,
                  [&](int64_t begin, int64_t end) {
                    nf4::NestedEncodeBlocks(args, begin, end);
                  });
    return absl::OkStatus();
  }

  absl::Status NestedDecode(const NestedDecodeArgs& args, Stream&) override {
    ParallelTiles(threads_, args.num_blocks, kNestedTile,
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      args.absmax[i] = nf4::NestedDecodeOne(
                          args.codes[i],
                          args.nested_absmax[i / kNestedBlockSize],
                          *args.offset);
                    }
                  });
    return absl::OkStatus();
  }

  absl::Status NestedRefine(const NestedRefineArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckNestedRefine(args));
    const nf4::SimdTables tables = MakeTables(args.codebook, Nf4Rule::kCpu);
    ForBlocks(args.weight, args.block_size, [&](int64_t begin, int64_t end) {
      NestedRefineBlocks(args, tables, begin, end);
    });
    return absl::OkStatus();
  }

 private:
  template <class Body>
  void ForBlocks(const TensorView& weight, int64_t block_size,
                 const Body& body) const {
    ParallelTiles(threads_, CeilDiv(weight.num_elements(), block_size),
                  kTileElements / block_size, body);
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<Nf4Ops> NewNf4Cpu(int threads) {
  return std::make_unique<Nf4Cpu>(threads);
}

}  // namespace qs
