// GroupInfo: what is solved together — sites, the tensors that read them, and
// how a site's scales fold into the operation before it. Filled by the caller
// from a plan; names are the checkpoint's.
#ifndef QS_QUANT_GROUP_INFO_H_
#define QS_QUANT_GROUP_INFO_H_

#include <cstdint>
#include <string>
#include <vector>

#include "quant/fold.h"
#include "quant/tensor_quantizer.h"

namespace qs {

struct GroupSite {
  std::string name;
  int64_t inputs = 0;
  Fold fold;
  std::string pool;  // another site of the group, to blend in; or empty
};

enum class GroupRole {
  kQuantize,
  kFoldOnly,  // comes back changed, under its name and in its dtype
};

struct GroupTensor {
  TensorInfo info;
  int site = -1;  // index of the site that its columns read; -1: none
  GroupRole role = GroupRole::kQuantize;
};

struct GroupInfo {
  std::string name;
  std::vector<GroupSite> sites;
  std::vector<GroupTensor> tensors;
};

}  // namespace qs

#endif  // QS_QUANT_GROUP_INFO_H_
