// Whether the test was built with a sanitizer. Such a test then does less of
// the same work: the best profiles of GPTQ and AWQ take a sanitizer minutes.
#ifndef QS_TESTS_TESTING_SANITIZED_H_
#define QS_TESTS_TESTING_SANITIZED_H_

namespace qs::testing {

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
inline constexpr bool kSanitized = true;
#else
inline constexpr bool kSanitized = false;
#endif

// Most of a sanitized process's memory is the sanitizer's: freed memory in
// quarantine, red zones, shadows.
inline constexpr bool kMemoryIsTheServers = !kSanitized;

}  // namespace qs::testing

#endif  // QS_TESTS_TESTING_SANITIZED_H_
