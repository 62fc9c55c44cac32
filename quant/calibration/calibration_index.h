// CalibrationIndex: which sites of a calibration serve the sites of a plan, and
// their moments when it is their turn.
//
// Sites are matched by the modules that read them, never by their own names: a
// file's site serves a plan's when a module of the one is a consumer of the
// other, under the checkpoint's name or the one that transformers gives it.
//
// Experts that a model has as stacks are read as one module: what gate and up
// of all of them read is found under the stack's name,
// "...experts.gate_up_proj" (what was routed to them) or "...experts" (every
// token); what their downs read only as the sum over all,
// "...experts.down_proj": the pool of the layer, from which each expert then
// lives.
//
// Who sends a plan's sites: Open, Match, look at `missing`, then Load each site
// when its tensors are about to be sent; where a site's pool_weight is not 0,
// its pool as well (once for all sites that name it).
#ifndef QS_QUANT_CALIBRATION_CALIBRATION_INDEX_H_
#define QS_QUANT_CALIBRATION_CALIBRATION_INDEX_H_

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <unordered_map>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/synchronization/mutex.h"
#include "quant/calibration/calibration_source.h"
#include "quant/calibration/site_moments.h"
#include "quant/formats/file_opener.h"
#include "quant/plan/plan.h"

namespace qs {

// Sites of the source whose sum is a site, or a pool, of the plan.
struct SiteMatch {
  std::string name;  // PlanSite::name or PlanSite::pool
  int64_t inputs = 0;
  int64_t tokens = 0;  // seen; for an expert's site those routed to it
  std::vector<size_t> sources;
  // Of a site that saw few tokens, or none that is known to be its own: the
  // pool to blend in and how much of it (PoolWeight). Empty and 0: it has
  // enough, or there is no pool.
  std::string pool;
  double pool_weight = 0;
};

struct CalibrationMatch {
  std::vector<SiteMatch> sites;            // those served, in the plan's order
  std::map<std::string, SiteMatch> pools;  // those that a site needs
  std::vector<std::string> missing;        // tensors without moments
  std::vector<size_t> used;                // sites of the source, ascending
  std::vector<std::string> unused;         // the others' names
};

// Thread-safe.
class CalibrationIndex {
 public:
  // Of a file. Errors: as CalibrationFile::Open.
  static absl::StatusOr<CalibrationIndex> Open(
      const std::string& path,
      std::shared_ptr<const FileOpener> opener = nullptr);
  explicit CalibrationIndex(std::shared_ptr<const CalibrationSource> source);

  // As of `source`, which has the same sites, of which more are sealed: what
  // was found equal is not read again.
  CalibrationIndex Renewed(
      std::shared_ptr<const CalibrationSource> source) const;

  const CalibrationSource& source() const { return *source_; }

  // `architecture` is Plan::architecture. A site that saw no token and has no
  // pool with tokens counts as missing. Errors: INVALID_ARGUMENT — a site of
  // another number of inputs; consumers of one site that read different inputs
  // in the file.
  absl::StatusOr<CalibrationMatch> Match(const std::vector<PlanSite>& sites,
                                         const std::string& architecture) const;
  absl::StatusOr<CalibrationMatch> Match(const Plan& plan) const {
    return Match(plan.sites, plan.architecture);
  }

  // INVALID_ARGUMENT naming the first tensors of `match.missing`, if any.
  absl::Status RequireComplete(const CalibrationMatch& match) const;

  // The moments of `match` under its name, summed over its sources, two in
  // memory at most; nothing blended in. Without a source: zeros of no token.
  // Errors: as CalibrationSource::Load.
  absl::StatusOr<SiteMoments> Load(const SiteMatch& match) const;

 private:
  std::vector<size_t> SourcesOf(const PlanSite& site,
                                const std::string& architecture,
                                std::vector<std::string>* missing) const;
  std::optional<size_t> Find(const std::string& module,
                             const std::string& architecture) const;
  // Of a linear of one expert: what its stack reads.
  std::optional<size_t> FindStack(const PlanSite& site,
                                  const std::string& consumer,
                                  const std::string& architecture) const;
  absl::StatusOr<SiteMatch> MatchExpert(
      const PlanSite& site, const std::string& architecture, SiteMatch* pool,
      std::vector<std::string>* missing) const;
  absl::Status KeepOneInput(const PlanSite& site,
                            std::vector<size_t>* sources) const;
  absl::Status Count(const PlanSite& site, SiteMatch* match) const;
  absl::StatusOr<SiteMatch> MatchSite(const PlanSite& site,
                                      const std::string& architecture,
                                      std::vector<std::string>* missing) const;

  // Sources that are one input, as their sums are equal.
  struct OneInputs {
    absl::Mutex mutex;
    std::set<std::vector<size_t>> sources ABSL_GUARDED_BY(mutex);
  };
  using ByModule = std::unordered_map<std::string, size_t>;

  CalibrationIndex(std::shared_ptr<const CalibrationSource> source,
                   std::shared_ptr<const ByModule> by_module,
                   std::shared_ptr<OneInputs> one_inputs);
  absl::Status CheckOneInput(const PlanSite& site,
                             const std::vector<size_t>& sources) const;

  std::shared_ptr<const CalibrationSource> source_;
  std::shared_ptr<const ByModule> by_module_;  // to its sites
  std::shared_ptr<OneInputs> one_inputs_;
};

}  // namespace qs

#endif  // QS_QUANT_CALIBRATION_CALIBRATION_INDEX_H_
