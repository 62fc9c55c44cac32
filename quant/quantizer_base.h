// QuantizerBase: what every TensorQuantizer does alike — owns the input, cuts
// it into tiles, keeps time, watches the cancel flag, fills in the report.
// Methods tell the clocks which phase begins (phase_times.h); a task that says
// nothing prepares.
//
// A tile is the unit of scheduling; inside it a method works on slices, so that
// a slice and its scratch stay in a core's cache.
#ifndef QS_QUANT_QUANTIZER_BASE_H_
#define QS_QUANT_QUANTIZER_BASE_H_

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/base/buffer.h"
#include "kernels/base/tensor_view.h"
#include "quant/error_collector.h"
#include "quant/phase_times.h"
#include "quant/tensor_quantizer.h"

namespace qs {

// How many elements a slice has, about: two bytes each are a quarter of a
// core's cache. A multiple of every block size and of kStatsRun.
constexpr int64_t kSliceElements = int64_t{1} << 16;

// In elements of the flattened tensor. Tiles consist of whole groups; the last
// tile, and the last group of all, may be short.
struct Partition {
  int64_t num_elements = 0;
  int64_t tile_elements = 0;
  int64_t group_size = 0;  // what the error report calls a group
  // Tiles consist of whole parts of so many that are measured one by one, so
  // that the report does not depend on the tiles; 0: a tile is one.
  int64_t measured_elements = 0;

  int64_t num_tiles() const;
  int64_t num_measured() const;
};

// What one method needs for one tensor; bytes.
struct TensorSizes {
  int64_t output = 0;        // all output tensors
  int64_t extra = 0;         // held beside input and output
  int64_t tile_input = 0;    // of a tile that is not the last
  int64_t tile_scratch = 0;  // for each tile that runs
};

// One allocation, handed out in 64-byte aligned pieces.
class Scratch {
 public:
  static absl::StatusOr<Scratch> Allocate(int64_t bytes);
  // Bytes that an array of `bytes` takes.
  static constexpr int64_t Padded(int64_t bytes) {
    return (bytes + 63) / 64 * 64;
  }
  template <typename T>
  T* Take(int64_t count) {
    T* const taken = reinterpret_cast<T*>(buffer_.data() + used_);
    used_ += Padded(count * static_cast<int64_t>(sizeof(T)));
    return taken;
  }

 private:
  Buffer buffer_;
  int64_t used_ = 0;
};

class QuantizerBase : public TensorQuantizer {
 public:
  const TensorInfo& info() const final { return info_; }
  uint8_t* input() final { return input_.data(); }
  absl::StatusOr<uint8_t*> BeginTileInput(int64_t tile) final;
  int64_t input_bytes() const final;
  int64_t num_tiles() const final { return partition_.num_tiles(); }
  int64_t tile_input_end(int64_t tile) const final;
  StreamedOutput streamed_output() const override { return {}; }
  Buffer TakeStreamed(int64_t tile) final {
    return std::move(tile_outputs_[static_cast<size_t>(tile)]);
  }
  absl::Status RunTile(int64_t tile, Backend& backend) final;
  absl::Status RunTileFrom(std::span<const InputPiece> pieces, int64_t tile,
                           Backend& backend) final;
  absl::Status BetweenRounds(Backend& backend) final;
  absl::Status RerunTile(int64_t tile, Backend& backend) final;
  absl::StatusOr<QuantizedTensor> Finish(Backend& backend) final;

 protected:
  QuantizerBase(const QuantSpec& spec, TensorInfo info,
                const QuantizeOptions& options, const Partition& partition);

  // The method's own part of RunTile: elements [begin, end).
  virtual absl::Status EncodeTile(int64_t tile, int64_t begin, int64_t end,
                                  Backend& backend) = 0;
  // Its parts of BetweenRounds and RerunTile; a tile keeps its input until its
  // last round.
  virtual absl::Status PrepareRefine(Backend&) { return absl::OkStatus(); }
  virtual absl::Status RefineTile(int64_t /*tile*/, int64_t /*begin*/,
                                  int64_t /*end*/, Backend&) {
    return absl::OkStatus();
  }
  // The method's own part of Finish: the format's tensors. May still read the
  // input and Measure; calls ReleaseInput as soon as it needs it no more.
  virtual absl::StatusOr<std::vector<OutputTensor>> Assemble(
      Backend& backend) = 0;
  // Whether EncodeTile reads its input by StagedInput only.
  virtual bool stages_input() const { return false; }
  // What only the method knows: output errors, solver facts, warnings.
  virtual void AddToReport(TensorReport* /*report*/) const {}
  // Whether the first output leaves in pieces.
  bool streams() const { return options_.streamed_output; }
  // Memory for the tile's piece of it.
  absl::StatusOr<uint8_t*> BeginTileOutput(int64_t tile, int64_t bytes);
  uint8_t* TileOutput(int64_t tile) {
    return tile_outputs_[static_cast<size_t>(tile)].data();
  }

  absl::Status AllocateInput();
  void ReleaseInput();
  absl::Status CheckCancelled() const;
  // INVALID_ARGUMENT "tensor NAME: NaN|Inf at index".
  absl::Status NonFiniteError(int64_t index) const;
  absl::Status VerificationError(int64_t index) const;
  // REQUIRES: all of it lies in one tile.
  TensorView InputView(int64_t begin, int64_t rows, int64_t cols) const;
  // The same; where the tile has no memory of its own, copied to `staging`
  // unless its bytes lie in one piece, and at an address of their type's
  // alignment if the caller needs that.
  TensorView StagedInput(int64_t begin, int64_t rows, int64_t cols,
                         uint8_t* staging, bool any_address = false) const;

  const QuantSpec& spec() const { return spec_; }
  const QuantizeOptions& options() const { return options_; }
  const Partition& partition() const { return partition_; }
  ErrorCollector& errors() { return errors_; }
  // Runs while a tile's task does. Thread: that of the tile.
  PhaseClock& clock(int64_t tile) {
    return tile_clocks_[static_cast<size_t>(tile)];
  }
  // In PrepareRefine and Assemble: of the tensor as a whole.
  PhaseClock& whole_clock() { return whole_clock_; }
  // Time that others spent for it.
  void AddTime(const PhaseTimes& times) { others_times_.Add(times); }

 private:
  // Elements [begin, end) of a tile.
  struct Range {
    int64_t begin = 0;
    int64_t end = 0;
  };
  Range TileRange(int64_t tile) const;
  void ReleaseTileInput(int64_t tile);
  PhaseTimes Times() const;

  const QuantSpec spec_;
  const TensorInfo info_;
  const QuantizeOptions options_;
  const Partition partition_;
  Buffer input_;
  std::vector<Buffer> tile_inputs_;  // instead of input_, with tiled_input
  // Of the tiles that run from them, with stages_input.
  std::vector<std::span<const InputPiece>> tile_pieces_;
  std::vector<Buffer> tile_outputs_;  // with streamed_output
  ErrorCollector errors_;
  std::vector<PhaseClock> tile_clocks_;
  PhaseClock whole_clock_;
  PhaseTimes others_times_;
};

}  // namespace qs

#endif  // QS_QUANT_QUANTIZER_BASE_H_
