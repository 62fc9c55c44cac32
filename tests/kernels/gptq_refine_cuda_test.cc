// Coordinate descent on the host emulation against the reference: narrow and
// wide groups, rows alone and together, the same bytes in every order of
// threads.
#include <cstring>

#include "tests/testing/catch_compat.h"
#include "tests/testing/emulated_backend.h"
#include "tests/testing/gptq_problems.h"

namespace qs {
namespace {

using cuda::EmulatedBackend;
using cuda::EmulatedDevice;

struct Options {
  int sweeps = 5;
  bool refits = true;
};

// `row_error` is in result.error.
GptqResult Refined(Backend& backend, const GptqCase& c, const GptqResult& start,
                   const Options& options) {
  GptqResult r = start;
  r.error.assign(static_cast<size_t>(c.rows), -1);
  GptqRefineArgs args;
  args.weight = c.View();
  args.hessian = c.hessian.data();
  args.damping = c.damping;
  args.grid = c.grid;
  args.sweeps = options.sweeps;
  args.refit_scales = options.refits;
  args.codes = r.codes.data();
  args.scales = r.scales.data();
  args.zero_points = c.grid.symmetric ? nullptr : r.zero_points.data();
  args.row_error = r.error.data();
  const absl::Status status = backend.gptq().Refine(args, backend.stream());
  INFO(status.ToString());
  REQUIRE(status.ok());
  return r;
}

GptqResult OnDevice(const GptqCase& c, const GptqResult& start,
                    const Options& options, uint64_t seed) {
  EmulatedDevice::Get().Seed(seed);
  EmulatedBackend backend;
  return Refined(backend, c, start, options);
}

GptqCase MakeCase(int bits, int64_t group_size, DType decoded, unsigned seed) {
  GptqCase c =
      MakeGptqCase({.rows = 70, .cols = 160, .tokens = 500, .seed = seed});
  c.order = "desc_act_static";
  c.grid = {.bits = bits,
            .group_size = group_size,
            .symmetric = seed % 2 == 0,
            .scale_dtype = DType::kBF16,
            .decoded_dtype = decoded};
  return c;
}

int64_t EqualRows(const GptqCase& c, const GptqResult& a, const GptqResult& b) {
  int64_t equal = 0;
  for (int64_t r = 0; r < c.rows; ++r) {
    equal +=
        std::memcmp(a.codes.data() + r * c.cols, b.codes.data() + r * c.cols,
                    static_cast<size_t>(c.cols)) == 0
            ? 1
            : 0;
  }
  return equal;
}

TEST_CASE("refining gives the reference's rows, but for ties", "[race]") {
  const auto reference = NewReferenceBackend();
  unsigned seed = 0;
  for (int64_t group_size : {48, 140, 160}) {
    for (DType decoded : {DType::kF32, DType::kBF16}) {
      ++seed;
      const GptqCase c = MakeCase(3 + static_cast<int>(seed % 2), group_size,
                                  decoded, seed / 2);
      const GptqResult start = RunGptq(*reference, c);
      const GptqResult want = Refined(*reference, c, start, {});
      const GptqResult got = OnDevice(c, start, {}, seed);
      INFO("group_size " << group_size << " seed " << seed);
      CHECK(EqualRows(c, got, want) >= c.rows * 8 / 10);
      CHECK(got.relative_error() ==
            Approx(want.relative_error()).epsilon(0.02));
      CHECK(got.relative_error() < 0.97 * start.relative_error());
      // MeasureCase decodes to F32.
      if (decoded != DType::kF32) continue;
      GptqResult measured = got;
      MeasureCase(*reference, c, &measured);
      for (size_t r = 0; r < got.error.size(); ++r) {
        CHECK(got.error[r] == Approx(measured.error[r]).epsilon(1e-4));
        // No row's damped error rises; the undamped one may by as much as the
        // damping is of it.
        CHECK(got.error[r] <= 1.05 * start.error[r]);
      }
    }
  }
}

TEST_CASE("without sweeps nothing changes, without refits no scale") {
  const auto reference = NewReferenceBackend();
  const GptqCase c = MakeCase(4, 100, DType::kF32, 3);
  const GptqResult start = RunGptq(*reference, c);
  const GptqResult none = OnDevice(c, start, {.sweeps = 0}, 20);
  CHECK(none.codes == start.codes);
  CHECK(none.scales == start.scales);
  const GptqResult codes = OnDevice(c, start, {.refits = false}, 21);
  CHECK(codes.scales == start.scales);
  CHECK(codes.codes != start.codes);
  CHECK(EqualRows(c, codes, Refined(*reference, c, start, {.refits = false})) >=
        c.rows * 8 / 10);
}

TEST_CASE("no order of threads changes a byte, nor the partition of the rows") {
  const auto reference = NewReferenceBackend();
  for (int64_t group_size : {40, 160}) {
    const GptqCase c = MakeCase(4, group_size, DType::kF32, 4);
    const GptqResult start = RunGptq(*reference, c);
    const GptqResult a = OnDevice(c, start, {.sweeps = 2}, 1);
    const GptqResult b = OnDevice(c, start, {.sweeps = 2}, 2);
    CHECK(a.codes == b.codes);
    CHECK(a.scales == b.scales);
    CHECK(a.error == b.error);
    // Rows 3 to 69 by themselves.
    const int64_t rows = 66, groups = c.groups();
    GptqCase part = c;
    part.rows = rows;
    part.weight.assign(c.weight.begin() + 3 * 160 * 4,
                       c.weight.begin() + 69 * 160 * 4);
    GptqResult from = start;
    from.codes.assign(start.codes.begin() + 3 * 160,
                      start.codes.begin() + 69 * 160);
    from.scales.assign(start.scales.begin() + 3 * groups * 2,
                       start.scales.begin() + 69 * groups * 2);
    const GptqResult p = OnDevice(part, from, {.sweeps = 2}, 3);
    CHECK(std::memcmp(p.codes.data(), a.codes.data() + 3 * 160,
                      static_cast<size_t>(rows * 160)) == 0);
    CHECK(std::memcmp(p.scales.data(), a.scales.data() + 3 * groups * 2,
                      static_cast<size_t>(rows * groups * 2)) == 0);
    for (size_t r = 0; r < p.error.size(); ++r) {
      CHECK(p.error[r] == a.error[r + 3]);
    }
  }
}

TEST_CASE("a checkpoint stops a sweep") {
  const auto reference = NewReferenceBackend();
  const GptqCase c = MakeCase(4, 100, DType::kF32, 5);
  GptqResult r = RunGptq(*reference, c);
  EmulatedBackend backend;
  GptqRefineArgs args;
  args.weight = c.View();
  args.hessian = c.hessian.data();
  args.grid = c.grid;
  args.codes = r.codes.data();
  args.scales = r.scales.data();
  args.zero_points = r.zero_points.data();
  int calls = 0;
  args.checkpoint = [&](double done) {
    CHECK(done >= 0);
    CHECK(done <= 1);
    return ++calls < 3 ? absl::OkStatus() : absl::CancelledError("stop");
  };
  const std::vector<uint8_t> codes = r.codes;
  CHECK(backend.gptq().Refine(args, backend.stream()).code() ==
        absl::StatusCode::kCancelled);
  CHECK(calls == 3);
  CHECK(r.codes == codes);
}

}  // namespace
}  // namespace qs
