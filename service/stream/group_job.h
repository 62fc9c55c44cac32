// GroupJob: one solve group of a stream from its declaration until its last
// tensor's last frame is written — who belongs to it, what of it has come, and
// the memory for all of it.
//
// The memory is given back after the last tensor's last frame.
// Thread: one caller at a time (the stream's reader), but for Solve.
#ifndef QS_SERVICE_STREAM_GROUP_JOB_H_
#define QS_SERVICE_STREAM_GROUP_JOB_H_

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/backend.h"
#include "quant/device_estimate.h"
#include "quant/quant_spec.h"
#include "quant/solve_group.h"
#include "quant/v1/quantization.pb.h"
#include "service/stream/byte_budget.h"
#include "service/stream/site_job.h"
#include "service/stream/tensor_job.h"
#include "service/stream/worker_pool.h"

namespace qs {

// Errors: BAD_FIELD; what ValidateGroup says.
absl::StatusOr<GroupInfo> GroupFromProto(const QuantSpec& spec,
                                         const quant::v1::GroupBegin& begin);

// Bytes that a group takes beside its sites (SiteJob::RoomFor). Large tiles of
// methods that solve are whole tensors: where `options` has them and they need
// more than `spare` (ByteBudget's), or leave none of `capacity` for a site of
// activations, it gets those that suit a CPU. Errors: INVALID_ARGUMENT, as
// EstimateGroupBytes.
absl::StatusOr<int64_t> GroupRoom(const QuantSpec& spec, const GroupInfo& info,
                                  int64_t capacity, int64_t spare,
                                  QuantizeOptions* options);

class GroupJob {
 public:
  // Errors: SolveGroup::Create's.
  static absl::StatusOr<std::shared_ptr<GroupJob>> Create(
      int64_t handle, const QuantSpec& spec, GroupInfo info,
      const QuantizeOptions& options, Reservation reservation);

  int64_t handle() const { return handle_; }
  // Of the stream's overrides the one that its tensors have; 0: none.
  int rule() const { return rule_; }
  void set_rule(int rule) { rule_ = rule; }
  const std::string& name() const { return group_->info().name; }

  // `workers`: of all that may sum activations. Where they prefer large calls
  // it is several runs at a time, if that leaves half of the budget to others.
  // Errors: NOT_IN_GROUP; BAD_FIELD; MEMORY_BUDGET.
  absl::StatusOr<std::shared_ptr<SiteJob>> BeginSite(
      const quant::v1::SiteBegin& begin, ByteBudget& budget,
      const WorkerKinds& workers);
  // A site has all its data. The group keeps nothing of its job: the moments
  // are the solver's alone.
  void SiteComplete(const SiteJob& site);
  // Errors: NOT_IN_GROUP; BAD_FIELD; RESOURCE_EXHAUSTED.
  absl::StatusOr<std::shared_ptr<TensorJob>> BeginTensor(
      const quant::v1::TensorBegin& begin);
  // A tensor has all its input. With solves_whole() it is kept for later.
  void TensorComplete(std::shared_ptr<TensorJob> job);
  bool complete() const { return sites_left_ == 0 && tensors_left_ == 0; }
  // "site \"x\"" or "tensor \"w\"": something that has not come.
  std::string Missing() const;

  bool solves_whole() const { return group_->solves_whole(); }
  // What Solve takes of a GPU's memory, at most.
  const DeviceBytes& solve_device_bytes() const { return solve_device_bytes_; }
  absl::Status Solve(Backend& backend) { return group_->Solve(backend); }
  // The tensors that waited for Solve.
  std::vector<std::shared_ptr<TensorJob>> TakeWaiting() {
    return std::move(waiting_);
  }

 private:
  GroupJob(int64_t handle, const QuantSpec& spec,
           const QuantizeOptions& options, std::unique_ptr<SolveGroup> group,
           Reservation reservation);
  absl::Status NotInGroup(const std::string& what) const;
  // Where a site of this name is declared; how many there are: nowhere.
  size_t FindSite(const std::string& name) const;
  absl::StatusOr<std::shared_ptr<SiteJob>> OpenSite(
      const quant::v1::SiteBegin& begin, size_t index,
      std::shared_ptr<Site> pool, ByteBudget& budget,
      const WorkerKinds& workers);
  absl::Status CheckTensor(const quant::v1::TensorBegin& begin,
                           size_t index) const;

  // Shared with the tensors, so that it is given back after the last.
  const std::shared_ptr<Reservation> reservation_;
  const int64_t handle_;
  const QuantSpec spec_;
  int rule_ = 0;
  const std::unique_ptr<SolveGroup> group_;
  const DeviceUse device_use_;  // of its tensors
  const DeviceBytes solve_device_bytes_;
  // Where each is declared; the names are info()'s.
  std::unordered_map<std::string_view, size_t> site_index_;
  std::unordered_map<std::string_view, size_t> tensor_index_;
  enum class SiteState { kNotBegun, kBegun, kComplete };
  std::vector<SiteState> sites_;
  std::vector<bool> tensor_begun_;
  size_t sites_left_;
  size_t tensors_left_;
  std::vector<std::shared_ptr<TensorJob>> waiting_;
};

}  // namespace qs

#endif  // QS_SERVICE_STREAM_GROUP_JOB_H_
