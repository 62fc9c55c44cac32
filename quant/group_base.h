// GroupBase: what every SolveGroup does alike — keeps the info and one Site for
// each of its inputs.
// Thread: as SolveGroup.
#ifndef QS_QUANT_GROUP_BASE_H_
#define QS_QUANT_GROUP_BASE_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "quant/solve_group.h"

namespace qs {

class GroupBase : public SolveGroup {
 public:
  const GroupInfo& info() const final { return info_; }
  std::shared_ptr<Site> site(size_t index) const final { return sites_[index]; }

 protected:
  GroupBase(const QuantSpec& spec, GroupInfo info,
            const QuantizeOptions& options)
      : spec_(spec), info_(std::move(info)), options_(options) {
    for (const GroupSite& site : info_.sites) {
      sites_.push_back(std::make_shared<Site>(site.name, site.inputs));
    }
  }

  const QuantSpec& spec() const { return spec_; }
  const QuantizeOptions& options() const { return options_; }
  // Lets go of a site; whoever else holds it keeps it.
  void ReleaseSite(size_t index) { sites_[index] = nullptr; }
  void ReleaseSites() {
    for (std::shared_ptr<Site>& site : sites_) site = nullptr;
  }

 private:
  const QuantSpec spec_;
  const GroupInfo info_;
  const QuantizeOptions options_;
  std::vector<std::shared_ptr<Site>> sites_;
};

// Bytes of the group's sites at their most: moments and, where codes are solved
// against them, a factor of each, and what receiving the largest, searching its
// scales or factoring it takes on top.
int64_t GroupSiteBytes(const QuantSpec& spec, const GroupInfo& info);

// Tiles that run at once, as estimates have it.
constexpr int64_t kEstimatedTilesRunning = 8;

// What the running tiles of a tensor take of EstimateMemoryBytes: one of them,
// and how many it counts. REQUIRES: EstimateMemoryBytes is OK.
struct TileScratch {
  int64_t bytes = 0;
  int64_t tiles = 0;
};
TileScratch TileScratchOf(const QuantSpec& spec, const TensorInfo& info,
                          const QuantizeOptions& options);

}  // namespace qs

#endif  // QS_QUANT_GROUP_BASE_H_
