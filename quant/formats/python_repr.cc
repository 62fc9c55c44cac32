// Tested by tests/formats/bitsandbytes_test.cc.
#include <charconv>
#include <cmath>
#include <string>

#include "quant/formats/bitsandbytes.h"

namespace qs {

std::string PythonFloatRepr(double value) {
  if (std::isnan(value)) return "nan";
  if (std::isinf(value)) return value < 0 ? "-inf" : "inf";
  const double magnitude = std::fabs(value);
  const bool fixed = magnitude == 0 || (magnitude >= 1e-4 && magnitude < 1e16);
  char text[64];
  const auto end = std::to_chars(
      text, text + sizeof(text), value,
      fixed ? std::chars_format::fixed : std::chars_format::scientific);
  std::string repr(text, end.ptr);
  if (fixed && repr.find('.') == repr.npos) repr += ".0";
  return repr;
}

}  // namespace qs
