// The data files that embed.cmake compiles in.
#ifndef QS_QUANT_PLAN_EMBEDDED_H_
#define QS_QUANT_PLAN_EMBEDDED_H_

#include <string_view>

namespace qs {

extern const std::string_view kCatalogueJson;  // catalogue.json
extern const std::string_view kEnginesJson;    // engines.json

}  // namespace qs

#endif  // QS_QUANT_PLAN_EMBEDDED_H_
