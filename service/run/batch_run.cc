// Tested by tests/service/checkpoint_run_test.cc.
#include "service/run/batch_run.h"

#include <algorithm>
#include <map>
#include <string>
#include <utility>

#include "kernels/base/status_macros.h"
#include "quant/device_estimate.h"
#include "service/checkpoint/fault.h"

namespace qs {
namespace {

int64_t TileBegin(const TensorQuantizer& quantizer, int64_t tile) {
  return tile == 0 ? 0 : quantizer.tile_input_end(tile - 1);
}

// What the search for scales is of a group's work, and what the factor of an
// input is of its readers', about: one in so many.
constexpr int64_t kSearchShare = 2;
constexpr int64_t kFactorShare = 8;

}  // namespace

void BatchRun::Start(const Host& host, const BatchQueue::Batch& batch,
                     Reservation reservation,
                     std::function<void(absl::Status)> done) {
  const std::shared_ptr<BatchRun> run(
      new BatchRun(host, batch, std::move(reservation), std::move(done)));
  run->Submit([self = run.get()](Backend&) { return self->Open(); });
}

BatchRun::BatchRun(const Host& host, const BatchQueue::Batch& batch,
                   Reservation reservation,
                   std::function<void(absl::Status)> done)
    : reservation_(std::move(reservation)),
      memory_bytes_(reservation_.bytes()),
      host_(host),
      work_(batch.work),
      batch_(work_->batches[batch.place]),
      spec_(host.plan.SpecOf(batch_)),
      done_(std::move(done)) {}

// The task holds the batch, so steps may use a plain `this`.
void BatchRun::Submit(Step step, const DeviceBytes& device_bytes) {
  ++steps_;
  host_.pool.Submit(
      host_.lane,
      [self = shared_from_this(), step = std::move(step)](Backend& backend) {
        if (!self->Stopped()) {
          const absl::Status status = step(backend);
          if (!status.ok()) self->Fail(status);
        }
        self->StepEnded();
      },
      device_bytes);
}

void BatchRun::StepEnded() {
  if (--steps_ > 0) return;
  absl::Status status;
  {
    absl::MutexLock lock(&mutex_);
    status = status_;
  }
  if (status.ok() && host_.cancelled) status = absl::CancelledError("stopped");
  members_.clear();
  group_ = nullptr;
  reservation_.Reset();
  done_(std::move(status));
}

void BatchRun::Fail(const absl::Status& status) {
  absl::MutexLock lock(&mutex_);
  if (status_.ok()) status_ = status;
  failed_ = true;
}

absl::Status BatchRun::Open() {
  for (const BatchTensor& tensor : batch_.tensors) {
    host_.plan.input->WillNeed(tensor.tensor);
    members_.push_back(std::make_unique<Member>());
    members_.back()->tensor = tensor.tensor;
  }
  if (!batch_.sites.empty()) return OpenGroup();
  QuantizeOptions options = host_.plan.Options();
  options.cancelled = &host_.cancelled;
  Member& member = *members_[0];
  QS_ASSIGN_OR_RETURN(member.quantizer,
                      TensorQuantizer::Create(
                          spec_, host_.plan.InfoOf(member.tensor), options));
  member.device_bytes = DeviceClaimFor(
      TensorDeviceBytes(spec_, member.quantizer->info(),
                        {.large_tiles = host_.plan.spec.large_tiles}));
  RunTiles(member, /*read=*/true);
  return absl::OkStatus();
}

// The steps that fill sites are queued before any that waits for one.
absl::Status BatchRun::OpenGroup() {
  QuantizeOptions options = host_.plan.Options();
  options.cancelled = &host_.cancelled;
  options.on_shared = [this](double done) { OnShared(done); };
  QS_ASSIGN_OR_RETURN(GroupInfo info, host_.plan.GroupOf(batch_));
  EstimateGroup(info);
  QS_ASSIGN_OR_RETURN(group_,
                      SolveGroup::Create(spec_, std::move(info), options));
  std::map<std::string, std::shared_ptr<Site>> sites;
  for (size_t i = 0; i < batch_.sites.size(); ++i) {
    sites[batch_.sites[i].declared.name()] = group_->site(i);
  }
  for (size_t i = 0; i < members_.size(); ++i) {
    QS_ASSIGN_OR_RETURN(members_[i]->quantizer, group_->TakeTensor(i));
  }
  CountShared();
  for (const BatchSite& declared : batch_.sites) {
    const std::string& pool = declared.declared.pool();
    Submit([this, &declared, site = sites[declared.declared.name()],
            pooled = pool.empty() ? nullptr : sites[pool]](Backend&) {
      return LoadSite(declared, *site, pooled.get());
    });
  }
  if (!group_->solves_whole()) {
    group_ = nullptr;
    for (const auto& member : members_) RunTiles(*member, /*read=*/true);
    return absl::OkStatus();
  }
  for (const auto& member : members_) {
    loads_left_ += member->quantizer->num_tiles();
  }
  for (const auto& member : members_) {
    for (int64_t t = 0; t < member->quantizer->num_tiles(); ++t) {
      Submit([this, m = member.get(), t](Backend&) { return LoadTile(*m, t); });
    }
  }
  return absl::OkStatus();
}

void BatchRun::EstimateGroup(const GroupInfo& info) {
  solve_device_bytes_ = DeviceClaimFor(SolveDeviceBytes(spec_, info));
  const DeviceUse use = GroupDeviceUse(spec_, info, host_.plan.Options());
  for (size_t i = 0; i < members_.size(); ++i) {
    if (info.tensors[i].role != GroupRole::kQuantize) continue;
    members_[i]->device_bytes =
        DeviceClaimFor(TensorDeviceBytes(spec_, info.tensors[i].info, use));
  }
}

absl::Status BatchRun::LoadSite(const BatchSite& declared, Site& site,
                                const Site* pool) const {
  absl::StatusOr<SiteMoments> moments =
      work_->calibration->index.Load(declared.match);
  if (moments.ok()) return site.FillBlended(*std::move(moments), pool);
  site.Fail(moments.status());
  return MomentsFault(moments.status());
}

void BatchRun::RunTiles(Member& member, bool read) {
  member.tiles = member.quantizer->num_tiles();
  member.tiles_left = member.tiles;
  for (int64_t t = 0; t < member.tiles; ++t) {
    Submit([this, m = &member, t,
            read](Backend& backend) { return RunTile(*m, t, read, backend); },
           member.device_bytes);
  }
}

absl::Status BatchRun::ReadTile(const Member& member, int64_t tile) const {
  const int64_t begin = TileBegin(*member.quantizer, tile);
  const int64_t bytes = member.quantizer->tile_input_end(tile) - begin;
  QS_ASSIGN_OR_RETURN(uint8_t* const input,
                      member.quantizer->BeginTileInput(tile));
  return host_.plan.input->Read(member.tensor, begin,
                                {input, static_cast<size_t>(bytes)});
}

absl::Status BatchRun::RunTile(Member& member, int64_t tile, bool read,
                               Backend& backend) {
  if (read) QS_RETURN_IF_ERROR(ReadTile(member, tile));
  QS_RETURN_IF_ERROR(member.quantizer->RunTile(tile, backend));
  // A tile that has run had what it shares.
  OnShared(1);
  const int64_t bytes = TileBytes(member, tile);
  host_.on_bytes(bytes - SharedPart(bytes));
  return --member.tiles_left > 0 ? absl::OkStatus() : EndRound(member, backend);
}

absl::Status BatchRun::RerunTile(Member& member, int64_t tile,
                                 Backend& backend) {
  QS_RETURN_IF_ERROR(member.quantizer->RerunTile(tile, backend));
  return --member.tiles_left > 0 ? absl::OkStatus() : EndRound(member, backend);
}

absl::Status BatchRun::EndRound(Member& member, Backend& backend) {
  if (member.quantizer->has_second_round() && !member.second_round) {
    member.second_round = true;
    QS_RETURN_IF_ERROR(member.quantizer->BetweenRounds(backend));
    member.tiles_left = member.tiles;
    for (int64_t t = 0; t < member.tiles; ++t) {
      Submit([this, m = &member, t](Backend& b) { return RerunTile(*m, t, b); },
             member.device_bytes);
    }
    return absl::OkStatus();
  }
  QS_ASSIGN_OR_RETURN(QuantizedTensor result,
                      member.quantizer->Finish(backend));
  result.report.memory_bytes = memory_bytes_;
  member.quantizer = nullptr;
  return host_.on_tensor(member.tensor, std::move(result));
}

int64_t BatchRun::SharedPart(int64_t bytes) const {
  if (batch_.sites.empty() || !NeedsCalibration(spec_)) return 0;
  return bytes / (solves_whole_ ? kSearchShare : kFactorShare);
}

int64_t BatchRun::TileBytes(const Member& member, int64_t tile) const {
  return member.quantizer->tile_input_end(tile) -
         TileBegin(*member.quantizer, tile);
}

void BatchRun::CountShared() {
  solves_whole_ = group_->solves_whole();
  for (const auto& member : members_) {
    for (int64_t t = 0; t < member->quantizer->num_tiles(); ++t) {
      shared_bytes_ += SharedPart(TileBytes(*member, t));
    }
  }
}

void BatchRun::OnShared(double done) {
  const auto reached = static_cast<int64_t>(static_cast<double>(shared_bytes_) *
                                            std::clamp(done, 0.0, 1.0));
  int64_t more = 0;
  {
    absl::MutexLock lock(&mutex_);
    more = std::max<int64_t>(0, reached - shared_told_);
    shared_told_ += more;
  }
  if (more > 0) host_.on_bytes(more);
}

absl::Status BatchRun::LoadTile(const Member& member, int64_t tile) {
  QS_RETURN_IF_ERROR(ReadTile(member, tile));
  if (--loads_left_ == 0) {
    Submit([this](Backend& backend) { return Solve(backend); },
           solve_device_bytes_);
  }
  return absl::OkStatus();
}

absl::Status BatchRun::Solve(Backend& backend) {
  QS_RETURN_IF_ERROR(group_->Solve(backend));
  for (const auto& member : members_) RunTiles(*member, /*read=*/false);
  return absl::OkStatus();
}

}  // namespace qs
