// Cases of the HQQ family and how to run one: for differential tests of any
// implementation against the reference.
#ifndef QS_TESTS_TESTING_HQQ_CASES_H_
#define QS_TESTS_TESTING_HQQ_CASES_H_

#include <sstream>
#include <string>
#include <vector>

#include "kernels/affine_ops.h"
#include "kernels/backend.h"
#include "kernels/hqq_ops.h"
#include "tests/testing/catch_compat.h"
#include "tests/testing/generators.h"

namespace qs {

struct HqqCase {
  const TestTensor& weight;
  int64_t rows;
  int64_t group_size;
  int bits;
  int axis = 1;
  HqqSolver solver = HqqSolver::kReference;
  int iterations = 20;
  DType stored = DType::kF32;
  bool integer = false;  // zero points
  uint64_t seed = 0;

  int64_t groups() const { return weight.count() / group_size; }
  int64_t GroupOf(int64_t i) const {
    return axis == 1 ? i / group_size : i % groups();
  }
  std::string Describe() const {
    std::ostringstream text;
    text << DTypeName(weight.View().dtype) << " [" << rows << ", "
         << weight.count() / rows << "] group " << group_size << " axis "
         << axis << " bits " << bits << " stored " << DTypeName(stored)
         << (integer ? " integer" : "")
         << (solver == HqqSolver::kBest ? " best" : " reference") << " seed "
         << seed;
    return text.str();
  }
};

// Everything that the family computes for a case.
struct HqqResult {
  int64_t first_non_finite = -1;
  DType stored = DType::kF32;
  std::vector<uint8_t> codes;
  std::vector<uint8_t> scales;  // bytes
  std::vector<uint8_t> zeros;   // bytes
  std::vector<uint8_t> zero_points;
  std::vector<uint8_t> decoded;  // bytes
  HqqFacts facts;

  bool operator==(const HqqResult& r) const {
    return first_non_finite == r.first_non_finite && codes == r.codes &&
           scales == r.scales && zeros == r.zeros &&
           zero_points == r.zero_points && decoded == r.decoded &&
           facts.iterations == r.facts.iterations &&
           facts.groups == r.facts.groups &&
           facts.group_iterations == r.facts.group_iterations &&
           facts.error == r.facts.error;
  }
  float ScaleAt(int64_t g) const {
    return LoadAsFloat(scales.data(), stored, g);
  }
  float ZeroAt(int64_t g) const { return LoadAsFloat(zeros.data(), stored, g); }
  float DecodedAt(int64_t i) const {
    return LoadAsFloat(decoded.data(), stored, i);
  }
};

inline HqqResult RunHqq(HqqOps& ops, const HqqCase& c) {
  Stream stream;
  HqqResult r;
  r.stored = c.stored;
  const auto n = static_cast<size_t>(c.weight.count());
  const auto groups = static_cast<size_t>(c.groups());
  const auto element = static_cast<size_t>(DTypeBytes(c.stored));
  r.codes.assign(n, 0xee);
  r.scales.assign(groups * element, 0xee);
  if (c.integer) {
    r.zero_points.assign(groups, 0xee);
  } else {
    r.zeros.assign(groups * element, 0xee);
  }
  HqqEncodeArgs args;
  args.weight = c.weight.View(c.rows);
  args.bits = c.bits;
  args.group_size = c.group_size;
  args.axis = c.axis;
  args.solver = c.solver;
  args.iterations = c.iterations;
  args.round_zero = c.bits == 4;
  args.codes = r.codes.data();
  args.stored = c.stored;
  args.scales = r.scales.data();
  args.zeros = c.integer ? nullptr : r.zeros.data();
  args.zero_points = c.integer ? r.zero_points.data() : nullptr;
  args.first_non_finite = &r.first_non_finite;
  args.facts = &r.facts;
  const absl::Status status = ops.Encode(args, stream);
  INFO(status.ToString());
  REQUIRE(status.ok());
  if (r.first_non_finite >= 0) {  // the rest is unspecified
    HqqResult bad;
    bad.first_non_finite = r.first_non_finite;
    return bad;
  }
  r.decoded.assign(n * element, 0xee);
  const MutableTensorView decoded = {r.decoded.data(), c.stored, 1,
                                     c.weight.count()};
  if (c.integer) {
    REQUIRE(NewReferenceBackend()
                ->affine()
                .Decode({r.codes.data(), r.scales.data(), r.zero_points.data(),
                         c.bits, c.group_size, decoded},
                        stream)
                .ok());
    return r;
  }
  REQUIRE(ops.Decode({r.codes.data(), r.scales.data(), r.zeros.data(),
                      c.group_size, c.axis, decoded},
                     stream)
              .ok());
  return r;
}

// Squared error of every group, in double, of decoded values.
inline std::vector<double> GroupErrors(const HqqCase& c, const HqqResult& r) {
  std::vector<double> errors(static_cast<size_t>(c.groups()));
  for (int64_t i = 0; i < c.weight.count(); ++i) {
    const double d = static_cast<double>(c.weight.at(i)) -
                     static_cast<double>(r.DecodedAt(i));
    errors[static_cast<size_t>(c.GroupOf(i))] += d * d;
  }
  return errors;
}

}  // namespace qs

#endif  // QS_TESTS_TESTING_HQQ_CASES_H_
