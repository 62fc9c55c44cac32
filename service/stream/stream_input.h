// StreamInput: the request side of one Quantize stream — which message may
// come when, what it must contain, and where a chunk's bytes go. Every error
// that the .proto lists for a request is made here.
//
// Knows no transport and starts no work: its host is told what became due.
// Thread: one caller at a time.
#ifndef QS_SERVICE_STREAM_STREAM_INPUT_H_
#define QS_SERVICE_STREAM_STREAM_INPUT_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "quant/plan/plan.h"
#include "quant/quant_spec.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/byte_budget.h"
#include "service/stream/group_job.h"
#include "service/stream/site_job.h"
#include "service/stream/tensor_job.h"
#include "service/stream/wire.h"
#include "service/stream/worker_pool.h"

namespace qs {

class StreamInput {
 public:
  // A tensor that is begun and not completely received.
  struct OpenTensor {
    std::shared_ptr<TensorJob> job;
    std::shared_ptr<GroupJob> group;  // null: by itself
  };
  // What holds memory.
  struct Held {
    std::map<int64_t, OpenTensor> tensors;
    std::map<int64_t, std::shared_ptr<GroupJob>> groups;
    std::shared_ptr<SiteJob> site;
    std::shared_ptr<GroupJob> site_group;
  };
  // What waits for memory, the rule that it is quantized by, and of a group
  // how it is cut.
  struct Wanted {
    std::variant<TensorInfo, GroupInfo> what;
    int rule = 0;
    bool large_tiles = false;
  };

  // Called from within On*; must not call back into the StreamInput.
  class Host {
   public:
    virtual ~Host() = default;
    // The config is good; the others have every default filled in.
    virtual void Accepted(const quant::v1::QuantizeConfig& config,
                          const QuantSpec& spec,
                          const std::vector<PlanOverride>& overrides) = 0;
    virtual void TensorBegun() = 0;
    virtual void TileDue(std::shared_ptr<TensorJob> job,
                         TensorJob::Due tile) = 0;
    // One call of site->Work. Tiles that wait for the site come later.
    virtual void SiteWorkDue(std::shared_ptr<SiteJob> site) = 0;
    // How far what the group shares is, once its work has begun; on a worker.
    virtual std::function<void(double done)> GroupProgress(int64_t handle) = 0;
    // All of a group is there: Solve it, then its waiting tensors' tiles.
    virtual void GroupDue(std::shared_ptr<GroupJob> group) = 0;
    // What to call when memory is free for a parked tensor: it leads to
    // OnRoom, not from within On*.
    virtual ByteBudget::Granted WhenRoom() = 0;
  };

  // `workers`: the pool's. `cancelled` stops the jobs; all must outlive the
  // StreamInput, and `cancelled` the jobs.
  StreamInput(Host& host, const quant::v1::Limits& limits, ByteBudget& budget,
              const WorkerKinds& workers, const std::atomic<bool>& cancelled)
      : host_(host),
        limits_(limits),
        budget_(budget),
        workers_(workers),
        cancelled_(cancelled) {}

  // All return the error that ends the stream. After one, or while parked(),
  // no further call but TakeJobs and TakeTicket.
  absl::Status OnRequest(const ParsedRequest& request);
  absl::Status OnHalfClose() const;
  // The parked tensor's memory.
  absl::Status OnRoom(Reservation reservation);

  // A tensor waits for memory: read nothing until OnRoom was called.
  bool parked() const { return parked_.has_value(); }

  // For the stream's end: what is held, handed over so that the caller can
  // free it without its locks.
  Held TakeJobs();
  // The place in the budget's line, or nullopt.
  std::optional<ByteBudget::Ticket> TakeTicket();

 private:
  struct Parked {
    int64_t handle;
    Wanted wanted;
    ByteBudget::Ticket ticket = 0;
  };

  absl::Status OnConfig(const quant::v1::QuantizeConfig& config);
  absl::Status OnTensor(const quant::v1::TensorBegin& begin);
  absl::Status OnChunk(const ChunkView& chunk);
  absl::Status OnChunkMessage(const quant::v1::Chunk& message);

  absl::Status CheckHandle(int64_t handle, const char* field) const;
  absl::Status CheckSize(const TensorInfo& info) const;
  int64_t DequantizedBytes(const TensorInfo& info) const;
  // Bytes to reserve, or why the tensor is refused.
  absl::StatusOr<int64_t> RoomFor(const TensorInfo& info,
                                  const QuantSpec& spec) const;
  // `field`: of the message that names the rule. Errors: BAD_FIELD.
  absl::StatusOr<const QuantSpec*> SpecOf(int rule, const char* field) const;
  const QuantSpec& SpecOf(const Wanted& wanted) const {
    return specs_[static_cast<size_t>(wanted.rule)];
  }
  absl::Status Reserve(int64_t bytes, int64_t handle, Wanted wanted);
  QuantizeOptions JobOptions() const;
  absl::Status Open(int64_t handle, Wanted wanted, Reservation reservation);

  absl::StatusOr<TensorJob*> FindOpen(int64_t handle) const;
  // The checks that data and float_values share.
  absl::Status CheckRoomInTensor(const TensorJob& job, int64_t bytes) const;
  absl::Status Advance(TensorJob* job, bool last);

  // In group_input.cc.
  absl::Status OnGroup(const quant::v1::GroupBegin& begin);
  absl::Status OpenGroup(int64_t handle, Wanted wanted,
                         Reservation reservation);
  absl::StatusOr<std::shared_ptr<GroupJob>> FindGroup(int64_t handle,
                                                      const char* field) const;
  absl::Status OnGroupTensor(const quant::v1::TensorBegin& begin);
  absl::Status OnSite(const quant::v1::SiteBegin& begin);
  absl::Status CheckSiteChunk(int64_t offset, int64_t bytes) const;
  absl::Status OnSiteChunk(const ChunkView& chunk);
  absl::Status OnSiteFloats(const quant::v1::Chunk& message);
  absl::Status AdvanceSite(bool last);
  void CloseIfComplete(const std::shared_ptr<GroupJob>& group);
  absl::Status CheckGroupsComplete() const;

  Host& host_;
  const quant::v1::Limits& limits_;
  ByteBudget& budget_;
  const WorkerKinds workers_;
  const std::atomic<bool>& cancelled_;
  // By rule, see SpecsByRule; empty: no config yet.
  std::vector<QuantSpec> specs_;
  std::vector<PlanOverride> overrides_;
  bool error_report_ = true;
  bool dequantized_ = false;
  bool send_progress_ = false;
  // By handle: begun and not completely received.
  std::map<int64_t, OpenTensor> open_;
  std::map<int64_t, std::shared_ptr<GroupJob>> groups_;
  std::shared_ptr<SiteJob> site_;  // the open one, of
  std::shared_ptr<GroupJob> site_group_;
  std::optional<Parked> parked_;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_STREAM_INPUT_H_
