#include "tests/gpu/bench_rows.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "kernels/base/status_macros.h"

namespace qs::cuda {
namespace {

absl::Status BenchBus(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table) {
  const int64_t bytes = shapes.bus_bytes;
  BenchMemory memory(machine);
  auto* const there = memory.New<uint8_t>(bytes);
  QS_RETURN_IF_ERROR(memory.status());
  QS_ASSIGN_OR_RETURN(void* const pinned,
                      machine.device().AllocatePinned(bytes));
  const cudaStream_t stream = machine.workspace().native();
  const std::string shape = absl::StrCat(bytes >> 20, " MiB");
  absl::Status status =
      table.Add({.kernel = "host to device, pinned",
                 .shape = shape,
                 .ceiling = Ceiling::kHostIn,
                 .work = static_cast<double>(bytes),
                 .is_ceiling = true},
                [&](int64_t) {
                  return machine.device().CopyIn(there, pinned, bytes, stream);
                });
  if (status.ok()) {
    status = table.Add({.kernel = "device to host, pinned",
                        .shape = shape,
                        .ceiling = Ceiling::kHostOut,
                        .work = static_cast<double>(bytes),
                        .is_ceiling = true},
                       [&](int64_t) {
                         return machine.device().CopyOut(pinned, there, bytes,
                                                         stream);
                       });
  }
  machine.device().FreePinned(pinned);
  return status;
}

absl::Status BenchCopy(const BenchShapes& shapes, BenchMachine& machine,
                       BenchTable& table) {
  const int64_t bytes = shapes.copy_bytes;
  BenchMemory memory(machine);
  void* const from = memory.Bytes(bytes);
  void* const to = memory.Bytes(bytes);
  QS_RETURN_IF_ERROR(memory.status());
  return table.Add({.kernel = "device copy",
                    .shape = absl::StrCat(bytes >> 20, " MiB"),
                    .ceiling = Ceiling::kCopy,
                    .work = 2.0 * static_cast<double>(bytes),
                    .is_ceiling = true},
                   [&](int64_t) { return machine.Copy(to, from, bytes); });
}

// As the second moments ask for them: X^T X of row-major X.
absl::Status BenchProducts(const BenchShapes& shapes, BenchMachine& machine,
                           BenchTable& table) {
  const int64_t n = shapes.product;
  BenchMemory memory(machine);
  auto* const c = memory.New<float>(n * n);
  const Buffer values = NormalWeights(2 * n * n, 1.0f, 2);
  // Half as many F32, any bits of which are numbers.
  const uint16_t* const x = memory.Copy(values.As<uint16_t>(), 2 * n * n);
  QS_RETURN_IF_ERROR(memory.status());
  const struct {
    const char* name;
    BlasType type;
    Ceiling ceiling;
  } kinds[] = {{"BF16 product", BlasType::kBF16, Ceiling::kBf16},
               {"TF32 product", BlasType::kTf32, Ceiling::kTf32},
               {"F32 product", BlasType::kF32, Ceiling::kF32}};
  for (const auto& kind : kinds) {
    GemmArgs args;
    args.type = kind.type;
    args.transpose_b = true;
    args.m = args.n = args.k = n;
    args.lda = args.ldb = args.ldc = n;
    args.a = args.b = x;
    args.c = c;
    const auto side = static_cast<double>(n);
    QS_RETURN_IF_ERROR(table.Add({.kernel = kind.name,
                                  .shape = absl::StrCat(n, "x", n, "x", n),
                                  .ceiling = kind.ceiling,
                                  .work = 2 * side * side * side,
                                  .is_ceiling = true},
                                 [&](int64_t) {
                                   return machine.Launch([&](Stream& s) {
                                     return machine.blas().Gemm(
                                         args,
                                         static_cast<cudaStream_t>(s.native));
                                   });
                                 }));
  }
  return absl::OkStatus();
}

}  // namespace

std::string ShapeText(int64_t rows, int64_t cols) {
  return absl::StrCat(rows, "x", cols);
}

absl::Status BenchCeilings(const BenchShapes& shapes, BenchMachine& machine,
                           BenchTable& table) {
  QS_RETURN_IF_ERROR(BenchCopy(shapes, machine, table));
  QS_RETURN_IF_ERROR(BenchBus(shapes, machine, table));
  return BenchProducts(shapes, machine, table);
}

absl::Status RunGpuBench(const BenchShapes& shapes, BenchMachine& machine,
                         int runs, std::FILE* out) {
  BenchTable table(machine, runs, out);
  table.PrintHead();
  // Without ceilings there is nothing to hold the rest against.
  QS_RETURN_IF_ERROR(BenchCeilings(shapes, machine, table));
  absl::Status first;
  for (const auto family :
       {BenchNf4, BenchAffine, BenchPacking, BenchErrorSums, BenchHqq,
        BenchGram, BenchGptq, BenchAwq, BenchStaged}) {
    const absl::Status status = family(shapes, machine, table);
    machine.workspace().GiveBack();
    if (status.ok()) continue;
    std::fprintf(out, "FAILED: %s\n", std::string(status.message()).c_str());
    first.Update(status);
  }
  std::fprintf(out, "\n");
  table.PrintJson();
  return first;
}

}  // namespace qs::cuda
