// What the tensors of a quantized weight are called in the output: the one
// place that says it beside the writers, which are held against it in
// tests/quant/output_names_test.cc.
// Thread: pure functions.
#ifndef QS_QUANT_PLAN_OUTPUT_NAMES_H_
#define QS_QUANT_PLAN_OUTPUT_NAMES_H_

#include <string_view>
#include <vector>

#include "quant/quant_spec.h"

namespace qs {

struct OutputNames {
  // What the endings stand behind: the module's name, or else the weight's.
  bool of_module = false;
  std::vector<std::string_view> endings;  // one a tensor

  // `weight` without ".weight", or all of it.
  std::string_view StemOf(std::string_view weight) const;
};

// REQUIRES: `spec` is legal.
OutputNames OutputNamesOf(const QuantSpec& spec);
// The most that any spec gives a weight, in number and in length.
OutputNames MostOutputNames();

}  // namespace qs

#endif  // QS_QUANT_PLAN_OUTPUT_NAMES_H_
