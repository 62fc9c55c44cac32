// TensorJob: one tensor of a Quantize stream from its begin message until its
// last frame is written, with the memory it was allowed.
//
// The reader fills it from the front; tiles become due as their bytes are
// there; workers run them; the worker that completes the last one also calls
// Finish. Large chunks stay where they came in until their tile runs from
// there. When the method looks at every tile again, the worker that completes
// the first round calls BetweenRounds and makes the second round due. Pieces of
// the first output are sent while later tiles run. The three parts touch
// different members. Thread: Fill* and NextDueTile from the reader; RunStep
// from any worker; the sender is one at a time.
#ifndef QS_SERVICE_STREAM_TENSOR_JOB_H_
#define QS_SERVICE_STREAM_TENSOR_JOB_H_

#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/device_estimate.h"
#include "quant/tensor_quantizer.h"
#include "service/stream/byte_budget.h"
#include "service/stream/wire.h"

namespace qs {

class TensorJob {
 public:
  // Tiles of one tensor that are begun and have not run, at most: the stream's
  // queue and what two more messages begin.
  static constexpr int64_t kMaxTilesQueued = 32;
  static constexpr int64_t kMaxTilesHeld = kMaxTilesQueued + 8;
  // Memory beside what the quantizer's estimate counts: names, tables, queue
  // entries. Bounds the number of small tensors in flight.
  static constexpr int64_t kOverhead = 16 << 10;
  // Data bytes of one frame, but for the last of an output tensor.
  static constexpr int64_t kFrameBytes = int64_t{1} << 20;

  // Bytes of the tensor where they came in.
  struct Piece {
    ByteSpan bytes;
    std::shared_ptr<const void> owner;  // keeps them
  };
  // A step that may run, and what of its input the quantizer does not have.
  struct Due {
    int64_t step = 0;
    std::vector<Piece> input;
  };

  // `shared_memory`: what a group reserved for this tensor, too; or null.
  // `needs_all`: the quantizer must have all input before the first tile runs.
  static std::shared_ptr<TensorJob> Create(
      int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
      Reservation reservation,
      std::shared_ptr<const Reservation> shared_memory = nullptr,
      bool needs_all = false);

  int64_t handle() const { return handle_; }
  const TensorInfo& info() const { return quantizer_->info(); }

  // What a step takes of a GPU's memory, at most. Set before any is due.
  const DeviceBytes& device_bytes() const { return device_bytes_; }
  void set_device_bytes(const DeviceBytes& bytes) { device_bytes_ = bytes; }
  // Of the stream's overrides the one that it has; 0: none. The same.
  int rule() const { return rule_; }
  void set_rule(int rule) { rule_ = rule; }

  // --- the reader's part
  int64_t received() const { return received_; }
  int64_t missing() const { return quantizer_->input_bytes() - received_; }
  // `owner` keeps the pieces; null when nobody does after the call. REQUIRES:
  // no more bytes than missing(). Errors: RESOURCE_EXHAUSTED.
  absl::Status Fill(std::span<const ByteSpan> pieces,
                    const std::shared_ptr<const void>& owner = nullptr);
  // Values converted to the tensor's dtype; the same limit and errors.
  absl::Status FillFloats(std::span<const float> values);
  // The client has marked its last chunk; the last tile waits for it.
  void Complete() { complete_ = true; }
  bool complete() const { return complete_; }
  // Each tile once, in order, as soon as it may run.
  std::optional<Due> NextDueTile();

  // --- the workers' part. A step is a tile in a round: step i of the first is
  // tile i, and those of the second follow.
  struct Outcome {
    bool all_done = false;  // true for one caller: every step is done, all OK
    // True for one caller: the first round is done and OK, the second is due.
    bool round_done = false;
    // True for one caller until NextPieces gave none: pieces of the streamed
    // output can be sent.
    bool frame_due = false;
    absl::Status error;  // for one caller: the tensor's first bad step
  };
  // An error waits until all lower steps are done, so that the one that is
  // reported is the lowest, whoever ran first.
  Outcome RunStep(Due due, Backend& backend);
  // REQUIRES: round_done was returned. Then the steps from num_tiles() to
  // 2 * num_tiles() - 1 may run.
  absl::Status BetweenRounds(Backend& backend) {
    return quantizer_->BetweenRounds(backend);
  }
  int64_t num_tiles() const { return num_tiles_; }
  // REQUIRES: all_done was returned. With `dequantized_as` the result is the
  // floats that the packed form of this spec stands for. Keeps only the
  // output's bytes reserved, and the result.
  absl::Status Finish(Backend& backend, const QuantSpec* dequantized_as);

  // --- the sender's part
  const StreamedOutput& streamed() const { return streamed_; }
  // The next pieces of the streamed output, in order: as many as are sent at
  // once, or the last. None: not there yet (the Outcome with the last of them
  // says frame_due again), or all were given.
  std::deque<std::shared_ptr<const Buffer>> NextPieces();
  // After Finish. The streamed output is empty there.
  const QuantizedTensor& result() const { return result_; }

  // What of the tensor is sent: StreamOutput's.
  struct Cursor {
    size_t output = 0;
    int64_t offset = 0;                                // in that output
    std::deque<std::shared_ptr<const Buffer>> pieces;  // that are being sent
    int64_t piece_offset = 0;                          // in the first
  };
  Cursor cursor;

 private:
  TensorJob(int64_t handle, std::unique_ptr<TensorQuantizer> quantizer,
            Reservation reservation,
            std::shared_ptr<const Reservation> shared_memory, bool needs_all);
  // `owner` as in Fill, and null when the bytes are to be copied.
  absl::Status Append(ByteSpan bytes, const std::shared_ptr<const void>& owner);
  // Gives the tile that is being filled memory of its own.
  absl::Status Settle();
  absl::Status RunTile(Due due, Backend& backend);
  // Tiles [0, this) are done in the last round, all OK.
  int64_t GoodTiles() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  // Pieces, one a tile, that NextPieces waits for; 0 when all were given.
  int64_t PiecesWanted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  bool PiecesReady() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);
  absl::Status Dequantize(const QuantSpec& spec);
  Outcome Record(int64_t step, absl::Status status);

  // First members: destroyed, and so given back, after the memory is free.
  Reservation reservation_;
  const std::shared_ptr<const Reservation> shared_memory_;
  const int64_t memory_bytes_;  // of both at first
  const int64_t handle_;
  const std::unique_ptr<TensorQuantizer> quantizer_;
  const StreamedOutput streamed_;
  const int64_t num_tiles_;
  const int64_t num_steps_;
  const int64_t pieces_at_once_;
  QuantizedTensor result_;
  DeviceBytes device_bytes_;
  int rule_ = 0;

  const bool copies_;  // all input at once
  int64_t received_ = 0;
  uint8_t* fill_ = nullptr;  // where the next byte goes; null: a piece of it
  int64_t fill_end_ = 0;     // of the tile that is being filled
  int64_t fill_tile_ = 0;    // the next one
  int64_t next_tile_ = 0;
  std::deque<std::vector<Piece>> pieces_;  // of tiles from next_tile_ on
  bool complete_ = false;

  absl::Mutex mutex_;
  std::vector<bool> done_ ABSL_GUARDED_BY(mutex_);  // by step
  int64_t first_open_ ABSL_GUARDED_BY(mutex_) = 0;  // all below are done
  int64_t failed_step_ ABSL_GUARDED_BY(mutex_);     // num_steps_: none
  absl::Status failure_ ABSL_GUARDED_BY(mutex_);
  bool reported_ ABSL_GUARDED_BY(mutex_) = false;
  bool frame_due_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t next_piece_ ABSL_GUARDED_BY(mutex_) = 0;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_TENSOR_JOB_H_
