// Codes in the order of AWQ GEMM's files, and back. Layout:
// kernels/affine_ops.h; definition: kernels/reference/pack_reference.cc, whose
// bytes these give.
//
// Codes lie along rows and words along columns, so a block takes a tile through
// shared memory: the codes of 256 rows and 128 columns, which are a cache line
// of words of each column. Reads and writes of both are of whole cache lines
// where the caller's memory is aligned for them; four codes a load where rows
// are, else one by one.
// Limits: rows are a multiple of 8.
// Tested by tests/kernels/pack_cuda_test.cc.
#include <cstdint>

#include "kernels/affine_ops.h"
#include "kernels/cuda/cuda_ops.h"
#include "kernels/cuda/launch.h"
#include "kernels/cuda/vocabulary.h"

namespace qs::cuda {
namespace {

constexpr int kEight = 8;  // codes of a word
constexpr int kTileWords = 32;
constexpr int kTileColumns = 128;
constexpr int kQuad = 4;  // columns of a thread, a byte of a register each
constexpr int kTileQuads = kTileColumns / kQuad;
constexpr uint32_t kNibbles = 0x0f0f0f0fu;

struct TileShared {
  // One more than there are, so that words of a column lie in different banks.
  uint32_t words[kTileWords][kTileColumns + 1];
};

struct PackAwqParams {
  const uint8_t* codes;
  uint32_t* words;
  int64_t rows;
  int64_t cols;
  int64_t stride;
  bool vectors;  // 4-byte accesses to codes
};

struct UnpackAwqParams {
  const uint32_t* words;
  uint8_t* codes;
  int64_t rows;
  int64_t cols;
  int64_t stride;
  bool vectors;
};

struct Tile {
  int64_t word;  // first
  int64_t col;
  int words;
  int cols;
};

QS_KERNEL int AtMost(int64_t count, int most) {
  return count < most ? static_cast<int>(count) : most;
}

// Tiles side by side along the columns first.
template <class Params>
QS_KERNEL int64_t TileCount(const Params& a) {
  const int64_t across = (a.cols + kTileColumns - 1) / kTileColumns;
  return (a.rows / kEight + kTileWords - 1) / kTileWords * across;
}

template <class Params>
QS_KERNEL Tile TileAt(const Params& a, int64_t index) {
  const int64_t across = (a.cols + kTileColumns - 1) / kTileColumns;
  Tile tile;
  tile.word = index / across * kTileWords;
  tile.col = index % across * kTileColumns;
  tile.words = AtMost(a.rows / kEight - tile.word, kTileWords);
  tile.cols = AtMost(a.cols - tile.col, kTileColumns);
  return tile;
}

template <class Params>
QS_KERNEL int64_t WordCount(const Params& a) {
  return (a.cols - 1) * a.stride + a.rows / kEight;
}

// The row, of a word's eight, whose code is the low nibble of byte b; that of
// the high one is two rows on.
QS_KERNEL int LowRow(int b) { return b < 2 ? 4 * b : 4 * b - 7; }

// Which of a quad's columns comes in step `step`: lanes of a warp, whose quads
// follow each other, have words of 32 banks then.
QS_KERNEL int ColumnOf(int quad, int step) {
  return (step + quad / (kWarpSize / kQuad)) % kQuad;
}

// Codes of up to four columns of a row, a byte each, the high nibbles zero.
template <class Global>
QS_KERNEL uint32_t LoadQuad(const Global& codes, int64_t at, int count,
                            bool vector) {
  if (vector) return codes.template GetVector<uint32_t>(at) & kNibbles;
  uint32_t quad = 0;
  QS_UNROLL
  for (int k = 0; k < kQuad; ++k) {
    if (k < count) quad |= (codes.Get(at + k) & 15u) << (8 * k);
  }
  return quad;
}

template <class Global>
QS_KERNEL void StoreQuad(const Global& codes, int64_t at, int count,
                         uint32_t quad, bool vector) {
  if (vector) return codes.SetVector(at, quad);
  QS_UNROLL
  for (int k = 0; k < kQuad; ++k) {
    if (k < count) codes.Set(at + k, quad >> (8 * k) & 15u);
  }
}

template <class Thread>
QS_KERNEL void PackAwqKernel(Thread& t, TileShared& shared,
                             const PackAwqParams& a) {
  const auto codes = t.Global(a.codes, a.rows * a.cols);
  const auto words = t.Global(a.words, WordCount(a));
  for (int64_t i = t.BlockIndex(); i < TileCount(a); i += t.GridSize()) {
    const Tile tile = TileAt(a, i);
    for (int u = t.ThreadIndex(); u < tile.words * kTileQuads;
         u += t.BlockSize()) {
      const int word = u / kTileQuads;
      const int quad = u % kTileQuads;
      const int count = tile.cols - kQuad * quad;
      if (count <= 0) continue;
      const int64_t first =
          (tile.word + word) * kEight * a.cols + tile.col + kQuad * quad;
      uint32_t bytes[4];  // byte b of the words of four columns
      QS_UNROLL
      for (int b = 0; b < 4; ++b) {
        const int64_t low = first + LowRow(b) * a.cols;
        bytes[b] = LoadQuad(codes, low, count, a.vectors) |
                   LoadQuad(codes, low + 2 * a.cols, count, a.vectors) << 4;
      }
      QS_UNROLL
      for (int step = 0; step < kQuad; ++step) {
        const int k = ColumnOf(quad, step);
        uint32_t joined = 0;
        QS_UNROLL
        for (int b = 0; b < 4; ++b) {
          joined |= (bytes[b] >> (8 * k) & 0xffu) << (8 * b);
        }
        shared.words[word][kQuad * quad + k] = joined;
      }
    }
    t.Barrier();
    for (int u = t.ThreadIndex(); u < tile.words * tile.cols;
         u += t.BlockSize()) {
      const int word = u % tile.words;
      const int col = u / tile.words;
      words.Set((tile.col + col) * a.stride + tile.word + word,
                shared.words[word][col]);
    }
    t.Barrier();
  }
}

template <class Thread>
QS_KERNEL void UnpackAwqKernel(Thread& t, TileShared& shared,
                               const UnpackAwqParams& a) {
  const auto words = t.Global(a.words, WordCount(a));
  const auto codes = t.Global(a.codes, a.rows * a.cols);
  for (int64_t i = t.BlockIndex(); i < TileCount(a); i += t.GridSize()) {
    const Tile tile = TileAt(a, i);
    for (int u = t.ThreadIndex(); u < tile.words * tile.cols;
         u += t.BlockSize()) {
      const int word = u % tile.words;
      const int col = u / tile.words;
      shared.words[word][col] =
          words.Get((tile.col + col) * a.stride + tile.word + word);
    }
    t.Barrier();
    for (int u = t.ThreadIndex(); u < tile.words * kTileQuads;
         u += t.BlockSize()) {
      const int word = u / kTileQuads;
      const int quad = u % kTileQuads;
      const int count = tile.cols - kQuad * quad;
      if (count <= 0) continue;
      uint32_t bytes[4] = {};
      QS_UNROLL
      for (int step = 0; step < kQuad; ++step) {
        const int k = ColumnOf(quad, step);
        const uint32_t joined = shared.words[word][kQuad * quad + k];
        QS_UNROLL
        for (int b = 0; b < 4; ++b) {
          bytes[b] |= (joined >> (8 * b) & 0xffu) << (8 * k);
        }
      }
      const int64_t first =
          (tile.word + word) * kEight * a.cols + tile.col + kQuad * quad;
      QS_UNROLL
      for (int b = 0; b < 4; ++b) {
        const int64_t low = first + LowRow(b) * a.cols;
        StoreQuad(codes, low, count, bytes[b] & kNibbles, a.vectors);
        StoreQuad(codes, low + 2 * a.cols, count, bytes[b] >> 4 & kNibbles,
                  a.vectors);
      }
    }
    t.Barrier();
  }
}

QS_DEFINE_ENTRY(PackAwqKernel, TileShared)
QS_DEFINE_ENTRY(UnpackAwqKernel, TileShared)

template <class Args>
bool IsServable(const Args& args) {
  return args.rows >= 0 && args.cols >= 0 && args.rows % kEight == 0 &&
         args.stride >= args.rows / kEight;
}

template <class Args>
bool IsVector(const Args& args) {
  return IsAligned(args.codes, kQuad) && args.cols % kQuad == 0;
}

template <class Args>
int64_t Blocks(const Args& args) {
  return std::min(CeilDiv(args.rows / kEight, kTileWords) *
                      CeilDiv(args.cols, kTileColumns),
                  kMaxGrid);
}

}  // namespace

int LaunchPackAwq(const PackAwqArgs& args, cudaStream_t stream) {
  if (!IsServable(args)) return kCudaInvalidValue;
  if (args.rows == 0 || args.cols == 0) return 0;
  if (!IsPointer(args.codes) || !IsPointer(args.words)) {
    return kCudaInvalidValue;
  }
  const PackAwqParams params = {args.codes, args.words,  args.rows,
                                args.cols,  args.stride, IsVector(args)};
  return QS_LAUNCH(PackAwqKernel, TileShared, params, Blocks(args),
                   kMaxBlockThreads, stream);
}

int LaunchUnpackAwq(const UnpackAwqArgs& args, cudaStream_t stream) {
  if (!IsServable(args)) return kCudaInvalidValue;
  if (args.rows == 0 || args.cols == 0) return 0;
  if (!IsPointer(args.codes) || !IsPointer(args.words)) {
    return kCudaInvalidValue;
  }
  const UnpackAwqParams params = {args.words, args.codes,  args.rows,
                                  args.cols,  args.stride, IsVector(args)};
  return QS_LAUNCH(UnpackAwqKernel, TileShared, params, Blocks(args),
                   kMaxBlockThreads, stream);
}

}  // namespace qs::cuda
