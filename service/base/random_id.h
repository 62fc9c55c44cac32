#ifndef QS_SERVICE_BASE_RANDOM_ID_H_
#define QS_SERVICE_BASE_RANDOM_ID_H_

#include <string>

namespace qs {

// 32 hex digits that nobody guesses or meets twice. Thread-safe.
std::string RandomId();

}  // namespace qs

#endif  // QS_SERVICE_BASE_RANDOM_ID_H_
