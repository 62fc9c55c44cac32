// Tested by tests/quant/solve_group_test.cc and tests/quant/awq_group_test.cc.
#include "quant/group_parts.h"

#include <algorithm>
#include <utility>

#include "quant/tensor_quantizer.h"

namespace qs {

// A factor costs inputs^3, a candidate's loss inputs^2 a row.
std::vector<double> SiteEnds(const GroupInfo& info) {
  std::vector<double> rows(info.sites.size());
  for (const GroupTensor& tensor : info.tensors) {
    if (tensor.role != GroupRole::kQuantize) continue;
    rows[static_cast<size_t>(tensor.site)] +=
        static_cast<double>(AsMatrix(tensor.info.shape).rows);
  }
  std::vector<double> ends;
  double sum = 0;
  for (size_t s = 0; s < rows.size(); ++s) {
    const auto n = static_cast<double>(info.sites[s].inputs);
    if (rows[s] > 0) sum += n * n * (n + rows[s]);
    ends.push_back(sum);
  }
  for (double& end : ends) end = sum > 0 ? end / sum : 1;
  return ends;
}

SiteParts::SiteParts(const GroupInfo& info, std::function<void(double)> tell)
    : tell_(std::move(tell)), ends_(SiteEnds(info)), done_(ends_.size()) {}

void SiteParts::Set(size_t site, double done) {
  absl::MutexLock lock(&mutex_);
  if (done <= done_[site]) return;
  done_[site] = done;
  double sum = 0;
  bool all = true;
  for (size_t s = 0; s < ends_.size(); ++s) {
    const double part = ends_[s] - (s == 0 ? 0 : ends_[s - 1]);
    sum += part * done_[s];
    all = all && (part == 0 || done_[s] >= 1);
  }
  tell_(all ? 1 : std::min(sum, 1.0));
}

}  // namespace qs
