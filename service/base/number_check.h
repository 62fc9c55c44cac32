// The check of a number's range for command lines: CLI11's own prints every
// limit as "1.000000", and as many decimals of large ones as there is room for.
#ifndef QS_SERVICE_BASE_NUMBER_CHECK_H_
#define QS_SERVICE_BASE_NUMBER_CHECK_H_

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstdint>
#include <string>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"

namespace qs {

// "1000000" rather than "1e+06"; as short as it can be where it is no integer.
inline std::string NumberText(double number) {
  return std::trunc(number) == number && std::abs(number) < 1e18
             ? absl::StrCat(static_cast<int64_t>(number))
             : absl::StrCat(number);
}

// Errors: 'got "0", allowed 1 to 100000'; the parser puts the flag before. No
// description: it would stand beside the type's name in --help. The limits are
// integers below 2^53 where the flag takes integers.
inline CLI::Validator NumberBetween(double low, double high) {
  return CLI::Validator(
      [low, high](const std::string& text) {
        double number = 0;
        if (absl::SimpleAtod(text, &number) && number >= low &&
            number <= high) {
          return std::string();
        }
        return absl::StrCat("got \"", text, "\", allowed ", NumberText(low),
                            " to ", NumberText(high));
      },
      "");
}

}  // namespace qs

#endif  // QS_SERVICE_BASE_NUMBER_CHECK_H_
