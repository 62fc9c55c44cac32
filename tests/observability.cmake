# Metrics and traces.
qs_test(metrics_test
  SOURCES service/metrics_test.cc service/trace_context_test.cc
  LIBS qs_service
  LABELS unit tsan)
