// QuantSpec: what to do to a tensor, every default filled in, and the one place
// that knows which combinations are legal.
#ifndef QS_QUANT_QUANT_SPEC_H_
#define QS_QUANT_QUANT_SPEC_H_

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/nf4_ops.h"

namespace qs {

constexpr std::array<int64_t, 8> kNf4BlockSizes = {32,  64,   128,  256,
                                                   512, 1024, 2048, 4096};
constexpr int kMinRtnBits = 2;
constexpr int kMaxRtnBits = 8;

enum class Profile { kReference, kBest };
enum class OutputFormat {
  kBitsandbytes,
  kCompressedTensors,
  kGptq,     // GPTQ v1: stores zero_point - 1
  kGptqV2,   // stores zero_point
  kAwqGemm,  // AutoAWQ's "gemm"
  kHqq,      // hqq's encoded state dict
};

struct Nf4Spec {
  Codebook codebook = Codebook::kNf4;
  int64_t block_size = 64;
  bool double_quant = false;
  Nf4Rule rule = Nf4Rule::kCuda;
  bool operator==(const Nf4Spec&) const = default;
};

struct RtnSpec {
  int bits = 4;
  int64_t group_size = 128;  // -1: the whole row
  bool symmetric = true;
  bool operator==(const RtnSpec&) const = default;
};

// In which order GPTQ takes the columns, and what a group then is.
enum class ColumnOrder {
  kNone,            // as they are stored
  kActOrder,        // descending diag(H); groups of that order: needs g_idx
  kActOrderStatic,  // descending diag(H); groups as stored
  kGroupAware,      // inside groups, then the groups, by diag(H)
};

// How a group's range is chosen.
enum class RangeSearch {
  kMinMax,
  kMse,        // least sum |w - q|^range_norm over a list of shrunken ranges
  kCurvature,  // least sum of (w - q)^2 R_jj^2: what GPTQ pays
};

struct GptqSpec {
  int bits = 4;              // 2, 3, 4, 8
  int64_t group_size = 128;  // -1: the whole row; 16..1024, the last may be
                             // shorter where the format allows
  bool symmetric = true;
  ColumnOrder order = ColumnOrder::kActOrderStatic;
  double damping = 0.01;  // of the mean diagonal of H
  RangeSearch range_search = RangeSearch::kCurvature;
  double range_norm = 2.4;  // of kMse
  int sweeps = 10;          // of coordinate descent after the loop; 0: none
  bool scale_refit = true;  // between sweeps
  // Active inputs are first scaled up as AWQ does, where the operation before
  // them can absorb the inverse; BEST only.
  bool awq_scaling = false;
  bool operator==(const GptqSpec&) const = default;
};

struct AwqSpec {
  int bits = 4;
  int64_t group_size = 128;
  bool symmetric = true;
  int grid = 20;  // ratios tried: i / grid
  bool duo_scaling = true;
  bool clip = true;
  double max_scale_ratio = 1e4;  // cap on max(s) / min(s); 0: none
  bool solve_codes = true;       // GPTQ-wise inside the AWQ grid
  double damping = 0.01;         // of solve_codes
  bool operator==(const AwqSpec&) const = default;
};

struct HqqSpec {
  int bits = 4;             // 8, 4, 3, 2, 1
  int64_t group_size = 64;  // divides the elements along the axis
  int axis = 1;             // 0 only in kHqq
  int iterations = 20;
  bool operator==(const HqqSpec&) const = default;
};

struct QuantSpec {
  std::variant<Nf4Spec, RtnSpec, GptqSpec, AwqSpec, HqqSpec> method;
  Profile profile = Profile::kBest;
  OutputFormat format = OutputFormat::kBitsandbytes;
  bool operator==(const QuantSpec&) const = default;

  const Nf4Spec* nf4() const { return std::get_if<Nf4Spec>(&method); }
  const RtnSpec* rtn() const { return std::get_if<RtnSpec>(&method); }
  const GptqSpec* gptq() const { return std::get_if<GptqSpec>(&method); }
  const AwqSpec* awq() const { return std::get_if<AwqSpec>(&method); }
  const HqqSpec* hqq() const { return std::get_if<HqqSpec>(&method); }
};

// What a method does unless told otherwise; the profiles differ.
GptqSpec DefaultGptqSpec(Profile profile);
AwqSpec DefaultAwqSpec(Profile profile);

// Whether the method solves against the second moments of a tensor's input.
bool NeedsCalibration(const QuantSpec& spec);
// Whether tensors that share or scale an input are solved together: AWQ, and
// GPTQ with AWQ scaling first.
bool SolvesInGroups(const QuantSpec& spec);

// The grid that the codes lie on, for all methods but NF4 and FP4.
struct GridSpec {
  int bits = 4;
  int64_t group_size = 128;  // -1: the whole row
  bool symmetric = true;
};
GridSpec SpecGrid(const QuantSpec& spec);

// Bits of one code: 4 for NF4 and FP4, `bits` for the others.
int SpecBits(const QuantSpec& spec);
// "nf4", "fp4", "rtn", "gptq", "awq" or "hqq".
std::string SpecMethodName(const QuantSpec& spec);
// "nf4-best/1": method, profile and the version of our algorithm.
std::string SpecAlgorithm(const QuantSpec& spec);

// Errors: INVALID_ARGUMENT "field: got, allowed" — the text begins with the
// field's proto path below QuantizationConfig, e.g. "nf4.block_size: ...".
absl::Status ValidateSpec(const QuantSpec& spec);

// The same for one tensor [rows, cols]: group_size must divide cols, and the
// format must be able to hold the shape.
// Errors: INVALID_ARGUMENT naming the tensor.
absl::Status ValidateSpecForShape(const QuantSpec& spec, std::string_view name,
                                  int64_t rows, int64_t cols);

struct MethodFacts {
  std::string name;
  std::vector<int> bits;
  std::vector<int64_t> block_sizes;   // empty: any group size that fits
  std::vector<OutputFormat> formats;  // the first is the default
  bool needs_calibration = false;
};
const std::vector<MethodFacts>& Methods();

struct Preset {
  std::string name;
  std::string description;
  QuantSpec spec;
};
const std::vector<Preset>& Presets();
// Case-sensitive. Nullptr when unknown.
const Preset* FindPreset(std::string_view name);

}  // namespace qs

#endif  // QS_QUANT_QUANT_SPEC_H_
