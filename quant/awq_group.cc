// Tested by tests/quant/awq_group_test.cc and tests/quant/awq_quality_test.cc.
#include "quant/awq_group.h"

#include <algorithm>
#include <cmath>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"
#include "quant/awq_checks.h"
#include "quant/awq_fold.h"
#include "quant/awq_judge.h"
#include "quant/awq_quantizer.h"
#include "quant/awq_scales.h"
#include "quant/gptq_factor.h"
#include "quant/gptq_quantizer.h"
#include "quant/group_base.h"
#include "quant/group_parts.h"

namespace qs {
namespace {

// Of the factor that only the search uses: far below what changes a loss.
constexpr double kSearchDamping = 1e-7;
// A factor damped more than this is not H's; the search then takes H itself.
constexpr double kMostSearchDamping = 1e-5;

// About what of a site's time is the search for its scales where codes are
// solved, too, and what of that is the factor that it begins with.
constexpr double kSearchPart = 0.8;
constexpr double kSearchFactorPart = 0.15;

using Solution = std::shared_ptr<AwqSiteSolution>;

// How scales are searched: AWQ's own spec, or what it would be for GPTQ.
QuantSpec SearchSpec(const QuantSpec& spec) {
  const GptqSpec* gptq = spec.gptq();
  if (gptq == nullptr) return spec;
  AwqSpec awq = DefaultAwqSpec(Profile::kBest);
  awq.bits = gptq->bits;
  awq.group_size = gptq->group_size;
  awq.symmetric = gptq->symmetric;
  awq.clip = gptq->range_search != RangeSearch::kMinMax;
  awq.damping = gptq->damping;
  return {awq, spec.profile, spec.format};
}

// How codes are solved: GPTQ's own spec, or AWQ's way.
GptqSpec SolveSpec(const QuantSpec& spec) {
  return spec.gptq() != nullptr ? *spec.gptq()
                                : GptqSpec{.damping = spec.awq()->damping};
}

class AwqGroup final : public GroupBase {
 public:
  AwqGroup(const QuantSpec& spec, GroupInfo info,
           const QuantizeOptions& options)
      : GroupBase(spec, std::move(info), options),
        search_(SearchSpec(spec)),
        members_(this->info().tensors.size()) {}

  absl::StatusOr<std::unique_ptr<TensorQuantizer>> TakeTensor(
      size_t index) override;
  bool solves_whole() const override { return true; }
  absl::Status Solve(Backend& backend) override;
  std::vector<float> scales(size_t site) const override {
    return scales_[site];
  }

 private:
  const AwqSpec& awq() const { return *search_.awq(); }
  absl::StatusOr<AwqTensor> MakeMember(const GroupTensor& tensor) const;
  std::vector<float> ValuesOf(size_t tensor) const;
  // Pieces of all quantized readers of a site.
  std::vector<TensorView> ReaderPieces(size_t site) const;
  DType ReaderDType(size_t site) const;
  absl::Status CheckMembers() const;
  // INVALID_ARGUMENT for a weight of the site that is not finite.
  absl::Status CheckReaders(size_t site) const;
  int64_t GroupSize(int64_t inputs) const {
    return awq().group_size == -1 ? inputs : std::min(awq().group_size, inputs);
  }
  absl::Status CheckCancelled() const;
  // The tensor that what is done for a site counts for: the first that is
  // quantized and reads it, else the group's first.
  size_t PayerOf(size_t site) const;
  // The checkpoint of what is done for a site, of that for all sites.
  PanelCheck SitePart(const PanelCheck& all, size_t site) const;
  // Tells how far Solve is, and whether it is to end.
  absl::Status Check(double done);

  // `checkpoint`: of all that is done for the site.
  absl::StatusOr<Solution> SolveSite(size_t site, const PanelCheck& checkpoint,
                                     Backend& backend,
                                     std::vector<AwqTransform>* transforms);
  absl::Status SearchScales(size_t site, const SiteMoments& moments,
                            const AwqFold& fold, const PanelCheck& checkpoint,
                            Backend& backend, AwqScales* scales) const;
  absl::StatusOr<std::vector<float>> MeanWeights(
      size_t site, std::span<const TensorView> pieces, Backend& backend) const;
  absl::StatusOr<Buffer> SearchFactor(const SiteMoments& moments,
                                      const PanelCheck& checkpoint,
                                      Backend& backend) const;
  absl::Status UseMoment(const SiteMoments& moments, size_t site,
                         AwqSiteSolution* solution) const;
  absl::Status FactorMoment(int64_t size, const PanelCheck& checkpoint,
                            Backend& backend, AwqSiteSolution* solution) const;

  const QuantSpec search_;
  std::vector<AwqMember*> members_;         // owned by who took them
  std::vector<std::vector<float>> scales_;  // of each site, once solved
  double told_ = 0;                         // of Solve
  PhaseClock* clock_ = nullptr;             // the same: of the site it is at
};

absl::StatusOr<std::unique_ptr<TensorQuantizer>> AwqGroup::TakeTensor(
    size_t index) {
  const GroupTensor& tensor = info().tensors[index];
  QS_ASSIGN_OR_RETURN(AwqTensor made, MakeMember(tensor));
  members_[index] = made.member;
  return std::move(made.quantizer);
}

absl::StatusOr<AwqTensor> AwqGroup::MakeMember(
    const GroupTensor& tensor) const {
  if (tensor.role != GroupRole::kQuantize) {
    return NewAwqFoldedTensor(spec(), tensor.info, options());
  }
  return spec().gptq() != nullptr
             ? NewGptqMember(spec(), tensor.info, options())
             : NewAwqQuantizer(spec(), tensor.info, options());
}

absl::Status AwqGroup::CheckCancelled() const {
  if (options().cancelled != nullptr &&
      options().cancelled->load(std::memory_order_relaxed)) {
    return absl::CancelledError(
        absl::StrCat("group \"", info().name, "\": cancelled"));
  }
  return absl::OkStatus();
}

absl::Status AwqGroup::Check(double done) {
  told_ = std::max(told_, done);  // a factor may be tried again
  if (options().on_shared != nullptr) options().on_shared(told_);
  return CheckCancelled();
}

absl::Status AwqGroup::CheckMembers() const {
  for (size_t t = 0; t < members_.size(); ++t) {
    if (members_[t] == nullptr) {
      return absl::FailedPreconditionError(
          absl::StrCat("tensor \"", info().tensors[t].info.name,
                       "\": was not taken from its group"));
    }
    // Quantized readers are checked by their mean weights.
    if (info().tensors[t].role == GroupRole::kQuantize) continue;
    QS_RETURN_IF_ERROR(
        CheckFinite(info().tensors[t].info, members_[t]->Pieces()));
  }
  return absl::OkStatus();
}

absl::Status AwqGroup::Solve(Backend& backend) {
  QS_RETURN_IF_ERROR(CheckMembers());
  std::vector<PhaseClock> clocks(members_.size());
  const auto at = [&](size_t site) {
    clock_ = &clocks[PayerOf(site)];
    clock_->Enter(Phase::kPrepare);
  };
  std::vector<AwqTransform> transforms(members_.size());
  std::vector<Solution> solutions(info().sites.size());
  const PanelCheck all = [this](double done) { return Check(done); };
  const double searched = awq().solve_codes ? kSearchPart : 1;
  for (size_t s = 0; s < solutions.size(); ++s) {
    const PanelCheck part = SitePart(PartOf(all, 0, searched), s);
    QS_RETURN_IF_ERROR(part(0));
    at(s);
    QS_ASSIGN_OR_RETURN(solutions[s], SolveSite(s, part, backend, &transforms));
    scales_.push_back(solutions[s]->scales.values);
    // Its moments go with it, unless someone else holds it.
    ReleaseSite(s);
    clock_->Stop();
  }
  // Factors last, so that there are none yet while scales are searched.
  for (size_t s = 0; s < solutions.size(); ++s) {
    if (!awq().solve_codes || solutions[s]->moment == nullptr) continue;
    at(s);
    QS_RETURN_IF_ERROR(FactorMoment(info().sites[s].inputs,
                                    SitePart(PartOf(all, searched, 1), s),
                                    backend, solutions[s].get()));
    clock_->Stop();
  }
  QS_RETURN_IF_ERROR(Check(1));
  for (size_t t = 0; t < members_.size(); ++t) {
    const int site = info().tensors[t].site;
    members_[t]->SetSolution(
        site < 0 ? nullptr : solutions[static_cast<size_t>(site)],
        std::move(transforms[t]), clocks[t].times());
  }
  return absl::OkStatus();
}

size_t AwqGroup::PayerOf(size_t site) const {
  const std::vector<GroupTensor>& tensors = info().tensors;
  const auto first = std::find_if(
      tensors.begin(), tensors.end(), [site](const GroupTensor& tensor) {
        return tensor.role == GroupRole::kQuantize &&
               tensor.site == static_cast<int>(site);
      });
  return first == tensors.end() ? 0
                                : static_cast<size_t>(first - tensors.begin());
}

PanelCheck AwqGroup::SitePart(const PanelCheck& all, size_t site) const {
  const std::vector<double> ends = SiteEnds(info());
  return PartOf(all, site == 0 ? 0 : ends[site - 1], ends[site]);
}

std::vector<float> AwqGroup::ValuesOf(size_t tensor) const {
  std::vector<float> values;
  for (const TensorView& piece : members_[tensor]->Pieces()) {
    for (int64_t i = 0; i < piece.num_elements(); ++i) {
      values.push_back(LoadAsFloat(piece.data, piece.dtype, i));
    }
  }
  return values;
}

std::vector<TensorView> AwqGroup::ReaderPieces(size_t site) const {
  std::vector<TensorView> pieces;
  for (size_t t = 0; t < members_.size(); ++t) {
    const GroupTensor& tensor = info().tensors[t];
    if (tensor.role != GroupRole::kQuantize ||
        tensor.site != static_cast<int>(site)) {
      continue;
    }
    const std::vector<TensorView> own = members_[t]->Pieces();
    pieces.insert(pieces.end(), own.begin(), own.end());
  }
  return pieces;
}

absl::StatusOr<Solution> AwqGroup::SolveSite(
    size_t site, const PanelCheck& checkpoint, Backend& backend,
    std::vector<AwqTransform>* transforms) {
  clock_->Enter(Phase::kWait);
  QS_ASSIGN_OR_RETURN(const SiteMoments* moments, this->site(site)->Moments());
  clock_->Enter(Phase::kPrepare);
  QS_RETURN_IF_ERROR(moments->Check());
  auto solution = std::make_shared<AwqSiteSolution>();
  solution->tokens = moments->tokens();
  const AwqFold fold(info(), site, spec().profile,
                     [this](size_t t) { return ValuesOf(t); });
  QS_RETURN_IF_ERROR(SearchScales(site, *moments, fold, checkpoint, backend,
                                  &solution->scales));
  clock_->Enter(Phase::kPrepare);
  fold.Apply(solution->scales.values, transforms);
  // A pool has no readers: nobody needs its moment from here on.
  if (!ReaderPieces(site).empty()) {
    QS_RETURN_IF_ERROR(UseMoment(*moments, site, solution.get()));
  }
  return solution;
}

absl::StatusOr<std::vector<float>> AwqGroup::MeanWeights(
    size_t site, std::span<const TensorView> pieces, Backend& backend) const {
  const int64_t inputs = info().sites[site].inputs;
  std::vector<float> means(static_cast<size_t>(inputs));
  QS_RETURN_IF_ERROR(backend.awq().Statistics(
      {pieces, GroupSize(inputs), means.data()}, backend.stream()));
  // A weight that is not finite makes its column's mean so.
  if (std::all_of(means.begin(), means.end(),
                  [](float v) { return std::isfinite(v); })) {
    return means;
  }
  QS_RETURN_IF_ERROR(CheckReaders(site));
  return means;
}

absl::Status AwqGroup::CheckReaders(size_t site) const {
  for (size_t t = 0; t < members_.size(); ++t) {
    if (info().tensors[t].site != static_cast<int>(site)) continue;
    QS_RETURN_IF_ERROR(
        CheckFinite(info().tensors[t].info, members_[t]->Pieces()));
  }
  return absl::OkStatus();
}

absl::StatusOr<Buffer> AwqGroup::SearchFactor(const SiteMoments& moments,
                                              const PanelCheck& checkpoint,
                                              Backend& backend) const {
  QS_ASSIGN_OR_RETURN(Buffer factor, AllocateSquare(moments.inputs()));
  clock_->Enter(Phase::kFactor);
  GptqFactorFacts facts;
  GptqFactorArgs args;
  args.hessian = moments.second_moment();
  args.size = moments.inputs();
  args.damping = kSearchDamping;
  args.checkpoint = checkpoint;
  args.factor = factor.As<float>();
  args.facts = &facts;
  QS_RETURN_IF_ERROR(backend.gptq().Factor(args, backend.stream()));
  if (facts.damping > kMostSearchDamping || facts.diagonal_only) {
    return Buffer();
  }
  return factor;
}

absl::Status AwqGroup::SearchScales(size_t site, const SiteMoments& moments,
                                    const AwqFold& fold,
                                    const PanelCheck& checkpoint,
                                    Backend& backend, AwqScales* scales) const {
  const int64_t inputs = info().sites[site].inputs;
  scales->values.assign(static_cast<size_t>(inputs), 1.0f);
  const std::vector<TensorView> pieces = ReaderPieces(site);
  if (pieces.empty()) return absl::OkStatus();
  if (inputs % GroupSize(inputs) != 0) return CheckReaders(site);
  clock_->Enter(Phase::kSearch);
  QS_ASSIGN_OR_RETURN(std::vector<float> w_mean,
                      MeanWeights(site, pieces, backend));
  if (!fold.scales()) return absl::OkStatus();

  const DType dtype = pieces.front().dtype;
  std::vector<float> x_mean;
  alignas(float) unsigned char stored[sizeof(float)];
  for (int64_t k = 0; k < inputs; ++k) {
    const double mean = static_cast<double>(moments.abs_sum()[k]) /
                        static_cast<double>(moments.tokens());
    StoreFromFloat(stored, dtype, 0, static_cast<float>(mean));
    x_mean.push_back(spec().profile == Profile::kReference
                         ? LoadAsFloat(stored, dtype, 0)
                         : static_cast<float>(mean));
  }
  fold.Tie(x_mean);
  fold.Tie(w_mean);
  AwqSearchArgs args;
  args.spec = awq();
  args.profile = spec().profile;
  // REFERENCE searches in the weights' dtype, BEST with scales as stored.
  args.grid = AwqGrid(search_, dtype, inputs, spec().profile == Profile::kBest);
  args.grid.group_size = GroupSize(inputs);
  args.weights = pieces;
  args.x_mean = x_mean;
  args.w_mean = w_mean;
  args.by_rounding = spec().gptq() == nullptr;
  const double factored = args.by_rounding ? kSearchFactorPart : 0;
  if (args.by_rounding) {
    QS_ASSIGN_OR_RETURN(
        args.factor,
        SearchFactor(moments, PartOf(checkpoint, 0, factored), backend));
    args.factor_id = NewContentId();
  }
  args.second_moment = moments.second_moment();
  args.second_moment_id = this->site(site)->moment_id();
  args.adjust = [&fold](std::vector<float>& s) {
    fold.Tie(s);
    fold.Adjust(s);
  };
  args.checkpoint = PartOf(checkpoint, factored, 1);
  clock_->Enter(Phase::kSearch);
  QS_ASSIGN_OR_RETURN(*scales, SearchAwqScales(std::move(args), backend));
  return absl::OkStatus();
}

absl::Status AwqGroup::UseMoment(const SiteMoments& moments, size_t site,
                                 AwqSiteSolution* solution) const {
  const std::vector<float>& s = solution->scales.values;
  if (std::all_of(s.begin(), s.end(), [](float v) { return v == 1; })) {
    solution->moment = moments.second_moment();
    solution->site = this->site(site);
    solution->moment_id = solution->site->moment_id();
    return absl::OkStatus();
  }
  QS_ASSIGN_OR_RETURN(solution->scaled_moment,
                      AllocateSquare(moments.inputs()));
  ScaleMoment(moments.second_moment(), s, solution->scaled_moment.As<float>());
  solution->moment = solution->scaled_moment.As<float>();
  solution->moment_id = NewContentId();
  return absl::OkStatus();
}

absl::Status AwqGroup::FactorMoment(int64_t size, const PanelCheck& checkpoint,
                                    Backend& backend,
                                    AwqSiteSolution* solution) const {
  clock_->Enter(Phase::kFactor);
  QS_ASSIGN_OR_RETURN(
      solution->factor,
      MakeGptqFactor(SolveSpec(spec()), Profile::kBest, GroupSize(size),
                     {solution->moment, size, solution->tokens}, checkpoint,
                     backend));
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<SolveGroup>> NewAwqGroup(
    const QuantSpec& spec, GroupInfo info, const QuantizeOptions& options) {
  QS_RETURN_IF_ERROR(CheckAwqTensors(spec, info));
  QS_RETURN_IF_ERROR(CheckAwqFolds(info));
  return std::unique_ptr<SolveGroup>(
      std::make_unique<AwqGroup>(spec, std::move(info), options));
}

}  // namespace qs
