// TensorQuantizer: one tensor from raw bytes to packed bytes, in tiles, so that
// work starts while the tensor still arrives and may run on several workers.
//
//   auto q = TensorQuantizer::Create(spec, {name, dtype, shape}, options);
//   fill q->input() from the front; as soon as tile_input_end(i) bytes are
//   there, RunTile(i, backend) may run, on any thread, tiles in any order;
//   after all tiles: Finish(backend) once.
//
// Some methods need a second look at every tile once all have run. Then, with
// has_second_round(), between the last RunTile and Finish:
//
//   BetweenRounds(backend) once, then RerunTile(i, backend) for every tile, on
//   any thread, in any order.
//
// With options.tiled_input there is no input(): each tile's bytes go to the
// memory that BeginTileInput(i) gives, and most methods free it as soon as the
// tile has run. A large tensor then never lies in memory as a whole, and its
// pages are used again and again (fresh pages cost more than the quantizing).
// RunTileFrom takes a tile from where its bytes came in, with no memory of its
// own: methods that work in slices read them there or, where one lies in
// several pieces, copy one at a time.
//
// Tiles are a fixed partition of the tensor (whole blocks or rows, about
// kTileBytes of input), so results do not depend on how bytes arrive or on who
// runs a tile. Methods that need the whole tensor have one tile. Each tile is
// unpacked again and compared with its codes before it counts as done.
//
// Memory: the input, or the tiles of it that exist at once, plus the packed
// output plus a scratch of one tile per running tile; see EstimateMemoryBytes.
// Thread: BeginTileInput, RunTile, RunTileFrom and RerunTile are thread-safe
// for distinct tiles; everything else from one thread at a time, with
// happens-before to the tiles that the caller provides.
#ifndef QS_QUANT_TENSOR_QUANTIZER_H_
#define QS_QUANT_TENSOR_QUANTIZER_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "kernels/base/buffer.h"
#include "quant/quant_spec.h"
#include "quant/quantized_tensor.h"

namespace qs {

// Fits a core's cache with what is written of it, and is a large Buffer.
constexpr int64_t kTileBytes = int64_t{1} << 20;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kBF16;
  std::vector<int64_t> shape;
};

// A part of a tile's input, at any address.
using InputPiece = std::span<const uint8_t>;

class Site;

struct QuantizeOptions {
  bool error_report = true;
  // The input that the tensor's columns read. Required by methods that need a
  // calibration; else optional, and then the report has the output error too.
  std::shared_ptr<Site> site;
  bool tiled_input = false;
  // For workers that all prefer large operations (Backend::prefers_large): what
  // is solved at once is as much as one operation of a device should be, and
  // the slice of a method that works in slices is a tile. Outputs are the same
  // bytes.
  bool large_tiles = false;
  // The first output tensor leaves in pieces, one a tile, and is empty in
  // Finish's result; see streamed_output.
  bool streamed_output = false;
  // Told how far that is what the tensors of a group share, scales and factors
  // of their inputs: 0 to 1 and never less than before, by whoever works at it,
  // one call at a time. Null: nobody is told.
  std::function<void(double done)> on_shared;
  // Set by the owner to stop: whatever runs then returns CANCELLED.
  const std::atomic<bool>* cancelled = nullptr;
};

// The output tensor that leaves in pieces.
struct StreamedOutput {
  std::string name;
  DType dtype = DType::kU8;
  std::vector<int64_t> shape;
  int64_t bytes = 0;  // 0: nothing is final before Finish
};

class TensorQuantizer {
 public:
  virtual ~TensorQuantizer() = default;

  // Errors: INVALID_ARGUMENT — spec, dtype or shape (text names the tensor);
  // RESOURCE_EXHAUSTED — no memory.
  static absl::StatusOr<std::unique_ptr<TensorQuantizer>> Create(
      const QuantSpec& spec, TensorInfo info, const QuantizeOptions& options);

  virtual const TensorInfo& info() const = 0;
  // The whole input. REQUIRES: not tiled_input.
  virtual uint8_t* input() = 0;
  // Memory for the bytes of one tile, once for each. REQUIRES: tiled_input.
  // Errors: RESOURCE_EXHAUSTED.
  virtual absl::StatusOr<uint8_t*> BeginTileInput(int64_t tile) = 0;
  virtual int64_t input_bytes() const = 0;
  virtual int64_t num_tiles() const = 0;
  // Ascending; the last one equals input_bytes().
  virtual int64_t tile_input_end(int64_t tile) const = 0;

  // Errors: INVALID_ARGUMENT 'tensor "NAME": NaN|Inf at index I' (the lowest
  // index of this tile, counted in the tensor); CANCELLED; INTERNAL —
  // verification failed, our bug.
  virtual absl::Status RunTile(int64_t tile, Backend& backend) = 0;
  // RunTile of a tile whose input is `pieces`, one after the other; used during
  // the call only. REQUIRES: tiled_input, no BeginTileInput of this tile.
  // Errors: RunTile's; RESOURCE_EXHAUSTED.
  virtual absl::Status RunTileFrom(std::span<const InputPiece> pieces,
                                   int64_t tile, Backend& backend);
  virtual bool has_second_round() const { return false; }
  // REQUIRES: has_second_round(), every tile has run. Errors: INVALID_ARGUMENT
  // — what only all tiles together show; CANCELLED.
  virtual absl::Status BetweenRounds(Backend&) { return absl::OkStatus(); }
  // Errors: RunTile's.
  virtual absl::Status RerunTile(int64_t, Backend&) { return absl::OkStatus(); }

  // What leaves in pieces: the pieces of all tiles, in order, are its bytes.
  virtual StreamedOutput streamed_output() const = 0;
  // The piece of a tile that returned OK in the last round, once. REQUIRES:
  // there is a streamed output. Thread: like RunTile of that tile.
  virtual Buffer TakeStreamed(int64_t tile) = 0;

  // REQUIRES: every tile returned OK, in every round. Frees the input.
  virtual absl::StatusOr<QuantizedTensor> Finish(Backend& backend) = 0;
};

// Upper bound of the bytes that a quantizer of this tensor holds at once.
// INVALID_ARGUMENT like Create's.
absl::StatusOr<int64_t> EstimateMemoryBytes(const QuantSpec& spec,
                                            const TensorInfo& info);

// The same with `options`. With tiled_input the caller begins no tile while
// `max_tiles` are begun and have not run.
absl::StatusOr<int64_t> EstimateMemoryBytes(const QuantSpec& spec,
                                            const TensorInfo& info,
                                            const QuantizeOptions& options,
                                            int64_t max_tiles);

// Exact bytes of all output tensors. With double_quant an upper bound, at most
// 20 bytes above: nested_offset's text is as long as its digits.
absl::StatusOr<int64_t> OutputBytes(const QuantSpec& spec,
                                    const TensorInfo& info);

// Matrix view of a shape: the last dimension is cols for 1 and 2 dimensions,
// [d0, product of the rest] for more (convolutions).
struct MatrixShape {
  int64_t rows = 0;
  int64_t cols = 0;
};
MatrixShape AsMatrix(const std::vector<int64_t>& shape);

}  // namespace qs

#endif  // QS_QUANT_TENSOR_QUANTIZER_H_
