// AffineOps on CPUs: cuts tensors into tiles and calls the inner loops.
// Tested by tests/kernels/affine_differential_test.cc.
#include <algorithm>
#include <atomic>
#include <cstring>

#include "kernels/affine_check.h"
#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cpu/affine_simd.h"
#include "kernels/cpu/pack_codes.h"
#include "kernels/cpu/pack_simd.h"
#include "kernels/cpu/parallel.h"
#include "kernels/factories.h"

namespace qs {
namespace {

// A quarter of a million elements: large against the cost of a task, small
// against the cache of a core.
constexpr int64_t kTileElements = int64_t{1} << 18;
constexpr int64_t kWordBits = 32;

int64_t UnitsPerTile(int64_t elements_per_unit) {
  return std::max<int64_t>(
      1, kTileElements / std::max<int64_t>(1, elements_per_unit));
}

void AtomicMinIndex(std::atomic<int64_t>& lowest, int64_t index) {
  if (index < 0) return;
  int64_t seen = lowest.load();
  while ((seen < 0 || index < seen) &&
         !lowest.compare_exchange_weak(seen, index)) {
  }
}

void PackRowRange(const PackRowsArgs& args, int64_t begin, int64_t end) {
  const int64_t words = CeilDiv(args.cols * args.bits, kWordBits);
  const uint8_t* codes = args.codes + begin * args.cols;
  uint32_t* out = args.words + begin * words;
  // Rows that end on a word border follow each other without a seam.
  const bool seamless = args.cols * args.bits % kWordBits == 0;
  const int64_t rows = seamless ? 1 : end - begin;
  const int64_t cols = seamless ? (end - begin) * args.cols : args.cols;
  for (int64_t i = 0; i < rows; ++i, codes += cols, out += words) {
    if (seamless && args.bits == 4) {
      affine::PackNibbles(codes, cols, reinterpret_cast<uint8_t*>(out));
    } else if (seamless && args.bits == 8) {
      std::memcpy(out, codes, static_cast<size_t>(cols));
    } else {
      affine::PackCodes(codes, cols, args.bits, out);
    }
  }
}

void UnpackRowRange(const UnpackRowsArgs& args, int64_t begin, int64_t end) {
  const int64_t words = CeilDiv(args.cols * args.bits, kWordBits);
  const uint32_t* in = args.words + begin * words;
  uint8_t* codes = args.codes + begin * args.cols;
  const bool seamless = args.cols * args.bits % kWordBits == 0;
  const int64_t rows = seamless ? 1 : end - begin;
  const int64_t cols = seamless ? (end - begin) * args.cols : args.cols;
  for (int64_t i = 0; i < rows; ++i, codes += cols, in += words) {
    if (seamless && args.bits == 4) {
      affine::UnpackNibbles(reinterpret_cast<const uint8_t*>(in), cols, codes);
    } else if (seamless && args.bits == 8) {
      std::memcpy(codes, in, static_cast<size_t>(cols));
    } else {
      affine::UnpackCodes(in, cols, args.bits, codes);
    }
  }
}

class AffineCpu final : public AffineOps {
 public:
  explicit AffineCpu(int threads) : threads_(threads) {}

  absl::Status Encode(const AffineEncodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckAffineEncode(args));
    std::atomic<int64_t> non_finite{-1};
    ParallelTiles(
        threads_, args.weight.num_elements() / args.group_size,
        UnitsPerTile(args.group_size), [&](int64_t begin, int64_t end) {
          AtomicMinIndex(non_finite, affine::EncodeGroups(args, begin, end));
        });
    *args.first_non_finite = non_finite.load();
    return absl::OkStatus();
  }

  absl::Status Decode(const AffineDecodeArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(
        CheckAffineGroups(args.weight, args.bits, args.group_size));
    ParallelTiles(threads_, args.weight.num_elements() / args.group_size,
                  UnitsPerTile(args.group_size),
                  [&](int64_t begin, int64_t end) {
                    affine::DecodeGroups(args, begin, end);
                  });
    return absl::OkStatus();
  }

  absl::Status PackRows(const PackRowsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    ParallelTiles(
        threads_, args.rows, UnitsPerTile(args.cols),
        [&](int64_t begin, int64_t end) { PackRowRange(args, begin, end); });
    return absl::OkStatus();
  }

  absl::Status UnpackRows(const UnpackRowsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    ParallelTiles(
        threads_, args.rows, UnitsPerTile(args.cols),
        [&](int64_t begin, int64_t end) { UnpackRowRange(args, begin, end); });
    return absl::OkStatus();
  }

  absl::Status PackColumns(const PackColumnsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    ForColumnBlocks(args.rows, args.cols, [&](int64_t block, int64_t rows) {
      affine::PackColumnBlock(args.codes + block * kWordBits * args.cols, rows,
                              args.cols, args.bits,
                              args.words + block * args.bits * args.cols);
    });
    return absl::OkStatus();
  }

  absl::Status UnpackColumns(const UnpackColumnsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackShape(args.rows, args.cols, args.bits));
    ForColumnBlocks(args.rows, args.cols, [&](int64_t block, int64_t rows) {
      affine::UnpackColumnBlock(args.words + block * args.bits * args.cols,
                                rows, args.cols, args.bits,
                                args.codes + block * kWordBits * args.cols);
    });
    return absl::OkStatus();
  }

  absl::Status PackAwq(const PackAwqArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    ForAwqBlocks(args.rows, args.cols, [&](const affine::AwqBlock& block) {
      affine::PackAwqBlock(args, block);
    });
    return absl::OkStatus();
  }

  absl::Status UnpackAwq(const UnpackAwqArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackAwq(args.rows, args.cols, args.stride));
    ForAwqBlocks(args.rows, args.cols, [&](const affine::AwqBlock& block) {
      affine::UnpackAwqBlock(args, block);
    });
    return absl::OkStatus();
  }

  absl::Status PackParts(const PackPartsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    ParallelTiles(threads_, args.part, UnitsPerTile(PackedParts(args.bits)),
                  [&](int64_t begin, int64_t end) {
                    affine::PackPartsRange(args, begin, end);
                  });
    return absl::OkStatus();
  }

  absl::Status UnpackParts(const UnpackPartsArgs& args, Stream&) override {
    QS_RETURN_IF_ERROR(CheckPackParts(args.count, args.part, args.bits));
    ParallelTiles(threads_, args.part, UnitsPerTile(PackedParts(args.bits)),
                  [&](int64_t begin, int64_t end) {
                    affine::UnpackPartsRange(args, begin, end);
                  });
    return absl::OkStatus();
  }

 private:
  // Blocks of words, those of a few rows one after the other.
  template <class Body>
  void ForAwqBlocks(int64_t rows, int64_t cols, const Body& body) const {
    constexpr int64_t kWords = affine::kAwqBlockWords;
    constexpr int64_t kColumns = affine::kAwqBlockColumns;
    const int64_t words = rows / 8;
    const int64_t across = CeilDiv(cols, kColumns);
    ParallelTiles(threads_, CeilDiv(words, kWords) * across,
                  UnitsPerTile(kWords * 8 * kColumns),
                  [&](int64_t begin, int64_t end) {
                    for (int64_t i = begin; i < end; ++i) {
                      const int64_t word = i / across * kWords;
                      const int64_t col = i % across * kColumns;
                      body({word, std::min(kWords, words - word), col,
                            std::min(kColumns, cols - col)});
                    }
                  });
  }

  // Blocks of 32 rows: they begin and end on a word border at any width.
  template <class Body>
  void ForColumnBlocks(int64_t rows, int64_t cols, const Body& body) const {
    ParallelTiles(
        threads_, CeilDiv(rows, kWordBits), UnitsPerTile(kWordBits * cols),
        [&](int64_t begin, int64_t end) {
          for (int64_t block = begin; block < end; ++block) {
            body(block, std::min(kWordBits, rows - block * kWordBits));
          }
        });
  }

  const int threads_;
};

}  // namespace

std::unique_ptr<AffineOps> NewAffineCpu(int threads) {
  return std::make_unique<AffineCpu>(threads);
}

}  // namespace qs
