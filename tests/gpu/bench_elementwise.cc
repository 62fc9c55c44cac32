// The families that no product of matrices is in: bound by bytes, or by the
// instructions of their searches.
#include <cstdint>
#include <vector>

#include "kernels/base/checked_math.h"
#include "kernels/base/status_macros.h"
#include "kernels/cuda/affine_cuda.h"
#include "kernels/cuda/hqq_cuda.h"
#include "kernels/cuda/nf4_cuda.h"
#include "kernels/cuda/stats_cuda.h"
#include "tests/gpu/bench_rows.h"

namespace qs::cuda {
namespace {

constexpr int64_t kCopies = TurningWeights::kCopies;
constexpr int64_t kBlock = 64;  // of NF4, HQQ and error sums

// Outputs take turns as the weights do.
template <typename T>
struct Turning {
  Turning(BenchMemory& memory, int64_t size)
      : count(size), data(memory.New<T>(kCopies * size)) {}
  T* At(int64_t call) const { return data + call % kCopies * count; }
  int64_t count;
  T* data;
};

double Bytes(int64_t elements, double each) {
  return static_cast<double>(elements) * each;
}

// What NF4's rows read and write.
struct Nf4Memory {
  Nf4Memory(BenchMemory& memory, const BenchShapes& shapes)
      : count(shapes.rows * shapes.wide),
        blocks(CeilDiv(count, kBlock)),
        weights(memory, shapes.rows, shapes.wide),
        decoded(memory, count),
        packed(memory, count / 2),
        absmax(memory, blocks),
        codes(memory.New<uint8_t>(blocks)),
        nested_absmax(memory.New<float>(CeilDiv(blocks, kNestedBlockSize))),
        offset(memory.New<float>(1)),
        coded_by(memory.New<float>(blocks)),
        bad(memory.New<int64_t>(1)) {}

  Nf4EncodeArgs EncodeArgs(int64_t call, Nf4Search search) const {
    Nf4EncodeArgs args;
    args.weight = weights.At(call);
    args.search = search;
    args.packed = packed.At(call);
    args.absmax = absmax.At(call);
    args.first_non_finite = bad;
    return args;
  }
  NestedEncodeArgs NestedArgs(int64_t call) const {
    NestedEncodeArgs args;
    args.absmax = absmax.At(call);
    args.num_blocks = blocks;
    args.codes = codes;
    args.nested_absmax = nested_absmax;
    args.offset = offset;
    return args;
  }
  NestedRefineArgs RefineArgs(int64_t call) const {
    NestedRefineArgs args;
    args.weight = weights.At(call);
    args.nested_absmax = nested_absmax;
    args.offset = offset;
    args.codes = codes;
    args.absmax = absmax.At(call);
    args.packed = packed.At(call);
    args.coded_by = coded_by;
    return args;
  }

  const int64_t count;
  const int64_t blocks;
  const TurningWeights weights;
  const Turning<uint16_t> decoded;
  const Turning<uint8_t> packed;
  const Turning<float> absmax;
  uint8_t* const codes;
  float* const nested_absmax;
  float* const offset;
  float* const coded_by;
  int64_t* const bad;
};

absl::Status BenchNested(const Nf4Memory& m, const std::string& shape,
                         Nf4Ops& ops, BenchMachine& machine,
                         BenchTable& table) {
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = "NF4 absmax, nested encode",
                 .shape = ShapeText(1, m.blocks),
                 .work = Bytes(m.blocks, 4 + 1 + 4.0 / kNestedBlockSize)},
                [&](int64_t call) {
                  return machine.Launch([&](Stream& s) {
                    return ops.NestedEncode(m.NestedArgs(call), s);
                  });
                }));
  // What it refines is what REFERENCE stores: all of that belongs to it.
  return table.Add(
      {.kernel = "NF4 encode, nested encode, refine (best)",
       .shape = shape,
       .work = Bytes(m.count, 2 + 0.5 + 1.0 / kBlock)},
      [&](int64_t call) {
        return machine.Launch([&](Stream& s) -> absl::Status {
          QS_RETURN_IF_ERROR(
              ops.Encode(m.EncodeArgs(call, Nf4Search::kNone), s));
          QS_RETURN_IF_ERROR(ops.NestedEncode(m.NestedArgs(call), s));
          return ops.NestedRefine(m.RefineArgs(call), s);
        });
      });
}

}  // namespace

absl::Status BenchNf4(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table) {
  BenchMemory memory(machine);
  const Nf4Memory m(memory, shapes);
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewNf4Cuda();

  const std::string shape = ShapeText(shapes.rows, shapes.wide);
  const double bytes = Bytes(m.count, 2 + 0.5 + 4.0 / kBlock);
  const Asked asked = {.least_share = 0.70, .goal_share = 0.85};
  const auto encode = [&](Nf4Search search) {
    return [&, search](int64_t call) {
      return machine.Launch([&](Stream& s) {
        return ops->Encode(m.EncodeArgs(call, search), s);
      });
    };
  };
  QS_RETURN_IF_ERROR(table.Add(
      {.kernel = "NF4 encode", .shape = shape, .work = bytes, .asked = asked},
      encode(Nf4Search::kNone)));
  QS_RETURN_IF_ERROR(
      table.Add({.kernel = "NF4 encode, best", .shape = shape, .work = bytes},
                encode(Nf4Search::kBestScale)));
  QS_RETURN_IF_ERROR(table.Add(
      {.kernel = "NF4 decode", .shape = shape, .work = bytes},
      [&](int64_t call) {
        Nf4DecodeArgs args;
        args.packed = m.packed.At(call);
        args.absmax = m.absmax.At(call);
        args.weight = {m.decoded.At(call), DType::kBF16, shapes.rows,
                       shapes.wide};
        return machine.Launch([&](Stream& s) { return ops->Decode(args, s); });
      }));
  return BenchNested(m, shape, *ops, machine, table);
}

absl::Status BenchAffine(const BenchShapes& shapes, BenchMachine& machine,
                         BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t n = shapes.rows * shapes.wide;
  const TurningWeights weights(memory, shapes.rows, shapes.wide);
  const Turning<uint8_t> codes(memory, n);
  const Turning<uint16_t> scales(memory, n / shapes.group);
  const Turning<uint32_t> words(memory, shapes.rows * CeilDiv(shapes.wide, 8));
  const Turning<uint16_t> decoded(memory, n);
  auto* const bad = memory.New<int64_t>(1);
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewAffineCuda();

  const auto encode = [&](int64_t call, AffineSearch search, Stream& s) {
    AffineEncodeArgs args;
    args.weight = weights.At(call);
    args.group_size = shapes.group;
    args.search = search;
    args.codes = codes.At(call);
    args.scales = scales.At(call);
    args.first_non_finite = bad;
    return ops->Encode(args, s);
  };
  const auto pack = [&](int64_t call, Stream& s) {
    return ops->PackRows({.codes = codes.At(call),
                          .rows = shapes.rows,
                          .cols = shapes.wide,
                          .bits = 4,
                          .words = words.At(call)},
                         s);
  };
  const std::string shape = ShapeText(shapes.rows, shapes.wide);
  const double per_scale = 2.0 / static_cast<double>(shapes.group);
  const auto encode_and_pack = [&](int64_t call) {
    return machine.Launch([&](Stream& s) -> absl::Status {
      QS_RETURN_IF_ERROR(encode(call, AffineSearch::kMinMax, s));
      return pack(call, s);
    });
  };
  QS_RETURN_IF_ERROR(table.Add({.kernel = "affine encode and pack, min-max",
                                .shape = shape,
                                .work = Bytes(n, 2 + 1 + per_scale + 1 + 0.5)},
                               encode_and_pack));
  QS_RETURN_IF_ERROR(table.Add({.kernel = "affine range search",
                                .shape = shape,
                                .work = Bytes(n, 2 + 1 + per_scale)},
                               [&](int64_t call) {
                                 return machine.Launch([&](Stream& s) {
                                   return encode(call, AffineSearch::kBestRange,
                                                 s);
                                 });
                               }));
  QS_RETURN_IF_ERROR(table.Add({.kernel = "pack rows, 4 bits",
                                .shape = shape,
                                .work = Bytes(n, 1 + 0.5)},
                               [&](int64_t call) {
                                 return machine.Launch(
                                     [&](Stream& s) { return pack(call, s); });
                               }));
  return table.Add(
      {.kernel = "affine decode",
       .shape = shape,
       .work = Bytes(n, 1 + per_scale + 2)},
      [&](int64_t call) {
        AffineDecodeArgs args;
        args.codes = codes.At(call);
        args.scales = scales.At(call);
        args.group_size = shapes.group;
        args.weight = {decoded.At(call), DType::kBF16, shapes.rows,
                       shapes.wide};
        return machine.Launch([&](Stream& s) { return ops->Decode(args, s); });
      });
}

// The orders of codes that AWQ's and hqq's own files have.
absl::Status BenchPacking(const BenchShapes& shapes, BenchMachine& machine,
                          BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t n = shapes.rows * shapes.wide;
  const Turning<uint8_t> codes(memory, n);
  // What 3 bits take: four bytes for ten codes.
  const Turning<uint32_t> words(memory, CeilDiv(n, PackedParts(3)));
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewAffineCuda();
  const int64_t stride = shapes.rows / 8;

  const auto add = [&](const char* kernel, double packed_bytes, auto args,
                       auto operation) {
    return table.Add({.kernel = kernel,
                      .shape = ShapeText(shapes.rows, shapes.wide),
                      .work = Bytes(n, 1 + packed_bytes)},
                     [&, args, operation](int64_t call) {
                       const auto with = args(call);
                       return machine.Launch([&](Stream& s) {
                         return ((*ops).*operation)(with, s);
                       });
                     });
  };
  QS_RETURN_IF_ERROR(add(
      "pack AWQ's order", 0.5,
      [&](int64_t call) {
        return PackAwqArgs{codes.At(call), shapes.rows, shapes.wide,
                           words.At(call), stride};
      },
      &AffineOps::PackAwq));
  QS_RETURN_IF_ERROR(add(
      "unpack AWQ's order", 0.5,
      [&](int64_t call) {
        return UnpackAwqArgs{words.At(call), shapes.rows, shapes.wide, stride,
                             codes.At(call)};
      },
      &AffineOps::UnpackAwq));
  const auto parts = [&](int bits) {
    return [&, bits](int64_t call) {
      return PackPartsArgs{codes.At(call), n, bits,
                           CeilDiv(n, PackedParts(bits)), words.At(call)};
    };
  };
  QS_RETURN_IF_ERROR(
      add("pack hqq's order, 4 bits", 0.5, parts(4), &AffineOps::PackParts));
  return add("pack hqq's order, 3 bits", 0.4, parts(3), &AffineOps::PackParts);
}

absl::Status BenchErrorSums(const BenchShapes& shapes, BenchMachine& machine,
                            BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t n = shapes.rows * shapes.wide;
  const int64_t groups = CeilDiv(n, kBlock);
  const TurningWeights weights(memory, shapes.rows, shapes.wide);
  const TurningWeights decoded(memory, shapes.rows, shapes.wide);
  // Differ from the weights, as decoded ones do.
  const Buffer other = NormalWeights(n, 0.02f, 3);
  for (int64_t call = 0; call < kCopies; ++call) {
    memory.CopyIn(const_cast<void*>(decoded.At(call).data), other.data(),
                  other.size());
  }
  const std::vector<float> step(static_cast<size_t>(groups), 0.05f);
  const float* const steps = memory.Copy(step.data(), groups);
  auto* const sums = memory.New<ErrorSums>(1);
  auto* const rtn = memory.New<ErrorSums>(1);
  auto* const group_errors = memory.New<double>(groups);
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewStatsCuda(machine);

  return table.Add(
      {.kernel = "error sums: histogram, groups, RTN",
       .shape = ShapeText(shapes.rows, shapes.wide),
       .work = Bytes(n, 2 + 2 + (4.0 + 8.0) / kBlock)},
      [&](int64_t call) {
        ErrorSumsArgs args;
        args.weight = weights.At(call);
        args.decoded = decoded.At(call);
        args.group_size = kBlock;
        args.steps = steps;
        args.sums = sums;
        args.group_squared_error = group_errors;
        args.rtn = rtn;
        return machine.Launch([&](Stream& s) { return ops->Errors(args, s); });
      });
}

absl::Status BenchHqq(const BenchShapes& shapes, BenchMachine& machine,
                      BenchTable& table) {
  BenchMemory memory(machine);
  const int64_t n = shapes.rows * shapes.cols;
  const TurningWeights weights(memory, shapes.rows, shapes.cols);
  const Turning<uint8_t> codes(memory, n);
  const Turning<float> scales(memory, n / kBlock);
  const Turning<float> zeros(memory, n / kBlock);
  const Turning<uint8_t> points(memory, n / kBlock);
  auto* const bad = memory.New<int64_t>(1);
  QS_RETURN_IF_ERROR(memory.status());
  const auto ops = NewHqqCuda(machine);

  const auto encode = [&](HqqSolver solver, bool integer_zero) {
    return [&, solver, integer_zero](int64_t call) {
      HqqEncodeArgs args;
      args.weight = weights.At(call);
      args.solver = solver;
      args.codes = codes.At(call);
      args.stored = integer_zero ? DType::kBF16 : DType::kF32;
      args.scales = scales.At(call);
      if (integer_zero) {
        args.zero_points = points.At(call);
      } else {
        args.zeros = zeros.At(call);
      }
      args.first_non_finite = bad;
      return machine.Launch([&](Stream& s) { return ops->Encode(args, s); });
    };
  };
  const std::string shape = ShapeText(shapes.rows, shapes.cols);
  const double bytes = Bytes(n, 2 + 1 + 8.0 / kBlock);
  const Asked asked = {.most_ms = 0.3, .goal_ms = 0.15};
  QS_RETURN_IF_ERROR(table.Add({.kernel = "HQQ solver, 4 bits, groups of 64",
                                .shape = shape,
                                .work = bytes,
                                .asked = asked},
                               encode(HqqSolver::kReference, false)));
  QS_RETURN_IF_ERROR(table.Add({.kernel = "HQQ search (best), float zero",
                                .shape = shape,
                                .work = bytes,
                                .asked = asked},
                               encode(HqqSolver::kBest, false)));
  return table.Add({.kernel = "HQQ search (best), integer zero",
                    .shape = shape,
                    .work = Bytes(n, 2 + 1 + 3.0 / kBlock),
                    .asked = asked},
                   encode(HqqSolver::kBest, true));
}

}  // namespace qs::cuda
