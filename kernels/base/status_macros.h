// QS_RETURN_IF_ERROR and QS_ASSIGN_OR_RETURN: Debian 12's Abseil has neither.
#ifndef QS_KERNELS_BASE_STATUS_MACROS_H_
#define QS_KERNELS_BASE_STATUS_MACROS_H_

#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

#define QS_RETURN_IF_ERROR(expr)             \
  do {                                       \
    absl::Status qs_status_ = (expr);        \
    if (!qs_status_.ok()) return qs_status_; \
  } while (false)

#define QS_CONCAT_INNER_(a, b) a##b
#define QS_CONCAT_(a, b) QS_CONCAT_INNER_(a, b)

#define QS_ASSIGN_OR_RETURN(lhs, expr) \
  QS_ASSIGN_OR_RETURN_IMPL_(QS_CONCAT_(qs_statusor_, __LINE__), lhs, expr)

#define QS_ASSIGN_OR_RETURN_IMPL_(var, lhs, expr) \
  auto var = (expr);                              \
  if (!var.ok()) return std::move(var).status();  \
  lhs = std::move(var).value()

#endif  // QS_KERNELS_BASE_STATUS_MACROS_H_
