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
enum class OutputFormat { kBitsandbytes, kCompressedTensors };

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

struct QuantSpec {
  std::variant<Nf4Spec, RtnSpec> method;
  Profile profile = Profile::kBest;
  OutputFormat format = OutputFormat::kBitsandbytes;
  bool operator==(const QuantSpec&) const = default;

  const Nf4Spec* nf4() const { return std::get_if<Nf4Spec>(&method); }
  const RtnSpec* rtn() const { return std::get_if<RtnSpec>(&method); }
};

// Bits of one code: 4 for NF4 and FP4, `bits` for RTN.
int SpecBits(const QuantSpec& spec);
// "nf4", "fp4" or "rtn".
std::string SpecMethodName(const QuantSpec& spec);
// "nf4-best/1": method, profile and the version of our algorithm.
std::string SpecAlgorithm(const QuantSpec& spec);

// Errors: INVALID_ARGUMENT "field: got, allowed" — the text begins with the
// field's proto path below QuantizationConfig, e.g. "nf4.block_size: ...".
absl::Status ValidateSpec(const QuantSpec& spec);

// The same for one tensor [rows, cols]: rtn needs group_size to divide cols.
// Errors: INVALID_ARGUMENT naming the tensor.
absl::Status ValidateSpecForShape(const QuantSpec& spec, std::string_view name,
                                  int64_t rows, int64_t cols);

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
