// The table of gpu_bench: a row for each kernel, its least time beside the
// ceiling that was measured on the same device and beside what was asked.
#ifndef QS_TESTS_GPU_BENCH_TABLE_H_
#define QS_TESTS_GPU_BENCH_TABLE_H_

#include <array>
#include <cstdint>
#include <cstdio>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "tests/gpu/bench_machine.h"

namespace qs::cuda {

// What bounds a row, and what its rate is measured in.
enum class Ceiling {
  kCopy,     // bytes read and written by a copy inside the device
  kBf16,     // operations of a large BF16 product
  kTf32,     // of one of TF32
  kF32,      // of one of F32
  kHostIn,   // bytes from pinned host memory
  kHostOut,  // bytes to it
  kBus,      // both of a staged operation: the time that the bus alone takes
};
constexpr int kCeilings = 7;

struct Asked {
  double least_share = 0;  // of the ceiling; 0: not asked
  double goal_share = 0;
  double most_ms = 0;  // 0: not asked
  double goal_ms = 0;
};

struct RowSpec {
  std::string kernel;
  std::string shape;
  Ceiling ceiling = Ceiling::kCopy;
  double work = 0;  // bytes or operations of a call; kBus: not used
  Asked asked = {};
  bool is_ceiling = false;  // the row measures it
  // Of a staged operation.
  double bytes_in = 0;
  double bytes_out = 0;
};

struct Row {
  RowSpec spec;
  double seconds = 0;  // least, of a call
  double rate = 0;     // work a second
  double share = 0;    // of the ceiling; 0: it is one
};

class BenchTable {
 public:
  // Prints to `out`. Rows are timed `runs` times, each long enough for a clock.
  BenchTable(BenchMachine& machine, int runs, std::FILE* out)
      : machine_(machine), runs_(runs), out_(out) {}

  void PrintHead() const;
  // Times `body(number of the call)` after one call of warm-up: the least of
  // several series of calls, each with one wait at its end. Scratch of the
  // machine's workspace is given back after every call. Errors: the body's.
  absl::Status Add(const RowSpec& spec,
                   const std::function<absl::Status(int64_t)>& body);
  // One JSON line a row.
  void PrintJson() const;

  const std::vector<Row>& rows() const { return rows_; }

 private:
  absl::StatusOr<double> SecondsOfSeries(
      int64_t calls, const std::function<absl::Status(int64_t)>& body);
  double ShareOf(const RowSpec& spec, double seconds) const;
  void Print(const Row& row) const;
  void PrintJson(const Row& row) const;

  BenchMachine& machine_;
  const int runs_;
  std::FILE* const out_;
  std::array<double, kCeilings> ceilings_{};  // work a second
  std::vector<Row> rows_;
};

}  // namespace qs::cuda

#endif  // QS_TESTS_GPU_BENCH_TABLE_H_
