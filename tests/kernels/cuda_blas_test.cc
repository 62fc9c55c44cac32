// The interface to a BLAS library and to a Cholesky factorisation: what their
// emulation computes against plain loops, what they refuse, and why cuBLAS and
// cuSOLVER cannot be loaded where they are not.
#include <cmath>
#include <functional>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "kernels/cuda/blas_emulated.h"
#include "kernels/cuda/emulation.h"
#include "tests/testing/catch_compat.h"

namespace qs::cuda {
namespace {

template <class T>
T* OnDevice(const std::vector<T>& values) {
  const auto bytes = static_cast<int64_t>(values.size() * sizeof(T));
  auto* memory = static_cast<T*>(EmulatedDevice::Get().Allocate(bytes));
  std::copy(values.begin(), values.end(), memory);
  return memory;
}

std::vector<double> Random(int64_t count, unsigned seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> gauss;
  std::vector<double> values(static_cast<size_t>(count));
  // Few bits: exact in every type.
  for (double& v : values) v = std::round(8 * gauss(random)) / 8;
  return values;
}

struct Stored {
  void* memory;
  std::function<double(int64_t)> at;
};

Stored Store(BlasType type, bool output, const std::vector<double>& values) {
  const auto half = [&](uint16_t (*narrow)(float), float (*widen)(uint16_t)) {
    std::vector<uint16_t> bits;
    for (double v : values) bits.push_back(narrow(static_cast<float>(v)));
    uint16_t* const p = OnDevice(bits);
    return Stored{p, [=](int64_t i) { return widen(p[i]); }};
  };
  if (type == BlasType::kF64) {
    double* const p = OnDevice(values);
    return {p, [=](int64_t i) { return p[i]; }};
  }
  if (type == BlasType::kF16 && !output) return half(FloatToF16, F16ToFloat);
  if (type == BlasType::kBF16 && !output) {
    return half(FloatToBf16, Bf16ToFloat);
  }
  float* const p = OnDevice(std::vector<float>(values.begin(), values.end()));
  return {p, [=](int64_t i) { return p[i]; }};
}

// The emulation, and cuBLAS's loader with a library of its names.
std::vector<std::unique_ptr<Blas>> Implementations() {
  std::vector<std::unique_ptr<Blas>> all;
  all.push_back(NewEmulatedBlas());
  auto loaded = LoadCublas({"/nowhere/libcublas.so", QS_FAKE_CUBLAS});
  INFO(loaded.status().ToString());
  REQUIRE(loaded.ok());
  all.push_back(*std::move(loaded));
  return all;
}

cudaStream_t SomeStream() { return reinterpret_cast<cudaStream_t>(8); }
// On which the libraries find no memory.
cudaStream_t FullStream() { return reinterpret_cast<cudaStream_t>(16); }

void CheckProducts(Blas& blas) {
  const int64_t m = 5, n = 7, k = 11;
  for (BlasType type : {BlasType::kF32, BlasType::kF64, BlasType::kF16,
                        BlasType::kBF16, BlasType::kTf32}) {
    for (int op = 0; op < 4; ++op) {
      GemmArgs g;
      g.type = type;
      g.transpose_a = op % 2 == 1;
      g.transpose_b = op / 2 == 1;
      g.m = m;
      g.n = n;
      g.k = k;
      g.alpha = -2;
      g.beta = op == 3 ? 0 : 1;
      g.lda = (g.transpose_a ? k : m) + 2;
      g.ldb = (g.transpose_b ? n : k) + 3;
      g.ldc = m + 1;
      const Stored a =
          Store(type, false, Random(g.lda * (g.transpose_a ? m : k), 1));
      const Stored b =
          Store(type, false, Random(g.ldb * (g.transpose_b ? k : n), 2));
      std::vector<double> before = Random(g.ldc * n, 3);
      if (g.beta == 0) before.assign(before.size(), NAN);  // is not read
      const Stored c = Store(type, true, before);
      g.a = a.memory;
      g.b = b.memory;
      g.c = c.memory;
      REQUIRE(blas.Gemm(g, SomeStream()).ok());
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          const auto at = i + j * g.ldc;
          double want = g.beta == 0 ? 0 : before[static_cast<size_t>(at)];
          for (int64_t l = 0; l < k; ++l) {
            want += g.alpha *
                    a.at(g.transpose_a ? l + i * g.lda : i + l * g.lda) *
                    b.at(g.transpose_b ? j + l * g.ldb : l + j * g.ldb);
          }
          REQUIRE(c.at(at) == want);
        }
      }
    }
  }
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("products of every type and transposition") {
  for (const auto& blas : Implementations()) {
    INFO(blas->description());
    CheckProducts(*blas);
  }
}

// Three products, with room between their matrices.
void CheckBatch(Blas& blas, BlasType type) {
  const int64_t m = 4, n = 3, k = 5, count = 3;
  GemmArgs one;
  one.type = type;
  one.transpose_a = true;
  one.m = m;
  one.n = n;
  one.k = k;
  one.lda = k;
  one.ldb = k + 1;
  one.ldc = m + 2;
  one.beta = 1;
  GemmArgs all = one;
  all.batch = count;
  all.stride_a = one.lda * m + 3;
  all.stride_b = one.ldb * n;
  all.stride_c = one.ldc * n + 1;
  const Stored a = Store(type, false, Random(all.stride_a * count, 1));
  const Stored b = Store(type, false, Random(all.stride_b * count, 2));
  const std::vector<double> before = Random(all.stride_c * count, 3);
  const Stored want = Store(type, true, before);
  const Stored got = Store(type, true, before);
  const int64_t in = type == BlasType::kF64   ? 8
                     : type == BlasType::kF32 ? 4
                                              : 2;
  const int64_t out = type == BlasType::kF64 ? 8 : 4;
  for (int64_t i = 0; i < count; ++i) {
    one.a = static_cast<uint8_t*>(a.memory) + i * all.stride_a * in;
    one.b = static_cast<uint8_t*>(b.memory) + i * all.stride_b * in;
    one.c = static_cast<uint8_t*>(want.memory) + i * all.stride_c * out;
    REQUIRE(blas.Gemm(one, SomeStream()).ok());
  }
  all.a = a.memory;
  all.b = b.memory;
  all.c = got.memory;
  REQUIRE(blas.Gemm(all, SomeStream()).ok());
  for (int64_t i = 0; i < all.stride_c * count; ++i) {
    REQUIRE(got.at(i) == want.at(i));
  }
  all.batch = 0;
  CHECK(blas.Gemm(all, SomeStream()).ok());
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("several products at once are those one by one") {
  for (const auto& blas : Implementations()) {
    INFO(blas->description());
    for (BlasType type : {BlasType::kF32, BlasType::kF64, BlasType::kBF16}) {
      CheckBatch(*blas, type);
    }
  }
}

void CheckTriangles(Blas& blas) {
  const int64_t n = 6, k = 4;
  for (BlasType type : {BlasType::kF32, BlasType::kF64}) {
    SyrkArgs s{type, n, k, -1, nullptr, k + 1, 1, nullptr, n + 2};
    const Stored a = Store(type, false, Random(s.lda * n, 1));
    const std::vector<double> before = Random(s.ldc * n, 2);
    const Stored c = Store(type, true, before);
    s.a = a.memory;
    s.c = c.memory;
    REQUIRE(blas.Syrk(s, SomeStream()).ok());
    for (int64_t i = 0; i < n; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        double want = before[static_cast<size_t>(i + j * s.ldc)];
        for (int64_t l = 0; i >= j && l < k; ++l) {
          want -= a.at(l + i * s.lda) * a.at(l + j * s.lda);
        }
        REQUIRE(c.at(i + j * s.ldc) == want);
      }
    }
  }
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("the lower triangle of A^T A, and nothing above it") {
  for (const auto& blas : Implementations()) {
    INFO(blas->description());
    CheckTriangles(*blas);
  }
  CHECK(Implementations()[1]->description() == "cuBLAS 130002");
}

template <class T>
constexpr BlasType kTypeOf = BlasType::kF32;
template <>
constexpr BlasType kTypeOf<double> = BlasType::kF64;

// A triangle of few bits with ones, twos and fours on its diagonal, so that a
// solution and a product with it are exact: L(i, j) for i >= j.
double TriangleAt(int64_t i, int64_t j) {
  if (i == j) return static_cast<double>(1 << i % 3);
  return static_cast<double>((3 * i + 5 * j) % 7 - 3) / 4;
}

template <class T>
void CheckSolve(Blas& blas) {
  const int64_t m = 5, n = 4, lda = 7, ldb = 6;
  std::vector<T> l(static_cast<size_t>(lda * m), T(NAN));  // is not read
  for (int64_t j = 0; j < m; ++j) {
    for (int64_t i = j; i < m; ++i) {
      l[static_cast<size_t>(i + j * lda)] = static_cast<T>(TriangleAt(i, j));
    }
  }
  const std::vector<double> x = Random(ldb * n, 4);
  std::vector<T> b(x.begin(), x.end());
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = 0; i < m; ++i) {
      double sum = 0;
      for (int64_t k = i; k < m; ++k) {
        sum += TriangleAt(k, i) * x[static_cast<size_t>(k + j * ldb)];
      }
      b[static_cast<size_t>(i + j * ldb)] = static_cast<T>(sum);
    }
  }
  T* const out = OnDevice(b);
  REQUIRE(
      blas.Trsm({kTypeOf<T>, m, n, OnDevice(l), lda, out, ldb}, SomeStream())
          .ok());
  for (size_t i = 0; i < x.size(); ++i) {
    REQUIRE(static_cast<double>(out[i]) == x[i]);
  }
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("a triangle is solved with, from its last row on") {
  for (const auto& blas : Implementations()) {
    INFO(blas->description());
    CheckSolve<float>(*blas);
    CheckSolve<double>(*blas);
    CHECK(
        blas->Trsm({BlasType::kF32, 0, 3, nullptr, 1, nullptr, 1}, SomeStream())
            .ok());
  }
}

std::vector<std::unique_ptr<Cholesky>> Factorisations() {
  std::vector<std::unique_ptr<Cholesky>> all;
  all.push_back(NewEmulatedCholesky());
  auto loaded = LoadCusolver({"/nowhere/libcusolver.so", QS_FAKE_CUSOLVER});
  INFO(loaded.status().ToString());
  REQUIRE(loaded.ok());
  all.push_back(*std::move(loaded));
  return all;
}

// Of L L^T, exact; with its minor number `bad` made negative (0: none).
template <class T>
void CheckFactor(Cholesky& cholesky, int bad) {
  const int64_t n = 6, lda = 8;
  const bool in_f64 = sizeof(T) == 8;
  std::vector<T> a(static_cast<size_t>(lda * n), T(NAN));  // is not read
  for (int64_t j = 0; j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      double sum = 0;
      for (int64_t k = 0; k <= j; ++k) {
        sum += TriangleAt(i, k) * TriangleAt(j, k);
      }
      if (i == j && i + 1 == bad) sum -= 16;
      a[static_cast<size_t>(i + j * lda)] = static_cast<T>(sum);
    }
  }
  CholeskyArgs args;
  args.in_f64 = in_f64;
  args.n = n;
  T* const out = OnDevice(a);
  args.a = out;
  args.lda = lda;
  const auto bytes = cholesky.ScratchBytes(in_f64, n, lda);
  REQUIRE(bytes.ok());
  CHECK(*bytes > 0);
  args.scratch_bytes = *bytes;
  args.scratch = EmulatedDevice::Get().Allocate(*bytes);
  args.info = OnDevice(std::vector<int32_t>{77});
  REQUIRE(cholesky.Factor(args, SomeStream()).ok());
  CHECK(*args.info == bad);
  for (int64_t j = 0; bad == 0 && j < n; ++j) {
    for (int64_t i = j; i < n; ++i) {
      REQUIRE(static_cast<double>(out[i + j * lda]) == TriangleAt(i, j));
    }
  }
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("the lower triangle is factored, or the minor that is lost named") {
  for (const auto& cholesky : Factorisations()) {
    INFO(cholesky->description());
    for (int bad : {0, 1, 4, 6}) {
      CheckFactor<float>(*cholesky, bad);
      CheckFactor<double>(*cholesky, bad);
    }
  }
  CHECK(Factorisations()[1]->description() == "cuSOLVER 12004");
}

TEST_CASE("what cuSOLVER refuses is told with its status") {
  const auto cusolver = std::move(Factorisations()[1]);
  CHECK(cusolver->ScratchBytes(false, 1, int64_t{1} << 31).status().message() ==
        "cuSOLVER: size 2147483648, allowed 0 to 2147483647");
  CholeskyArgs args;
  CHECK(cusolver->Factor(args, SomeStream()).ok());  // of nothing
  args.n = args.lda = 1;
  const absl::Status status = cusolver->Factor(args, nullptr);
  CHECK(status.message() == "cusolverDnSpotrf: cuSOLVER status 3");
  CHECK(absl::IsInternal(status));
  args.in_f64 = true;
  CHECK(cusolver->Factor(args, nullptr).message() ==
        "cusolverDnDpotrf: cuSOLVER status 3");
}

TEST_CASE("sizes beyond cuBLAS's integers are refused, empty ones are done") {
  const auto blas = std::move(Implementations()[1]);
  GemmArgs g;
  g.m = g.n = g.k = 1;
  g.lda = g.ldb = g.ldc = int64_t{1} << 31;
  CHECK(blas->Gemm(g, SomeStream()).message() ==
        "cuBLAS: size 2147483648, allowed 0 to 2147483647");
  g.lda = g.ldb = g.ldc = 1;
  g.n = 0;
  CHECK(blas->Gemm(g, SomeStream()).ok());
  CHECK(blas->Syrk({BlasType::kF32, 0, 1, 1, nullptr, 1, 1, nullptr, 1},
                   SomeStream())
            .ok());
  // What the library refuses is told with its status.
  g.n = 1;
  CHECK(blas->Gemm(g, nullptr) ==
        absl::InternalError("cublasGemmEx: cuBLAS status 7"));
  g.batch = 2;
  CHECK(blas->Gemm(g, nullptr).message() ==
        "cublasGemmStridedBatchedEx: cuBLAS status 7");
  g.batch = int64_t{1} << 31;
  CHECK(blas->Gemm(g, SomeStream()).message() ==
        "cuBLAS: size 2147483648, allowed 0 to 2147483647");
}

TEST_CASE("a library without memory leaves the device to go on") {
  const auto blas = std::move(Implementations()[1]);
  float one = 1;
  GemmArgs g;
  g.m = g.n = g.k = g.lda = g.ldb = g.ldc = 1;
  g.a = g.b = g.c = &one;
  CHECK(blas->Gemm(g, FullStream()) ==
        absl::ResourceExhaustedError("cublasGemmEx: no memory"));
  const SyrkArgs syrk = {BlasType::kF32, 1, 1, 1, &one, 1, 1, &one, 1};
  CHECK(blas->Syrk(syrk, FullStream()) ==
        absl::ResourceExhaustedError("cublasSsyrk: no memory"));
  const TrsmArgs trsm = {BlasType::kF32, 1, 1, &one, 1, &one, 1};
  CHECK(blas->Trsm(trsm, FullStream()) ==
        absl::ResourceExhaustedError("cublasStrsm: no memory"));
  CHECK(blas->Trsm(trsm, SomeStream()).ok());

  const auto cusolver = std::move(Factorisations()[1]);
  std::vector<double> scratch(32);
  int32_t info = 7;
  CholeskyArgs args;
  args.n = args.lda = 1;
  args.a = &one;
  args.scratch = scratch.data();
  args.scratch_bytes = 256;
  args.info = &info;
  CHECK(cusolver->Factor(args, FullStream()) ==
        absl::ResourceExhaustedError("cusolverDnSpotrf: no memory"));
  CHECK(cusolver->Factor(args, SomeStream()).ok());
}

TEST_CASE("a matrix beyond its allocation is an error") {
  const auto blas = NewEmulatedBlas();
  float* const small = OnDevice(std::vector<float>(11));
  GemmArgs g;
  g.m = g.n = g.k = 2;
  g.a = g.b = g.c = small;
  g.lda = g.ldb = g.ldc = 9;
  CHECK(blas->Gemm(g, nullptr).ok());
  g.ldc = 10;
  CHECK(blas->Gemm(g, nullptr).message() ==
        "BLAS: matrix C [2, 2] with ld 10 takes 48 bytes, the allocation has "
        "44");
  g.ldc = 1;
  CHECK(!blas->Gemm(g, nullptr).ok());
  CHECK(!EmulatedDevice::Get().TakeError().empty());
  EmulatedDevice::Get().FreeAll();
}

TEST_CASE("without cuBLAS the reason names the library") {
  const std::vector<std::string> paths = CublasPaths(99, "/nowhere");
  REQUIRE(paths.size() == 3);
  CHECK(paths[0] == "/nowhere/libcublas.so.99");
  CHECK(paths[1] == "libcublas.so.99");
  const auto blas = LoadCublas(paths);
  REQUIRE(!blas.ok());
  CHECK(blas.status().code() == absl::StatusCode::kUnavailable);
  const std::string text(blas.status().message());
  CHECK(text.find("cuBLAS not found: ") == 0);
  for (const std::string& path : paths) {
    CHECK(text.find(path) != std::string::npos);
  }
  // A library without the functions.
  const auto other = LoadCublas({"libm.so.6"});
  REQUIRE(!other.ok());
  CHECK(other.status().message() == "cuBLAS lacks cublasCreate_v2");
}

TEST_CASE("without cuSOLVER the products are there and the reason is told") {
  // The name that belongs to a runtime: of CUDA 12 and of CUDA 13.
  CHECK(CusolverPaths(12, "")[0] == "libcusolver.so.11");
  CHECK(CusolverPaths(13, "/nowhere")[0] == "/nowhere/libcusolver.so.12");
  auto blas = LoadCublas({QS_FAKE_CUBLAS});
  REQUIRE(blas.ok());
  CHECK((*blas)->cholesky() == nullptr);
  CHECK((*blas)->cholesky_description() == "cuSOLVER was not loaded");
  (*blas)->SetCholesky(LoadCusolver(CusolverPaths(99, "/nowhere")));
  CHECK((*blas)->cholesky() == nullptr);
  const std::string& why = (*blas)->cholesky_description();
  CHECK(why.find("cuSOLVER not found: ") == 0);
  CHECK(why.find("/nowhere/libcusolver.so.98") != std::string::npos);
  (*blas)->SetCholesky(LoadCusolver({"libm.so.6"}));
  CHECK((*blas)->cholesky_description() == "cuSOLVER lacks cusolverDnCreate");
  (*blas)->SetCholesky(LoadCusolver({QS_FAKE_CUSOLVER}));
  CHECK((*blas)->cholesky() != nullptr);
  CHECK((*blas)->cholesky_description() == "cuSOLVER 12004");
  // Without cuBLAS there is nothing.
  CHECK(LoadLibraries(99, "/nowhere").status().message().find("cuBLAS") == 0);
}

}  // namespace
}  // namespace qs::cuda
